"""How close reading training batches comes to a plain sequential read of the same bytes.

    python benchmarks/loader.py --minutes 8

The cache has WavLM Base's shapes (13 layers of 768) and synthetic values that compress as activations do, unless
``--cache`` names another. These ways take turns, so that other load on the machine affects all of them equally:

    plain     read every shard file that an epoch needs, from its first byte to its last, into the same megabyte of
              memory
    codecs    check and decompress the chunks of those files from memory, in one thread: no reader can do less
    reader    read the rows of every batch, checked and decompressed, as they are stored
    hidden    the same as float32, one utterance at a time
    into      the same, decoded into the memory of one batch, which is reused
    stage     the rows of every batch as they are stored, with the audio, in one block: what a GPU is sent
    loader    whole batches (60 s, padded, layers 1 to 12 and the audio), read ahead by the loader
    zarr      what `reader` does, by zarr itself: what gdist did before it had its own reader of shards

Speeds are bytes of the shard files per second, and per second of a core's time in all threads, which other load on
the machine changes less. `stage_GBps` and `stage_of_plain` are those of `stage`, warm, per second of a core;
`stage_fp16_GBps` counts instead what the batches contain, as values of two bytes.

*warm*: the files are in the page cache. *cold*: they were dropped from it (posix_fadvise) before every turn; caches
of the disk or the host cannot be dropped. `two layers` is the loader with two of the layers; the bytes it reads are
those that the kernel counted. `--s3` does the same through moto's S3 server on this machine; `plain` is then a
download of the same objects one after another.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import torch
from loader_ways import Bench
from made_up import write_cache

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.loading import loader
from gdist.pipeline.storage.objects import Storage


def bytes_read() -> int:
    """Bytes that this process has received from read calls so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


def seconds_of(way: Callable[[], float | None]) -> tuple[float, float]:
    """Seconds that a way took, and seconds of a core's time in all threads."""
    began, core_began = time.perf_counter(), time.process_time()
    own = way()
    core = time.process_time() - core_began
    return (time.perf_counter() - began, core) if own is None else (own, min(own, core))


def compare(
    bench: Bench, ways: dict[str, Callable[[], float | None]], rounds: int, before: Callable[[], None] = lambda: None
) -> dict[str, dict[str, float]]:
    """For each way: MB per second, its ratio to the first way (the median of the rounds), and ms per chunk."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            before()
            took[name].append(seconds_of(way))
    plain = took[next(iter(ways))]
    found = {}
    for name, times in took.items():
        seconds, core = (statistics.median(column) for column in zip(*times, strict=True))
        found[name] = {
            "mb_per_second": bench.bytes / 1e6 / seconds,
            "ratio": statistics.median(p / t for (p, _), (t, _) in zip(plain, times, strict=True)),
            "ms_per_chunk": 1000 * seconds / bench.chunks,
            "mb_per_core_second": bench.bytes / 1e6 / core,
            "core_ratio": statistics.median(p / t for (_, p), (_, t) in zip(plain, times, strict=True)),
        }
    return found


def show(title: str, found: dict[str, dict[str, float]]) -> None:
    print(title)
    for name, row in found.items():
        print(f"  {name:8} {row['mb_per_second']:7.0f} MB/s, {row['ratio']:.3f} of plain, "
              f"{row['ms_per_chunk']:.3f} ms per chunk; "
              f"{row['mb_per_core_second']:7.0f} MB per s of a core, {row['core_ratio']:.3f} of plain",
              flush=True)  # fmt: skip


class Moto:
    """An S3 server on this machine for the length of a ``with`` block; environment variables point obstore to it."""

    def __enter__(self) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], **quiet)  # type: ignore[call-overload]
        endpoint = f"http://127.0.0.1:{port}"
        os.environ |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        os.environ |= {"AWS_REGION": "us-east-1"}
        for _ in range(300):
            try:
                urlopen(Request(f"{endpoint}/loader", method="PUT"), timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        return "s3://loader/cache"

    def __exit__(self, *_: object) -> None:
        self.server.kill()
        self.server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cache", help="a folder; a synthetic cache is written there if there is none [default: temporary]"
    )
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--encoding", default="fp16", choices=["fp32", "fp16", "bf16", "int8", "int4"])
    parser.add_argument("--pack-frames", type=int, default=4096, help="small, so that a short run has several packs")
    parser.add_argument("--batch-seconds", type=float, default=60.0)
    parser.add_argument("--device", default="cpu", help="where hidden states are decoded")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--s3", action="store_true", help="also through moto's server, one round")
    parser.add_argument("--no-zarr", action="store_true")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    loader.RESIDENT_BYTES = 0  # so that every batch is read
    with tempfile.TemporaryDirectory() as scratch:
        uri = options.cache or f"{scratch}/cache"
        if Cache.find(uri) is None:
            write_cache(uri, options.minutes, options.encoding, options.pack_frames)
        results = measure(Cache.open(uri), options)
        if options.s3:
            with Moto() as there:
                copied = Cache.open(uri)
                remote = Storage(there)
                for key in copied.storage.objects():
                    remote.put(key, copied.storage.get(key))
                bench = Bench(Cache.open(there), all_but_first(copied), options)
                ways: dict[str, Callable[[], float | None]] = {"plain": bench.plain, "loader": bench.load}
                if not options.no_zarr:
                    ways["zarr"] = lambda: bench.rows(bench.with_zarr)
                results["s3"] = compare(bench, ways, 1)
                show("S3 (moto)", results["s3"])
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


def all_but_first(cache: Cache) -> list[int]:
    """The layers that a student with a trained front-end reads."""
    return [layer for layer in cache.layers if layer]


def measure(cache: Cache, options: argparse.Namespace) -> dict[str, Any]:
    """Time all ways, warm and cold, and count the bytes that reading two layers takes."""
    bench = Bench(cache, all_but_first(cache), options)
    print(f"{cache.identity['encoding']}, {len(cache.entries)} utterances in {cache.packs} packs, "
          f"{bench.bytes / 1e6:.0f} MB in {bench.chunks} chunks, {len(bench.batches)} batches; "
          f"{torch.get_num_threads()} threads")  # fmt: skip
    ways: dict[str, Callable[[], float | None]] = {
        "plain": bench.plain,
        "codecs": bench.codecs,
        "reader": lambda: bench.rows(bench.reader),
        "hidden": bench.hidden,
        "into": bench.into,
        "stage": bench.stage,
        "loader": bench.load,
    }
    cold = {name: ways[name] for name in ("plain", "reader", "into", "stage", "loader")}
    if not options.no_zarr:
        ways["zarr"] = lambda: bench.rows(bench.with_zarr)
    bench.plain()
    bench.loader.read(bench.batches[0], bench.selection)  # warm up
    results: dict[str, Any] = {"warm": compare(bench, ways, options.rounds)}
    show("warm", results["warm"])
    results["stage_GBps"] = results["warm"]["stage"]["mb_per_core_second"] / 1e3
    results["stage_of_plain"] = results["warm"]["stage"]["core_ratio"]
    results["stage_fp16_GBps"] = results["stage_GBps"] * bench.values_bytes / bench.bytes
    print(f"  into a batch in the stored type, warm, per core: {results['stage_GBps']:.2f} GB/s of files, "
          f"{results['stage_of_plain']:.3f} of plain; "
          f"{results['stage_fp16_GBps']:.2f} GB/s as fp16", flush=True)  # fmt: skip
    results["cold"] = compare(bench, cold, options.rounds, before=bench.drop)
    show("cold", results["cold"])
    two = Bench(cache, all_but_first(cache)[:2], options)
    results["two layers"] = {}
    for title, before in (("warm", two.plain), ("cold", two.drop)):
        results["two layers"][title] = compare(two, {"plain": two.plain, "loader": two.load}, options.rounds, before)
        show(f"two layers, {title}", results["two layers"][title])
    began = bytes_read()
    for spans in two.batches:
        for layer in two.layers:
            cache.hidden(layer, spans)
    objects = cache.storage.objects()
    stored = sum(int(meta["size"]) for key, meta in objects.items() if key.startswith(("layers/", "scales/")))
    results["bytes"] = (bytes_read() - began) / stored
    print(f"  bytes read for two layers: {results['bytes']:.3f} of all {len(cache.layers)}, "
          f"of which they are {2 / len(cache.layers):.3f}", flush=True)  # fmt: skip
    return results


if __name__ == "__main__":
    main()
