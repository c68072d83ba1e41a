"""Where an id is in a column of ids: a sorted array of 64-bit hashes, 12 bytes per id instead of a dict's hundred.

And what an id may be, in a manifest and in a cache: a line of text.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from gdist.pipeline.errors import GdistError
from gdist.pipeline.printing import OBEYED

STEP = 65_536
LONGEST_ID = 4096  # bytes
SOME = 1 << 20  # bytes that are looked at together
_OBEYED = re.sub(r"\\u([0-9a-f]{4})", r"\\x{\1}", f"[{OBEYED}]")  # in the form of RE2, which is Arrow's


def first_obeyed(ids: pa.Array) -> int:
    """Return the row of the first id with something in it that a terminal obeys; -1 where there is none."""
    _, offsets, content = ids.buffers()
    number = np.int64 if pa.types.is_large_string(ids.type) else np.int32
    ends = np.frombuffer(offsets, number)[[ids.offset, ids.offset + len(ids)]]
    text = np.frombuffer(content, np.uint8)[ends[0] : ends[1]] if content else np.empty(0, np.uint8)
    # Nearly all ids are ASCII without control characters, which is seen much faster than with a pattern.
    parts = (text[first : first + SOME] for first in range(0, len(text), SOME))
    if not any(((part < 0x20) | (part >= 0x7F)).any() for part in parts):
        return -1
    return int(pc.index(pc.match_substring_regex(ids, _OBEYED), True).as_py())


class Ids:
    """The rows of unique ids.

    Args:
        ids: an Arrow array of strings, which is kept.

    Raises:
        GdistError: one of them occurs twice.
    """

    def __init__(self, ids: pa.Array) -> None:
        self.ids = ids
        hashes = np.empty(len(ids), np.uint64)
        for start in range(0, len(ids), STEP):
            some = ids.slice(start, STEP).to_pylist()
            hashes[start : start + len(some)] = [_hash(name) for name in some]
        self._order = np.argsort(hashes).astype(np.int32 if len(ids) < 2**31 else np.int64, copy=False)
        self._hashes = hashes[self._order]
        for place in np.flatnonzero(self._hashes[1:] == self._hashes[:-1]):
            name, other = (ids[int(row)].as_py() for row in self._order[place : place + 2])
            if name == other:
                raise GdistError(f"the id {name!r:.80} occurs twice")

    def find(self, name: str) -> int | None:
        """Return the row of an id; None where there is no such id."""
        hashed = np.uint64(_hash(name))
        place = int(np.searchsorted(self._hashes, hashed))
        while place < len(self._hashes) and self._hashes[place] == hashed:  # twice for one in 10⁵ corpora of 20 M
            row = int(self._order[place])
            if self.ids[row].as_py() == name:
                return row
            place += 1
        return None

    def row(self, name: str) -> int:
        """Return the row of an id; KeyError where there is no such id."""
        row = self.find(name)
        if row is None:
            raise KeyError(name)
        return row

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.find(name) is not None


class ById[V](Mapping[str, V]):
    """Id → value, in the order of the ids. Finding one takes some microseconds, and the first one a pass over all.

    Args:
        ids: an Arrow array of unique strings.
        value: makes the value of a row; it is called whenever one is asked for.
    """

    def __init__(self, ids: pa.Array, value: Callable[[int], V]) -> None:
        self.ids, self._value = ids, value

    @cached_property
    def rows(self) -> Ids:
        """Where each is; GdistError where one occurs twice."""
        return Ids(self.ids)

    def __getitem__(self, name: str) -> V:
        return self._value(self.rows.row(name))

    def __contains__(self, name: object) -> bool:
        return name in self.rows

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self.ids), STEP):
            yield from self.ids.slice(start, STEP).to_pylist()

    def __len__(self) -> int:
        return len(self.ids)


def _hash(name: Any) -> int:
    return xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"))
