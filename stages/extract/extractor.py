"""One task of stage one: audio → teacher → encoded rows → committed pack. It is the same with or without a cluster.

A task has three steps: ``read``, ``compute`` and ``commit``. Any thread may read or commit one task while another is
computed. Computing belongs to a single thread, see :meth:`Extractor.compute`.

Axes: B batch, T frames, D features, S samples.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdist.pipeline import audio, framing
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.layout import Entry
from gdist.pipeline.cache.plan import WAVEFORM, Task, layer_arrays, layer_name
from gdist.pipeline.errors import AudioError, StoppedError
from gdist.pipeline.manifest.table import Utterance
from gdist.stages.device import keep_freed_memory
from gdist.stages.extract.batching import batches
from gdist.stages.extract.layer_statistics import Statistics, measure_layer
from gdist.stages.teachers import Teacher

AUDIO_THREADS = 8
MAX_WRITES = 2  # packs being written at a time: to a bucket, a pack can take longer to write than to compute
LANES = 1 + MAX_WRITES  # packs whose rows are in memory, whatever the size of the corpus: one is in the teacher

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class PackAudio:
    """The audio of a pack: id → int16 samples at 16 kHz, and id → the reason why an utterance cannot be used."""

    waveforms: dict[str, Array]
    quarantine: dict[str, str]


@dataclass(frozen=True)
class Computed:
    """The result for a pack: array name → rows, id → the reason for its quarantine, and the pack's statistics."""

    rows: dict[str, Array]
    quarantine: dict[str, str]
    statistics: dict[str, Any]


@dataclass(frozen=True)
class ComputedBatch:
    """What the device computed for one batch. Its copies to the host may not be complete yet.

    Attributes:
        stored: array name → [B, T, W], or [B, C, W] for arrays with one row per chunk; empty if the rows are already
            in place.
        measured: [L, M, B], see :func:`gdist.stages.extract.layer_statistics.measure_layer`.
        arrived: recorded when the copies to the host are complete; None on a CPU.
    """

    entries: list[Entry]
    stored: dict[str, Tensor]
    measured: Tensor
    arrived: torch.cuda.Event | None = None


class Extractor:
    """A teacher on its device, and a cache to fill.

    Args:
        advance: called with the seconds of audio that are done, from any thread.
        stop: once it is set, nothing more is computed or committed.
    """

    def __init__(
        self,
        cache: Cache,
        teacher: Teacher,
        advance: Callable[[float], None] = lambda seconds: None,
        stop: threading.Event | None = None,
    ) -> None:
        self.cache, self.teacher, self.advance = cache, teacher, advance
        self.stop = stop or threading.Event()
        self.batch_samples = int(cache.identity["batch_seconds"] * framing.SAMPLE_RATE)
        self.tables = {layer: cache.tables_on(layer, str(teacher.device)) for layer in cache.layers}
        cuda = teacher.device.type == "cuda"
        if not cuda:
            keep_freed_memory()
        self._copies = torch.cuda.Stream(teacher.device) if cuda else None  # type: ignore[no-untyped-call]

    def run(self, task: Task, utterances: Sequence[Utterance] | None) -> dict[str, Any]:
        """Run one task from end to end, its steps one after another. Returns the receipt.

        Args:
            utterances: the pack's utterances; None if their audio is already in the cache.
        """
        return self.commit(task, self.compute(task, self.read(task, utterances)))

    def read(self, task: Task, utterances: Sequence[Utterance] | None) -> PackAudio:
        """Decode the audio of a task in separate threads. The arguments are those of :meth:`run`."""
        if utterances is not None:
            return decode_pack(self.cache, task.pack, utterances)
        return stored_audio(self.cache, task.pack)

    def compute(self, task: Task, pack_audio: PackAudio) -> Computed:
        """Run the teacher and the encoder over one task.

        Always call this from one thread, preferably the one that loaded the teacher. OpenMP gives each thread that
        computes on a CPU its own workers. Once there are more workers than cores, they sleep instead of spinning,
        which cost a tenth of the speed.
        """
        rows = {name: self.cache.specs[name].empty_pack() for name in self.cache.arrays_of(task)}
        quarantine = dict(pack_audio.quarantine)
        statistics = self._compute(task, pack_audio.waveforms, quarantine, rows)
        entries = self.cache.pack_entries(task.pack)
        skipped = [entry for entry in entries if entry.num_frames and entry.id not in pack_audio.waveforms]
        self.advance(sum(entry.num_samples for entry in skipped) / framing.SAMPLE_RATE)
        return Computed(rows, quarantine, statistics)

    def commit(self, task: Task, computed: Computed) -> dict[str, Any]:
        """Write all of a task's objects. Returns the receipt."""
        self._check_stop()
        return self.cache.commit(task, computed.rows, computed.quarantine, computed.statistics)

    def _compute(
        self, task: Task, waveforms: dict[str, Array], quarantine: dict[str, str], rows: dict[str, Array]
    ) -> dict[str, Any]:
        statistics = Statistics(task.layers, self.cache.identity["dim"])
        entries = [entry for entry in self.cache.pack_entries(task.pack) if entry.id in waveforms]
        if not task.layers:  # a repair of nothing but the audio
            for entry in entries:
                self._place_audio(entry, waveforms[entry.id], rows[WAVEFORM])
            return statistics.summary()
        before: ComputedBatch | None = None
        for members in batches(entries, self.batch_samples):
            self._check_stop()
            batch = self._forward(task, members, waveforms, rows)
            if before is not None:  # on a GPU, its copies to the host overlap with the computing of this batch
                self._finish_batch(task, before, waveforms, quarantine, rows, statistics)
            before = batch
        if before is not None:
            self._finish_batch(task, before, waveforms, quarantine, rows, statistics)
        return statistics.summary()

    def _forward(
        self, task: Task, members: list[Entry], waveforms: dict[str, Array], rows: dict[str, Array]
    ) -> ComputedBatch:
        """Run the teacher and the encoder over one batch. On a GPU this only queues the work."""
        cuda = self._copies is not None
        num_samples_B = torch.tensor([entry.num_samples for entry in members])
        num_frames_B = torch.tensor([entry.num_frames for entry in members])
        waveform_BS = torch.zeros(len(members), int(num_samples_B.max()), dtype=torch.int16, pin_memory=cuda)
        for row, entry in enumerate(members):
            waveform_BS[row, : entry.num_samples] = torch.from_numpy(waveforms[entry.id])
        waveform_BS = waveform_BS.to(self.teacher.device, non_blocking=True).float() / audio.FULL_SCALE
        stored: dict[str, Tensor] = {}
        measured = []
        encoding = self.cache.encoding
        for layer, hidden_BTD in enumerate(self.teacher.hidden_states(waveform_BS, num_samples_B, max(task.layers))):
            if layer not in task.layers:
                continue
            parts = encoding.encode(hidden_BTD, num_frames_B, self.tables[layer])
            measured.append(measure_layer(hidden_BTD, num_frames_B, parts, encoding, self.tables[layer]))
            named = {layer_name(layer, folder): part for folder, part in parts.items()}
            if cuda:
                stored |= named
            else:  # keeping all layers until the last one would need fresh memory, which costs more than this copy
                self._place(members, named, rows)
        batch = ComputedBatch(members, stored, torch.stack(measured))
        return self._to_host(batch) if cuda else batch

    def _to_host(self, batch: ComputedBatch) -> ComputedBatch:
        """Queue copies into pinned memory, on a separate stream that waits for the computation."""
        assert self._copies is not None
        copies = self._copies
        copies.wait_stream(torch.cuda.current_stream(self.teacher.device))

        def copy(tensor: Tensor) -> Tensor:
            tensor.record_stream(copies)
            host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            return host.copy_(tensor, non_blocking=True)

        with torch.cuda.stream(copies):
            stored = {name: copy(tensor) for name, tensor in batch.stored.items()}
            return ComputedBatch(batch.entries, stored, copy(batch.measured), copies.record_event())

    def _finish_batch(
        self,
        task: Task,
        batch: ComputedBatch,
        waveforms: dict[str, Array],
        quarantine: dict[str, str],
        rows: dict[str, Array],
        statistics: Statistics,
    ) -> None:
        """Put a batch's rows in place, except those of utterances whose values cannot be stored."""
        if batch.arrived is not None:
            batch.arrived.synchronize()
        self._place(batch.entries, batch.stored, rows)
        usable = []
        for row, entry in enumerate(batch.entries):
            why = statistics.unstorable(batch.measured[..., row], self.cache.encoding)
            if why:
                quarantine[entry.id] = why
                self._clear(task, entry, rows)
                continue
            usable.append(row)
            if task.waveform:
                self._place_audio(entry, waveforms[entry.id], rows[WAVEFORM])
        statistics.add(batch.measured[..., usable], [batch.entries[row].num_frames for row in usable])
        self.advance(sum(entry.num_samples for entry in batch.entries) / framing.SAMPLE_RATE)

    def _place(self, entries: Sequence[Entry], stored: dict[str, Tensor], rows: dict[str, Array]) -> None:
        for name, part in stored.items():
            for row, entry in enumerate(entries):
                place = self._place_of(entry, rows[name])
                rows[name][place] = part[row, : place.stop - place.start].numpy()

    def _clear(self, task: Task, entry: Entry, rows: dict[str, Array]) -> None:
        for name in layer_arrays(self.cache.identity, task.layers):
            rows[name][self._place_of(entry, rows[name])] = self.cache.specs[name].fill_value

    def _place_of(self, entry: Entry, rows: Array) -> slice:
        """An utterance's rows within its pack, in an array with one row per frame or per chunk."""
        pack_frames = self.cache.identity["pack_frames"]
        frames = pack_frames // len(rows)  # per row
        start = entry.start_frame % pack_frames // frames
        return slice(start, start - (-entry.num_frames // frames))

    def _place_audio(self, entry: Entry, samples_S: Array, rows: Array) -> None:
        start = entry.start_frame % self.cache.identity["pack_frames"]
        rows[start : start + entry.num_rows].reshape(-1)[: entry.num_samples] = samples_S

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise StoppedError("stopped; what was committed is kept", "run the same command again to continue")


def decode(utterance: Utterance, planned: int) -> Array | str:
    """Decode one utterance as input for the teacher.

    Args:
        planned: the number of samples at 16 kHz that the cache was planned with.

    Returns:
        [S] int16 samples at 16 kHz, or the reason why the utterance cannot be used.
    """
    if utterance.num_samples is None or utterance.sample_rate is None:  # it had a length when the cache was planned
        return f"can no longer be read: {utterance.path}"
    try:
        samples_S = audio.load_utterance(
            utterance.path, utterance.start, utterance.num_samples, utterance.sample_rate
        )
    except AudioError as error:
        return error.message
    if len(samples_S) != planned:
        return f"changed: {len(samples_S)} samples at 16 kHz, {planned} when planned: {utterance.path}"
    return samples_S


def decode_pack(cache: Cache, pack: int, utterances: Sequence[Utterance]) -> PackAudio:
    """Decode the audio of a pack from its files, in threads."""
    entries = {entry.id: entry for entry in cache.pack_entries(pack)}
    quarantine = {entry.id: entry.problem for entry in entries.values() if entry.problem}
    usable = [utterance for utterance in utterances if entries[utterance.id].num_frames]
    waveforms: dict[str, Array] = {}
    with ThreadPoolExecutor(AUDIO_THREADS) as pool:
        planned = [entries[utterance.id].num_samples for utterance in usable]
        for utterance, decoded in zip(usable, pool.map(decode, usable, planned), strict=True):
            if isinstance(decoded, str):
                quarantine[utterance.id] = decoded
            else:
                waveforms[utterance.id] = decoded
    return PackAudio(waveforms, quarantine)


def stored_audio(cache: Cache, pack: int) -> PackAudio:
    """Read the audio of a pack that an earlier task has stored in the cache."""
    quarantine = cache.quarantine(pack)
    entries = [e for e in cache.pack_entries(pack) if e.num_frames and e.id not in quarantine]
    waveforms = cache.waveform([(entry, 0, entry.num_frames) for entry in entries]) if entries else []
    return PackAudio({entry.id: waveform for entry, waveform in zip(entries, waveforms, strict=True)}, {})
