"""How hidden states are stored: the table of encodings.

To add one: write a file with a subclass of :class:`Encoding` and a row in ``ENCODINGS``; the conformance tests run
over the table.
"""

from typing import Any

from gdist.pipeline.cache.encodings.base import LAYERS, SCALES, Encoding, Part, Stored, Tables
from gdist.pipeline.cache.encodings.floats import BFloat16, Float16, Float32
from gdist.pipeline.cache.encodings.integers import Int4, Int8
from gdist.pipeline.cache.encodings.vectors import ResidualVectors
from gdist.pipeline.extensions import Registry, instance

__all__ = ["ENCODINGS", "LAYERS", "SCALES", "Encoding", "Part", "Stored", "Tables", "encoding"]

_NUMBERS = ("bytes_per_value", "relative_error", "largest")


def _accept(found: Any) -> Encoding:
    """A row of ``ENCODINGS``: an encoding, or a class that makes one without arguments."""
    made = instance(found, Encoding)
    if not isinstance(made, Encoding):
        raise TypeError("an encoding is a subclass of gdist.pipeline.cache.encodings.Encoding")
    lacking = [name for name in _NUMBERS if not hasattr(made, name)]
    if lacking:
        raise TypeError(f"{type(made).__name__} does not say its {' and '.join(lacking)}")
    if not set(made.parts(8)) <= {LAYERS, SCALES}:
        raise TypeError(
            f"its parts are called {', '.join(made.parts(8))}; a cache has the folders {LAYERS} and {SCALES}"
        )
    return made


ENCODINGS: Registry[Encoding] = Registry(
    "encoding",
    "gdist.encodings",
    {made.name: made for made in (Float32(), Float16(), BFloat16(), Int8(), Int4(), ResidualVectors())},
    _accept,
)


def encoding(name: str) -> Encoding:
    """The encoding called ``name``.

    Raises:
        ConfigError: there is none; the nearest name is in the hint.
    """
    return ENCODINGS.find(name, f"--encoding {name}")
