"""Bytes: how fast a pack's rows become shards and shards become rows, and what bounds it.

    python benchmarks/shards.py --json shards.json     # two cores, 2 GB of disk, two minutes

Rows are like activations (smooth in time, channels of different sizes), in utterances of 2 to 15 s with padding up to
whole chunks. Figures are the best of several turns in one run, so that old and new ways meet the same machine.
`write` is encoding and digest, `read` is reading, checking and decoding into memory that is used again; both are GB
of rows per second of one core's time. `two_cores_of_one` compares times on the clock, with as many cores as threads.
So does `cold`, where the files were dropped from the page cache, with one core and the threads of a training.

*Old* is zarr's encoder at zstd level 1 with SHA-256, and reading that with every chunk through zstd. The *machine* is
measured too: what it copies in memory and how much faster its two cores are than one bounds all other figures.

A *null teacher* has its hidden states in memory. With it, the whole of extraction is measured: audio from files,
encoding, statistics, shards, receipts; over a plain write of the same files.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from google_crc32c import value as crc32c
from made_up import activations
from null_teacher import null_teacher
from torch import Tensor
from zarr.storage import MemoryStore

from gdist.pipeline import framing
from gdist.pipeline.cache import layout, shards
from gdist.pipeline.cache.arrays import THREADS, ArraySpec, Reader, metadata, shard_key
from gdist.pipeline.cache.encode import COMPRESS, encoded
from gdist.pipeline.cache.encodings import ENCODINGS
from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.storage.objects import Storage
from gdist.stages.device import keep_freed_memory

Rows = np.ndarray[Any, Any]
GB = 1e9


def best(
    function: Callable[[], object],
    turns: int,
    before: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The shortest time of several turns, in seconds.

    Args:
        clock: ``time.process_time`` for what one core computes: other processes may be using the machine.
    """
    seconds = []
    for _ in range(turns):
        before()
        began = clock()
        function()
        seconds.append(clock() - began)
    return min(seconds)


def with_threads(each: Sequence["Reading"], cores: int) -> None:
    """Read on so many cores, with as many threads."""
    on_cores(each[cores - 1], cores)


def two_of_one(function: Callable[[int], object], turns: int) -> float:
    """How much faster two cores are than one; the argument is how many. In turns, since others use the machine."""
    pairs = [(best(partial(function, 1), 1), best(partial(function, 2), 1)) for _ in range(turns)]
    return min(one for one, _ in pairs) / min(two for _, two in pairs)


def share(function: Callable[[int], object], items: int, threads: int) -> None:
    """Do all items, with as many threads and as many cores."""
    os.sched_setaffinity(0, CORES[:threads])
    try:
        with ThreadPoolExecutor(threads, initializer=lambda: os.sched_setaffinity(0, CORES[:threads])) as pool:
            list(pool.map(function, range(items)))
    finally:
        os.sched_setaffinity(0, CORES)


CORES = sorted(os.sched_getaffinity(0))


# --- what is stored -------------------------------------------------------------------------------------------------


def planned(packs: int, pack_frames: int = layout.PACK_FRAMES) -> list[Entry]:
    """Utterances of 2 to 15 s that fill some packs."""
    rng = np.random.default_rng(0)
    lengths = [(f"u{n:05d}", int(rng.uniform(2, 15) * framing.SAMPLE_RATE), None) for n in range(60 * packs)]
    return [entry for entry in layout.place(lengths, 10**9, pack_frames=pack_frames) if entry.pack < packs]


def make_rows(encoding: str, dim: int, entries: list[Entry], pack: int, hidden_TD: Tensor) -> tuple[ArraySpec, Rows]:
    """A pack's rows of the array `layers/…`, with its padding."""
    part = ENCODINGS[encoding].parts(dim)["layers"]
    spec = ArraySpec(part.width, part.dtype, part.fill_value, layout.CHUNK_FRAMES, layout.PACK_FRAMES)
    rows = spec.empty_pack()
    for entry in entries:
        if entry.pack == pack:
            first = entry.start_frame % len(rows)
            values = hidden_TD[None, first : first + entry.num_frames]
            stored = ENCODINGS[encoding].encode(values, torch.tensor([entry.num_frames]), {})["layers"]
            rows[first : first + entry.num_frames] = stored[0].numpy()
    return spec, rows


def old_way(spec: ArraySpec, rows: Rows) -> tuple[bytes, str]:
    """What zarr's own code makes of rows, at level 1, and its SHA-256."""
    objects: dict[str, Any] = {}
    dataclasses.replace(spec, compress="zstd:1").create(MemoryStore(objects), None, 1)[:] = rows
    shard = objects["c/0/0"].as_numpy_array()
    return bytes(shard), hashlib.sha256(shard).hexdigest()


# --- figures --------------------------------------------------------------------------------------------------------


def machine(turns: int) -> dict[str, float]:
    """What one core does with memory, and what two do together."""
    big, other = np.ones(64 << 20, np.uint8), np.ones(64 << 20, np.uint8)
    small = bytes(128 << 10)
    halves = np.split(big, 16), np.split(other, 16)

    def digest_small(_: int) -> None:
        for _ in range(200):
            hashlib.sha256(small)

    def copy(n: int) -> None:
        np.copyto(halves[0][n], halves[1][n])

    figures = {
        "copy_GBps": big.nbytes / GB / best(lambda: share(copy, 16, 1), turns, clock=time.process_time),
        "crc32c_GBps": 500
        * len(small)
        / GB
        / best(lambda: [crc32c(small) for _ in range(500)], turns, clock=time.process_time),
        "xxh3_128_GBps": big.nbytes / GB / best(lambda: xxhash.xxh3_128(big), turns, clock=time.process_time),
    }
    for name, function in (("computing", digest_small), ("copying", copy)):
        figures[f"{name}_two_cores_of_one"] = two_of_one(partial(share, function, 16), turns)
    return figures


def writing(spec: ArraySpec, packs: list[Rows], turns: int) -> dict[str, float]:
    """Encoding and digest, at several levels."""
    size = sum(rows.nbytes for rows in packs) / GB
    stored = {}

    def encode(compress: str) -> Callable[[int], None]:
        def one(number: int) -> None:
            with encoded(packs[number], spec.chunk_rows, compress) as shard:
                stored[compress] = len(shard.data) / packs[number].nbytes

        return one

    figures = {}
    for compress in dict.fromkeys([COMPRESS, "zstd:1", "zstd:-2", "zstd:-5", "none"]):
        one = partial(share, encode(compress), len(packs), 1)
        figures[f"write_{compress}_GBps"] = size / best(one, turns, clock=time.process_time)
        figures[f"stored_{compress}_of_rows"] = stored[compress]
    old = partial(share, lambda pack: old_way(spec, packs[pack]), len(packs), 1)
    return {
        "write_GBps": figures[f"write_{COMPRESS}_GBps"],
        "write_old_GBps": size / best(old, max(turns // 3, 1), clock=time.process_time),
        "write_two_cores_of_one": two_of_one(lambda cores: share(encode(COMPRESS), len(packs), cores), turns),
    } | figures


def reading(folder: Path, spec: ArraySpec, entries: list[Entry], packs: list[Rows], turns: int) -> dict[str, float]:
    """Reading the utterances of each pack into memory that is used again, from the page cache and from the disk."""
    figures: dict[str, float] = {}
    ranges = [
        [(e.start_frame, e.start_frame + e.num_frames) for e in entries if e.pack == n] for n in range(len(packs))
    ]
    size = sum(stop - start for some in ranges for start, stop in some) * packs[0][0].nbytes / GB
    for compress in (COMPRESS, "none", "old"):
        cache = folder / compress
        how = dataclasses.replace(spec, compress="zstd:1" if compress == "old" else compress)
        write_array(cache, how, packs)
        files = sorted(path for path in (cache / "rows" / "c").rglob("*") if path.is_file())
        shards.PLAIN_BYTES = 1 << 62 if compress == "old" else 1 << 14
        name = {COMPRESS: "read", "none": "read_none", "old": "read_old"}[compress]
        one, two, usual = (Reading(cache, how, ranges, threads) for threads in (1, 2, THREADS))
        warm = best(partial(on_cores, one, 1), turns, clock=time.process_time)
        figures[f"{name}_warm_GBps"] = size / warm
        figures[f"{name}_two_cores_of_one"] = two_of_one(partial(with_threads, (one, two)), turns)
        cold = best(partial(on_cores, usual, 1), turns, partial(drop, files))
        plain = best(partial(plain_read, files), turns, partial(drop, files))
        stored = sum(file.stat().st_size for file in files) / GB
        figures |= {f"{name}_cold_GBps": size / cold, f"{name}_plain_cold_GBps": stored / plain}
        figures[f"{name}_cold_of_plain"] = plain / cold  # times, for the same files
    shards.PLAIN_BYTES = 1 << 14
    return figures


class Reading:
    """Reads all ranges, pack after pack, into the same memory."""

    def __init__(self, folder: Path, spec: ArraySpec, ranges: list[list[tuple[int, int]]], threads: int) -> None:
        self.reader, self.ranges = Reader(Storage(str(folder)), {"rows": spec}, threads), ranges
        self.memory = np.empty(0, np.uint8)

    def __call__(self) -> None:
        for some in self.ranges:
            self.reader.read("rows", some, self._empty)

    def _empty(self, shape: tuple[int, int], dtype: np.dtype[Any]) -> Rows:
        size = shape[0] * shape[1] * dtype.itemsize
        if len(self.memory) < size:
            self.memory = np.empty(size, np.uint8)
        return self.memory[:size].view(dtype).reshape(shape)


def on_cores(read: Callable[[], None], cores: int) -> None:
    """Run on as many cores, the threads that were started before included."""

    def all_threads(allowed: list[int]) -> None:
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), allowed)

    all_threads(CORES[:cores])
    try:
        read()
    finally:
        all_threads(CORES)


def write_array(folder: Path, spec: ArraySpec, packs: list[Rows]) -> None:
    storage = Storage(str(folder), create=True)
    for key, data in metadata({"rows": spec}, len(packs), {}).items():
        storage.put(key, data)
    for pack, rows in enumerate(packs):
        with encoded(rows, spec.chunk_rows, spec.compress) as shard:
            storage.put(shard_key("rows", pack), shard.data)


def drop(files: list[Path]) -> None:
    """Drop files from the page cache."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def plain_read(files: list[Path]) -> None:
    memory = bytearray(1 << 20)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(memory):
                pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--packs", type=int, default=6, help="packs of one array that are encoded and read")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--encodings", default="fp16,int8")
    parser.add_argument("--null-packs", type=int, default=3, help="packs of the null teacher; 0 leaves it out")
    parser.add_argument("--layers", type=int, default=13, help="layers of the null teacher")
    parser.add_argument("--folder", type=Path, help="where to write, on a disk. [default: the system's]")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keep_freed_memory()  # as extraction does
    torch.set_num_threads(len(CORES))
    entries, hidden_TD = (
        planned(options.packs),
        activations(np.random.default_rng(0), layout.PACK_FRAMES, options.dim),
    )
    found: dict[str, Any] = {"machine": machine(options.turns)}
    show("the machine", found["machine"])
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for encoding in options.encodings.split(","):
            made = [make_rows(encoding, options.dim, entries, pack, hidden_TD) for pack in range(options.packs)]
            spec, packs = made[0][0], [rows for _, rows in made]
            figures = writing(spec, packs, options.turns)
            figures |= reading(Path(folder) / encoding, spec, entries, packs, options.turns)
            figures["two_cores_of_one"] = min(figures[f"{way}_two_cores_of_one"] for way in ("write", "read"))
            show(encoding, figures)
            found[encoding] = figures
    found |= found.get("fp16", {})
    if options.null_packs:
        null = null_teacher(
            options.null_packs,
            options.layers,
            activations(np.random.default_rng(0), layout.PACK_FRAMES, options.dim),
            options.folder,
        )
        show("null teacher, fp16", null)
        found |= null
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def show(title: str, figures: dict[str, float]) -> None:
    print(title)
    for name, value in figures.items():
        print(f"    {name:36s} {value:8.3f}", flush=True)


if __name__ == "__main__":
    main()
