"""A small sweep, and what is asked of it, shared by the tests of this folder."""

import contextlib
import json
import os
import signal
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from click.testing import Result

from gdist.stages.sweep.jobs import begin, server
from gdist.stages.sweep.points import Point, Points
from gdist.stages.sweep.spec import read_spec

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
    assert result.exit_code == 0, f"{result.stderr}\n{result.stdout}\n{result.exception!r}"
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def points_in(file: Path, cache: Path) -> list[Point]:
    """The points of a file without a search."""
    points = Points(read_spec(file), {"": str(cache)}, file.parent)
    return [point for combination in points.combinations() for point in points.of(*combination)]


def counts(found: dict[str, Any]) -> tuple[int, int, int, int, int]:
    return found["points"], found["done"], found["ran"], found["failed"], found["left"]


def weights(found: dict[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
    """The finished students, by what identifies their points."""
    return {
        row["signature"]: safetensors.torch.load_file(Path(row["run"]) / "student/model.safetensors")
        for row in found["table"]
        if row["state"] == "done"
    }


def start(file: Path, cache: Path, out: Path, *options: object) -> ForkServerProcess:
    """A sweep in a process of its own. It is forked from the server that sweeps have, so that it begins at once."""
    process = server().Process(target=_sweep, args=([str(part) for part in (file, cache, out, *options)],))
    begin(process)
    return process


def _sweep(arguments: list[str]) -> None:
    from gdist.stages.cli import main

    # The processes of this sweep come from the same server too: another one would import everything again.
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    torch.set_num_threads(1)
    file, cache, out, *options = arguments
    main(["sweep", file, "--cache", cache, "--out", out, *options])


def send(process: ForkServerProcess, number: int) -> int | None:
    """Send a signal, and wait for the end. Returns the exit code."""
    with contextlib.suppress(ProcessLookupError):  # it may have ended in this moment
        os.kill(process.pid or 0, number)
    process.join(120)
    # A client that is killed while it asks the server for a process takes the server along (EOFError in its loop),
    # which then cannot tell how it ended. A sweep of users has a server of its own.
    lost = process.exitcode == 255 and number == signal.SIGKILL
    return -number if lost else process.exitcode


def same_weights(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two sweeps have the same finished students, bit for bit."""
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[identity][name])
        for identity, tensors in first.items()
        for name, tensor in tensors.items()
    )
