"""Which rows some spans need, of every array of the cache: computed once for all layers of a batch.

Axes: T frames, of all spans one after another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gdist.pipeline.cache.by_name import Span
from gdist.pipeline.cache.encodings import Part
from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.cache.pieces import Rows
from gdist.pipeline.framing import Framing


@dataclass(frozen=True)
class Wanted:
    """The rows of some spans.

    Attributes:
        frames: each span's rows of the arrays that have one row per frame.
        chunks: each span's rows of the arrays that have one row per chunk.
        chunk_T: for each frame, which of the rows in ``chunks``, one span after another, belongs to it.
    """

    spans: Sequence[Span]
    frames: list[Rows]
    chunks: list[Rows]
    chunk_T: np.ndarray[Any, np.dtype[np.int64]]

    @classmethod
    def of(cls, spans: Sequence[Span], chunk_frames: int) -> "Wanted":
        frames = [(entry.start_frame + first, entry.start_frame + first + n) for entry, first, n in spans]
        chunks = [(start // chunk_frames, -(-stop // chunk_frames)) for start, stop in frames]
        chunk_T, before = [np.empty(0, np.int64)], 0
        for (start, stop), (first_chunk, last_chunk) in zip(frames, chunks, strict=True):
            chunk_T.append(np.arange(start, stop) // chunk_frames + (before - first_chunk))
            before += last_chunk - first_chunk
        return cls(spans, frames, chunks, np.concatenate(chunk_T))

    def rows(self, part: Part) -> list[Rows]:
        """Return each span's rows of an array."""
        return self.chunks if part.per_chunk else self.frames

    def shape(self, part: Part) -> tuple[int, int]:
        """Return the shape of what is read of an array: [rows, W]."""
        return sum(stop - start for start, stop in self.rows(part)), part.width

    def owner(self, part: Part, row: int) -> Entry:
        """Return the utterance to which the ``row``-th row that is read of an array belongs."""
        ends = np.cumsum([stop - start for start, stop in self.rows(part)])
        return self.spans[int(np.searchsorted(ends, row, side="right"))][0]


def samples_of(span: Span, framing: Framing) -> tuple[int, int]:
    """Return the samples [start, stop) of a span: exactly those that yield its frames, and all up to the utterance's
    end when the span reaches its last frame."""
    entry, first, frames = span
    start, stop = framing.crop_samples(first, frames)
    return start, entry.num_samples if first + frames == entry.num_frames else stop
