"""`gdist train`: a student learns from the cache."""
