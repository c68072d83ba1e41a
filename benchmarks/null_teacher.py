"""A teacher whose hidden states are in memory: the whole of extraction without a forward pass. See shards.py."""

import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import soundfile
import torch
from made_up import ABOUT, NOBODYS
from torch import Tensor

from gdist.pipeline import framing
from gdist.pipeline.cache import layout
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.encode import COMPRESS
from gdist.pipeline.cache.plan import Plan
from gdist.pipeline.manifest.table import Utterance
from gdist.stages.extract.extract import run_here
from gdist.stages.extract.extractor import Extractor
from gdist.stages.teachers import Teacher


class NullTeacher:
    """Has a teacher's shapes; every layer of every utterance is the same rows, `hidden_TD`."""

    def __init__(self, layers: int, hidden_TD: Tensor) -> None:
        self.layers, self.hidden_TD, self.device = layers, hidden_TD, torch.device("cpu")
        self.do_normalize = False

    def hidden_states(self, waveform_BS: Tensor, num_samples_B: Tensor, last_layer: int) -> Iterator[Tensor]:
        """Yield float32 [B, T, D] for each layer, without computing or copying anything."""
        frames = framing.WAV2VEC2.num_frames(int(num_samples_B.max()))
        for _ in range(last_layer + 1):
            yield self.hidden_TD[:frames].expand(len(num_samples_B), -1, -1)


def null_teacher(packs: int, layers: int, hidden_TD: Tensor, folder: Path | None) -> dict[str, float]:
    """From states in memory to committed receipts: GB of fp16 rows (and audio) a second, over a plain write."""
    rng = np.random.default_rng(0)
    lengths = [(f"u{n:05d}", int(rng.uniform(2, 15) * framing.SAMPLE_RATE), None) for n in range(60 * packs)]
    placed = layout.place(lengths, 10**9)
    entries = placed.take(np.flatnonzero(placed.numbers("pack") < packs))
    identity = {
        "layers": list(range(layers)),
        "dim": hidden_TD.shape[1],
        "encoding": "fp16",
        "compress": COMPRESS,
        "framing": framing.WAV2VEC2.to_dict(),
        "chunk_frames": layout.CHUNK_FRAMES,
        "pack_frames": layout.PACK_FRAMES,
        "batch_seconds": 32.0,
    }
    with tempfile.TemporaryDirectory(dir=folder) as place:
        noise = rng.integers(-8192, 8193, 15 * framing.SAMPLE_RATE).astype(np.int16)
        utterances = {}
        for entry in entries:
            path = Path(place) / f"{entry.id}.wav"
            soundfile.write(path, noise[: entry.num_samples], framing.SAMPLE_RATE)
            utterances[entry.id] = Utterance(entry.id, str(path), 0, entry.num_samples, framing.SAMPLE_RATE, {})
        teacher = cast(Teacher, NullTeacher(layers, hidden_TD))
        runs = []
        for turn in range(3):
            cache = Cache.create(f"{place}/cache-{turn}", Plan(NOBODYS | identity, ABOUT, entries))
            timed = _Timed()
            commit = cache.commit
            cache.commit = lambda *given, commit=commit, timed=timed: timed(commit, *given)  # type: ignore[method-assign]
            began = time.perf_counter()
            run_here(cache, teacher, cache.todo(), utterances, lambda seconds, note: None)
            runs.append((time.perf_counter() - began, timed.seconds))
        extractor = Extractor(cache, teacher)
        began = time.perf_counter()
        for task in cache.tasks:
            heard = extractor.read(task, [utterances[entry.id] for entry in cache.pack_entries(task.pack)])
        audio = time.perf_counter() - began
        files = [path for path in Path(cache.uri).rglob("*") if path.is_file() and "/c/" in str(path)]
        plain = min(plain_write(Path(place), [path.stat().st_size for path in files]) for _ in range(3))
        del heard
    total, committing = min(runs)
    rows = sum(spec.pack_bytes for spec in cache.specs.values()) * packs / 1e9
    return {
        "null_teacher_GBps": rows / total,
        "null_teacher_of_plain_write": plain / total,
        "null_teacher_plain_write_GBps": rows / plain,
        "null_teacher_commit_of_time": committing / total,
        "null_teacher_audio_of_time": audio / total,
        "null_teacher_compute_of_time": 1 - committing / total,  # encoding, statistics, placing, waiting for audio
    }


class _Timed:
    """Adds up the time of calls, from any thread."""

    def __init__(self) -> None:
        self.seconds, self._lock = 0.0, threading.Lock()

    def __call__(self, function: Any, *given: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*given)
        finally:
            with self._lock:
                self.seconds += time.perf_counter() - began


def plain_write(folder: Path, sizes: list[int]) -> float:
    """Seconds to write files of these sizes as the store does: a new file and a rename, no fsync, two at a time."""
    data = memoryview(np.random.default_rng(0).bytes(max(sizes)))
    with tempfile.TemporaryDirectory(dir=folder) as place, ThreadPoolExecutor(2) as pool:

        def write(item: tuple[int, int]) -> None:
            number, size = item
            staged = Path(place, f"{number}#1")
            with staged.open("wb", buffering=0) as file:
                done = 0
                while done < size:
                    done += file.write(data[done:size])
            staged.rename(Path(place, str(number)))

        began = time.perf_counter()
        list(pool.map(write, enumerate(sizes)))
        return time.perf_counter() - began
