"""Caches that no teacher made: what their identity has beside the shape of their arrays, and a whole one.

Axes: B utterances, L layers, M measures, T frames, D features.
"""

from typing import Any

import numpy as np
import torch

from gdist.pipeline import framing
from gdist.pipeline.cache import layout
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.encode import COMPRESS
from gdist.pipeline.cache.plan import WAVEFORM, Plan, layer_name
from gdist.stages.extract.layer_statistics import BatchMeasures, Statistics

NOBODYS: dict[str, Any] = {
    "teacher": {
        "family": "nobody",
        "fingerprint": "0",
        "num_layers": 12,
        "num_params": 0,
        "do_normalize": False,
        "final_norm": False,
    },
    "manifest": "0",
    "precision": "fp32",
    "sample_rate": 16_000,
    "max_seconds": 60.0,
    "batch_seconds": 32.0,
}
ABOUT = {"gdist": "0", "teacher": "of/nobody", "device": "cpu"}
DIM, LAYERS = 768, range(13)


def write_cache(uri: str, minutes: float, encoding: str, pack_frames: int) -> None:
    """Write utterances of 2 to 15 s in WavLM Base's shapes, with values that compress as activations do."""
    rng = np.random.default_rng(0)
    lengths: list[tuple[str, int, str | None]] = []
    while sum(samples for _, samples, _ in lengths) < minutes * 60 * framing.SAMPLE_RATE:
        lengths.append((f"u{len(lengths):04d}", int(rng.uniform(2, 15) * framing.SAMPLE_RATE), None))
    identity = {
        "layers": [*LAYERS],
        "dim": DIM,
        "encoding": encoding,
        "compress": COMPRESS,
        "framing": framing.WAV2VEC2.to_dict(),
        "chunk_frames": 128,
        "pack_frames": pack_frames,
    }
    entries = layout.place(lengths, 10**9, layout.CHUNK_FRAMES, pack_frames)
    cache = Cache.create(uri, Plan(NOBODYS | identity, ABOUT, entries))
    walk_TD = activations(rng, 2 * pack_frames, DIM)
    summary = statistics_of(walk_TD, cache)
    for task in cache.todo():
        rows = {name: spec.empty_pack() for name, spec in cache.specs.items()}
        for entry in cache.pack_entries(task.pack):
            start = entry.start_frame - task.pack * pack_frames
            for layer in LAYERS:
                first = int(rng.integers(len(walk_TD) - entry.num_frames))
                hidden_TD = walk_TD[first : first + entry.num_frames]
                stored = cache.encoding.encode(hidden_TD[None], torch.tensor([entry.num_frames]), {})
                for folder, values in stored.items():
                    destination = rows[layer_name(layer, folder)]
                    at = start * len(destination) // pack_frames
                    destination[at : at + values.shape[1]] = values[0].numpy()
            samples = np.cumsum(rng.integers(-300, 301, entry.num_samples)) % 8192
            stop = start + entry.num_rows(cache.framing)
            rows[WAVEFORM][start:stop].reshape(-1)[: entry.num_samples] = samples
        cache.commit(task, rows, {}, summary)


def activations(rng: np.random.Generator, frames: int, dim: int) -> torch.Tensor:
    """``[T, D]`` like a layer's: smooth in time, channels of different sizes."""
    steps = rng.standard_normal((frames + 16, dim), np.float32)
    np.cumsum(steps, axis=0, out=steps)
    return torch.from_numpy((steps[16:] - steps[:-16]) * rng.lognormal(-2.0, 0.7, dim).astype(np.float32))


def statistics_of(walk_TD: torch.Tensor, cache: Cache) -> dict[str, Any]:
    """What a receipt says of all layers if each is an excerpt of the same frames: their statistics."""
    walk_1TD, lengths_B = walk_TD[None], torch.tensor([len(walk_TD)])
    measures = BatchMeasures(lengths_B, cache.encoding)
    measures.add(walk_1TD, cache.encoding.encode(walk_1TD, lengths_B, {}), {})
    statistics = Statistics(cache.layers, walk_TD.shape[1])
    statistics.add(measures.result().expand(len(cache.layers), -1, -1), [len(walk_TD)])
    return statistics.summary()
