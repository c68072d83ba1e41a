"""A small sweep, and what is asked of it, shared by the tests of this folder."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from click.testing import Result

Gdist = Callable[..., Result]

LEAST = """
seeds = [0, 1]
[set]
"train.steps" = 4
"train.warmup_steps" = 1
"train.batch_seconds" = 2.0
"train.validate_every" = 4
"train.validate_seconds" = 2.0
"train.checkpoint_every" = 2
"student.dropout" = 0.0
[grid]
"student.history" = ["student", "teacher"]
"""


def run(gdist: Gdist, file: Path, cache: Path, out: Path, *options: object) -> dict[str, Any]:
    result = gdist("sweep", file, "--cache", cache, "--out", out, "--json", *options)
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def counts(found: dict[str, Any]) -> tuple[int, int, int, int, int]:
    return found["points"], found["done"], found["ran"], found["failed"], found["left"]


def weights(found: dict[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
    """The finished students, by what identifies their points."""
    return {
        row["signature"]: safetensors.torch.load_file(Path(row["run"]) / "student/model.safetensors")
        for row in found["table"]
        if row["state"] == "done"
    }


def start(file: Path, cache: Path, out: Path, *options: object) -> subprocess.Popen[bytes]:
    """A sweep in a process of its own."""
    line = ["sweep", file, "--cache", cache, "--out", out, *options]
    return subprocess.Popen(
        [sys.executable, "-c", "from gdist.stages.cli import main; main()", *map(str, line)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def same_weights(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two sweeps have the same finished students, bit for bit."""
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[identity][name])
        for identity, tensors in first.items()
        for name, tensor in tensors.items()
    )
