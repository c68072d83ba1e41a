"""What a run says and keeps when its device fails it, and what it asks of a GPU.

The failures are made here; the steps are real.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from click.testing import Result
from conftest import contents
from ranked import torchrun
from test_train import SHORT, run, short, wait_for_step

from gdist.pipeline.errors import DeviceMemoryError
from gdist.pipeline.run import Run
from gdist.stages.device import enough_memory
from gdist.stages.train.learner import Learner
from gdist.stages.train.repeatable import UNTYPED, repeatable

FULL = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has 1.2 GiB free.\nSee the documentation."


@pytest.mark.parametrize(
    "full", [torch.OutOfMemoryError(FULL), RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()]
)
def test_memory_that_is_full_names_what_takes_less(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gdist: Callable[..., Result], full: Exception
) -> None:
    """It happens in the backward pass of a step. The checkpoints are kept, and the run continues to the same bits."""
    original, steps = torch.autograd.backward, []

    def backward(*args: Any, **rest: Any) -> None:
        steps.append(0)
        if len(steps) == 5:
            raise full
        original(*args, **rest)

    monkeypatch.setattr(torch.autograd, "backward", backward)
    flags = [part for name, value in SHORT.items() for part in ("--set", f"{name}={value}")]
    command = ["train", "--cache", tiny_cache, "--out", tmp_path / "run", *flags]
    result = gdist(*command)
    assert result.exit_code == 1
    words = " ".join(result.stderr.split())
    assert f"error: training {tmp_path / 'run'} on batches of 8 s of audio: the memory of cpu is full: " in words
    assert (str(full).splitlines() or ["no memory is left"])[0] in words and "Traceback" not in words
    assert "--set train.batch_seconds=4 --set train.accumulate=2, or --set train.precision=bf16, or " in words
    assert Run(tmp_path / "run").steps() == [3]
    assert gdist(*command).exit_code == 0
    run(tiny_cache, tmp_path / "whole", short())
    assert contents(tmp_path / "run" / "student") == contents(tmp_path / "whole" / "student")


def test_the_peak_of_a_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Card:
        total_memory = 80_000_000_000

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 79_100_000_000)
    with pytest.raises(DeviceMemoryError) as caught, enough_memory("a step", torch.device("cuda:1"), "less"):
        raise torch.OutOfMemoryError(FULL)
    assert caught.value.message == (
        f"a step: the memory of cuda:1 is full: the peak was 79.1 GB of 80.0 GB; {FULL.splitlines()[0]}"
    )
    assert (caught.value.hint, caught.value.exit_code) == ("less", 1)
    with pytest.raises(RuntimeError, match="another"), enough_memory("a step", torch.device("cpu"), "less"):
        raise RuntimeError("another")


def test_the_remedies_leave_out_what_is_already_set() -> None:
    assert short(train__precision="bf16", train__layers_per_step=1, student__frontend="frozen").smaller == (
        "another --out with --set train.batch_seconds=4 --set train.accumulate=2; the last checkpoint is kept"
    )


def flags() -> list[bool]:
    return [
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.deterministic,
        UNTYPED.backends.cuda.cudnn_sdp_enabled(),
    ]


def test_a_deterministic_mode_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is set for the block alone, and only for a GPU: on a CPU nothing may change."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = flags()
    with repeatable(True, torch.device("cpu")), repeatable(False, torch.device("cuda")):
        assert flags() == before and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with pytest.raises(KeyError), repeatable(True, torch.device("cuda")):
        assert flags() == [True, True, False] and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert not UNTYPED.utils.deterministic.fill_uninitialized_memory
        raise KeyError
    assert flags() == before
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


def test_the_mode_may_be_set_for_a_run_that_has_begun(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like the device, it is no part of what a run is."""
    with monkeypatch.context() as patch, pytest.raises(DeviceMemoryError):
        patch.setattr(Learner, "begin", lambda *args: (_ for _ in ()).throw(MemoryError()))
        run(tiny_cache, tmp_path / "run", short())
    run(tiny_cache, tmp_path / "run", short(train__deterministic=True, train__peer_timeout=5))


@pytest.mark.thorough
def test_a_rank_that_stops_answering_ends_the_others_in_time(tiny_cache: Path, tmp_path: Path) -> None:
    """Its process is there and its connections are open, so only the time-out can tell."""
    settings = SHORT | {"train.steps": 100_000, "train.log_every": 1, "train.peer_timeout": 5}
    process = torchrun(2, tiny_cache, tmp_path / "run", settings)
    ranks: list[psutil.Process] = []
    try:
        wait_for_step(tmp_path / "run", 2, process)
        ranks = [p for p in psutil.Process(process.pid).children() if "gdist.stages.cli" in " ".join(p.cmdline())]
        first, second = sorted(ranks, key=lambda rank: int(rank.environ()["RANK"]))
        second.suspend()
        began = time.monotonic()
        psutil.wait_procs([first], timeout=60)
        assert not first.is_running() or first.status() == psutil.STATUS_ZOMBIE
        assert time.monotonic() - began < 45  # five seconds to notice, and what a busy machine needs to leave
    finally:
        for rank in ranks:
            if rank.is_running():
                rank.kill()
        _, stderr = process.communicate(timeout=120)
    assert process.returncode != 0 and "rank 0 lost another rank" in stderr
