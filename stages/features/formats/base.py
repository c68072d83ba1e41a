"""The contract of a format: a module with these functions. And what several formats share.

Axes: T frames, D features.
"""

import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow.compute as pc

from gdist.pipeline.cache.entries import Entry, Numbers
from gdist.pipeline.errors import UsageError
from gdist.pipeline.framing import SAMPLE_RATE
from gdist.stages.features.folder import OutFolder
from gdist.stages.features.selection import Selection, Utterance

Row = dict[str, Any]
"""What a format needs to know of an utterance for its index; anything that JSON can express."""


@dataclass(frozen=True)
class Export:
    """What is exported, and to where.

    Attributes:
        about: what is known of the cache and its teacher, for people.
        centroids: of k-means, [K, D], where tokens are written.
    """

    out: OutFolder
    selection: Selection
    about: Mapping[str, Any] = field(default_factory=dict)
    centroids: Numbers | None = None


class Format(Protocol):
    """One format. The same selection gives the same bytes, in any number of calls."""

    def check(self, export: Export) -> None:
        """Raise UsageError where the format cannot express something; called before anything is written."""

    def write(self, export: Export, piece: int, utterances: Iterator[Utterance]) -> list[Row]:
        """Write the files of one piece, under names that depend on nothing but its number and its utterances.

        Only some utterances are in memory: each is to be written as it comes.

        Returns:
            a row for each utterance, in order.
        """

    def finish(self, export: Export, rows: Iterable[tuple[int, Row]]) -> None:
        """Write the index, given each utterance's piece and row. All pieces are there."""

    def usage(self, export: Export) -> str:
        """Return what to type next, in one line."""


def labels_of(entry: Entry) -> dict[str, Any]:
    """Return the manifest's labels of an utterance as JSON can express them; empty ones are left out."""
    return {name: _plain(value) for name, value in entry.labels.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value if isinstance(value, (str, int, bool)) else str(value)


def described(entry: Entry) -> Row:
    """Return what most formats say about an utterance."""
    return {
        "id": entry.id,
        "frames": entry.num_frames,
        "seconds": entry.num_samples / SAMPLE_RATE,
        "labels": labels_of(entry),
    }


def line(row: Row) -> bytes:
    """Return a row of a file of JSON lines."""
    return (json.dumps(row, ensure_ascii=False) + "\n").encode()


def as_npy(matrix: Numbers) -> memoryview:
    """Return the bytes of a NumPy file. (numpy.save to a file hides why it cannot be written.)"""
    buffer = io.BytesIO()
    np.save(buffer, matrix, allow_pickle=False)
    return buffer.getbuffer()


def require_ids(export: Export, unkept: str, why: str) -> None:
    """Raise UsageError where an id matches a pattern that the format cannot express."""
    for piece in range(len(export.selection)):
        texts = export.selection.entries(piece).texts("id")
        for found in texts.filter(pc.match_substring_regex(texts, unkept)).to_pylist():
            raise UsageError(
                f"the id {found!r} cannot be written: {why}",
                "choose another format, such as --to npy, or build the manifest with other ids",
            )
