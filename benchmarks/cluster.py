"""How extraction scales over workers.

    python benchmarks/cluster.py [two|many]

two    real: two local workers against one, the whole of extraction, each worker pinned to a core, taking turns
many   partly simulated: 1 to 64 workers and an object store. Dask's scheduler (in a separate process), its workers
       (each with its own connections and threads, 16 per process), TCP between them, and `gdist.pipeline.cluster`,
       which hands out the packs, are real. What a worker waits for, its audio, its GPU and its puts, is simulated by
       sleeping.
"""

import argparse
import asyncio
import contextlib
import heapq
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from gdist.data_manifests import demo_folder
from gdist.pipeline.cache.cache import BUCKET_WRITERS
from gdist.pipeline.cluster import crew
from gdist.pipeline.cluster import workers as cluster
from gdist.pipeline.manifest.table import Manifest
from gdist.stages.extract import cluster as extract_cluster
from gdist.stages.extract import extract
from gdist.stages.extract.extractor import LANES
from gdist.stages.extract.plan import ExtractConfig

# --- two against one, real ------------------------------------------------------------------------------------------


def two(teacher: str, utterances: int, repeats: int) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    demo = Manifest.read(demo_folder() / "demo.parquet")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        demo.take(range(0, len(demo.table), len(demo.table) // utterances)).write(f"{folder}/m.parquet")
        clusters, found = {}, {}
        for repeat in range(repeats):
            for n in (1, 2):
                config = ExtractConfig(
                    teacher, f"{folder}/m.parquet", f"{folder}/{n}-{repeat}", device="cpu", pack_frames=1024,
                    cluster=f"local:{n}",
                )  # fmt: skip
                if n not in clusters:
                    clusters[n] = stack.enter_context(extract_cluster.workers_of(config)).cluster
                    for core, address in enumerate(clusters[n].client.scheduler_info()["workers"]):
                        clusters[n].client.run(pin, core, workers=[address])
                found.setdefault(n, []).append(steady(config, clusters[n]))
                speed, cost = found[n][-1]
                busy = f"load: {os.getloadavg()[0]:.1f} processes for {os.cpu_count()} cores"
                print(
                    f"  {n} workers  {speed:5.1f}× real time, {cost:5.1f} s of audio per CPU second  ({busy})",
                    flush=True,
                )
    for what, place, share in (("", 0, 2), (", by the CPU time that they got", 1, 1)):
        ratios = [b[place] / a[place] / share for a, b in zip(found[1], found[2], strict=True)]
        pairs = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"efficiency of 2 workers over 1{what}: {statistics.median(ratios):.2f}  (pairs: {pairs})")


def steady(config: ExtractConfig, connected: cluster.Cluster) -> tuple[float, float]:
    """Seconds of audio per second, and per CPU second of the workers, after the first third of the packs.

    By then every worker has loaded its teacher.
    """
    ends: list[tuple[float, float, float]] = []

    class Timed(extract_cluster.Workers):
        def run(self, cache, token, todo, advance) -> None:  # type: ignore[no-untyped-def]
            def note(seconds: float, _: str) -> None:
                cpu = (
                    sum(connected.ask(cpu_seconds).values())
                    if len(ends) in (cache.packs // 3, cache.packs - 1)
                    else 0
                )
                ends.append((time.monotonic(), cpu, seconds))

            super().run(cache, token, todo, note)

    extract._extract(config, False, Timed(config, connected, "cpu"))
    first, last = ends[len(ends) // 3], ends[-1]
    audio = sum(seconds for _, _, seconds in ends[len(ends) // 3 + 1 :])
    return audio / (last[0] - first[0]), audio / (last[1] - first[1])


def pin(core: int) -> None:
    """Pin all threads of this process to one core."""
    for thread in psutil.Process().threads():
        os.sched_setaffinity(thread.id, {core % (os.cpu_count() or 1)})


def cpu_seconds() -> float:
    """CPU seconds that this process has used."""
    return sum(psutil.Process().cpu_times()[:2])


# --- 1 to 64, simulated ---------------------------------------------------------------------------------------------


@dataclass
class Simulated:
    """A worker that sleeps instead of waiting for audio, GPU and puts, and notes how long for each."""

    notes: str
    gpu_seconds: float
    put_bytes: tuple[int, ...]
    latency: float
    connection: float
    writers: int

    def open(self) -> None:
        self.gpu, self.noting, self.random = threading.Lock(), threading.Lock(), random.Random()
        self.spent = {"read": 0.0, "wait": 0.0, "gpu": 0.0, "write": 0.0}

    def run(self, task: int) -> None:
        clock = [time.monotonic()]
        time.sleep(self.delay())  # the audio: small
        clock.append(time.monotonic())
        with self.gpu:
            clock.append(time.monotonic())
            time.sleep(self.gpu_seconds)
        clock.append(time.monotonic())
        lanes = [0.0] * self.writers  # as the cache writes: this many puts at a time, then the receipt
        for size in self.put_bytes:
            heapq.heapreplace(lanes, lanes[0] + self.delay() + size / self.connection)
        time.sleep(max(lanes) + self.delay())
        clock.append(time.monotonic())
        with self.noting:
            for name, start, end in zip(self.spent, clock, clock[1:], strict=False):
                self.spent[name] += end - start

    def delay(self) -> float:
        """A request's latency: lognormal around the median, with one in a hundred above 3 times the median."""
        return self.latency * self.random.lognormvariate(0, 0.47) if self.latency else 0.0

    def close(self) -> None:
        Path(self.notes, f"{id(self)}-{os.getpid()}.json").write_text(json.dumps(self.spent))


def many(options: argparse.Namespace) -> None:
    shard = 16_384 * options.dim * options.bytes
    puts = (shard,) * options.layers + (16_384 * 640,)
    gpu = 16_384 * 0.02 / options.speed
    print(f"a pack: {gpu:.2f} s of GPU, {len(puts)} puts of {shard / 1e6:.1f} MB, {options.writers} at a time")
    print(f"a put: {options.latency * 1000:.0f} ms and {options.connection / 1e6:.0f} MB/s")
    print("workers   packs/s  efficiency   lanes: GPU  for GPU  reading  writing  idle   scheduler  client   limit")
    with scheduler() as (address, process):
        one, have, groups = 0.0, 0, []
        try:
            for workers in (1, 2, 4, 8, 16, 32, 64):
                while have < workers:
                    size = min(16, workers - have)
                    groups.append(multiprocessing.get_context("spawn").Process(target=work, args=(address, size)))
                    groups[-1].start()
                    have += size
                rate, line = measure(address, process, workers, options.packs, gpu, puts, options)
                one = one or rate
                print(f"{workers:7d}  {rate:8.1f}  {rate / one / workers:10.2f}  {line}", flush=True)
            free, line = measure(
                address, process, 64, 40, 0.0, (), argparse.Namespace(latency=0.0, connection=1.0, writers=4)
            )
            print(f"   free  {free:8.1f}              {line}")
            print(
                f"workers that the scheduler can keep busy: {free / one:.0f} (last row: 64 whose tasks cost nothing)"
            )
            print(f"workers that one prefix can serve, at 3,500 puts/s: {3500 / (len(puts) + 1) / one:.0f}")
        finally:
            for group in groups:
                group.kill()


def measure(
    address: str, scheduler: psutil.Process, workers: int, packs: int, gpu: float, puts: tuple[int, ...],
    store: argparse.Namespace,
) -> tuple[float, str]:  # fmt: skip
    """Packs per second, and where the time of the workers' lanes went."""
    with tempfile.TemporaryDirectory() as notes, cluster.connect(address, LANES) as connected:
        connected.client.wait_for_workers(workers, timeout=120)
        simulated = Simulated(notes, gpu, puts, store.latency, store.connection, store.writers)
        with crew.deploy(connected, simulated) as deployed:
            list(deployed.do(range(workers * LANES)))  # every worker has its job open
            clocks = [(p, sum(p.cpu_times()[:2])) for p in (scheduler, psutil.Process())]
            began = time.monotonic()
            errors = [error for _, error in deployed.do(range(packs * workers)) if error]
            seconds = time.monotonic() - began
            assert not errors, errors[0]
            cpu = [(sum(p.cpu_times()[:2]) - before) / seconds for p, before in clocks]
        spent = [json.loads(path.read_text()) for path in Path(notes).iterdir()]
    done = packs / (packs + LANES)  # the share of the noted times that is after the warm-up
    shares = {name: sum(s[name] for s in spent) * done / (seconds * workers * LANES) for name in spent[0]}
    idle = max(0.0, 1 - sum(shares.values()))
    limit = max(
        {"GPU": shares["gpu"] * LANES, "writing": shares["write"], "handing out": idle}.items(), key=lambda i: i[1]
    )
    line = f"{shares['gpu']:10.0%}  {shares['wait']:7.0%}  {shares['read']:7.0%}  {shares['write']:7.0%}  {idle:4.0%}"
    return packs * workers / seconds, f"{line}   {cpu[0]:9.0%}  {cpu[1]:6.0%}   {limit[0]}"


@contextlib.contextmanager
def scheduler() -> Iterator[tuple[str, psutil.Process]]:
    """A scheduler of Dask in a separate process: its address and its process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "scheduler.json")
        options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
        command = [sys.executable, "-m", "distributed.cli.dask_scheduler", *options]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            while not file.exists():
                time.sleep(0.1)
            yield json.loads(file.read_text())["address"], psutil.Process(process.pid)
        finally:
            process.kill()
            process.wait()


def work(address: str, count: int) -> None:
    """Run ``count`` workers in this process, each with its own connections and threads."""
    import logging

    from distributed import Worker

    async def serve() -> None:
        made = [Worker(address, nthreads=LANES, memory_limit=0, dashboard=False) for _ in range(count)]
        await asyncio.gather(*made)
        await asyncio.gather(*(worker.finished() for worker in made))

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    asyncio.run(serve())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="?", choices=["two", "many"])
    parser.add_argument("--teacher", default=str(demo_folder() / "teacher-nano"))
    parser.add_argument("--utterances", type=int, default=350, help="how many of the bundled speech, for `two`")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--packs", type=int, default=16, help="packs per worker, for `many`")
    parser.add_argument("--speed", type=float, default=1000, help="speed of the teacher, × real time")
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--layers", type=int, default=13)
    parser.add_argument("--bytes", type=int, default=2, help="bytes per value: 2 is fp16, 1 is int8")
    parser.add_argument("--latency", type=float, default=0.15, help="seconds; AWS: 100 to 200 ms for small objects")
    parser.add_argument("--connection", type=float, default=87.5e6, help="bytes/s; AWS: 85 to 90 MB/s per request")
    parser.add_argument("--writers", type=int, default=BUCKET_WRITERS, help="puts at a time of one pack")
    chosen = parser.parse_args()
    if chosen.which != "many":
        two(chosen.teacher, chosen.utterances, chosen.repeats)
    if chosen.which != "two":
        many(chosen)
