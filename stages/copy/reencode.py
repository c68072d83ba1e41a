"""Packs of a cache from the rows of another one: hidden states are read instead of computed, and encoded again.

The batches are those of an extraction on a CPU, so that even the last bits of the statistics are the same.

Axes: B batch, T frames or chunks, D features, W numbers stored per row.
"""

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdist.pipeline import console
from gdist.pipeline.cache.arrays import shard_key
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.cache.plan import Plan, Task
from gdist.pipeline.cache.transfer import is_sound
from gdist.pipeline.errors import CacheDamagedError, CacheError
from gdist.stages.extract import layer_statistics
from gdist.stages.extract.calibrate import tables_from
from gdist.stages.extract.extract import stopping
from gdist.stages.extract.extractor import PackEncoder, Queued
from gdist.stages.extract.pack_audio import PackAudio, placed

READERS = 4  # layers of a batch that are read at a time


@dataclass(frozen=True)
class Origin:
    """The source of a copy, and what is known of its utterances.

    Attributes:
        quarantine: utterance id → why it cannot be used.
        undone: packs of the source that have no receipt yet.
    """

    cache: Cache
    quarantine: Mapping[str, str]
    undone: frozenset[int]

    @classmethod
    def of(cls, source: Cache, layers: Sequence[int]) -> "Origin":
        now = source.standing()
        undone = {task.pack for task in now.todo() if task.waveform or {*task.layers} & {*layers}}
        return cls(source, now.quarantine(), frozenset(undone))

    def find(self, entry: Entry) -> Entry:
        """Return where the source has an utterance."""
        return self.cache.utterances[entry.id]

    def why_not(self, entry: Entry) -> str | None:
        """Return why an utterance cannot be used, if so."""
        return entry.problem or self.quarantine.get(entry.id)

    def has(self, entries: Sequence[Entry]) -> bool:
        """Whether the packs of these utterances are done."""
        return not self.undone or not {self.find(entry).pack for entry in entries} & self.undone

    def learn_tables(self, plan: Plan) -> bytes:
        """Learn an encoding's tables from the source's states, as extraction learns them from the teacher's."""

        def states(entry: Entry) -> Iterator[tuple[int, Tensor]] | None:
            if self.why_not(entry):
                return None
            span = (self.find(entry), 0, entry.num_frames)
            return ((layer, self.cache.hidden(layer, [span])[0][None]) for layer in plan.new_layers)

        if self.undone:
            raise CacheError(
                f"{plan.identity['encoding']} learns its tables from the whole corpus, and {self.cache.uri} is "
                f"unfinished: {len(self.undone)} of {self.cache.packs} packs are missing",
                "finish its extraction first",
            )
        return tables_from(plan, states)


class Reencoder(PackEncoder):
    """Fills a cache from another one; the arguments are those of its base, except for ``origin``."""

    def __init__(
        self, cache: Cache, origin: Origin, advance: Callable[[float], None], stop: threading.Event, readers: Any
    ) -> None:
        super().__init__(cache, torch.device("cpu"), advance, stop)
        self.origin, self.source, self._readers = origin, origin.cache, readers
        self._as_stored = cache.identity["encoding"] == self.source.identity["encoding"]
        self._stored: dict[str, Tensor] = {}

    def read(self, task: Task) -> PackAudio:
        """Read the audio of a task."""
        entries = self.cache.pack_entries(task.pack)
        quarantine = {entry.id: why for entry in entries if (why := self.origin.why_not(entry))}
        usable = [entry for entry in entries if entry.num_frames and entry.id not in quarantine]
        spans = [(self.origin.find(entry), 0, entry.num_frames) for entry in usable]
        waveforms = self.source.waveform(spans) if spans else []
        return placed(self.cache, zip(usable, waveforms, strict=True), quarantine, False)

    def states(
        self, task: Task, members: Sequence[Entry], waveform: Callable[[], Tensor]
    ) -> Iterator[tuple[int, Tensor]]:
        """Read the layers of some utterances, several at a time."""
        found = self._readers.map(lambda layer: self._layer(layer, members), task.layers)
        for layer, (hidden_BTD, stored) in zip(task.layers, found, strict=True):
            self._stored = stored  # for encode, which is called before the next layer is asked for
            yield layer, hidden_BTD

    def encode(
        self, layer: int, hidden_BTD: Tensor, num_frames_B: Tensor, members: Sequence[Entry]
    ) -> dict[str, Tensor]:
        """Encode again, or return what is stored already: an encoding may not give the same numbers twice."""
        return self._stored or super().encode(layer, hidden_BTD, num_frames_B, members)

    def _layer(self, layer: int, members: Sequence[Entry]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return hidden states [B, T, D], and the rows that they are stored in, where these are kept."""
        spans = [(self.origin.find(entry), 0, entry.num_frames) for entry in members]
        frames, dim = [entry.num_frames for entry in members], int(self.cache.identity["dim"])
        hidden_BTD = torch.zeros(len(members), max(frames), dim)
        out = [hidden_TD[:count] for hidden_TD, count in zip(hidden_BTD, frames, strict=True)]
        if not self._as_stored:
            self.source.hidden(layer, spans, out=out)
            return hidden_BTD, {}
        wanted, parts = self.source.wanted(spans), self.source.encoding.parts(dim)
        arrays = {folder: np.empty(wanted.shape(part), part.dtype) for folder, part in parts.items()}
        self.source.stored(layer, wanted, arrays)
        stored = {folder: torch.from_numpy(array) for folder, array in arrays.items()}
        chunk_T = torch.from_numpy(wanted.chunk_T)
        self.source.encoding.decode_into(out, stored, chunk_T, self.source.tables[layer])
        rows = {}
        for folder, part in parts.items():
            counts = [stop - start for start, stop in wanted.rows(part)]
            # What is left over is a valid row, which is decoded for the statistics and then discarded.
            rows[folder] = stored[folder][:1].repeat(len(members), max(counts), 1)
            for row, piece in enumerate(torch.split(stored[folder], counts)):
                rows[folder][row, : len(piece)] = piece
        return hidden_BTD, rows

    def statistics(self, task: Task, measured: dict[str, Any]) -> dict[str, Any]:
        """Return a pack's statistics. What is stored as it was has the loss that the source reports for the packs it
        comes from: what it was measured against is gone."""
        if not self._as_stored:
            return measured
        packs = {self.origin.find(entry).pack for entry in self.cache.pack_entries(task.pack)}
        receipts = [self.source.receipt(part) for pack in sorted(packs) for part in self.source.tasks_of(pack)]
        layers = dict(measured["layers"])
        for row in layer_statistics.combined(receipt for receipt in receipts if receipt):
            if (name := f"{row['layer']:02d}") in layers:
                layers[name] |= {"relative_error": row["relative_error"], "cosine": row["cosine"]}
        return measured | {"layers": layers}

    def commit(self, task: Task, queued: Queued) -> dict[str, Any]:
        """Write a pack, and read it back."""
        computed = self.collect(queued)
        computed = replace(computed, statistics=self.statistics(task, computed.statistics))
        self._check_stop()
        receipt = self.cache.commit(task, computed.rows, computed.quarantine, computed.statistics)
        require_kept(self.cache, task, receipt)
        return receipt


def reencode(cache: Cache, origin: Origin, tasks: Sequence[Task], advance: Callable[[float], None]) -> None:
    """Write the packs of some tasks: one is read while another is encoded."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as ahead_of, ThreadPoolExecutor(READERS) as readers, stopping(stop):
        encoder = Reencoder(cache, origin, advance, stop, readers)
        ahead: Future[PackAudio] | None = None
        for task, following in itertools.pairwise([*tasks, None]):
            assert task is not None, "None only follows the last task"
            heard = (ahead or ahead_of.submit(encoder.read, task)).result()
            ahead = ahead_of.submit(encoder.read, following) if following else None
            encoder.commit(task, encoder.compute(task, heard))


def withdraw_unsound(cache: Cache) -> list[Task]:
    """Read what is done, and delete the receipts of packs that are damaged, so that these are written again.

    Returns:
        the tasks that are done, and right.
    """
    todo, sound = set(cache.todo(listed=True)), []
    for task in cache.tasks:
        if task in todo:
            continue
        with suppress(CacheDamagedError):
            receipt = cache.receipt(task)
            if receipt is not None and _is_kept(cache, task, receipt):
                sound.append(task)
                continue
        console.say(f"pack {task.pack} of {cache.uri} is damaged, and is written again", style="yellow")
        cache.withdraw_summaries([task.addition])
        cache.storage.delete([task.receipt])
    return sound


def require_kept(cache: Cache, task: Task, receipt: Mapping[str, Any]) -> None:
    """Raise CacheError unless a pack reads back as it was written."""
    if not _is_kept(cache, task, receipt):
        raise CacheError(
            f"pack {task.pack} of {cache.uri} was written, but reads back differently",
            "check that disk or bucket, then run the same command again",
        )


def _is_kept(cache: Cache, task: Task, receipt: Mapping[str, Any]) -> bool:
    keys = [shard_key(name, task.pack) for name in cache.arrays_of(task)]
    if not {*keys} <= receipt["objects"].keys():
        return False
    with ThreadPoolExecutor(READERS) as pool:
        return all(pool.map(lambda key: is_sound(cache.storage, key, receipt["objects"][key]), keys))
