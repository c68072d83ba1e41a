"""Shards of a bucket fetched whole, ahead of need: what the next windows of packs read is known in advance.

A shard of which a window reads most is fetched once, in few large requests, and kept until the window's last batch
has been read: in the local folder, if it has room for it, and otherwise in memory. From the others, and from those
that memory has no room for, ranges are read when a batch needs them.

Axes: P packs, N utterances.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from gdist.pipeline import machine
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.entries import Entry, Numbers, numbers
from gdist.pipeline.cache.near import Near, Shard
from gdist.pipeline.cache.place import Place
from gdist.pipeline.cache.plan import WAVEFORM, layer_arrays
from gdist.pipeline.loading.batch import Selection
from gdist.pipeline.loading.order import Batches

MOST = 0.75  # of a shard's rows: reading them as ranges would save little, and take many requests
HALF = 0.5  # the same for a shard that is kept: later epochs read other parts of it
FETCHERS = 16  # shards fetched at a time
MEMORY_SHARE = 3  # one part in so many of the available memory may be filled with shards: two windows of them
SPARE = 10  # one part in so many is left to the student and to other runs


class Window:
    """Batches whose shards are fetched together: ``first`` to ``last`` (exclusive) of an epoch."""

    def __init__(self, epoch: int, batches: Batches, first: int, last: int) -> None:
        self.epoch, self.batches, self.first, self.last = epoch, batches, first, last


def look_ahead(
    windows: Iterator[Window], begin: Callable[[Window, float], None], left: float
) -> Iterator[tuple[Window, int]]:
    """Yield every batch: its window and its number.

    Args:
        begin: called for the first window, and then for the one that follows when a window's first batch is due.
        left: how many batches will be used; ``begin`` is told how many of them are left for its window.
    """
    current, following = next(windows), None
    begin(current, left)
    while True:
        left -= current.last - current.first
        for place in range(current.first, current.last):
            if following is None and left > 0:
                following = next(windows)
                begin(following, left)
            yield current, place
        current, following = following or next(windows), None


class Reads:
    """Which share of the shards some batches read.

    Args:
        entries: the utterances that batches are made of.
        rank, world: this process reads every ``world``-th row, starting at ``rank``.
        resident: hidden states that were read once stay in memory.

    Attributes:
        announced: whether the local folder knows of them.
    """

    def __init__(self, cache: Cache, entries: Sequence[Entry], rank: int, world: int, resident: bool) -> None:
        self.identity, self.rank, self.world = cache.identity, rank, world
        self.announced = False
        self._chunk = int(cache.identity["chunk_frames"])
        self._pack_N = numbers(entries, "pack")
        self._whole_N = self._chunks(numbers(entries, "num_frames"))
        every, held = numbers(cache.entries, "pack"), self._chunks(numbers(cache.entries, "num_frames"))
        self._held_P = np.maximum(np.bincount(every, held, cache.packs), 1)
        self._resident = resident
        self._unread_N: dict[int, Numbers] = {}  # by layer, of what stays in memory once it is read

    def _chunks(self, frames: Numbers) -> Numbers:
        return -(-frames // self._chunk)

    @property
    def packs(self) -> Numbers:
        """The packs of which these utterances are at least half."""
        selected_P = np.bincount(self._pack_N, self._whole_N, len(self._held_P))
        (packs,) = np.nonzero(selected_P >= HALF * self._held_P)
        return packs

    def shares(self, batches: Batches, chosen: Iterable[tuple[int, Selection]]) -> dict[Shard, float]:
        """Return the share of each shard's rows that some batches read, in the order in which they are needed first.

        Args:
            chosen: numbers of batches, and what is read for them.
        """
        shares: dict[Shard, float] = {}
        for place, selection in chosen:
            start, stop = batches.bounds[place].tolist()
            rows = slice(start + self.rank, stop, self.world)
            members, chunks = batches.members[rows], self._chunks(batches.frames[rows])
            if selection.waveforms:
                self._add(shares, [WAVEFORM], members, chunks)
            for layer in selection.layers:
                some, of_them = self._fresh(layer, members) if self._resident else (members, chunks)
                self._add(shares, layer_arrays(self.identity, [layer]), some, of_them)
        return shares

    def _fresh(self, layer: int, members: Numbers) -> tuple[Numbers, Numbers]:
        """Return those of which a layer is not in memory yet, and their chunks: they are read whole."""
        unread_N = self._unread_N.setdefault(layer, np.ones(len(self._pack_N), bool))
        fresh = members[unread_N[members]]
        unread_N[fresh] = False
        return fresh, self._whole_N[fresh]

    def _add(self, shares: dict[Shard, float], names: Sequence[str], members: Numbers, chunks: Numbers) -> None:
        packs = self._pack_N[members]
        for pack in np.unique(packs).tolist():
            share = float(chunks[packs == pack].sum() / self._held_P[pack])
            for name in names:
                shares[name, pack] = shares.get((name, pack), 0.0) + share


class Memory:
    """Bytes of shards in memory, up to a share of what was available at first."""

    def __init__(self) -> None:
        available = machine.available_memory()
        self.limit, self._spare = available // MEMORY_SHARE, available // SPARE
        self._held, self._closed = 0, False
        self._change = threading.Condition()

    def take(self, size: int) -> bool:
        """Wait until others have given room back. Returns whether the machine really has it: there may be other runs,
        and to wait for theirs could take for ever."""
        with self._change:
            self._change.wait_for(lambda: self._closed or self._held + size <= self.limit)
            if machine.available_memory() < size + self._spare:
                return False
            self._held += size
            return True

    def give(self, size: int) -> None:
        with self._change:
            self._held -= size
            self._change.notify_all()

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._change:
            self._closed = True
            self._change.notify_all()


@dataclass
class _Held:
    """Of a window, how many batches are still to be read, and what was fetched for it."""

    unread: int
    shards: list[Shard] = field(default_factory=list)


class Ahead:
    """Fetches the shards of one window after another; threads do the work, in the order of need."""

    def __init__(self, near: Near) -> None:
        self.near, self._memory = near, Memory()
        self._pool = ThreadPoolExecutor(FETCHERS, "gdist-fetch")
        self._lock = threading.Lock()
        self._windows: dict[Window, _Held] = {}

    def fetch(self, window: Window, shares: Mapping[Shard, float]) -> None:
        """Begin to fetch what a window needs, after all that earlier windows need."""
        streamed, held = 0, _Held(window.last - window.first)
        for shard, share in shares.items():
            name, pack = shard
            # Only an estimate where receipts have to be read first, which the threads do: this one feeds a training.
            size, keep = self.near.records.size(name, pack), self.near.may_keep(pack)
            if not keep:
                if share < MOST or streamed + size > self._memory.limit:
                    continue
                streamed += size
            place, new = self.near.expect(shard)
            held.shards.append(shard)
            if new:
                self._pool.submit(self._bring, place, name, pack, size, keep)
        with self._lock:
            self._windows[window] = held

    def _bring(self, place: Future[Place], name: str, pack: int, size: int, keep: bool) -> None:
        taken = 0 if keep or not self._memory.take(size) else size
        held = 0
        try:
            if place.set_running_or_notify_cancel():
                brought = self.near.bring(name, pack, keep) if keep or taken else self.near.found(name, pack)
                held = 0 if brought.data is None else len(brought.data)
                place.set_result(brought)
        except BaseException as error:
            place.set_exception(error)
        finally:
            self._memory.give(taken - held)

    def read(self, window: Window) -> None:
        """Note that a batch of the window has been read; after the last one, its shards are let go."""
        with self._lock:
            if (held := self._windows.get(window)) is not None:
                held.unread -= 1
        if held is not None and not held.unread:
            self._let_go(window)

    def _let_go(self, window: Window) -> None:
        with self._lock:
            held = self._windows.pop(window, None)
        for shard in held.shards if held is not None else ():
            place = self.near.forget(shard)
            if place is not None and not place.cancel():
                place.add_done_callback(self._give_back)

    def _give_back(self, place: Future[Place]) -> None:
        """Count the memory of a shard as free, once nobody refers to it."""
        if place.exception() is None and (data := place.result().data) is not None:
            self._memory.give(len(data))

    def close(self) -> None:
        """Stop fetching; what is under way is finished or fails soon."""
        self._memory.close()
        for window in list(self._windows):
            self._let_go(window)
        self._pool.shutdown(wait=False)  # what was not begun is cancelled, unless another loader needs it, too
