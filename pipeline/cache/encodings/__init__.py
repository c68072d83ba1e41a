"""How hidden states are stored: the table of encodings.

To add one: write a file with a subclass of :class:`Encoding` and a row in ``ENCODINGS``; the conformance tests run
over the table.
"""

from gdist.pipeline.cache.encodings.base import LAYERS, SCALES, Encoding, Part, Stored, Tables
from gdist.pipeline.cache.encodings.floats import BFloat16, Float16, Float32
from gdist.pipeline.cache.encodings.integers import Int4, Int8
from gdist.pipeline.cache.encodings.vectors import ResidualVectors
from gdist.pipeline.config import did_you_mean
from gdist.pipeline.errors import ConfigError

__all__ = ["ENCODINGS", "LAYERS", "SCALES", "Encoding", "Part", "Stored", "Tables", "encoding"]

ENCODINGS: dict[str, Encoding] = {
    "fp32": Float32(),
    "fp16": Float16(),
    "bf16": BFloat16(),
    "int8": Int8(),
    "int4": Int4(),
    "rvq": ResidualVectors(),
}


def encoding(name: str) -> Encoding:
    """The encoding called ``name``; ConfigError with the nearest name otherwise."""
    if name not in ENCODINGS:
        raise ConfigError(f"unknown encoding {name!r}", did_you_mean(name, ENCODINGS))
    return ENCODINGS[name]
