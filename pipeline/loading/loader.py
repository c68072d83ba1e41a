"""Batches from the cache, in an order that is a pure function of (seed, epoch).

Packs are permuted. Utterances are shuffled within a window of packs (so that reads stay near each other), then
grouped by length into batches of a given number of seconds. Each rank reads its share of every batch's rows. Threads
read at most a few batches ahead. The state is (epoch, position), the same for every rank and any number of ranks:
resuming costs nothing.

Axes: B batch, L layers, T frames, D features, S samples.
"""

import math
import sys
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from gdist.pipeline.cache.by_name import Span
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.entries import Entry, numbers
from gdist.pipeline.cache.wanted import samples_of
from gdist.pipeline.console import say
from gdist.pipeline.errors import CacheDamagedError
from gdist.pipeline.loading.ahead import Window, look_ahead
from gdist.pipeline.loading.alone import beside
from gdist.pipeline.loading.batch import Batch, Choose, Selection
from gdist.pipeline.loading.fetching import Fetching, Sources
from gdist.pipeline.loading.in_memory import InMemory
from gdist.pipeline.loading.joined import Source, joined
from gdist.pipeline.loading.on_device import OnDevice, SideStream
from gdist.pipeline.loading.order import Batches, longest_first, shuffled
from gdist.pipeline.loading.side_by_side import Reader, SideBySide
from gdist.pipeline.storage.locations import in_shell

WINDOW_PACKS = 8
PREFETCH = 3  # batches read ahead of the one in use
READERS, BUCKET_READERS = 1, 3  # threads that read them; with a bucket, they mostly wait
RESIDENT_BYTES = 2_000_000_000  # a selection smaller than this is read once and kept in memory


class Loader:
    """An endless iterator of training batches; :meth:`once` passes over the utterances a single time, in order.

    Args:
        cache: the open cache, or several that are read as one.
        entries: the utterances to read, as the first cache has them.
        choose: decides which layers are read for a batch, and whether audio is; or one :class:`Selection` for all.
        batch_seconds: seconds of audio per batch, of all ranks together and padding included.
        crop_seconds: longer utterances are cropped to this length; 0 keeps them whole.
        seed: of the order and of the crops.
        rank, world: this process reads every ``world``-th of a batch's rows, sorted by length, starting at ``rank``.
        device: where batches are: hidden states are decoded there, and only their stored form is copied there.
        audio_on_cpu: leave the audio on the CPU whatever the device, for whoever changes it before it is used.
        skip_damaged: leave out damaged utterances with a message, instead of raising.
        layers: all layers that ``choose`` may ever name; None for the selection's, or all that are stored. If all of
            them fit into memory, what was read stays there.
    """

    def __init__(
        self,
        cache: Source,
        entries: Sequence[Entry],
        choose: Choose | Selection,
        batch_seconds: float,
        crop_seconds: float = 0.0,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        device: str = "cpu",
        audio_on_cpu: bool = False,
        skip_damaged: bool = False,
        layers: Sequence[int] | None = None,
    ) -> None:
        self.caches, self.entries = joined(cache), entries
        self.cache = cache = self.caches.first
        self.choose: Choose = (lambda epoch, place: choose) if isinstance(choose, Selection) else choose
        rate = cache.framing.frames_per_second
        self.batch_frames = max(int(batch_seconds * rate), 1)
        self.crop_frames = max(int(crop_seconds * rate), 1) if crop_seconds else 0
        self.seed, self.rank, self.world, self.device = seed, rank, world, device
        self.skip_damaged = skip_damaged
        self.damaged: dict[str, str] = {}  # utterance id → what is wrong with it
        self.epoch, self.position = 0, 0
        self._epoch: tuple[int, Batches] | None = None
        if layers is None:
            layers = choose.layers if isinstance(choose, Selection) else self.caches.layers
        frames = int(numbers(entries, "num_frames").sum(dtype=np.int64))
        self.layers = layers
        self.resident = resident = (
            frames * (4 * self.caches.width * len(layers) + 2 * cache.framing.hop) <= RESIDENT_BYTES
        )

        def reader(of: Cache) -> Reader:
            if torch.device(device).type == "cpu":
                return InMemory(of, resident, buffers=PREFETCH + 3)
            return OnDevice(of, resident, device, audio_on_cpu)

        self._reader: Reader = reader(cache)
        if len(self.caches.parts) > 1:
            self._reader = SideBySide(self.caches, reader, device, buffers=PREFETCH + 3)

    def state_dict(self) -> dict[str, int]:
        """Return the consumer's position; batches that were only read ahead do not count."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the batch that was consumed last."""
        self.epoch, self.position = state["epoch"], state["position"]

    def epoch_batches(self, epoch: int) -> Batches:
        """Return all batches of an epoch, for all ranks: a pure function of (entries, seed, epoch)."""
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = None  # of many utterances, one order takes a gigabyte
            grid = int(self.cache.identity["chunk_frames"])
            rng = np.random.default_rng([self.seed, epoch])
            tail = self.cache.framing.fewest_of_a_tail
            order = shuffled(self.entries, rng, self.batch_frames, self.crop_frames, grid, WINDOW_PACKS, tail)
            self._epoch = epoch, order
        return self._epoch[1]

    def __iter__(self) -> Generator[Batch]:
        return self.stream()

    def stream(self, count: int | None = None) -> Generator[Batch]:
        """Yield ``count`` batches, or an endless number of them; nothing is read ahead of the last one."""
        assert self.entries, "an endless iterator over nothing would never yield"
        left = math.inf if count is None else count
        fetching = self._sources.fetching()
        upcoming = self._upcoming(fetching, left)
        readers = READERS if self.caches.in_folders else BUCKET_READERS
        pool = ThreadPoolExecutor(readers, "gdist-reader", initializer=beside(self.device))
        side = self._side
        ahead: deque[Future[tuple[Batch | None, Any]]] = deque()
        lost = 0
        try:
            while left and lost <= len(self.entries):
                for _ in range(int(min(PREFETCH + 1, left)) - len(ahead)):
                    ahead.append(pool.submit(side.run, self._read_then, fetching, *next(upcoming)))
                batch = side.receive(*ahead.popleft().result())
                if batch is None:  # every row was damaged
                    lost += 1
                    continue
                lost, left = 0, left - 1
                self.epoch, self.position = batch.position
                yield batch
            if left:
                raise CacheDamagedError(
                    f"every utterance to train on is damaged in the cache {self.caches.uri}",
                    f"gdist verify {in_shell(self.cache.uri)} --repair",
                )
        finally:
            fetching.close()
            # Whoever interrupts it does not wait for what a bucket may never answer.
            pool.shutdown(wait=not _is_interrupted(sys.exception()), cancel_futures=True)

    def _upcoming(
        self, fetching: Fetching, left: float
    ) -> Iterator[tuple[Window, list[Span], Selection, tuple[int, int]]]:
        """Yield every batch from here on, for all ranks, with what is read for it."""

        def begin(window: Window, left: float) -> None:
            used = range(window.first, int(min(window.last, window.first + left)))
            fetching.fetch(window, lambda: ((place, self.choose(window.epoch, place)) for place in used))

        for window, place in look_ahead(self._windows(self.epoch, self.position), begin, left):
            yield window, window.batches[place], self.choose(window.epoch, place), (window.epoch, place + 1)

    def _windows(self, epoch: int, position: int) -> Iterator[Window]:
        while True:
            batches = self.epoch_batches(epoch)
            for first, last in pairwise(batches.windows):
                if last > position:
                    yield Window(epoch, batches, max(first, position), last)
            epoch, position = epoch + 1, 0

    @cached_property
    def _sources(self) -> Sources:
        return Sources(self.caches, self.entries, self.layers, self.rank, self.world, self.resident)

    def _read_then(self, fetching: Fetching, window: Window, *of_batch: Any) -> Batch | None:
        try:
            return self._read_share(*of_batch)
        finally:
            fetching.read(window)

    def _read_share(self, spans: list[Span], selection: Selection, position: tuple[int, int]) -> Batch | None:
        rows = range(self.rank, len(spans), self.world)
        batch = self.read([spans[row] for row in rows], selection, position)
        if batch.idle and self.world == 1:
            return None
        lost = {entry.id for entry, _, _ in spans} - set(batch.ids) if self.damaged else set()
        return replace(
            batch,
            all_ids=tuple(entry.id for entry, _, _ in spans),
            rows=tuple(row for row in rows if spans[row][0].id not in lost),
            total_frames=sum(frames for _, _, frames in spans),
        )

    def once(self, selection: Selection, entries: Sequence[Entry] | None = None) -> Iterator[Batch]:
        """Yield this rank's share of every utterance (or each of ``entries``): whole, exactly once, longest first."""
        entries = self.entries if entries is None else entries
        batches = longest_first(entries, self.batch_frames)
        window, own = Window(0, batches, 0, len(batches)), entries is self.entries
        sources = self._sources if own else Sources(self.caches, entries, self.layers, self.rank, self.world)
        fetching = sources.fetching()
        try:
            fetching.fetch(window, lambda: ((place, selection) for place in range(len(batches))))
            for spans in batches:
                if (batch := self._read_then(fetching, window, spans, selection, (0, 0))) is not None:
                    yield batch
        finally:
            fetching.close()

    def read(self, spans: Sequence[Span], selection: Selection, position: tuple[int, int] = (0, 0)) -> Batch:
        """Read and pad the rows of one batch.

        Raises:
            CacheDamagedError: a row is damaged, unless ``skip_damaged``.
        """
        try:
            return self._assemble(spans, selection, position)
        except CacheDamagedError:
            if not self.skip_damaged:
                raise
        return self._assemble([span for span in spans if self._is_whole(span, selection)], selection, position)

    def _is_whole(self, span: Span, selection: Selection) -> bool:
        try:
            self._assemble([span], selection, (0, 0))
        except CacheDamagedError as error:
            name = span[0].id
            if name not in self.damaged:
                say(f"left out, as data.skip_damaged asks: {name}: {error.message}", style="yellow")
            self.damaged[name] = error.message
            return False
        return True

    def _assemble(self, spans: Sequence[Span], selection: Selection, position: tuple[int, int]) -> Batch:
        idle = not spans
        num_frames = [frames for _, _, frames in spans] or [1]
        framing = self.cache.framing
        num_samples = [framing.num_samples_for(frames) for frames in num_frames]
        if selection.waveforms and not idle:
            num_samples = [stop - start for start, stop in (samples_of(span, framing) for span in spans)]
        read = self._reader.read(spans, selection, num_frames, num_samples)
        ids = tuple(entry.id for entry, _, _ in spans)
        return Batch(
            ids,
            read.waveform_BS,
            torch.tensor(num_samples),
            torch.tensor(num_frames),
            read.hidden_BLTD,
            read.num_samples_B,
            read.num_frames_B,
            selection,
            all_ids=ids,
            rows=tuple(range(len(spans))),
            total_frames=0 if idle else sum(num_frames),
            speakers=tuple(None if (who := e.labels.get("speaker")) is None else str(who) for e, _, _ in spans),
            idle=idle,
            framing=framing,
            widths=self.caches.widths,
            position=position,
        )

    @cached_property
    def _side(self) -> SideStream:
        return SideStream(self.device)


def _is_interrupted(error: BaseException | None) -> bool:
    """Whether this is an interruption, or came of one: a generator is closed while that passes by."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False
