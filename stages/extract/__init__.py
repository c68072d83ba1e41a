"""`gdist extract`, `inspect` and `verify`: the teacher runs once, into the cache."""
