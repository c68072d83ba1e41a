"""How hidden states are stored: the table of encodings.

To add one, write a file with a subclass of :class:`Encoding`, and add its row to ``ENCODINGS``. The conformance tests
run over the table.
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
    """Make a row of ``ENCODINGS`` from an encoding, or from a class that can be instantiated without arguments."""
    made = instance(found, Encoding)
    if not isinstance(made, Encoding):
        raise TypeError("an encoding is a subclass of gdist.pipeline.cache.encodings.Encoding")
    missing = [name for name in _NUMBERS if not hasattr(made, name)]
    if missing:
        raise TypeError(f"{type(made).__name__} does not define {', '.join(missing)}")
    if not set(made.parts(8)) <= {LAYERS, SCALES}:
        raise TypeError(
            f"its parts are called {', '.join(made.parts(8))}, but a cache only has the folders {LAYERS} and {SCALES}"
        )
    return made


ENCODINGS: Registry[Encoding] = Registry(
    "encoding",
    "gdist.encodings",
    {made.name: made for made in (Float32(), Float16(), BFloat16(), Int8(), Int4(), ResidualVectors())},
    _accept,
)


def encoding(name: str) -> Encoding:
    """Return the encoding called ``name``.

    Raises:
        ConfigError: there is no such encoding; the hint contains the nearest name.
    """
    return ENCODINGS.find(name, f"--encoding {name}")
