"""`gdist eval`: fidelity to the teacher, and probes."""
