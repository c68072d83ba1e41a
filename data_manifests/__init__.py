"""Data that ships with gdist: the demo's speech, its manifest and its teacher (see README.md in this folder)."""

from importlib.resources import files
from pathlib import Path


def demo_folder() -> Path:
    """The folder of the demo set: ``demo.parquet``, ``audio/`` and ``teacher-nano/``, a Hugging Face checkpoint.

    >>> sorted(path.name for path in demo_folder().glob("*.parquet"))
    ['demo.parquet']
    """
    return Path(str(files(__name__) / "demo"))
