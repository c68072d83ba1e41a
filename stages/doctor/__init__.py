"""`gdist doctor`: whether a machine can do the work."""
