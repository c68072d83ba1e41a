"""How large a corpus may be: memory and time of opening a finished cache and of an epoch's order, of a made-up index.

    python benchmarks/scale.py                       # a million utterances
    python benchmarks/scale.py --utterances 20e6     # 66,000 hours, 800,000 packs

No audio, teacher or shard is involved: utterances of about 12 s are placed as `gdist extract` would place them, and
receipts of the size of WavLM Base's are made up for the summary. Then a fresh process opens the cache as `gdist
train` does, chooses the splits, and computes an epoch's order. It reads local files through the code for buckets, so
that nothing is listed and each request is counted. Memory is the process's peak, imports included; what is held is
without them. Seconds are of the wall clock, and of the processor in case other work shares the machine.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from made_up import ABOUT, NOBODYS

from gdist.pipeline.cache import planning, summary
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.encode import COMPRESS
from gdist.pipeline.cache.layout import Lengths, place
from gdist.pipeline.cache.plan import Plan, Tasks, array_specs
from gdist.pipeline.framing import WAV2VEC2
from gdist.pipeline.loading.batch import Selection
from gdist.pipeline.loading.loader import Loader
from gdist.pipeline.loading.splits import DataConfig, choose_splits, usable_entries
from gdist.pipeline.storage.objects import Storage, sha256
from gdist.pipeline.storage.patience import Patience
from gdist.pipeline.storage.requests import Request

BATCH_SECONDS, CROP_SECONDS = 320.0, 15.0
LAYERS, DIM = list(range(13)), 768
READ = 200  # batches made of the order, as a run would


def lengths(count: int) -> Lengths:
    """Utterances of about 12 s, with ids like LibriSpeech's, in seconds with a long tail."""
    rng = np.random.default_rng(0)
    samples = np.clip(rng.lognormal(np.log(10.5 * 16_000), 0.5, count), 8_000, 35 * 16_000).astype(np.int64)
    rows = pa.array(np.arange(count).astype(str), pa.string())
    return Lengths(rows, samples)


def labels(count: int) -> pa.Table:
    """A speaker per 3,000 utterances, and a held-out thousandth."""
    rows = np.arange(count, dtype=np.int32)
    speakers = pa.array([f"speaker-{i:06d}" for i in range(-(-count // 3000))])
    columns = {
        "speaker": pa.DictionaryArray.from_arrays(pa.array(rows // 3000), speakers),
        "split": pa.DictionaryArray.from_arrays(
            pa.array((rows % 1000 == 0).astype(np.int32)), pa.array(["train", "dev"])
        ),
    }
    return pa.table({name: column.cast(pa.string()) for name, column in columns.items()})


def receipts(tasks: Tasks, names: list[str], counts: list[int]) -> Iterator[tuple[dict[str, Any], int]]:
    """Receipts with digests and figures that are as random as real ones."""
    rng = np.random.default_rng(1)
    for task in tasks:
        digests, figures = rng.bytes(16 * len(names)), rng.random((len(task.layers), 4)).tolist()
        objects = {
            f"{name}/c/{task.pack}/0": {
                "bytes": 20_000_000 + digests[16 * i],
                "xxh3_128": digests[16 * i : 16 * i + 16].hex(),
            }
            for i, name in enumerate(names)
        }
        measures = ("rms", "max_abs", "relative_error", "cosine")
        statistics = {
            "frames": 16_000,
            "layers": {f"{at:02d}": dict(zip(measures, row, strict=True)) for at, row in enumerate(figures)},
        }
        receipt = {"pack": task.pack, "objects": objects, "quarantine": {}, "statistics": statistics}
        receipt["utterances"] = counts[task.pack]
        yield receipt | {"checksum": sha256(digests)}, 5_000


def make(folder: Path, count: int) -> None:
    """Write the documents and the summary of a finished cache."""
    began = time.monotonic()
    placed = place(lengths(count), 60 * 16_000)
    seconds = time.monotonic() - began
    identity = {"layers": LAYERS, "dim": DIM, "encoding": "fp16", "chunk_frames": 128, "pack_frames": 16_384}
    identity = NOBODYS | identity | {"compress": COMPRESS, "framing": WAV2VEC2.to_dict()}
    storage, plan = Storage(str(folder), create=True), Plan(identity, ABOUT, placed, labels(count), {})
    planning.begin(storage, plan)
    gdist = planning.read_root(storage)
    assert gdist is not None
    names, tasks = list(array_specs(identity)), Tasks(gdist)
    counts = np.bincount(placed.numbers("pack")).tolist()
    table, head = summary.encode(gdist["additions"][0], names, receipts(tasks, names, counts))
    summary.write(storage, 0, table, head)
    result = {"place_seconds": seconds, "summary_bytes": len(table), "packs": plan.packs}
    print(json.dumps(result | {"make_seconds": time.monotonic() - began, "make_peak_GB": peak() / 1e9}))


def use(folder: Path) -> None:
    """Open a finished cache as training does. Prints what each step took."""
    result: dict[str, Any] = {}
    requests = 0
    repeat, construct = Storage._repeat, Storage.__init__

    def counted[T](self: Storage, request: Request[T], size: int = 0) -> T:
        nonlocal requests
        requests += 1
        return repeat(self, request, size)

    def as_a_bucket(self: Storage, uri: str, create: bool = False, patience: Patience | None = None) -> None:
        construct(self, uri, create, patience)
        self.folder = None

    Storage._repeat, Storage.__init__ = counted, as_a_bucket  # type: ignore[method-assign]
    base = peak()

    def step[T](name: str, act: Callable[[], T]) -> T:
        began, cpu = time.monotonic(), time.process_time()
        done = act()
        result[f"{name}_seconds"], result[f"{name}_cpu_seconds"] = time.monotonic() - began, time.process_time() - cpu
        result[f"{name}_peak_GB"], result[f"{name}_held_GB"] = peak() / 1e9, (held() - base) / 1e9
        return done

    cache = step("open", lambda: Cache.open(str(folder)))
    count = len(cache.entries)
    texts = sum(_bytes(column) for column in (cache.entries.columns["id"], *cache.entries.labels.values()))
    result["index_bytes_per_utterance"] = (held() - base - texts) / count
    result["text_bytes_per_utterance"] = texts / count
    splits = step("splits", lambda: choose_splits(usable_entries(cache), DataConfig()))
    result["requests"] = requests
    loader = Loader(cache, splits["train"], Selection((0, 12)), BATCH_SECONDS, CROP_SECONDS)
    order = step("order", lambda: loader.epoch_batches(0))
    step("batches", lambda: [order[place] for place in range(0, len(order), max(len(order) // READ, 1))])
    hours = float(cache.entries.numbers("num_samples").sum()) / 16_000 / 3600
    result |= {"utterances": count, "hours": hours, "packs": cache.packs, "batches": len(order)}
    result["imports_GB"] = base / 1e9
    result["seconds"] = sum(result[f"{name}_seconds"] for name in ("open", "splits", "order"))
    result["cpu_seconds"] = sum(result[f"{name}_cpu_seconds"] for name in ("open", "splits", "order"))
    print(json.dumps(result | {"peak_GB": peak() / 1e9}))


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def held() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _bytes(column: Any) -> int:
    """The bytes of a column's texts, or of the codes that stand for them."""
    return int(column.nbytes if isinstance(column, pa.Array) else column.codes.nbytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=lambda text: int(float(text)), default=1_000_000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--step", choices=("make", "use"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="keep the made-up cache there, or use the one that is there")
    options = parser.parse_args()
    if options.step:
        make(options.folder, options.utterances) if options.step == "make" else use(options.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = options.folder or Path(temporary) / "cache"
        found: dict[str, float] = {}
        for step in ("make", "use") if not (folder / "zarr.json").exists() else ("use",):
            arguments = ["--step", step, "--folder", str(folder), "--utterances", str(options.utterances)]
            ran = subprocess.run(
                [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True
            )
            found |= json.loads(ran.stdout.splitlines()[-1])
    for name, value in found.items():
        print(f"{name:28s} {value:,.3f}" if isinstance(value, float) else f"{name:28s} {value:,}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
