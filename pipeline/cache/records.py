"""Size and digest of every shard, from the receipts.

A cache may have ten million shards. Up to ``EAGER`` packs, all that will be read is looked up at once, and takes some
24 bytes each. Beyond, the receipts of a pack are read when its first shard is, which is one request for dozens.

Axes: P packs.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from gdist.pipeline.cache.arrays import shard_key
from gdist.pipeline.cache.entries import Numbers
from gdist.pipeline.cache.summary import Receipt, name_of
from gdist.pipeline.local.kept import DIGEST, Record

EAGER = 20_000
_DIGEST_BYTES = 16


class Records:
    """What the receipts of a cache say of its shards.

    Args:
        packs: how many packs the cache has.
        receipts: yields all receipts of the cache.
        receipts_of: yields those of one pack, as they are in the store now.
        largest: the bytes of an array's shards at most, about.
    """

    def __init__(
        self,
        packs: int,
        receipts: Callable[[], Iterator[Receipt]],
        receipts_of: Callable[[int], Iterator[Receipt]],
        largest: Callable[[str], int],
    ) -> None:
        self.eager = packs <= EAGER
        self._largest = largest
        self._packs, self._receipts = packs, receipts
        self._sizes: dict[str, Numbers] = {}  # array → [P]; 0 where there is no receipt
        self._digests: dict[str, Numbers] = {}  # array → [P, 16]
        self._newest: dict[tuple[str, int], Record] = {}
        self._of_pack = lru_cache(64)(lambda pack: list(receipts_of(pack)))

    def load(self, names: Sequence[str], digests: Collection[str] = ()) -> set[str]:
        """Look up the records of some arrays, with which :meth:`get` is fast.

        Returns:
            those of ``digests`` that no receipt mentions; none where that is not known.
        """
        names = [name for name in names if name not in self._sizes]
        if not names or not self.eager:
            return set()
        others = set(digests)
        sizes = {name: np.zeros(self._packs, np.int64) for name in names}
        found = {name: np.zeros((self._packs, _DIGEST_BYTES), np.uint8) for name in names}
        for name, pack, record in self._all():
            others.discard(record.digest)
            if name in sizes and 0 <= pack < self._packs:
                sizes[name][pack] = record.bytes
                found[name][pack] = np.frombuffer(bytes.fromhex(record.digest), np.uint8)
        self._sizes |= sizes
        self._digests |= found
        return others

    def sizes(self, name: str) -> Numbers:
        """Return the bytes of an array's shards: [P]; 0 where there is no receipt. An estimate for a large cache."""
        return self._sizes[name] if name in self._sizes else np.full(self._packs, self._largest(name), np.int64)

    def size(self, name: str, pack: int) -> int:
        """Return one of :meth:`sizes`."""
        return int(self._sizes[name][pack]) if name in self._sizes else self._largest(name)

    def _all(self) -> Iterator[tuple[str, int, Record]]:
        for receipt in self._receipts():
            for key, written in receipt["objects"].items():
                if record := _record(written):
                    yield name_of(key), receipt["pack"], record

    def get(self, name: str, pack: int) -> Record | None:
        """Return what is known of a shard; None where no receipt mentions it."""
        if (name, pack) in self._newest:
            return self._newest[name, pack]
        if name in self._sizes:
            size = int(self._sizes[name][pack])
            return Record(size, self._digests[name][pack].tobytes().hex()) if size else None
        return self._find(name, pack)

    def read_again(self, name: str, pack: int) -> Record | None:
        """Return what a receipt says now; it may have been replaced since, by a repair."""
        self._of_pack.cache_clear()
        if record := self._find(name, pack):
            self._newest[name, pack] = record
        return record

    def _find(self, name: str, pack: int) -> Record | None:
        key = shard_key(name, pack)
        found = (receipt["objects"].get(key) for receipt in self._of_pack(pack))
        return next((record for written in found if written and (record := _record(written))), None)


def _record(written: Mapping[str, Any]) -> Record | None:
    """Return a receipt's words about a shard; None where they make no sense, since they become a path."""
    size, digest = written.get("bytes"), written.get("xxh3_128")
    if isinstance(size, int) and size > 0 and isinstance(digest, str) and DIGEST.fullmatch(digest):
        return Record(size, digest)
    return None
