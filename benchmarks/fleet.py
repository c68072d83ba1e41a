"""A fleet of simulated workers: what cluster.py calls `many`.

What a worker waits for is simulated by sleeping. Everything between the workers and the tasks is real: Dask's
scheduler in a separate process, its workers (many to a process, each with its own connections and threads), TCP
between them, and `gdist.pipeline.cluster`. All of them share the cores of this machine. So the packs per second are
what *this machine* reaches, and from some number of workers on, simulating them is what limits it; the processor time
that the scheduler and the client need for a pack is theirs alone, and says what they reach on cores of their own.
"""

import argparse
import asyncio
import contextlib
import heapq
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dask
import psutil

from gdist.pipeline.cluster import crew
from gdist.pipeline.cluster import workers as cluster
from gdist.stages.extract.extractor import LANES

WORKERS_PER_PROCESS = 128
NOTES_SECONDS = 60.0  # to wait for the workers' notes
# AWS: "at least 3,500 PUT or 5,500 GET requests per second per partitioned prefix".
PUTS_PER_SECOND, GETS_PER_SECOND = 3500, 5500
# Of a pack: `Extraction.run` looks for its receipt, and so does `Ledger.commit`, which also looks at the lock twice.
GETS_OF_LOCK, GETS_OF_RECEIPT = 2, 2


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
        place = Path(self.notes, f"{id(self)}-{os.getpid()}")
        place.write_text(json.dumps(self.spent))
        place.rename(place.with_suffix(".json"))


def many(options: argparse.Namespace) -> None:
    shard = 16_384 * options.dim * options.bytes
    puts = (shard,) * options.layers + (16_384 * 640,)
    gpu = 16_384 * 0.02 / options.speed
    print(f"a pack: {gpu:.2f} s of GPU, {len(puts)} puts of {shard / 1e6:.1f} MB, {options.writers} at a time")
    print(f"a put: {options.latency * 1000:.0f} ms and {options.connection / 1e6:.0f} MB/s")
    print("                              share of the lanes' time                  CPU ms per pack    memory, MB")
    print(
        "workers   packs/s  efficiency    GPU  for GPU  reading  writing   idle   scheduler client   scheduler client"
    )
    with scheduler() as (address, process):
        one, have, groups = 0.0, 0, []
        try:
            for workers in options.workers:
                while have < workers:
                    size = min(WORKERS_PER_PROCESS, workers - have)
                    groups.append(multiprocessing.get_context("spawn").Process(target=work, args=(address, size)))
                    groups[-1].start()
                    have += size
                packs = max(LANES, min(options.packs, options.most // workers))
                found = measure(address, process, workers, packs, gpu, puts, options)
                one = one or found.packs_per_second / workers
                rate = found.packs_per_second
                print(f"{workers:7d}  {rate:8.1f}  {rate / one / workers:10.2f}  {found}", flush=True)
            nothing = argparse.Namespace(latency=0.0, connection=1.0, writers=4)
            free = measure(address, process, have, max(1, 2000 // have), 0.0, (), nothing)
            print(f"   free  {free.packs_per_second:8.1f}              {free}  ({have} workers, empty tasks)")
            scheduler_limit, client_limit = (1000 / ms for ms in (free.scheduler_ms, free.client_ms))
            print(f"one worker alone: {one:.2f} packs/s; so with a core of its own, the scheduler can keep "
                  f"{scheduler_limit / one:.0f} workers busy ({scheduler_limit:.0f} packs/s), and the client "
                  f"{client_limit / one:.0f} ({client_limit:.0f} packs/s)")  # fmt: skip
            fleet_limits(one, len(puts), options)
        finally:
            for group in groups:
                group.kill()


@dataclass(frozen=True)
class Found:
    """What one number of workers showed; as text, a line of the table."""

    packs_per_second: float
    shares: dict[str, float]
    scheduler_ms: float
    client_ms: float
    scheduler_bytes: int
    client_bytes: int

    def __str__(self) -> str:
        shares = "  ".join(f"{self.shares[name]:6.0%}" for name in ("gpu", "wait", "read", "write", "idle"))
        return (f"{shares}   {self.scheduler_ms:9.2f}  {self.client_ms:7.2f}   "
                f"{self.scheduler_bytes / 1e6:9.0f}  {self.client_bytes / 1e6:6.0f}")  # fmt: skip


def measure(
    address: str, scheduler: psutil.Process, workers: int, packs: int, gpu: float, puts: tuple[int, ...],
    store: argparse.Namespace,
) -> Found:  # fmt: skip
    """Run ``packs`` packs on each worker."""
    with contextlib.ExitStack() as stack:
        notes = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        connected = stack.enter_context(cluster.connect(address, LANES))
        connected.client.wait_for_workers(workers, timeout=600)
        simulated = Simulated(notes, gpu, puts, store.latency, store.connection, store.writers)
        with crew.deploy(connected, simulated) as deployed:
            list(deployed.do(range(workers * LANES)))  # every worker has its job open
            processes = scheduler, psutil.Process()
            clocks = [sum(p.cpu_times()[:2]) for p in processes]
            began = time.monotonic()
            errors = [error for _, error in deployed.do(range(packs * workers)) if error]
            seconds = time.monotonic() - began
            assert not errors, errors[0]
            cpu_ms = [
                (sum(p.cpu_times()[:2]) - before) * 1000 / (packs * workers)
                for p, before in zip(processes, clocks, strict=True)
            ]
            memory = [p.memory_info().rss for p in processes]
        deadline = time.monotonic() + NOTES_SECONDS
        while len(list(Path(notes).glob("*.json"))) < workers and time.monotonic() < deadline:
            time.sleep(0.1)  # a thousand workers do not close their jobs at once
        spent = [json.loads(path.read_text()) for path in Path(notes).glob("*.json")]
    done = packs / (packs + LANES)  # the share of the noted times that is after the warm-up
    shares = {name: sum(s[name] for s in spent) * done / (seconds * workers * LANES) for name in spent[0]}
    shares["idle"] = max(0.0, 1 - sum(shares.values()))
    return Found(packs * workers / seconds, shares, cpu_ms[0], cpu_ms[1], memory[0], memory[1])


def fleet_limits(one: float, arrays: int, options: argparse.Namespace) -> None:
    """Print what is computed and not run: requests to the store, which this machine has no store to receive."""
    largest = max(options.workers)
    rate = one * largest
    print(f"computed, for {largest} workers at the speed of one: {rate:.0f} packs/s, so {options.total:,} packs take "
          f"{options.total / rate / 60:.0f} minutes. In a second of it:")  # fmt: skip
    requests = {
        "puts, while the store treats the cache as one prefix": (arrays + 1, PUTS_PER_SECOND),
        "puts, once each array is a prefix of its own": (arrays + 1, PUTS_PER_SECOND * (arrays + 1)),
        "gets of the lock, which is one object": (GETS_OF_LOCK, GETS_PER_SECOND),
        "gets of receipts": (GETS_OF_RECEIPT, GETS_PER_SECOND),
    }
    for what, (each, limit) in requests.items():
        print(f"  {rate * each:7.0f} {what}; {limit:,} are reached by {limit / each / one:.0f} workers")


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
    # A hundred workers that sample their threads every 10 ms would measure this machine and not the scheduler.
    with dask.config.set({"distributed.worker.profile.enabled": False}):
        asyncio.run(serve())
