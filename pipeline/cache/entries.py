"""The utterances of a cache, as columns: some 40 bytes each, and their ids and labels, instead of a Python object.

An :class:`Entry` is one utterance's place; :class:`Entries` is a sequence of them, which makes an Entry only when it
is asked for one. What needs the numbers of all utterances reads columns (:func:`numbers`, :func:`label`), also of a
plain list of entries.

Axes of arrays: N utterances.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gdist.pipeline.framing import Framing
from gdist.pipeline.ids import ById

Numbers = np.ndarray[Any, np.dtype[Any]]
Number = Literal["pack", "start_frame", "num_frames", "num_samples"]

OWN = {
    "id": pa.string(),
    "pack": pa.int32(),
    "start_frame": pa.int64(),
    "num_frames": pa.int32(),
    "num_samples": pa.int64(),
    "problem": pa.string(),
}
"""The index's own columns; all others are labels."""

STEP = 4096  # entries made at a time, where all are wanted


@dataclass(frozen=True)
class Entry:
    """One utterance's place in the cache.

    Attributes:
        start_frame: its first row, in every layer and in the waveform.
        num_frames: hidden-state rows; 0 when it cannot be used (too short, too long, unreadable when planned).
        num_samples: at 16 kHz.
        problem: why it has no rows, for its quarantine record; None when it has rows.
        labels: the manifest's label columns.
    """

    id: str
    pack: int
    start_frame: int
    num_frames: int
    num_samples: int
    problem: str | None = None
    labels: dict[str, Any] = field(default_factory=dict, compare=False)

    def num_rows(self, framing: Framing) -> int:
        """Return the number of rows, of one hop each, that the waveform needs."""
        return int(framing.num_rows(self.num_samples)) if self.num_frames else 0


@dataclass(frozen=True)
class Coded:
    """A column of few different texts: codes [N], and what they stand for; the last code for None."""

    codes: Numbers
    values: list[str | None]

    @classmethod
    def of(cls, column: pa.DictionaryArray) -> "Coded":
        """Convert an Arrow array."""
        values = [*column.dictionary.to_pylist(), None]
        return cls(column.indices.fill_null(len(values) - 1).to_numpy(zero_copy_only=False), values)

    def to_arrow(self) -> pa.Array:
        """Return the texts as strings."""
        indices = pa.array(self.codes, mask=self.codes == len(self.values) - 1)
        return pa.DictionaryArray.from_arrays(indices, pa.array(self.values[:-1], pa.string())).cast(pa.string())


class Entries(Sequence[Entry]):
    """A sequence of entries, held as columns. Slices and :meth:`take` share the columns of what they are part of.

    Args:
        columns: all of :data:`OWN`: numbers as numpy arrays, texts as Arrow arrays or :class:`Coded`.
        labels: the same of each label.
        positions: which rows of the columns, in which order; None for all.
    """

    def __init__(
        self, columns: Mapping[str, Any], labels: Mapping[str, Any], positions: Numbers | None = None
    ) -> None:
        self.columns, self.labels, self.positions = columns, labels, positions

    def __len__(self) -> int:
        return len(self.columns["pack"]) if self.positions is None else len(self.positions)

    @overload
    def __getitem__(self, place: int) -> Entry: ...
    @overload
    def __getitem__(self, place: slice) -> "Entries": ...
    def __getitem__(self, place: int | slice) -> "Entry | Entries":
        if isinstance(place, slice):
            if self.positions is None:
                return self.take(np.arange(*place.indices(len(self))))
            return Entries(self.columns, self.labels, self.positions[place])
        return self.at(np.array([range(len(self))[place]]))[0]

    def __iter__(self) -> Iterator[Entry]:
        for start in range(0, len(self), STEP):
            yield from self.at(np.arange(start, min(start + STEP, len(self))))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as a list, which may not be a key either

    def __repr__(self) -> str:
        return f"<{len(self):,} entries>"

    def take(self, positions: Numbers) -> "Entries":
        """Return the entries at these positions, as columns."""
        if self.positions is not None:
            positions = self.positions[positions]
        size = np.int32 if len(self.columns["pack"]) < 2**31 else np.int64
        return Entries(self.columns, self.labels, positions.astype(size, copy=False))

    def at(self, positions: Numbers) -> list[Entry]:
        """Return the entries at these positions, as objects."""
        if self.positions is not None:
            positions = self.positions[positions]
        own = [self._values(self.columns[name], positions) for name in OWN]
        values = [self._values(column, positions) for column in self.labels.values()]
        labels = (dict(zip(self.labels, row, strict=True)) for row in zip(*values, strict=True))
        if not values:
            labels = ({} for _ in positions)
        return [Entry(*row) for row in zip(*own, labels, strict=True)]

    def numbers(self, name: Number) -> Numbers:
        """Return one column of numbers: [N]."""
        column: Numbers = self.columns[name]
        return column if self.positions is None else column[self.positions]

    def texts(self, name: str) -> pa.Array:
        """Return the ``id``, the ``problem`` or a label of every utterance, as an Arrow array."""
        column = self.columns[name] if name in OWN else self.labels[name]
        if isinstance(column, Coded):
            codes = column.codes if self.positions is None else column.codes[self.positions]
            return Coded(codes, column.values).to_arrow()
        return column if self.positions is None else column.take(pa.array(self.positions))

    def ids(self) -> Iterator[list[str]]:
        """Yield all ids in order, some thousands at a time."""
        for start in range(0, len(self), STEP):
            yield self[start : start + STEP].texts("id").to_pylist()

    @cached_property
    def by_id(self) -> ById[Entry]:
        """Id → entry, in this order."""
        return ById(self.texts("id"), self.__getitem__)

    def of_pack(self, pack: int) -> list[Entry]:
        """Return the entries of one pack."""
        order, firsts = self._packs
        if not 0 <= pack < len(firsts) - 1:
            return []
        places = np.arange(firsts[pack], firsts[pack + 1])
        return self.at(places if order is None else order[places])

    def count_of(self, pack: int) -> int:
        """Return how many entries one pack has."""
        _, firsts = self._packs
        return int(firsts[pack + 1] - firsts[pack]) if 0 <= pack < len(firsts) - 1 else 0

    @cached_property
    def _packs(self) -> tuple[Numbers | None, Numbers]:
        """The order of the entries by pack, None where it is theirs; and where in it each pack begins."""
        packs, order = self.numbers("pack"), None
        if (packs[1:] < packs[:-1]).any():
            order = np.argsort(packs, kind="stable")
            packs = packs[order]
        every = np.arange((int(packs[-1]) if len(packs) else -1) + 2, dtype=packs.dtype)
        return order, np.searchsorted(packs, every)

    @staticmethod
    def _values(column: Any, positions: Numbers) -> list[Any]:
        if isinstance(column, Coded):
            return [column.values[code] for code in column.codes[positions].tolist()]
        arrow = not isinstance(column, np.ndarray)
        values: list[Any] = column.take(pa.array(positions)).to_pylist() if arrow else column[positions].tolist()
        return values


# --- columns of any sequence of entries -----------------------------------------------------------------------------


def numbers(entries: Sequence[Entry], name: Number) -> Numbers:
    """Return one column of numbers: [N]."""
    if isinstance(entries, Entries):
        return entries.numbers(name)
    return np.array([getattr(entry, name) for entry in entries], np.int64)


def label(entries: Sequence[Entry], name: str) -> tuple[Numbers, list[Any]]:
    """Return a label as codes [N] and the values that they stand for; None where there is no such label."""
    if isinstance(entries, Entries):
        if name not in entries.labels:
            return np.zeros(len(entries), np.int32), [None]
        if isinstance(column := entries.labels[name], Coded):
            return column.codes if entries.positions is None else column.codes[entries.positions], column.values
        column = entries.texts(name)
        try:
            coded = Coded.of(column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column))
        except pa.ArrowNotImplementedError:  # lists and the like
            return _coded(column.to_pylist())
        return coded.codes, coded.values
    return _coded([entry.labels.get(name) for entry in entries])


def _coded(values: list[Any]) -> tuple[Numbers, list[Any]]:
    return np.arange(len(values)), values


def subset(entries: Sequence[Entry], keep: Numbers) -> Sequence[Entry]:
    """Return the entries where ``keep`` [N] is true, in order: columns of columns, a list of anything else."""
    positions = np.flatnonzero(keep)
    return entries.take(positions) if isinstance(entries, Entries) else [entries[i] for i in positions.tolist()]


def named(entries: Entries, names: Collection[str]) -> Numbers:
    """Return which entries have one of these ids: bool [N]."""
    column = entries.texts("id")
    found: Numbers = pc.is_in(column, pa.array(names, column.type)).to_numpy(zero_copy_only=False)
    return found


def ids(entries: Sequence[Entry]) -> Iterator[list[str]]:
    """Yield all ids in order, some thousands at a time."""
    return entries.ids() if isinstance(entries, Entries) else iter([[entry.id for entry in entries]])
