"""`gdist plan`: estimate the size and the cost of a cache."""
