"""`gdist caches`: which caches there are in a folder or a bucket."""
