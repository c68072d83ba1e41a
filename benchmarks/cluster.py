"""How extraction scales over workers.

    python benchmarks/cluster.py [two|many|plan]

two    real: two local workers against one, the whole of extraction, each worker pinned to a core, taking turns
many   partly simulated: 1 to 1,024 workers and an object store (fleet.py). What a worker waits for, its audio, its
       GPU and its puts, is simulated by sleeping; the scheduler and the handing out of packs are real.
plan   real: what the client and each worker hold of a cache with 720,000 packs, and the listing of its receipts
       (fleet_plan.py); in memory, without a network
"""

import argparse
import contextlib
import os
import statistics
import tempfile
import time

import psutil
from fleet import many
from fleet_plan import plan

from gdist.data_manifests import demo_folder
from gdist.pipeline.cache.ledger import BUCKET_WRITERS
from gdist.pipeline.cluster import workers as cluster
from gdist.pipeline.manifest.table import Manifest
from gdist.stages.extract import cluster as extract_cluster
from gdist.stages.extract import extract
from gdist.stages.extract.plan import ExtractConfig

# --- two against one, real ------------------------------------------------------------------------------------------


def two(teacher: str, utterances: int, repeats: int) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    demo = Manifest.read(demo_folder() / "demo.parquet")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        demo.take(range(0, len(demo.table), len(demo.table) // utterances)).write(f"{folder}/m.parquet")
        clusters: dict[int, cluster.Cluster] = {}
        found: dict[int, list[tuple[float, float]]] = {}
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
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="?", choices=["two", "many", "plan"])
    parser.add_argument("--teacher", default=str(demo_folder() / "teacher-nano"))
    parser.add_argument("--utterances", type=int, default=350, help="how many of the bundled speech, for `two`")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--packs", type=int, default=16, help="packs per worker, for `many`")
    parser.add_argument("--most", type=int, default=8192, help="packs of one number of workers, but LANES per worker")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64, 256, 1024], help="for `many`")
    parser.add_argument("--total", type=int, default=720_000, help="packs of the whole corpus")
    parser.add_argument("--utterances-per-pack", type=int, default=28, help="for `plan`")
    parser.add_argument("--planned", type=int, default=20_000, help="packs that `plan` makes an index of")
    parser.add_argument("--speed", type=float, default=1000, help="speed of the teacher, × real time")
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--layers", type=int, default=13)
    parser.add_argument("--bytes", type=int, default=2, help="bytes per value: 2 is fp16, 1 is int8")
    parser.add_argument("--latency", type=float, default=0.15, help="seconds; AWS: 100 to 200 ms for small objects")
    parser.add_argument("--connection", type=float, default=87.5e6, help="bytes/s; AWS: 85 to 90 MB/s per request")
    parser.add_argument("--writers", type=int, default=BUCKET_WRITERS, help="puts at a time of one pack")
    chosen = parser.parse_args()
    if chosen.which in (None, "two"):
        two(chosen.teacher, chosen.utterances, chosen.repeats)
    if chosen.which in (None, "many"):
        many(chosen)
    if chosen.which in (None, "plan"):
        plan(chosen)
