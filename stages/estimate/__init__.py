"""`gdist plan`: what a cache would take and cost."""
