"""The table of readers: name → module and class. A module is imported when its reader is run."""

import importlib

from fuzzing import Reader

READERS = {
    "root": "cache_documents:RootDocument",
}


def reader_class(name: str) -> type[Reader]:
    """Return the class behind a row of the table, or behind ``module:Class``."""
    module, _, what = READERS.get(name, name).partition(":")
    found: type[Reader] = getattr(importlib.import_module(f"fuzzing.readers.{module}"), what)
    return found
