"""`gdist sweep`: many students from one file, each trained once."""
