"""The commands that faults are done to: what each needs, what is typed, and what must come out of it."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import contents
from fuzzing import artefacts

from faulting.nursery import Nursery

SETTINGS = {
    "train.steps": 6, "train.warmup_steps": 2, "train.batch_seconds": 4.0, "train.validate_every": 3,
    "train.validate_seconds": 2.0, "train.checkpoint_every": 2, "train.log_every": 1, "train.ema_decay": 0.9,
    "student.dropout": 0.0,
}  # fmt: skip
SWEEP = """
seeds = [0, 1]
[set]
"train.steps" = 3
"train.warmup_steps" = 1
"train.batch_seconds" = 4.0
"train.validate_every" = 3
"train.validate_seconds" = 2.0
"train.checkpoint_every" = 1
"student.dropout" = 0.0
"""
Results = Mapping[str, Any]


@dataclass(frozen=True)
class Made:
    """What all phases begin with, made once and only read.

    Attributes:
        cache: finished; ``run`` was trained from it, ``sweep`` is its file.
    """

    teacher: Path
    manifest: Path
    cache: Path
    run: Path
    sweep: Path


@dataclass(frozen=True)
class Phase:
    """A command.

    Attributes:
        prepare: puts into the folder what the command works on; None for nothing.
        line: what is typed, given what was made, the place of the cache and the folder.
        results: what must come out, from the folder: the same whatever happened on the way.
        loose: names below the folder that an undisturbed run need not have in the same number.
    """

    line: Callable[[Made, str, Path], list[object]]
    results: Callable[[Path], Results]
    prepare: Callable[[Made, Path], None] | None = None
    loose: str = r"$^"


def train_line(made: Made, cache: str, out: Path) -> list[object]:
    """Return what is typed to train."""
    flags = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    return ["train", "--cache", cache, "--out", out / "run", *flags]


def _spoil(made: Made, out: Path) -> None:
    """Copy the cache and take a shard, a receipt and the index away from it."""
    shutil.copytree(made.cache, out / "cache")
    receipt = out / "cache/receipts/00000.json"
    (out / "cache/layers/02/c/1/0").unlink()
    (out / "cache/index.parquet").write_bytes(b"PAR1")
    receipt.write_bytes(receipt.read_bytes()[:-9])


def _student(out: Path) -> Results:
    run = out / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    curve = {(row["step"], row["kind"]): row.get("loss", row.get("mean_cosine")) for row in rows}
    weights = {name: data for name, data in contents(run).items() if re.match(r"student/|checkpoints/.*s$", name)}
    return weights | {"config.toml": (run / "config.toml").read_bytes(), "curve": curve}


def _evaluation(out: Path) -> Results:
    found: dict[str, Any] = json.loads((out / "run/eval.json").read_text())
    return {name: found[name] for name in ("mean_cosine", "layers", "split")}


def _sweep(out: Path) -> Results:
    runs = sorted((out / "sweep/runs").glob("*/student/model.safetensors"))
    return {path.parent.parent.name: path.read_bytes() for path in runs}


def _page(out: Path) -> Results:
    return {"report": re.sub(r"\d{4}-\d\d-\d\d[ T]?[\d:]*", "DATE", (out / "report.html").read_text())}


TENSORBOARD = r"run/tensorboard/.*|sweep/runs/[^/]+/tensorboard/.*"
PHASES = {
    "extract": Phase(
        lambda made, cache, out: [
            *("extract", "--teacher", made.teacher, "--manifest", made.manifest),
            *("--cache", cache or out / "cache", "--pack-frames", 256, "--device", "cpu"),
        ],
        lambda out: contents(out / "cache"),
    ),
    "train": Phase(train_line, _student, loose=TENSORBOARD),
    "eval": Phase(
        lambda made, cache, out: ["eval", out / "run", "--probes", "none"],
        _evaluation,
        lambda made, out: shutil.copytree(made.run, out / "run") and None,
        loose=TENSORBOARD,
    ),
    "export": Phase(
        lambda made, cache, out: ["export", made.run, "--format", "hf", "--out", out / "export"],
        lambda out: contents(out / "export"),
    ),
    "report": Phase(lambda made, cache, out: ["report", made.run, "--out", out / "report.html"], _page),
    "repair": Phase(
        lambda made, cache, out: [
            *("verify", "--repair", out / "cache", "--teacher", made.teacher, "--manifest", made.manifest),
        ],
        lambda out: contents(out / "cache"),
        _spoil,
    ),
    "sweep": Phase(
        lambda made, cache, out: ["sweep", made.sweep, "--cache", made.cache, "--out", out / "sweep"],
        _sweep,
        loose=TENSORBOARD,
    ),
}


def make(folder: Path, nursery: Nursery) -> Made:
    """Make what all phases begin with."""
    artefacts_of = Made(
        artefacts.teacher(), artefacts.speech(), artefacts.cache(), folder / "made/run", folder / "made/sweep.toml"
    )
    (folder / "made").mkdir()
    artefacts_of.sweep.write_text(SWEEP)
    line = train_line(artefacts_of, str(artefacts_of.cache), folder / "made")
    for each in (line, ["eval", artefacts_of.run, "--probes", "none"]):
        code, said = nursery.run([str(word) for word in each])
        assert code == 0, said
    return artefacts_of
