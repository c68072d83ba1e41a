"""The cache: its plan, its layout, its bytes, and how they are checked. ``Cache.open(uri)`` is where to begin."""

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.layout import Entry

__all__ = ["Cache", "Entry"]
