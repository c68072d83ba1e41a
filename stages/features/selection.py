"""What is exported: which utterances, in which order and in which pieces, and which matrices each of them has.

Axes: N utterances, P pieces, L layers, T frames, D features.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.entries import Entries, Entry, Numbers, named
from gdist.pipeline.errors import CacheError, UsageError
from gdist.pipeline.framing import SAMPLE_RATE
from gdist.pipeline.storage.locations import in_shell
from gdist.stages.copy.part import Chosen

Matrix = np.ndarray[Any, np.dtype[Any]]

READERS = 4  # layers of a batch that are read at a time
BATCH_BYTES = 64_000_000  # hidden states, as float32, that are read at a time: this bounds the memory that is used
LARGEST_FLOAT16 = 65504.0


@dataclass(frozen=True)
class Utterance:
    """One utterance and its matrices.

    Attributes:
        matrices: name of a matrix → [T, D], in the order of the layers.
    """

    entry: Entry
    matrices: dict[str, Matrix]


@dataclass(frozen=True)
class Selection:
    """What of a cache is exported.

    Attributes:
        weights: one for each layer, for a weighted sum; None for each layer on its own.
        name: of the sum: ``average`` or ``weighted``; "" where there is none.
        dtype: ``float32`` or ``float16``.
        positions: of the utterances in the cache's index, in the order of its packs: [N].
        pieces: the first position of each piece in ``positions``, and N: [P + 1].
        left_out: how many of the chosen utterances the cache could not use.
    """

    cache: Cache
    layers: list[int]
    weights: tuple[float, ...] | None
    name: str
    dtype: str
    positions: Numbers
    pieces: Numbers
    where: tuple[str, ...]
    left_out: int

    @classmethod
    def of(
        cls,
        cache: Cache,
        layers: str,
        where: Sequence[str],
        average: bool,
        weights: str | None,
        dtype: str,
        piece_bytes: int,
    ) -> "Selection":
        """Read the options.

        Raises:
            UsageError: the cache does not have what they ask for, or they contradict each other.
            CacheError: the cache is unfinished.
        """
        if average and weights:
            raise UsageError("--average and --weights are two ways to add up layers", "give one of them")
        chosen = Chosen.of(cache, layers, None, where)
        mixed = weights_of(cache, chosen.layers, weights) if weights else None
        if average:
            mixed = (1 / len(chosen.layers),) * len(chosen.layers)
        quarantine = _require_finished(cache, chosen.layers)
        rows = np.arange(len(cache.entries)) if chosen.rows is None else chosen.rows
        usable = cache.entries.numbers("num_frames") > 0
        if quarantine:
            usable &= ~named(cache.entries, quarantine)
        kept = rows[usable[rows]]
        if not len(kept):
            raise UsageError(f"none of the {len(rows)} chosen utterances of {cache.uri} could be used")
        kept = kept[np.argsort(cache.entries.numbers("pack")[kept], kind="stable")]
        count = 1 if mixed else len(chosen.layers)
        sizes = cache.entries.numbers("num_frames")[kept].astype(np.int64) * cache.identity["dim"] * count
        sizes *= np.dtype(dtype).itemsize
        (begins,) = np.nonzero(np.diff((np.cumsum(sizes) - sizes) // piece_bytes, prepend=-1))
        pieces = np.append(begins, len(kept))
        name = "average" if average else "weighted" if mixed else ""
        return cls(cache, chosen.layers, mixed, name, dtype, kept, pieces, chosen.where, len(rows) - len(kept))

    @cached_property
    def names(self) -> list[str]:
        """The names of an utterance's matrices: ``layer_04`` and so on, or that of their sum."""
        return [self.name] if self.name else [f"layer_{layer:02d}" for layer in self.layers]

    @property
    def dim(self) -> int:
        return int(self.cache.identity["dim"])

    @property
    def frame_shift(self) -> float:
        """Seconds from one frame to the next."""
        return self.cache.framing.hop / SAMPLE_RATE

    def __len__(self) -> int:
        """How many pieces there are."""
        return len(self.pieces) - 1

    def entries(self, piece: int) -> Entries:
        """Return the utterances of a piece."""
        return self.cache.entries.take(self.positions[self.pieces[piece] : self.pieces[piece + 1]])

    def frames(self) -> Numbers:
        """Return the frames of each piece: int64 [P]."""
        frames = self.cache.entries.numbers("num_frames")[self.positions].astype(np.int64)
        return np.add.reduceat(frames, self.pieces[:-1])

    def seconds(self, piece: int) -> float:
        """Return the seconds of audio of a piece."""
        return float(self.entries(piece).numbers("num_samples").sum()) / SAMPLE_RATE

    @cached_property
    def digest(self) -> str:
        """What tells the chosen utterances from any others: a digest of their ids, in order."""
        found = hashlib.sha256()
        for names in self.cache.entries.take(self.positions).ids():
            found.update(json.dumps(names).encode())
        return found.hexdigest()

    def identity(self) -> dict[str, Any]:
        """Return what determines the exported bytes."""
        return {
            "cache": self.cache.gdist["checksum"],
            "layers": self.layers,
            "sum": self.name or None,
            "weights": list(self.weights) if self.weights and self.name == "weighted" else None,
            "dtype": self.dtype,
            "where": list(self.where),
            "utterances": len(self.positions),
            "utterances_sha256": self.digest,
            "pieces": len(self),
        }

    # --- reading ------------------------------------------------------------------------------------------------

    def read(self, entries: Entries) -> Iterator[Utterance]:
        """Yield utterances in order, with their matrices. One batch is read while another is used.

        Raises:
            CacheDamagedError: one is missing or torn.
            UsageError: a value does not fit into float16.
        """
        batches = self._batches(entries)
        with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(1) as ahead_of:
            ahead = None
            for batch in batches:
                following = ahead_of.submit(self._read, readers, batch)
                if ahead is not None:
                    yield from ahead.result()
                ahead = following
            if ahead is not None:
                yield from ahead.result()

    def _batches(self, entries: Entries) -> Iterator[list[Entry]]:
        most = max(BATCH_BYTES // (4 * self.dim * len(self.layers)), 1)
        batch: list[Entry] = []
        frames = 0
        for entry in entries:
            if batch and frames + entry.num_frames > most:
                yield batch
                batch, frames = [], 0
            batch.append(entry)
            frames += entry.num_frames
        yield batch

    def _read(self, readers: ThreadPoolExecutor, batch: list[Entry]) -> list[Utterance]:
        spans = [(entry, 0, entry.num_frames) for entry in batch]
        found = readers.map(lambda layer: self.cache.hidden(layer, spans), self.layers)
        if self.weights is None:
            by_utterance = zip(*found, strict=True)
            return [self._utterance(entry, every_LTD) for entry, every_LTD in zip(batch, by_utterance, strict=True)]
        sums = [torch.zeros(entry.num_frames, self.dim) for entry in batch]
        for weight, layer_NTD in zip(self.weights, found, strict=True):
            for sum_TD, hidden_TD in zip(sums, layer_NTD, strict=True):
                sum_TD += weight * hidden_TD
        return [self._utterance(entry, [sum_TD]) for entry, sum_TD in zip(batch, sums, strict=True)]

    def _utterance(self, entry: Entry, every_LTD: Sequence[torch.Tensor]) -> Utterance:
        cast = (self._cast(entry, hidden_TD) for hidden_TD in every_LTD)
        return Utterance(entry, dict(zip(self.names, cast, strict=True)))

    def _cast(self, entry: Entry, hidden_TD: torch.Tensor) -> Matrix:
        if self.dtype == "float32":
            return hidden_TD.numpy()
        if (largest := float(hidden_TD.abs().max())) > LARGEST_FLOAT16:
            raise UsageError(
                f"--dtype float16: utterance {entry.id} has the value {largest:.3g}, and float16 ends at 65504",
                "leave out --dtype float16, and choose another --out",
            )
        return hidden_TD.half().numpy()


def _require_finished(cache: Cache, layers: Sequence[int]) -> dict[str, str]:
    """Return the quarantine of a finished cache; CacheError where layers of some packs are missing."""
    now = cache.standing()
    undone = {task.pack for task in now.todo() if task.waveform or {*task.layers} & {*layers}}
    if undone:
        raise CacheError(
            f"{cache.uri} is unfinished: {len(undone)} of its {cache.packs} packs are missing, first {min(undone)}",
            f"run its gdist extract again to finish it; gdist inspect {in_shell(cache.uri)} shows what is done",
        )
    return now.quarantine()


def weights_of(cache: Cache, layers: Sequence[int], typed: str) -> tuple[float, ...]:
    """Read ``--weights``: numbers, a file of them, or those that a probe learned (``RUN/eval.json:PROBE``).

    Raises:
        UsageError: they are no numbers, or not one for each layer.
    """
    try:
        found = [float(part) for part in typed.split(",")]
    except ValueError:
        found = _weights_in(cache, layers, typed)
    if len(found) != len(layers):
        raise UsageError(
            f"--weights has {len(found)} numbers, and there are {len(layers)} layers: {layers}",
            "give one number for each layer, for example --layers 4,8,12 --weights 0.2,0.5,0.3",
        )
    if not all(map(math.isfinite, found)):
        raise UsageError(f"--weights {typed}: a weight must be a finite number")
    return tuple(found)


def _weights_in(cache: Cache, layers: Sequence[int], typed: str) -> list[float]:
    file, colon, probe = typed.rpartition(":")
    path = Path(file if colon and not Path(typed).exists() else typed)
    expected = "give numbers (0.2,0.5,0.3), a JSON file with a list of them, or RUN/eval.json:PROBE"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(document, dict):
            of_teacher = document.get("teacher", {}).get("probes", {})
            if probe not in of_teacher:
                known = ", ".join(of_teacher) or "none"
                raise UsageError(f"--weights {typed}: the teacher's probes there are: {known}", expected)
            every = [float(weight) for weight in of_teacher[probe]["layer_weights"]]
            if len(every) != cache.identity["teacher"]["num_layers"] + 1:
                raise UsageError(f"--weights {typed}: another teacher's, of {len(every)} hidden states", expected)
            lost = sum(weight for layer, weight in enumerate(every) if layer not in layers)
            if lost > 1e-6:
                raise UsageError(
                    f"--weights {typed}: the probe takes {lost:.0%} from layers that are not among {list(layers)}",
                    "leave out --layers, or extract the others into the cache first",
                )
            return [every[layer] for layer in layers]
        return [float(weight) for weight in document]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"--weights {typed}: cannot read it as weights: {error}", expected) from error
