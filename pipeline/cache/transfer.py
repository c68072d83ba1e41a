"""Bytes of a cache on their way to another place: what is there and right stays, and all else is sent and read back.

    source   each shard is compared with its receipt before it is sent
    target   and again, as it is read back; then its receipt is written

A store that copies by itself does so, and only the copy is read. Nothing at the target is trusted for being there.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import batched
from typing import Any

from gdist.pipeline import console
from gdist.pipeline.cache import summary
from gdist.pipeline.cache.encode import record as recorded
from gdist.pipeline.errors import CacheDamagedError, CacheError
from gdist.pipeline.storage.between import copier
from gdist.pipeline.storage.failures import is_temporary
from gdist.pipeline.storage.locations import in_shell
from gdist.pipeline.storage.objects import Storage, seal

THREADS, BUCKET_THREADS = 4, 16  # objects on their way at a time: a bucket's connections share its latency
MEMORY = 1_000_000_000  # bytes of shards in memory at a time, each as it is sent and as it is read back
PACKS = 16  # packs at a time: their shards, then their receipts

Records = Mapping[str, Mapping[str, Any]]
"""Key of a shard → what its receipt says about it: ``bytes`` and ``xxh3_128``."""


@dataclass(frozen=True)
class Pack:
    """What one receipt covers.

    Attributes:
        key: of the receipt.
        addition: the number of the addition that it belongs to, at the target.
        receipt: what it will say at the target.
        shards: the shards, under the same keys at both places.
    """

    key: str
    addition: int
    receipt: dict[str, Any]
    shards: Records

    @property
    def data(self) -> bytes:
        """The receipt's bytes: sealing gives those that were sealed before."""
        receipt = dict(self.receipt)
        return seal(receipt, receipt)


@dataclass
class Amount:
    """How many objects, and their bytes."""

    objects: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        self.objects += 1
        self.bytes += size


class Transfer:
    """Objects from one place to another.

    Args:
        largest: about the bytes of the largest shard, which decides how many are in memory at a time.
        guard: called before anything is written; it raises where this process may no longer write.
        advance: called with the bytes of each shard that is there and right, from any thread.

    Attributes:
        sent, kept: what was sent, and what was there and right.
        by_store: whether the store copies by itself.
    """

    def __init__(
        self,
        source: Storage,
        target: Storage,
        guard: Callable[[], None],
        advance: Callable[[float], None],
        largest: int,
    ) -> None:
        self.source, self.target, self.guard, self.advance = source, target, guard, advance
        self.sizes = {key: int(meta["size"]) for key, meta in target.objects().items()}
        self.sent, self.kept = Amount(), Amount()
        self._copy = copier(source, target)
        self._counting, self._room = threading.Lock(), threading.Semaphore(max(1, MEMORY // (2 * largest)))

    @property
    def by_store(self) -> bool:
        return self._copy is not None

    def packs[T](self, items: Iterable[T], make: Callable[[T], Pack | None]) -> Iterator[Pack]:
        """Bring packs, some at a time; yields each once its receipt is there.

        Args:
            make: reads the receipt of an item; None where the source has none yet. It is asked again where a shard
                does not match: a repair may have written both since.

        Raises:
            CacheDamagedError: a shard of the source is missing or damaged.
            CacheError: a place cannot be read or written.
        """
        buckets = self.source.folder is None or self.target.folder is None
        with ThreadPoolExecutor(BUCKET_THREADS if buckets else THREADS) as pool:
            for some in batched(items, PACKS):
                found = [pack for pack in pool.map(make, some) if pack]
                try:
                    self._bring(pool, found)
                except CacheDamagedError:
                    again = [pack for pack in pool.map(make, some) if pack]
                    if again == found:
                        raise
                    found = again
                    self._bring(pool, found)
                yield from found

    def _bring(self, pool: ThreadPoolExecutor, packs: Sequence[Pack]) -> None:
        self.guard()
        list(pool.map(self._withdraw, packs))
        list(pool.map(lambda shard: self.shard(*shard), [shard for pack in packs for shard in pack.shards.items()]))
        self.guard()
        list(pool.map(lambda pack: self.write(pack.key, pack.data), packs))

    def _withdraw(self, pack: Pack) -> None:
        """Delete a receipt that is there and says something else, before one of its shards changes."""
        if pack.key in self.sizes and _get(self.target, pack.key, len(pack.data)) != pack.data:
            summary.withdraw(self.target, pack.addition)
            self.target.delete([pack.key])
            del self.sizes[pack.key]

    def shard(self, key: str, record: Mapping[str, Any]) -> None:
        """Bring one shard, unless it is there and right."""
        size = int(record["bytes"])
        with self._room:
            kept = self.sizes.get(key) == size and is_sound(self.target, key, record)
            if not kept and not self._copied_by_store(key, record):
                self._send(key, record)
        self._count(self.kept if kept else self.sent, size)
        self.advance(size)

    def _copied_by_store(self, key: str, record: Mapping[str, Any]) -> bool:
        if self._copy is None:
            return False
        try:
            self._copy(key)
        except FileNotFoundError:
            return False
        except CacheError as error:  # reading and writing may be allowed where copying is not
            if not isinstance(error.__cause__, Exception) or is_temporary(error.__cause__):
                raise
            if self._copy is not None:
                self._copy = None
                console.say(f"the store does not copy by itself, so bytes pass through here: {error.message}")
            return False
        return is_sound(self.target, key, record)

    def _send(self, key: str, record: Mapping[str, Any]) -> None:
        try:
            data = self.source.get(key, int(record["bytes"]))
        except FileNotFoundError as error:
            raise self.damaged(key, "it is missing") from error
        except CacheDamagedError as error:  # it is larger, or no file
            raise self.damaged(key, "its bytes do not match its receipt") from error
        if not _matches(data, record):
            raise self.damaged(key, "its bytes do not match its receipt")
        self.target.put(key, data)
        if not is_sound(self.target, key, record):
            raise _unkept(self.target, key)

    def write(self, key: str, data: bytes) -> None:
        """Write a document, unless it is there and right, and read it back."""
        if self.sizes.get(key) == len(data) and _get(self.target, key, len(data)) == data:
            self._count(self.kept, len(data))
            return
        self.target.put(key, data)
        if _get(self.target, key, len(data)) != data:
            raise _unkept(self.target, key)
        self._count(self.sent, len(data))

    def damaged(self, key: str, why: str) -> CacheDamagedError:
        """Return the error to raise where an object of the source is not what it should be."""
        return CacheDamagedError(
            f"cannot copy {self.source.uri}/{key}: {why}; what was copied before it is kept",
            f"gdist verify {in_shell(self.source.uri)} --repair, then copy again",
        )

    def _count(self, amount: Amount, size: int) -> None:
        with self._counting:
            amount.add(size)


def is_sound(storage: Storage, key: str, record: Mapping[str, Any]) -> bool:
    """Whether a shard is there, and its bytes are those of its receipt. Reads it whole."""
    data = _get(storage, key, int(record["bytes"]))
    return data is not None and _matches(data, record)


def _matches(data: bytes, record: Mapping[str, Any]) -> bool:
    return all(record[field] == value for field, value in recorded(data).items())


def _get(storage: Storage, key: str, limit: int) -> bytes | None:
    """Return an object; None where there is none, or it is larger than what is wanted, or no file."""
    try:
        return storage.get(key, limit)
    except (FileNotFoundError, CacheDamagedError):
        return None


def _unkept(storage: Storage, key: str) -> CacheError:
    return CacheError(
        f"{storage.uri}/{key} was written, but reads back differently",
        "check that disk or bucket, and whether another program writes there; then run the same command again",
    )
