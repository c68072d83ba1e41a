"""`make kills`: an extraction is killed at random moments, in every possible way, and resumed; on disk and on S3.

After each kill, no receipt is there without its bytes. After each resumption, the cache is byte for byte that of an
undisturbed run, and contains every utterance once. It prints one line per kill; `SEED=… KILLS=… make kills` repeats a
campaign.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pytest
import test_cluster
import test_extract
from conftest import contents, extracted
from test_cluster import Running
from test_extract import Nursery, command

from gdist.data_manifests import demo_folder
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.verify import verify
from gdist.pipeline.cluster import workers as cluster
from gdist.pipeline.manifest.table import Manifest
from gdist.pipeline.storage.objects import Storage
from gdist.stages.extract.extractor import LANES

nursery, bucket = test_extract.nursery, test_extract.bucket
KINDS = ("process", "client", "worker", "scheduler")  # the first is on one machine, the others are of a cluster
PACK_FRAMES = 384


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 120 utterances, in about 40 packs."""
    demo = Manifest.read(demo_folder() / "demo.parquet")
    rows = [row for row in demo.table.to_pylist() if row["num_samples"] * 50 // row["sample_rate"] < PACK_FRAMES]
    out = tmp_path_factory.mktemp("corpus") / "m.parquet"
    Manifest(pa.Table.from_pylist(rows[:: len(rows) // 120][:120], schema=demo.table.schema), demo.root).write(out)
    return out


@dataclass
class Campaign:
    """The kills, their random numbers, and what was found wrong."""

    nursery: Nursery
    teacher: Path
    corpus: Path
    expected: dict[str, bytes]
    start_dask: Callable[[], Running]
    random: random.Random
    dask: Running | None = None
    failures: list[str] = field(default_factory=list)

    def kill(self, number: int, kind: str, uri: str) -> None:
        """Start an extraction into a new location, kill it once, resume it and print one line."""
        if kind != "process" and self.dask is None:
            self.dask = self.start_dask()
        line = [*command(self.teacher, self.corpus, uri), "--pack-frames", PACK_FRAMES]
        if kind != "process":
            assert self.dask is not None
            wait_for_workers(self.dask)
            line += ["--cluster", self.dask.address()]
        packs = sum(name.startswith("receipts/") for name in self.expected)
        wanted = self.random.choice([0, self.random.randrange(1, packs)])  # while it plans, or among the packs
        delay = self.random.uniform(0, 0.5 if wanted == 0 else 0.1)
        self.nursery.start(*line)
        deadline = time.monotonic() + 120
        while receipts(uri) < wanted and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(delay)
        self.send_kill(kind)
        code = self.nursery.exit_code()
        seen = receipts(uri)
        found = self.damage_after(kind, code, uri)
        if kind == "scheduler":
            self.dask = self.start_dask()
            line[-1] = self.dask.address()
        self.nursery.start(*line)
        again = self.nursery.exit_code()
        found += [f"resuming exits with {again}"] * (again != 0) + self.damage(uri)
        print(
            f"{number:3d}  {kind:9s}  {uri.partition('://')[0] if '://' in uri else 'disk':4s}  "
            f"after {wanted:2d} packs + {1000 * delay:3.0f} ms  exit {code:3d} at {seen:2d}/{packs}  "
            f"resumed: {'; '.join(found) or 'identical'}",
            flush=True,
        )
        self.failures += [f"{number} {kind} {uri}: {what}" for what in found]

    def send_kill(self, kind: str) -> None:
        if kind in ("process", "client"):
            self.nursery.send(signal.SIGKILL)
            return
        assert self.dask is not None
        if kind == "scheduler":
            self.dask.scheduler.kill()
            self.dask.scheduler.wait()
            return
        self.random.choice(self.dask.processes()).kill()

    def damage_after(self, kind: str, code: int, uri: str) -> list[str]:
        """What is wrong with a cache right after its extraction was killed."""
        complete = receipts(uri) == sum(name.startswith("receipts/") for name in self.expected)
        allowed = {"process": {-9}, "client": {-9}, "worker": {0}, "scheduler": {1}}[kind]
        found = [f"exit {code}"] * (code not in allowed | ({0} if complete else set()))
        if exists(uri, "zarr.json"):
            found += [f"before resuming, {bad}" for bad in verify(Cache.open(uri), lambda n=1, note="": None)["bad"]]
        return found

    def damage(self, uri: str) -> list[str]:
        """How a finished cache differs from the undisturbed one."""
        storage = Storage(uri)
        files = {key: storage.get(key) for key in storage.objects()}
        found = [
            f"{key} differs"
            for key in sorted(files.keys() | self.expected)
            if files.get(key) != self.expected.get(key)
        ]
        ids = Counter(entry.id for entry in Cache.open(uri).entries)
        wanted = {utterance.id for utterance in Manifest.read(self.corpus).utterances()}
        found += [f"utterances twice, missing or unknown: {len(ids)}"] * (ids != Counter(wanted))
        return found


def wait_for_workers(dask: Running) -> None:
    """Wait until both workers are there (again): a nanny gives up if its worker is killed while it starts."""
    with cluster.connect(dask.address(), LANES) as connected:
        connected.client.wait_for_workers(2, timeout=120)


def exists(uri: str, key: str) -> bool:
    return (Path(uri) / key).exists() if "://" not in uri else key in Storage(uri).objects()


def receipts(uri: str) -> int:
    if "://" not in uri:
        return test_cluster.receipts(Path(uri))
    return len(Storage(uri).objects("receipts"))


@pytest.fixture
def start_dask(tmp_path: Path, bucket: str) -> Iterator[Callable[[], Running]]:
    """Each call ends the current scheduler and workers, and starts new ones."""
    started: list[Running] = []

    def end() -> None:
        while started:
            started.pop().end()

    def start() -> Running:
        end()
        folder = tmp_path / f"dask-{time.monotonic_ns()}"
        folder.mkdir()
        started.append(test_cluster.start_dask(folder))
        wait_for_workers(started[0])
        return started[0]

    yield start
    end()


def test_kills(
    nursery: Nursery, bucket: str, start_dask: Callable[[], Running], tiny_teacher: Path, corpus: Path,
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    seed, kills = int(os.environ.get("SEED", random.randrange(10**6))), int(os.environ.get("KILLS", "25"))
    rng, began = random.Random(seed), time.monotonic()
    extracted(tiny_teacher, corpus, tmp_path / "expected", pack_frames=PACK_FRAMES)
    expected = contents(tmp_path / "expected")
    print(f"\nseed {seed}: {kills} kills; the undisturbed cache has {len(expected)} objects")
    cells = [(kind, where) for kind in KINDS for where in ("disk", "s3")]
    plan = [cells[n % len(cells)] for n in range(kills)]
    rng.shuffle(plan)
    campaign = Campaign(nursery, tiny_teacher, corpus, expected, start_dask, rng)
    for number, (kind, where) in enumerate(plan, 1):
        campaign.kill(number, kind, str(tmp_path / f"c{number}") if where == "disk" else f"{bucket}/c{number}")
    kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(kind for kind, _ in plan).items())
    places = ", ".join(f"{n} {where}" for where, n in Counter(where for _, where in plan).items())
    stderr = (tmp_path_factory.getbasetemp() / "nursery0/stderr").read_text(errors="replace")
    campaign.failures += ["a command ended with a traceback"] * ("Traceback" in stderr)
    print(f"{kills} kills ({kinds}; {places}) in {time.monotonic() - began:.0f} s: {len(campaign.failures)} failures")
    assert not campaign.failures, "\n".join(campaign.failures)
