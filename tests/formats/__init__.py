"""Caches, runs and exports as each version of their formats wrote them, and what is in them. They must open forever.

PYTHONPATH=tests python -m formats.make v2    # writes v2.tar.xz; those that exist are never written again
"""
