"""Receipts that are made again from the shards that they describe.

Everything but the statistics follows from the shards' bytes. Where an encoding loses nothing, the statistics follow
from what is stored, too; else they were measured on values that only the teacher can compute again.

Axes: L layers, M measures, B batch, T frames, D features.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from gdist.pipeline.cache.arrays import shard_key, whole_pack
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.encode import record
from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.cache.plan import WAVEFORM, layer_name
from gdist.pipeline.cache.remains import Remains
from gdist.stages.extract.batching import planned
from gdist.stages.extract.layer_statistics import BatchMeasures, Statistics
from gdist.stages.extract.pack_audio import PackAudio
from gdist.stages.extract.pack_rows import place_of

Array = np.ndarray[Any, Any]


def from_shards(cache: Cache, left: Remains) -> dict[str, Any]:
    """Return the receipt of a task whose shards are all sound, and stored in an encoding that loses nothing."""
    assert left.from_shards
    task, stored = left.task, [e for e in cache.pack_entries(left.task.pack) if e.id in left.stored]
    objects: dict[str, Any] = {}
    layers: dict[str, Any] = {}
    for layer in task.layers:
        rows: dict[str, Array] = {}
        for folder in cache.encoding.parts(cache.identity["dim"]):
            key = shard_key(layer_name(layer, folder), task.pack)
            shard = cache.shard(layer_name(layer, folder), task.pack)
            objects[key] = record(shard)
            rows[folder] = whole_pack(cache.specs[layer_name(layer, folder)], shard)
        layers |= measured(cache, layer, stored, rows)["layers"]
    if task.waveform:
        key = shard_key(WAVEFORM, task.pack)
        objects[key] = record(cache.shard(WAVEFORM, task.pack))
    frames = sum(entry.num_frames for entry in stored)
    return cache.new_receipt(task, objects, left.reasons, {"frames": frames, "layers": layers})


def measured(cache: Cache, layer: int, stored: list[Entry], rows: Mapping[str, Array]) -> dict[str, Any]:
    """Return the statistics of one layer of a pack, in the batches in which they were measured at first."""
    identity, encoding, tables = cache.identity, cache.encoding, cache.tables[layer]
    kind = cache.gdist["about"]["device"].partition(":")[0]
    statistics = Statistics([layer], identity["dim"])
    for members in planned(stored, identity, kind):
        lengths = [entry.num_frames for entry in members]
        hidden_BTD = torch.zeros(len(members), max(lengths), identity["dim"])
        for row, entry in enumerate(members):
            place = {folder: place_of(entry, len(each), identity["pack_frames"]) for folder, each in rows.items()}
            own = {folder: torch.from_numpy(each[place[folder]]) for folder, each in rows.items()}
            chunk_T = torch.arange(entry.num_frames) // identity["chunk_frames"]
            hidden_BTD[row, : entry.num_frames] = encoding.decode(own, chunk_T, tables)
        measures = BatchMeasures(torch.tensor(lengths), encoding)
        measures.add(hidden_BTD, {}, tables)
        statistics.add(measures.result(), lengths)
    return statistics.summary()


def audio_of_shard(cache: Cache, left: Remains, pinned: bool = False) -> PackAudio:
    """Return the audio of a pack that has no receipt, from its sound shard."""
    task = left.task
    rows = whole_pack(cache.specs[WAVEFORM], cache.shard(WAVEFORM, task.pack))
    samples = torch.empty(rows.size, dtype=torch.int16, pin_memory=pinned)
    samples.numpy()[:] = rows.reshape(-1)
    entries = [entry for entry in cache.pack_entries(task.pack) if entry.id in left.stored]
    return PackAudio(samples, cache.framing.hop, entries, dict(left.reasons))
