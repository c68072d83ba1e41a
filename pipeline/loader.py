"""Batches from the cache, in an order that is a pure function of (seed, epoch).

Packs are permuted, utterances shuffled within a window of packs (so that reads stay near each other), then grouped
by length into batches of so many seconds. A thread reads ahead through a bounded queue. The state is (epoch,
position): resuming costs nothing.

Axes: B batch, L layers, T frames, D features, S samples.
"""

import fnmatch
import hashlib
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdist.pipeline import framing
from gdist.pipeline.audio import to_float
from gdist.pipeline.cache import Cache, Span
from gdist.pipeline.config import require
from gdist.pipeline.errors import CacheError
from gdist.pipeline.layout import Entry

WINDOW_PACKS = 8
PREFETCH = 3
RESIDENT_BYTES = 2_000_000_000  # a selection smaller than this is read once and kept in memory


@dataclass(frozen=True)
class DataConfig:
    """Which utterances, and how much of each.

    Attributes:
        train_split, valid_split, test_split: patterns for the manifest's ``split`` column, comma-separated
            (``train*`` matches LibriSpeech's train-clean-100). Where nothing matches ``valid_split``, a fixed
            ``valid_fraction`` of the training utterances is held out, chosen by a hash of their ids.
        crop_seconds: longer utterances are cropped in training, on frame boundaries; 0 keeps them whole. The cached
            frames saw the whole utterance, the cropped student does not.
        skip_missing: train on the packs that are there instead of refusing an unfinished cache.
    """

    train_split: str = "train*"
    valid_split: str = "valid*,dev*"
    test_split: str = "test*"
    valid_fraction: float = 0.02
    crop_seconds: float = 15.0
    skip_missing: bool = False

    def __post_init__(self) -> None:
        require(self.crop_seconds >= 0, f"data.crop_seconds = {self.crop_seconds}: must be 0 (whole) or more")
        require(0 < self.valid_fraction < 1, f"data.valid_fraction = {self.valid_fraction}: must lie between 0 and 1")


@dataclass(frozen=True)
class Batch:
    """Utterances or crops of them, padded at the end.

    Attributes:
        waveform_BS: float32 in [−1, 1), zeros past each length; None when only hidden states were asked for.
        hidden_BLTD: float32, the layers asked for; zeros past each length.
        position: (epoch, batches of that epoch consumed when this one is), the loader's state after it.
    """

    ids: tuple[str, ...]
    waveform_BS: Tensor | None
    num_samples_B: Tensor
    num_frames_B: Tensor
    hidden_BLTD: Tensor
    position: tuple[int, int] = (0, 0)

    @property
    def audio_seconds(self) -> float:
        return float(self.num_frames_B.sum()) / framing.FRAMES_PER_SECOND


def usable_entries(cache: Cache, skip_missing: bool = False) -> list[Entry]:
    """Utterances whose data is in the cache: committed and not quarantined.

    Raises:
        CacheError: packs are missing, unless ``skip_missing``.
    """
    done = cache.done()
    if len(done) < cache.packs and not skip_missing:
        raise CacheError(
            f"the cache at {cache.uri} is unfinished: {cache.packs - len(done)} of {cache.packs} packs are missing",
            "run the same `gdist extract` again to finish it, or --set data.skip_missing=true to do without them",
        )
    quarantined = cache.quarantine()
    return [e for e in cache.entries if e.pack in done and e.num_frames and e.id not in quarantined]


def choose_splits(entries: Sequence[Entry], config: DataConfig) -> dict[str, list[Entry]]:
    """``train``, ``valid`` and ``test`` utterances. Without a ``split`` column all are for training but the held-out
    fraction."""

    def matching(patterns: str) -> list[Entry]:
        wanted = [pattern.strip() for pattern in patterns.split(",")]
        return [e for e in entries if any(fnmatch.fnmatch(str(e.labels.get("split")), p) for p in wanted)]

    labelled = any(e.labels.get("split") is not None for e in entries)
    splits = {
        "train": matching(config.train_split) if labelled else list(entries),
        "valid": matching(config.valid_split),
        "test": matching(config.test_split),
    }
    if not splits["train"]:
        found = ", ".join(sorted({str(e.labels.get("split")) for e in entries}))
        raise CacheError(
            f"no utterance of the cache is in the training split {config.train_split!r} (splits: {found})",
            "name one with --set data.train_split=…",
        )
    if not splits["valid"]:
        ranked = sorted(splits["train"], key=lambda e: hashlib.sha256(e.id.encode()).digest())
        held = {e.id for e in ranked[: max(round(len(ranked) * config.valid_fraction), 1)]}
        splits["valid"] = [e for e in splits["train"] if e.id in held]
        splits["train"] = [e for e in splits["train"] if e.id not in held] or splits["train"]
    return splits


class Loader:
    """An endless iterator of training batches; :meth:`once` passes over the utterances a single time, in order.

    Args:
        layers: which to read, in the order of ``hidden_BLTD``.
        batch_seconds: audio a batch, padding included.
        waveforms: whether audio is read too.
        device: where hidden states are decoded: only what is stored travels there.
        rank, world: this process takes every ``world``-th batch, from ``rank`` on. Where the last round is too small
            for all, it is filled up from the epoch's start: every rank takes as many steps, so one state serves all.
    """

    def __init__(
        self,
        cache: Cache,
        entries: Sequence[Entry],
        layers: Sequence[int],
        batch_seconds: float,
        crop_seconds: float = 0.0,
        seed: int = 0,
        waveforms: bool = True,
        rank: int = 0,
        world: int = 1,
        device: str = "cpu",
    ) -> None:
        self.cache, self.entries, self.layers = cache, list(entries), list(layers)
        self.batch_frames = max(int(batch_seconds * framing.FRAMES_PER_SECOND), 1)
        self.crop_frames = int(crop_seconds * framing.FRAMES_PER_SECOND)
        self.seed, self.waveforms, self.rank, self.world, self.device = seed, waveforms, rank, world, device
        self.epoch, self.position = 0, 0
        frames = sum(e.num_frames for e in self.entries)
        resident = frames * (4 * cache.identity["dim"] * len(self.layers) + 2 * framing.HOP) <= RESIDENT_BYTES
        self._resident: dict[tuple[str, int], Any] | None = {} if resident else None

    def state_dict(self) -> dict[str, int]:
        """Where the consumer stands; batches that were only read ahead do not count."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the batch that was consumed last."""
        self.epoch, self.position = state["epoch"], state["position"]

    def epoch_batches(self, epoch: int) -> list[list[Span]]:
        """All batches of an epoch, for all ranks: a pure function of (entries, seed, epoch)."""
        rng = np.random.default_rng([self.seed, epoch])
        packs = rng.permutation(sorted({e.pack for e in self.entries}))
        window_of = {int(pack): place // WINDOW_PACKS for place, pack in enumerate(packs)}
        windows: dict[int, list[Entry]] = {}
        for entry in self.entries:
            windows.setdefault(window_of[entry.pack], []).append(entry)
        batches: list[list[Span]] = []
        for _, members in sorted(windows.items()):
            spans = [self._crop(members[i], rng) for i in rng.permutation(len(members))]
            # Within a shuffled window, like lengths go together; the noise keeps the same ones from meeting forever.
            noisy = np.array([frames for _, _, frames in spans]) * rng.uniform(0.9, 1.1, len(spans))
            grouped = group([spans[i] for i in np.argsort(noisy, kind="stable")], self.batch_frames)
            batches += [grouped[i] for i in rng.permutation(len(grouped))]
        return batches

    def _crop(self, entry: Entry, rng: np.random.Generator) -> Span:
        if not self.crop_frames or entry.num_frames <= self.crop_frames:
            return entry, 0, entry.num_frames
        return entry, int(rng.integers(entry.num_frames - self.crop_frames + 1)), self.crop_frames

    def __iter__(self) -> Iterator[Batch]:
        assert self.entries, "an endless iterator over nothing would never yield"
        ahead: queue.Queue[Batch | BaseException] = queue.Queue(PREFETCH)
        stop = threading.Event()
        reader = threading.Thread(target=self._read_ahead, args=(ahead, stop, self.epoch, self.position), daemon=True)
        reader.start()
        try:
            while True:
                batch = ahead.get()
                if isinstance(batch, BaseException):
                    raise batch
                self.epoch, self.position = batch.position
                yield batch
        finally:
            stop.set()
            reader.join()

    def _read_ahead(
        self, ahead: "queue.Queue[Batch | BaseException]", stop: threading.Event, epoch: int, position: int
    ) -> None:
        def put(item: Batch | BaseException) -> None:
            while not stop.is_set():
                try:
                    ahead.put(item, timeout=0.1)
                    return
                except queue.Full:
                    continue

        try:
            while not stop.is_set():
                batches = self.epoch_batches(epoch)
                for start in range(position, len(batches), self.world):
                    spans = batches[(start + self.rank) % len(batches)]
                    put(self.read(spans, (epoch, min(start + self.world, len(batches)))))
                    if stop.is_set():
                        return
                epoch, position = epoch + 1, 0
        # The consumer raises it: a reader thread that dies silently would leave the training waiting forever.
        except BaseException as error:
            put(error)

    def once(self, entries: Sequence[Entry] | None = None) -> Iterator[Batch]:
        """Every utterance (or each of ``entries``) whole, exactly once, longest first."""
        spans: list[Span] = [(e, 0, e.num_frames) for e in (self.entries if entries is None else entries)]
        for spans_of_batch in group(sorted(spans, key=lambda span: -span[2]), self.batch_frames):
            yield self.read(spans_of_batch)

    def read(self, spans: Sequence[Span], position: tuple[int, int] = (0, 0)) -> Batch:
        """Read and pad one batch."""
        num_frames_B = torch.tensor([frames for _, _, frames in spans])
        hidden_BLTD = torch.zeros(
            len(spans), len(self.layers), int(num_frames_B.max()), self.cache.identity["dim"], device=self.device
        )
        for place, layer in enumerate(self.layers):
            for row, hidden_TD in enumerate(self._hidden(layer, spans)):
                hidden_BLTD[row, place, : len(hidden_TD)] = hidden_TD
        num_samples_B = torch.tensor([framing.num_samples_for(frames) for _, _, frames in spans])
        waveform_BS = None
        if self.waveforms:
            pieces = self.cache.waveform(spans)
            num_samples_B = torch.tensor([len(piece) for piece in pieces])
            waveform_BS = torch.zeros(len(spans), int(num_samples_B.max()))
            for row, piece in enumerate(pieces):
                waveform_BS[row, : len(piece)] = to_float(piece)
        ids = tuple(entry.id for entry, _, _ in spans)
        return Batch(ids, waveform_BS, num_samples_B, num_frames_B, hidden_BLTD, position)

    def _hidden(self, layer: int, spans: Sequence[Span]) -> list[Tensor]:
        if self._resident is None:
            return self.cache.hidden(layer, spans, self.device)
        absent = [entry for entry, _, _ in spans if (entry.id, layer) not in self._resident]
        if absent:
            whole = self.cache.hidden(layer, [(entry, 0, entry.num_frames) for entry in absent], self.device)
            self._resident |= {(entry.id, layer): hidden.clone() for entry, hidden in zip(absent, whole, strict=True)}
        return [self._resident[entry.id, layer][first : first + frames] for entry, first, frames in spans]


def group(spans: Sequence[Span], batch_frames: int) -> list[list[Span]]:
    """Cut a sequence of spans into batches whose frames, padding included, stay within ``batch_frames``."""
    batches: list[list[Span]] = []
    longest = 0
    for span in spans:
        longest = max(longest, span[2])
        if batches and longest * (len(batches[-1]) + 1) <= batch_frames:
            batches[-1].append(span)
        else:
            batches.append([span])
            longest = span[2]
    return batches
