"""`gdist extract`, `inspect` and `verify`: run the teacher once into the cache, and check what it stored."""
