"""The ways to read an epoch of one cache that loader.py compares.

Axes: B utterances, L layers, T frames, D features.
"""

import argparse
import math
import os
import time
from itertools import islice
from typing import Any

import google_crc32c
import numpy as np
import obstore
import torch
import zarr
from torch import Tensor

from gdist.pipeline.cache import arrays, layout, stage
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.plan import WAVEFORM, layer_arrays
from gdist.pipeline.cache.shards import zstd
from gdist.pipeline.cache.wanted import samples_of
from gdist.pipeline.loading.batch import Selection
from gdist.pipeline.loading.loader import Loader
from gdist.pipeline.loading.on_device import OnDevice
from gdist.pipeline.storage.objects import Storage


class WithZarr:
    """Reads what a Reader reads, with zarr itself."""

    def __init__(self, storage: Storage) -> None:
        store = zarr.storage.ObjectStore(storage.store, read_only=True)
        self.group = zarr.open_group(store, mode="r")

    def read(self, name: str, ranges: list[tuple[int, int]]) -> np.ndarray[Any, Any]:
        rows = np.concatenate([np.arange(start, stop) for start, stop in ranges])
        array = self.group[name]
        assert isinstance(array, zarr.Array)
        return np.asarray(array.oindex[rows])


class Bench:
    """One cache, and the ways to read an epoch from it."""

    def __init__(self, cache: Cache, layers: list[int], options: argparse.Namespace) -> None:
        self.cache, self.layers = cache, layers
        names = [*layer_arrays(cache.identity, layers), WAVEFORM]
        self.keys = [arrays.shard_key(name, pack) for name in names for pack in range(cache.packs)]
        objects = cache.storage.objects()
        self.bytes = sum(int(objects[key]["size"]) for key in self.keys)
        self.chunks = sum(cache.specs[name].pack_rows // cache.specs[name].chunk_rows * cache.packs for name in names)
        entries = [entry for entry in cache.entries if entry.num_frames]
        self.selection = Selection(tuple(layers))
        self.loader = Loader(cache, entries, self.selection, options.batch_seconds, device=options.device)
        self.batches = self.loader.epoch_batches(0)
        self.block: Tensor | None = None
        self.on_device = OnDevice(cache, resident=False, device=options.device, audio_on_cpu=False)
        frames = sum(n for spans in self.batches for _, _, n in spans)
        self.values_bytes = 2 * frames * len(layers) * cache.identity["dim"]
        self.memory = memoryview(bytearray(1 << 20))
        largest = max(len(spans) * max(n for _, _, n in spans) for spans in self.batches)
        self.floats = torch.zeros(largest * len(layers) * cache.identity["dim"], device=options.device)
        self.reader, self.with_zarr = arrays.Reader(cache.storage, cache.specs), WithZarr(cache.storage)

    def drop(self) -> None:
        """Drop the files from the page cache."""
        for key in self.keys:
            descriptor = os.open(self.cache.storage.folder / key, os.O_RDONLY)  # type: ignore[operator]
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)

    def plain(self) -> None:
        for key in self.keys:
            if self.cache.storage.folder is None:
                obstore.get(self.cache.storage.store, key).bytes()
                continue
            with (self.cache.storage.folder / key).open("rb", buffering=0) as file:
                while file.readinto(self.memory):
                    pass

    def codecs(self) -> float:
        """Seconds, not counting the time to read the bytes into memory."""
        took = 0.0
        for key in self.keys:
            found = self.cache.specs[key.split("/c/")[0]].layout
            shard = np.frombuffer(self.cache.storage.get(key), np.uint8)
            index = shard[-found.index_bytes : -4].view("<u8").reshape(-1, 2).tolist()
            chunks = [shard[offset : offset + length - 4] for offset, length in index]
            place = np.empty(found.chunk_bytes, np.uint8)
            began = time.perf_counter()
            for chunk in chunks:
                google_crc32c.value(chunk)
                zstd.decode(chunk, place)
            took += time.perf_counter() - began
        return took

    def rows(self, reader: "arrays.Reader | WithZarr") -> None:
        frames = layout.CHUNK_FRAMES
        for spans in self.batches:
            ranges = [(entry.start_frame + first, entry.start_frame + first + n) for entry, first, n in spans]
            per_chunk = [(start // frames, -(-stop // frames)) for start, stop in ranges]
            for name in [*layer_arrays(self.cache.identity, self.layers), WAVEFORM]:
                reader.read(name, per_chunk if self.cache.specs[name].chunk_rows == 1 else ranges)

    def hidden(self) -> None:
        for spans in self.batches:
            for layer in self.layers:
                self.cache.hidden(layer, spans, self.loader.device)
            self.cache.waveform(spans)

    def into(self) -> None:
        for spans in self.batches:
            frames = [n for _, _, n in spans]
            shape = (len(spans), len(self.layers), max(frames), self.cache.identity["dim"])
            hidden_BLTD = self.floats[: math.prod(shape)].view(shape)
            for place, layer in enumerate(self.layers):
                out = [hidden_BLTD[row, place, :n] for row, n in enumerate(frames)]
                self.cache.hidden(layer, spans, self.loader.device, out)
            for row, n in enumerate(frames):
                hidden_BLTD[row, :, n:] = 0
            self.cache.waveform(spans)

    def stage(self) -> None:
        """Into the same memory each time, as page-locked memory is used again."""
        original, stage.memory = stage.memory, self._reused
        try:
            self._stage()
        finally:
            stage.memory = original

    def _reused(self, size: int, device: torch.device) -> Tensor:
        if self.block is None or len(self.block) < size:
            self.block = torch.zeros(size, dtype=torch.uint8)
        return self.block[:size]

    def _stage(self) -> None:
        for spans in self.batches:
            num_frames = [n for _, _, n in spans]
            num_samples = [stop - start for start, stop in (samples_of(span, self.cache.framing) for span in spans)]
            self.on_device.stage(self.cache.wanted(spans), self.selection, num_frames, num_samples)

    def load(self) -> float:
        """Seconds until the last batch has arrived; by then the next epoch's first batch is already being read."""
        self.loader.load_state_dict({"epoch": 0, "position": 0})
        stream = self.loader.stream()
        began = time.perf_counter()
        for _ in islice(stream, len(self.batches)):
            pass
        took = time.perf_counter() - began
        stream.close()
        return took
