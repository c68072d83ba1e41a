"""The caches that are measured: WavLM Base's shapes, values like activations, and no teacher that computes.

Axes: L layers, M measures, B batch, T frames, D features.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from extract import wavlm_base
from made_up import activations, statistics_of
from torch import Tensor

from gdist.pipeline import framing
from gdist.pipeline.cache import layout
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.plan import WAVEFORM, Task, layer_name
from gdist.pipeline.manifest.table import Manifest
from gdist.stages.extract.plan import ExtractConfig, make_plan
from gdist.stages.teachers import load_teacher

WALK = 4 * layout.PACK_FRAMES  # rows of which every shard is an excerpt that begins elsewhere

Rows = np.ndarray[Any, Any]


class Content:
    """Makes caches whose shards all differ, so that nothing that knows shards by their digests has less to do."""

    def __init__(self, place: Path) -> None:
        self.place = place

    @cached_property
    def teacher(self) -> Any:
        """WavLM Base with random weights: a student starts from its front-end."""
        source = wavlm_base(self.place / "teacher")
        return load_teacher(source, precision="fp32", device="cpu")

    @cached_property
    def walk(self) -> Tensor:
        """Rows like activations."""
        return activations(np.random.default_rng(0), WALK, self.teacher.dim)

    @cached_property
    def audio(self) -> Rows:
        """int16 samples, of as many frames."""
        steps = np.random.default_rng(1).integers(-300, 301, WALK * self.teacher.framing.hop, np.int32)
        return (np.cumsum(steps) % 8192).astype(np.int16).reshape(WALK, self.teacher.framing.hop)

    def make(self, uri: Path, encoding: str, layers: str, packs: int) -> Cache:
        """Write a whole cache of some packs, full of utterances of 2 to 15 s."""
        rng = np.random.default_rng(2)
        lengths = [(f"u{n:06d}", int(rng.uniform(2, 15) * framing.SAMPLE_RATE), None) for n in range(60 * packs)]
        placed = layout.place(lengths, 10**9, framing=self.teacher.framing)
        lengths = lengths[: int((placed.numbers("pack") < packs).sum())]
        columns = {
            "id": [name for name, _, _ in lengths],
            "path": [f"{name}.flac" for name, _, _ in lengths],
            "num_samples": [samples for _, samples, _ in lengths],
            "sample_rate": [framing.SAMPLE_RATE] * len(lengths),
        }
        config = ExtractConfig(self.teacher.name, "", str(uri), layers=layers, encoding=encoding)
        manifest = Manifest(pa.table(columns), str(self.place))
        plan = make_plan(config, self.teacher, manifest, layout.Lengths.of(lengths), "cpu")
        cache = Cache.create(str(uri), plan)
        stored = cache.encoding.encode(self.walk[None], torch.tensor([WALK]), {})
        walks = {folder: rows[0].numpy() for folder, rows in stored.items()}
        summary = statistics_of(self.walk, cache)
        for task in cache.todo():
            cache.commit(task, self._rows(cache, task, walks), {}, summary)
        cache.summarize()
        return Cache.open(str(uri))

    def _rows(self, cache: Cache, task: Task, walks: dict[str, Rows]) -> dict[str, Rows]:
        """A pack's rows: each layer is another excerpt, with padding after each utterance."""
        rows, entries = {}, cache.pack_entries(task.pack)
        excerpts = (WALK - layout.PACK_FRAMES) // layout.CHUNK_FRAMES
        for number, layer in enumerate(task.layers):
            first = (task.pack * len(task.layers) + number) % excerpts * layout.CHUNK_FRAMES
            for folder, walk in walks.items():
                name = layer_name(layer, folder)
                step = layout.PACK_FRAMES // cache.specs[name].pack_rows  # frames of one row
                rows[name] = cache.specs[name].empty_pack()
                for entry in entries:
                    start = (entry.start_frame - task.pack * layout.PACK_FRAMES) // step
                    stop = start - (-entry.num_frames // step)
                    rows[name][start:stop] = walk[first // step + start : first // step + stop]
        rows[WAVEFORM] = cache.specs[WAVEFORM].empty_pack()
        first = task.pack % excerpts * layout.CHUNK_FRAMES
        for entry in entries:
            start = entry.start_frame - task.pack * layout.PACK_FRAMES
            held = entry.num_rows(cache.framing)
            audio = self.audio[first + start : first + start + held].reshape(-1)[: entry.num_samples]
            rows[WAVEFORM][start : start + held].reshape(-1)[: entry.num_samples] = audio
        return rows
