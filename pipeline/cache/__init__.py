"""The cache: its plan, its layout, its bytes, and how they are checked. Start with ``Cache.open(uri)``."""

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.entries import Entry

__all__ = ["Cache", "Entry"]
