"""Audio: where it is, how long it is, and its samples as a teacher hears them: int16, mono, 16 kHz.

Anything wrong with one file becomes an AudioError with a short reason, which extraction records in the receipt.
"""

from gdist.pipeline.audio.bounds import too_long
from gdist.pipeline.audio.decoding import Loaded, load, load_utterance, measure, to_float
from gdist.pipeline.audio.headers import Header, mismatch, read_header
from gdist.pipeline.audio.levels import FULL_SCALE, PEAK, Signal, decibels
from gdist.pipeline.audio.segment import MAX_GAIN_BITS, Segment

__all__ = [
    "FULL_SCALE",
    "MAX_GAIN_BITS",
    "PEAK",
    "Header",
    "Loaded",
    "Segment",
    "Signal",
    "decibels",
    "load",
    "load_utterance",
    "measure",
    "mismatch",
    "read_header",
    "to_float",
    "too_long",
]
