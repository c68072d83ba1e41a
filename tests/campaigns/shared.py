"""`make shared`: eight trainings at once on one `--local`; two are killed at random moments, one of them is resumed.

All that finish have, byte for byte, the student of a training that ran alone; together they fetched at most 1.02
times what it fetched; and the local folder has what the training alone left in its own, and nothing else. It prints
one line per round; `SEED=… ROUNDS=… make shared` repeats a campaign.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import test_extract
from conftest import contents, extracted, free_port
from test_train import COMMAND, SHORT

from gdist.data_manifests import demo_folder
from gdist.pipeline.manifest.table import Manifest

bucket = test_extract.bucket
RUNS, KILLED = 8, 2
PACK_FRAMES, UTTERANCES = 128, 300  # each utterance fills a pack: what a kill loses must be little of the whole
STEPS = 80  # two epochs and more: a window of eight such packs is one batch
FETCHED = 1.02  # bytes of all runs, over those of one alone


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, bucket: str) -> str:
    """A cache of 300 packs in a bucket, each of five shards of some kilobytes."""
    demo = Manifest.read(demo_folder() / "demo.parquet")
    short = [row for row in demo.table.to_pylist() if row["num_samples"] * 50 < 126 * row["sample_rate"]]
    out = tmp_path_factory.mktemp("corpus") / "m.parquet"
    Manifest(pa.Table.from_pylist(short[:UTTERANCES], schema=demo.table.schema), demo.root).write(out)
    extracted(tiny_teacher, out, f"{bucket}/shared", pack_frames=PACK_FRAMES)
    return f"{bucket}/shared"


class Counter:
    """A proxy in front of the server (tests/pipeline/storage/flaky.py), which counts and takes its time."""

    def __init__(self, log: Path, delay: float) -> None:
        port, server = free_port(), os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2]
        proxy = Path(test_extract.__file__).parents[2] / "pipeline" / "storage" / "flaky.py"
        self.endpoint, self.delay, self.log = f"http://127.0.0.1:{port}", delay, log.open("wb")
        self.process = subprocess.Popen([sys.executable, str(proxy), str(port), server], stderr=self.log)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.begin()
                break
            except OSError:
                assert time.monotonic() < deadline and self.process.poll() is None, "the proxy does not start"
                time.sleep(0.05)

    def begin(self) -> None:
        """Count from now on."""
        rules = json.dumps([{"delay": self.delay, "method": "GET"}]).encode()
        urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/-/rules", rules), timeout=5).close()

    def shards(self) -> tuple[int, int]:
        """Return the requests for shards, and the bytes of the answers."""
        with urllib.request.urlopen(f"{self.endpoint}/-/log", timeout=30) as answer:
            seen: list[dict[str, Any]] = json.load(answer)["log"]
        sizes = [row["down"] for row in seen if row["method"] == "GET" and "/c/" in row["path"]]
        return len(sizes), sum(sizes)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory, cache: str) -> Iterator[Counter]:
    counter = Counter(tmp_path_factory.mktemp("counter") / "log", 0.02)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", counter.endpoint)
        environment.setenv("OMP_NUM_THREADS", "1")
        yield counter
    counter.stop()


def started(cache: str, out: Path, near: Path, seed: int) -> "subprocess.Popen[str]":
    often = {"train.log_every": 20, "train.validate_every": 40, "train.checkpoint_every": 20}
    settings = SHORT | often | {"train.steps": STEPS, "train.batch_seconds": 16.0, "train.seed": seed}
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    command = [*COMMAND, "train", "--cache", cache, "--out", str(out), "--local", str(near), *flags]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def ended(process: "subprocess.Popen[str]") -> str:
    """What went wrong with a training; nothing if all is well."""
    _, words = process.communicate(timeout=300)
    return "" if process.returncode == 0 else f"exit {process.returncode}: {words[-500:]}"


@dataclass
class Round:
    """Eight trainings on a new folder, of two orders of the data, and what a training alone does."""

    cache: str
    counter: Counter
    folder: Path
    random: random.Random
    alone: dict[int, dict[str, bytes]]  # seed → the student's files
    kept: set[str]
    fetched: int
    found: list[str] = field(default_factory=list)

    def run(self) -> str:
        """Returns a line about it; what is wrong is in ``found``."""
        near = self.folder / "near"
        self.counter.begin()
        outs = {self.folder / str(number): number % len(self.alone) for number in range(RUNS)}
        processes = {out: started(self.cache, out, near, seed) for out, seed in outs.items()}
        dead = self.random.sample(list(outs), KILLED)
        while not any(near.rglob("*")) and processes[dead[0]].poll() is None:
            time.sleep(0.005)
        moments = []
        for out in dead:
            moments.append(self.random.uniform(0, 3))
            time.sleep(moments[-1])
            processes[out].send_signal(signal.SIGKILL)
            processes[out].wait()
        again = dead[0]
        processes[again].communicate()
        processes[again] = started(self.cache, again, near, outs[again])
        for out, process in processes.items():
            if wrong := "" if out == dead[1] else ended(process):
                self.found.append(f"{out.name}: {wrong}")
            elif out != dead[1] and contents(out / "student") != self.alone[outs[out]]:
                self.found.append(f"{out.name}: another student than that of a training alone")
        processes[dead[1]].communicate()
        requests, size = self.counter.shards()
        if size > FETCHED * self.fetched:
            self.found.append(f"{size / self.fetched:.3f} times the bytes of one alone")
        if left := {str(path.relative_to(near)) for path in near.rglob("*")} ^ self.kept:
            self.found.append(f"left behind, or not there: {sorted(left)[:5]}")
        when = ", ".join(f"{moment:.2f} s" for moment in moments)
        return f"killed after {when}  {requests} GETs  {size / self.fetched:.3f} × the bytes of one"


def test_eight_at_once(cache: str, counter: Counter, tmp_path: Path) -> None:
    seed, rounds = int(os.environ.get("SEED", random.randrange(10**6))), int(os.environ.get("ROUNDS", "2"))
    rng, began, alone, kept, fetched = random.Random(seed), time.monotonic(), {}, [], []
    for order in (0, 1):
        counter.begin()
        near = tmp_path / f"near-{order}"
        assert ended(started(cache, tmp_path / f"alone-{order}", near, order)) == ""
        alone[order] = contents(tmp_path / f"alone-{order}" / "student")
        kept.append({str(path.relative_to(near)) for path in near.rglob("*")})
        fetched.append(counter.shards()[1])
    assert alone[0] != alone[1] and kept[0] == kept[1]
    print(f"\nseed {seed}: {rounds} rounds; one training alone fetches {fetched[0] / 1e6:.2f} MB")
    failures = []
    for number in range(rounds):
        folder = tmp_path / f"round-{number}"
        folder.mkdir()
        each = Round(cache, counter, folder, rng, alone, kept[0], min(fetched))
        print(f"{number + 1:3d}  {each.run()}: {'; '.join(each.found) or 'all as alone'}", flush=True)
        failures += each.found
    print(f"{rounds} rounds in {time.monotonic() - began:.0f} s: {len(failures)} failures")
    assert not failures, "\n".join(failures)
