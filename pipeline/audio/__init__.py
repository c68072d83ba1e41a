"""Audio: where it is, how long it is, and its samples as a teacher hears them."""

from gdist.pipeline.audio.decoding import FULL_SCALE, PEAK, Header, load_utterance, read_header, to_float
from gdist.pipeline.audio.segment import Segment

__all__ = ["FULL_SCALE", "PEAK", "Header", "Segment", "load_utterance", "read_header", "to_float"]
