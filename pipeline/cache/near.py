"""Where a shard of a cache in a bucket is read: in the bucket, on this machine's disk, or in memory.

A loader knows which shards it will read, so they are fetched whole and ahead of need (loading/ahead.py), and readers
find them here. Without that, ranges of the shard are read from the bucket. Whatever is fetched whole is compared with
its receipt.
"""

import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import CancelledError, Future

import numpy as np

from gdist.pipeline import console
from gdist.pipeline.cache.arrays import shard_key
from gdist.pipeline.cache.encode import digest
from gdist.pipeline.cache.entries import Numbers
from gdist.pipeline.cache.place import Bytes, Place
from gdist.pipeline.cache.records import Records
from gdist.pipeline.errors import CacheError
from gdist.pipeline.local.download import download
from gdist.pipeline.local.folder import LocalFolder
from gdist.pipeline.local.kept import KeptCache, Record
from gdist.pipeline.storage.objects import Storage

GOLDEN = 0x9E3779B97F4A7C15  # multiples of it are spread evenly, however many there are

Shard = tuple[str, int]
"""The name of an array, and a pack."""


class Traffic:
    """Bytes of shards that came from the bucket, and those that the local folder already had. Any thread may add."""

    def __init__(self) -> None:
        self.fetched = self.local = 0
        self._lock = threading.Lock()

    def add(self, fetched: int = 0, local: int = 0) -> None:
        with self._lock:
            self.fetched += fetched
            self.local += local


class Near:
    """The shards of one cache.

    Args:
        storage: the bucket.
        kept: the local folder's part; None without one.
        prunes: whether shards that are no longer the cache's are deleted from it: not where an older state of the
            cache was opened, which lacks what was added since.

    Attributes:
        keep: for each pack, whether its shards are to be kept: [P].
    """

    def __init__(
        self, storage: Storage, records: Records, packs: int, kept: KeptCache | None, prunes: bool = False
    ) -> None:
        self.storage, self.records, self.kept = storage, records, kept
        self.prunes, self.traffic = prunes, Traffic()
        self.keep = np.zeros(packs, bool)
        self._promised = 0
        self._said = False
        self._expected: dict[Shard, Future[Place]] = {}
        self._users: dict[Shard, int] = {}
        self._lock = threading.Lock()

    def intend(self, names: Sequence[str], packs: Numbers) -> None:
        """Say which shards will be read, again and again: those that the local folder will keep are chosen.

        What is there stays. Of the rest, packs are chosen by their hashed numbers until there is no more room: so
        every window of packs has its part of them, and every run chooses the same.

        Args:
            packs: their numbers, each once.
        """
        digests = self.kept.digests() if self.kept is not None and self.records.eager else set()
        stale = self.records.load(names, digests)
        if self.kept is not None and self.prunes:
            self.kept.delete(stale)
        total = np.zeros(len(packs), np.int64)
        for name in names:
            total += self.records.sizes(name)[packs]
        here = self._here(names, packs, digests)
        absent = total - here
        if self.kept is not None and self.kept.keeping:
            room = self.kept.room() - self._promised
            if not self.records.eager:  # the shards that are here are most likely those of the packs chosen now
                room += self.kept.size()
            (fresh,) = np.nonzero(~self.keep[packs])
            order = fresh[np.argsort(packs[fresh].astype(np.uint64) * np.uint64(GOLDEN), kind="stable")]
            chosen = order[np.cumsum(absent[order]) <= room]
            self.keep[packs[chosen]] = True
            self._promised += int(absent[chosen].sum())
        if self.kept is not None and not self._said and total.any():
            self._said = True
            kept = total - np.where(self.keep[packs], 0, absent)
            self._say(self.kept.folder, int(total.sum()), int(here.sum()), int(kept.sum()))

    def _say(self, folder: LocalFolder, reads: int, here: int, kept: int) -> None:
        """Say how many bytes this run reads, and how many of them the folder has and will have."""
        if kept == reads:
            words = f"{console.size(here)} of {console.size(reads)} are there already"
        elif kept:
            share = f"{kept / reads:.0%} of the {console.size(reads)} that this run reads"
            words = f"there is room for {share}; the rest is streamed in every pass"
        else:
            words = f"there is no room for a pack of {self.storage.uri}; everything is streamed"
        console.say(f"local copy in {folder.path}: {words}", style=None if kept else "yellow")

    def _here(self, names: Sequence[str], packs: Numbers, digests: Collection[str]) -> Numbers:
        """Return the bytes of each pack's shards that the local folder has, which are known by their digests."""
        here = np.zeros(len(packs), np.int64)
        for name in names if digests else ():
            records = (self.records.get(name, pack) for pack in packs.tolist())
            here += np.array([record.bytes if record and record.digest in digests else 0 for record in records], int)
        return here

    def may_keep(self, pack: int) -> bool:
        """Whether the shards of a pack are to be added to the local folder, which still has room."""
        return self.kept is not None and self.kept.keeping and not self.kept.full and bool(self.keep[pack])

    def expect(self, shard: Shard) -> tuple[Future[Place], bool]:
        """Announce that a shard is needed. Returns where it will be, and whether the caller is to see to it."""
        with self._lock:
            self._users[shard] = self._users.get(shard, 0) + 1
            new = shard not in self._expected
            return self._expected.setdefault(shard, Future()), new

    def forget(self, shard: Shard) -> Future[Place] | None:
        """Withdraw what was announced once. Returns where the shard is, when nobody needs it any more."""
        with self._lock:
            self._users[shard] -= 1
            if self._users[shard]:
                return None
            del self._users[shard]
            return self._expected.pop(shard)

    def place(self, name: str, pack: int) -> Place:
        """Return where a shard is read, once it is there.

        Raises:
            CacheError: the store does not answer.
        """
        if expected := self._expected.get((name, pack)):
            try:
                return expected.result()
            except CancelledError as error:
                raise CacheError(f"reading {self.storage.uri} was stopped") from error
        return self.found(name, pack)

    def found(self, name: str, pack: int) -> Place:
        """Return where a shard is now: in the local folder, or in the bucket."""
        if self.kept and (record := self.records.get(name, pack)) and self.kept.has(record):
            return self._kept_place(self.kept, record)
        return self.remote(name, pack)

    def count(self, place: Place, size: int) -> None:
        """Note that so many bytes were read from a place."""
        self.traffic.add(**{"local" if place.at_hand else "fetched": size})

    def remote(self, name: str, pack: int) -> Place:
        """Return the place of a shard in the bucket."""
        return Place(self.storage, shard_key(name, pack))

    def bring(self, name: str, pack: int, keep: bool) -> Place:
        """Fetch a shard whole, or find it in the local folder. A shard that does not match its receipt is left in the
        bucket, where reading it shows what is damaged.

        Args:
            keep: whether it may be added to the local folder.

        Raises:
            CacheError: the store does not answer.
        """
        record = self.records.get(name, pack)
        for again in (False, True):
            if again:
                record = self.records.read_again(name, pack)
            if record is None:
                break
            try:
                return self._brought(name, pack, record, keep)
            except (ValueError, FileNotFoundError):  # repaired since its receipt was read, or damaged
                continue
        return self.remote(name, pack)

    def _brought(self, name: str, pack: int, record: Record, keep: bool) -> Place:
        key = shard_key(name, pack)

        def fetch(alive: Callable[[], None] = lambda: None) -> Bytes:
            def arrived(size: int) -> None:
                self.traffic.add(fetched=size)
                alive()

            data = download(self.storage, key, record.bytes, arrived)
            if digest(memoryview(data)) != record.digest:
                raise ValueError("it does not match its receipt")
            return data

        if self.kept is None or not (keep or self.kept.has(record)):
            return Place(self.storage, key, fetch(), counted=True)
        fetched, data = self.kept.fetched(record, fetch)
        if data is not None:
            return Place(self.storage, key, data, counted=True)
        if not fetched:
            self.traffic.add(local=record.bytes)
        return self._kept_place(self.kept, record, counted=True)

    def doubt(self, name: str, pack: int) -> None:
        """Compare a shard of the local folder with its receipt, after a reader could not read it; one that differs is
        deleted, and fetched again."""
        record = self.records.get(name, pack)
        if self.kept is None or record is None or self.place(name, pack).storage is self.storage:
            return
        with self.kept.doubting:
            if self.kept.is_whole(record, digest):
                return
            if self.kept.has(record):
                where = f"{self.kept.path}/{self.kept.key(record)}"
                console.say(f"damaged, and fetched again: {where}, the local copy of {self.storage.uri}/{name}")
            self.kept.discard(record)
        again: Future[Place] = Future()
        again.set_result(self.bring(name, pack, self.may_keep(pack)))
        with self._lock:
            if (name, pack) in self._expected:
                self._expected[name, pack] = again

    @staticmethod
    def _kept_place(kept: KeptCache, record: Record, counted: bool = False) -> Place:
        return Place(kept.storage, kept.key(record), counted=counted)
