"""One task of stage one: audio → teacher → encoded rows → committed pack. It is the same with or without a cluster.

A task has three steps: ``read``, ``compute`` and ``commit``. Any thread may read or commit one task while another is
computed. Computing belongs to a single thread, see :meth:`Extractor.compute`.

Axes: B batch, T frames, D features, S samples.
"""

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.cache.plan import NO_SAMPLE, WAVEFORM, Task, layer_arrays, layer_name
from gdist.pipeline.errors import StoppedError
from gdist.pipeline.framing import SAMPLE_RATE
from gdist.pipeline.manifest.table import Utterance
from gdist.stages.device import enough_memory, keep_freed_memory
from gdist.stages.extract.batching import planned, window_of
from gdist.stages.extract.layer_statistics import LARGEST, BatchMeasures, Statistics
from gdist.stages.extract.pack_audio import PackAudio, decode_pack, stored_audio
from gdist.stages.extract.pack_rows import DeviceRows, HostRows, PackRows, fill_others, place_of
from gdist.stages.extract.remarks import Remarks
from gdist.stages.teachers import Teacher

MAX_WRITES = 2  # packs being written at a time: to a bucket, a pack can take longer to write than to compute
LANES = 1 + MAX_WRITES  # packs whose rows are in memory, whatever the size of the corpus: one is in the teacher

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Queued:
    """A pack that is computed, or that a GPU was told to compute.

    Attributes:
        cut: its batches.
        rows: None if the task has no layers, so that there was nothing to compute.
    """

    task: Task
    heard: PackAudio
    cut: list[list[Entry]]
    rows: PackRows | None


@dataclass(frozen=True)
class Computed:
    """The result for a pack: array name → rows, id → the reason for its quarantine, and the pack's statistics."""

    rows: dict[str, Array]
    quarantine: dict[str, str]
    statistics: dict[str, Any]


def begin_again(smaller: str) -> str:
    """What extraction advises where a batch needs too much memory, given the options that make batches smaller."""
    return (
        f"Else begin again with {smaller} --restart: what the batches are is part of the cache's identity, since it "
        "changes last bits"
    )


class PackEncoder(ABC):
    """Hidden states from somewhere, a device, and a cache to fill.

    Args:
        advance: called with the seconds of audio that are done, from any thread.
        stop: once it is set, nothing more is computed or committed.
        remedy: what the command at hand advises where a batch needs too much memory.
    """

    def __init__(
        self,
        cache: Cache,
        device: torch.device,
        advance: Callable[[float], None] = lambda seconds: None,
        stop: threading.Event | None = None,
        remedy: Callable[[str], str] = begin_again,
    ) -> None:
        self.cache, self.device, self.advance = cache, device, advance
        self.stop, self.remedy = stop or threading.Event(), remedy
        self.tables = {layer: cache.tables_on(layer, str(device)) for layer in cache.layers}
        cuda = device.type == "cuda"
        if not cuda:
            keep_freed_memory()
        self._copies = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]

    @abstractmethod
    def states(
        self, task: Task, members: Sequence[Entry], waveform: Callable[[], Tensor]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield each layer of a task, and its float32 hidden states of some utterances, [B, T, D]; zeros after each.

        Args:
            waveform: returns their samples, float32 [B, S], if they are needed.
        """

    def encode(
        self, layer: int, hidden_BTD: Tensor, num_frames_B: Tensor, members: Sequence[Entry]
    ) -> dict[str, Tensor]:
        """Encode what :meth:`states` yielded for some utterances: folder → [B, T, W]."""
        return self.cache.encoding.encode(hidden_BTD, num_frames_B, self.tables[layer])

    def compute(self, task: Task, heard: PackAudio) -> Queued:
        """Run the teacher and the encoder over one task. On a GPU this only queues the work, all of it without
        waiting: :meth:`collect` waits in another thread, while the next task is queued here.

        Always call this from one thread, preferably the one that loaded the teacher. OpenMP gives each thread that
        computes on a CPU its own workers. Once there are more workers than cores, they sleep instead of spinning,
        which cost a tenth of the speed.

        Raises:
            DeviceMemoryError: the memory does not suffice for a batch.
        """
        cut = list(planned(heard.entries, self.cache.identity, self.device.type)) if task.layers else []
        if not cut:
            return Queued(task, heard, cut, None)
        measured: list[Tensor] = []
        with self._enough_memory(task, cut[0]):
            rows = self._rows(task, heard, cut)
        for batch, members in enumerate(cut):
            self._check_stop()
            with self._enough_memory(task, members):
                measured.append(self._forward(task, batch, members, rows))
            if self._copies is None:
                self.advance(sum(entry.num_samples for entry in members) / SAMPLE_RATE)
        with self._enough_memory(task, cut[-1]):
            rows.queue(measured)
        return Queued(task, heard, cut, rows)

    def collect(self, queued: Queued) -> Computed:
        """Wait for what :meth:`compute` queued, and put it together. Utterances whose values cannot be stored are
        quarantined, and their rows marked as never written."""
        task, heard, encoding = queued.task, queued.heard, self.cache.encoding
        quarantine, statistics = dict(heard.quarantine), Statistics(task.layers, self.cache.identity["dim"])
        if queued.rows is None:
            rows = {
                name: self.cache.specs[name].empty_pack() for name in layer_arrays(self.cache.identity, task.layers)
            }
        else:
            rows, measured = queued.rows.fetched()
            for members, measured_LMB in zip(queued.cut, measured, strict=True):
                usable = []
                storable = (measured_LMB[:, LARGEST] <= encoding.largest).all(0).tolist()  # NaN is not
                for row, entry in enumerate(members):
                    why = None if storable[row] else statistics.unstorable(measured_LMB[..., row], encoding)
                    if why is None:
                        usable.append(row)
                    else:
                        quarantine[entry.id] = why
                statistics.add(measured_LMB[..., usable], [members[row].num_frames for row in usable])
        stored = sorted(
            (entry for entry in heard.entries if entry.id not in quarantine), key=lambda entry: entry.start_frame
        )
        for name, values in rows.items():
            places = [place_of(entry, len(values), self.cache.identity["pack_frames"]) for entry in stored]
            fill_others(values, places, self.cache.specs[name].fill_value)
        if task.waveform:
            for entry in heard.entries:
                if entry.id in quarantine:
                    heard.of(entry).numpy().fill(NO_SAMPLE)
            rows[WAVEFORM] = heard.rows
        self._report(queued)
        return Computed(rows, quarantine, statistics.summary())

    def commit(self, task: Task, queued: Queued) -> dict[str, Any]:
        """Write all of a task's objects, once they are computed. Returns the receipt."""
        computed = self.collect(queued)
        self._check_stop()
        return self.cache.commit(task, computed.rows, computed.quarantine, computed.statistics)

    def _rows(self, task: Task, heard: PackAudio, cut: list[list[Entry]]) -> PackRows:
        if self._copies is None:
            return HostRows(self.cache, task.layers, heard, cut)
        return DeviceRows(self.cache, task.layers, heard, cut, self.device, self._copies)

    def _forward(self, task: Task, batch: int, members: list[Entry], rows: PackRows) -> Tensor:
        """Get the states of one batch and encode them. Returns its measures, see :meth:`BatchMeasures.result`."""
        num_frames_B = torch.tensor([entry.num_frames for entry in members])
        measures = BatchMeasures(rows.num_frames(batch), self.cache.encoding)
        for layer, hidden_BTD in self.states(task, members, lambda: rows.waveform(batch)):
            parts = self.encode(layer, hidden_BTD, num_frames_B, members)
            measures.add(hidden_BTD, parts, self.tables[layer])
            rows.place(batch, {layer_name(layer, folder): part for folder, part in parts.items()})
        return measures.result()

    def _report(self, queued: Queued) -> None:
        """Report what :meth:`compute` did not: on a GPU all of the pack, which is done now, else what was skipped."""
        heard = {entry.id for entry in queued.heard.entries} if self._copies is None and queued.cut else set()
        entries = self.cache.pack_entries(queued.task.pack)
        samples = sum(entry.num_samples for entry in entries if entry.num_frames and entry.id not in heard)
        self.advance(samples / SAMPLE_RATE)

    def _enough_memory(self, task: Task, members: list[Entry]) -> contextlib.AbstractContextManager[None]:
        """Explain what to type next where memory does not suffice for a batch."""
        longest = max(entry.num_samples for entry in members) / SAMPLE_RATE
        window = window_of(self.cache.identity) / SAMPLE_RATE
        what, option = f"one utterance of {longest:.0f} s", f"--max-seconds {int(longest / 2)}"
        if window:  # that of a shorter utterance is no smaller
            what, option = f"one utterance, in a window of {window:.0f} s", "--device cpu"
        if len(members) > 1:
            what = f"{len(members)} utterances of up to {longest:.0f} s"
            if window:
                what = f"{len(members)} utterances, in windows of {window:.0f} s"
            option = f"--batch-seconds {self.cache.identity['batch_seconds'] / 2:g}"
        return enough_memory(
            f"computing a batch of pack {task.pack} ({what})",
            self.device,
            "what was committed is kept. If other programs use that memory (nvidia-smi lists them), run the same "
            f"command again to continue. {self.remedy(option)}",
        )

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise StoppedError("stopped; what was committed is kept", "run the same command again to continue")


class Extractor(PackEncoder):
    """A teacher on its device, and a cache to fill with its hidden states."""

    def __init__(
        self,
        cache: Cache,
        teacher: Teacher,
        advance: Callable[[float], None] = lambda seconds: None,
        stop: threading.Event | None = None,
        remedy: Callable[[str], str] = begin_again,
    ) -> None:
        super().__init__(cache, teacher.device, advance, stop, remedy)
        self.teacher = teacher
        self.remarks = Remarks(teacher.do_normalize)

    def run(self, task: Task, utterances: Sequence[Utterance] | None) -> dict[str, Any]:
        """Run one task from end to end, its steps one after another. Returns the receipt.

        Args:
            utterances: the pack's utterances; None if their audio is already in the cache.
        """
        return self.commit(task, self.compute(task, self.read(task, utterances)))

    def read(self, task: Task, utterances: Sequence[Utterance] | None) -> PackAudio:
        """Decode the audio of a task in separate threads. The arguments are those of :meth:`run`."""
        pinned = self._copies is not None
        if utterances is not None:
            heard = decode_pack(self.cache, task.pack, utterances, pinned)
            self.remarks.add(heard.signals)
            return heard
        return stored_audio(self.cache, task.pack, pinned)

    def states(
        self, task: Task, members: Sequence[Entry], waveform: Callable[[], Tensor]
    ) -> Iterator[tuple[int, Tensor]]:
        """Run the teacher over some utterances."""
        num_samples_B = torch.tensor([entry.num_samples for entry in members])
        for layer, hidden_BTD in enumerate(self.teacher.hidden_states(waveform(), num_samples_B, max(task.layers))):
            if layer in task.layers:
                yield layer, hidden_BTD
