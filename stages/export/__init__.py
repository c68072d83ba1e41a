"""`gdist export`: a finished student in another tool's format."""
