"""Training in several processes started by torchrun: they train the same student as a single process."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import safetensors.torch
import torch
from conftest import contents, free_port
from ranked import torchrun
from test_train import SHORT, wait_for_step

from gdist.pipeline.run import Run
from gdist.stages.train.config import TrainConfig, load_config
from gdist.stages.train.train import train

STEPS = SHORT | {"train.steps": 14, "train.log_every": 1, "train.validate_every": 7}
# Forcing, sampled layers and several batches per step: some batches of a step, and some ranks, use only some
# parameters.
MANY_PARTS = {
    "student.history": "mixed",
    "student.adapter_rank": 2,
    "train.layers_per_step": 2,
    "train.accumulate": 2,
    "train.forcing_steps": 5,
    "train.ema_decay": 0.9,
}


LEAVING = """
import time
import torch
import torch.distributed as dist
from gdist.stages.train.ranks import join

class Slow:  # the interpreter's end takes two seconds
    def __del__(self, sleep=time.sleep):
        sleep(2)

slow = Slow()
with join("cpu", 60) as ranks:
    time.sleep(ranks.rank)
    values = torch.zeros(3)
    dist.all_reduce(values, async_op=True)
"""


def config(settings: dict[str, Any]) -> TrainConfig:
    return load_config(None, None, tuple(f"{name}={json.dumps(value)}" for name, value in settings.items()))


def finish(process: subprocess.Popen[str], code: int | None = 0) -> str:
    _, stderr = process.communicate(timeout=120)
    assert code is None or process.returncode == code, stderr
    return stderr


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = safetensors.torch.load_file(folder / "model.safetensors")
    return weights


@pytest.mark.thorough
def test_interrupted_anywhere_and_resumed_in_two_ranks(tiny_cache: Path, tmp_path: Path) -> None:
    """A rank is killed, then Ctrl-C reaches all ranks: the weights equal an uninterrupted run's, bit for bit."""
    settings = STEPS | MANY_PARTS | {"train.steps": 18}
    whole = torchrun(2, tiny_cache, tmp_path / "whole", settings)
    out = tmp_path / "killed"
    killed = torchrun(2, tiny_cache, out, settings)
    wait_for_step(out, 4, killed)
    ranks = [p for p in psutil.Process(killed.pid).children() if "gdist.stages.cli" in " ".join(p.cmdline())]
    assert len(ranks) == 2
    ranks[1].kill()
    stderr = finish(killed, None)
    assert (
        killed.returncode != 0
        and "rank 0 lost another rank" in stderr
        and "Traceback" not in stderr.split("torch/")[0]
    )
    finish(whole)

    stopped = torchrun(2, tiny_cache, out, settings)
    wait_for_step(out, 8, stopped)
    stopped.send_signal(signal.SIGINT)
    stderr = finish(stopped, None)
    assert "stopping after this step" in stderr
    last = Run(out).steps()[-1]
    assert 8 <= last < 18
    assert f"resuming {out} after step {last}" in finish(torchrun(2, tiny_cache, out, settings))
    assert contents(tmp_path / "whole" / "student") == contents(out / "student")
    finals = [contents(tmp_path / name / "checkpoints" / "step-0000018") for name in ("whole", "killed")]
    for name in ("model", "optimizer", "average"):
        assert finals[0][f"{name}.safetensors"] == finals[1][f"{name}.safetensors"]


def test_a_loss_that_is_not_finite_on_one_rank_stops_both(tiny_cache: Path, tmp_path: Path) -> None:
    wild = STEPS | {"train.lr": 1e30, "train.clip_norm": 1e30, "train.warmup_steps": 0}
    stderr = finish(torchrun(2, tiny_cache, tmp_path / "wild", wild), 1)
    assert stderr.count("error: the loss at step") == 2 and (
        "utterances: digit-" in stderr or "utterances: prompt-" in stderr
    )


def test_the_loss_of_two_ranks_is_that_of_one(tiny_cache: Path, tmp_path: Path) -> None:
    """Also where a rank has no row, and where one rank finishes a run that two began."""
    settings = STEPS | MANY_PARTS | {"student.dropout": 0.0, "train.keep_every": 3}
    two = torchrun(2, tiny_cache, tmp_path / "two", settings, "--json")
    train(str(tiny_cache), tmp_path / "one", config(settings), show_progress=False)
    out, stderr = two.communicate(timeout=120)
    assert two.returncode == 0, stderr
    assert json.loads(out)["steps"] == 14, "only one rank writes the result"

    other = tmp_path / "other"
    shutil.copytree(tmp_path / "two", other)
    shutil.rmtree(other / "student")
    for step in Run(other).steps():
        if step > 6:
            shutil.rmtree(other / "checkpoints" / f"step-{step:07d}")
    train(str(tiny_cache), other, config(settings), show_progress=False)

    rows = [Run(tmp_path / name).read_metrics() for name in ("one", "two", "other")]
    assert len(rows[0]) == len(rows[1]) == len(rows[2]) == 16
    for one, *others in zip(*rows, strict=True):
        for row in others:
            assert (row["kind"], row["step"]) == (one["kind"], one["step"])
            # The first step differs only by rounding. Adam divides each gradient by its own size, also gradients
            # that are only rounding errors: from there on, weights differ by a small part of the learning rate.
            within = 2e-6 if one["step"] == 1 else 1e-3
            for name in {"loss", "cosine", "grad_norm", "audio_seconds"} & set(one):
                assert row[name] == pytest.approx(one[name], rel=within), (row["step"], name)
    weights = [tensors(tmp_path / name / "student") for name in ("one", "two", "other")]
    for name, one_weight in weights[0].items():
        for weight in weights[1:]:
            torch.testing.assert_close(weight[name], one_weight, atol=5e-4, rtol=1e-3)


def test_no_thread_of_gloo_outlives_the_process_group() -> None:
    """A thread that frees a tensor needs the interpreter's lock. Once the interpreter ends, that would be an abort:
    exit code 134, and "terminate called without an active exception". `make ranks` is the campaign."""
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", LEAVING],
            env=os.environ | where | {"RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        assert finish(rank) == ""
