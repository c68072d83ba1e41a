"""`gdist report`: one page that puts runs side by side."""
