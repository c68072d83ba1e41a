"""`gdist report`: one page that compares runs."""
