"""`make ranks`: small trainings of 4 ranks and of 2 in turn, each over one utterance, to their end.

Each rank must exit with 0 and say nothing that is not gdist's, and each run must have the student of the others with
as many ranks. Every tenth run is torchrun's. For the others, what torchrun does is done without its seconds of
imports: each rank is forked from a process that has imported everything, with the variables that torchrun sets, and
ends as any process does. It prints one line per ten runs; `RUNS=… make ranks` sets how many there are.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import contents, extracted, free_port
from ranked import torchrun
from test_train import SHORT

from gdist.data_manifests import demo_folder
from gdist.pipeline.manifest.table import Manifest

SETTINGS = SHORT | {"train.steps": 3, "train.warmup_steps": 1, "train.log_every": 1}
RANKS, TORCHRUN = (4, 2), 10  # every tenth is torchrun's

FORKING = """
import gc, json, os, sys
import pandas, torch.distributed, torch.utils.tensorboard
import gdist.stages.students, gdist.stages.train.losses, gdist.stages.train.train
from gdist.stages.cli import main

gc.freeze()
for line in sys.stdin:
    arguments, variables, log = json.loads(line)
    children = []
    for rank in range(int(variables["WORLD_SIZE"])):
        child = os.fork()
        if not child:
            os.environ.update(variables, RANK=str(rank), LOCAL_RANK=str(rank))
            words = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for stream in (1, 2):
                os.dup2(words, stream)
            sys.argv[1:] = arguments
            main()
        children.append(child)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path) -> Path:
    """One short utterance to train on, and one to validate."""
    demo = Manifest.read(demo_folder() / "demo.parquet")
    spoken = [row for row in demo.table.to_pylist() if row["digit"] is not None]
    rows = [next(row for row in spoken if row["split"] == split) for split in ("train", "valid")]
    folder = tmp_path_factory.mktemp("one")
    Manifest(pa.Table.from_pylist(rows, schema=demo.table.schema), demo.root).write(folder / "m.parquet")
    extracted(tiny_teacher, folder / "m.parquet", folder / "cache")
    return folder / "cache"


class Starter:
    """Starts runs, each of whose ranks is a process of its own, and says how they ended."""

    def __init__(self) -> None:
        variables = {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
        command = [sys.executable, "-W", "ignore", "-c", FORKING]  # it warns of the allocator's thread
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | variables
        )

    def run(self, ranks: int, cache: Path, out: Path) -> tuple[list[int], str]:
        flags = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
        variables = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        log = out.with_name(f"{out.name}.log")
        asked = ["train", "--cache", str(cache), "--out", str(out), *flags], variables, str(log)
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline()), log.read_text()

    def stop(self) -> None:
        self.process.communicate(timeout=60)


@pytest.fixture
def starter() -> Iterator[Starter]:
    starter = Starter()
    yield starter
    starter.stop()


def by_torchrun(ranks: int, cache: Path, out: Path) -> tuple[list[int], str]:
    process = torchrun(ranks, cache, out, SETTINGS)
    _, words = process.communicate(timeout=600)
    return [process.returncode], words


def wrong(codes: list[int], words: str, out: Path) -> str:
    """What is wrong with one run; nothing if all is well."""
    known = ("train ", f"{out}: ", "  next: ", "*", "Setting OMP_NUM_THREADS")
    strange = [line for line in words.splitlines() if line and not line.startswith(known)]
    if any(codes):
        return f"exit {sorted(codes)} {next((line for line in strange if 'terminate' in line), '')}".strip()
    return f"says {strange[0]}" if strange else ""


def test_every_rank_ends_well(cache: Path, tmp_path: Path, starter: Starter) -> None:
    runs, began, found = int(os.environ.get("RUNS", "20")), time.monotonic(), Counter[str]()
    students: dict[int, dict[str, bytes]] = {}
    print(f"\n{runs} runs, of {' and '.join(map(str, RANKS))} ranks in turn; {-(-runs // TORCHRUN)} by torchrun")
    for number in range(runs):
        ranks, out = RANKS[number // TORCHRUN % 2 - number % 2], tmp_path / f"run-{number}"
        start = by_torchrun if number % TORCHRUN == 0 else starter.run
        what = wrong(*start(ranks, cache, out), out)
        if not what and contents(out / "student") != students.setdefault(ranks, contents(out / "student")):
            what = "another student than the first run's"
        if what:
            found[f"{start.__name__}, {ranks} ranks: {what}"] += 1
        if (number + 1) % 10 == 0 or number + 1 == runs:
            print(f"{number + 1:4d} runs, {found.total()} of them wrong", flush=True)
    print(f"{runs} runs in {time.monotonic() - began:.0f} s: {found.total()} failures")
    assert not found, "\n".join(f"{count} × {what}" for what, count in found.most_common())
