"""The audio of one pack: decoded from its files, or read back from the cache.

Axes: S samples.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdist.pipeline import audio
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.cache.plan import NO_SAMPLE
from gdist.pipeline.errors import AudioError
from gdist.pipeline.machine import cores
from gdist.pipeline.manifest.table import Utterance

AUDIO_THREADS = min(max(8, cores()), 32)  # a GPU asks for audio faster than eight cores decode it

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class PackAudio:
    """The audio of a pack.

    Attributes:
        samples: int16 at 16 kHz, one after another as in the pack's rows of the waveform, with NO_SAMPLE between the
            utterances; in page-locked memory if a GPU is to read them.
        hop: samples in each of these rows.
        entries: the utterances that it contains.
        quarantine: id → the reason why an utterance cannot be used.
        signals: id → what was decoded; empty where the audio comes from the cache.
    """

    samples: Tensor
    hop: int
    entries: list[Entry]
    quarantine: dict[str, str]
    signals: dict[str, audio.Signal] = field(default_factory=dict)

    @property
    def rows(self) -> Array:
        """The pack's rows of the waveform, in the same memory."""
        return self.samples.numpy().reshape(-1, self.hop)

    def of(self, entry: Entry) -> Tensor:
        """[S] int16: one utterance, a part of ``samples``."""
        start = entry.start_frame * self.hop % len(self.samples)
        return self.samples[start : start + entry.num_samples]


def decode(utterance: Utterance, planned: int) -> audio.Loaded | str:
    """Decode one utterance as input for the teacher.

    Args:
        planned: the number of samples at 16 kHz that the cache was planned with.

    Returns:
        its samples at 16 kHz and what they were before, or the reason why the utterance cannot be used.
    """
    if utterance.num_samples is None or utterance.sample_rate is None:  # it had a length when the cache was planned
        return f"can no longer be read: {utterance.segment}"
    try:
        loaded = audio.load(utterance.segment)
    except AudioError as error:
        return error.message
    if (samples := len(loaded.samples_S)) != planned:
        return f"changed: {samples} samples at 16 kHz, {planned} when planned: {utterance.segment}"
    return loaded


def decode_pack(cache: Cache, pack: int, utterances: Sequence[Utterance], pinned: bool = False) -> PackAudio:
    """Decode the audio of a pack from its files, in threads."""
    entries = {entry.id: entry for entry in cache.pack_entries(pack)}
    quarantine = {entry.id: entry.problem for entry in entries.values() if entry.problem}
    usable = [utterance for utterance in utterances if entries[utterance.id].num_frames]

    def decoded(utterance: Utterance) -> tuple[Entry, Array] | None:
        entry = entries[utterance.id]
        found = decode(utterance, entry.num_samples)
        if isinstance(found, str):
            quarantine[entry.id] = found
            return None
        signals[entry.id] = found.signal
        return entry, found.samples_S

    signals: dict[str, audio.Signal] = {}
    with ThreadPoolExecutor(AUDIO_THREADS) as pool:
        heard = placed(cache, (each for each in pool.map(decoded, usable) if each), quarantine, pinned)
    return replace(heard, signals=signals)


def stored_audio(cache: Cache, pack: int, pinned: bool = False) -> PackAudio:
    """Read the audio of a pack that an earlier task has stored in the cache."""
    quarantine = cache.quarantine(pack)
    entries = [e for e in cache.pack_entries(pack) if e.num_frames and e.id not in quarantine]
    waveforms = cache.waveform([(entry, 0, entry.num_frames) for entry in entries]) if entries else []
    return placed(cache, zip(entries, waveforms, strict=True), {}, pinned)


def placed(
    cache: Cache, waveforms: Iterable[tuple[Entry, Array]], quarantine: dict[str, str], pinned: bool
) -> PackAudio:
    """Put waveforms where their utterances are in the pack's rows."""
    hop = cache.framing.hop
    samples = torch.empty(cache.identity["pack_frames"] * hop, dtype=torch.int16, pin_memory=pinned)
    samples.numpy().fill(NO_SAMPLE)  # by NumPy, so that this thread gets no OpenMP workers (see Extractor.compute)
    found = PackAudio(samples, hop, [], quarantine)
    for entry, samples_S in waveforms:
        found.entries.append(entry)
        found.of(entry).numpy()[:] = samples_S
    return found
