"""Real trainings, each `gdist train` in a process of its own: what they wait for, and what several of them fetch."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bucket_steps.passes import Passes
from bucket_steps.setting import Say, Setting
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.loading import loader
from gdist.pipeline.run import Run

GDIST = [sys.executable, "-c", "from gdist.stages.cli import main; main()"]
STUDENT = f"{Path(__file__).with_name('paced.py')}:Paced"

PACE = 0.8


def started(
    setting: Setting,
    uri: str,
    out: Path,
    steps: int,
    batch_seconds: float,
    pace: float,
    near: Path | None,
    seed: int = 0,
) -> subprocess.Popen[bytes]:
    """Start a training of some steps with one checkpoint at the end."""
    settings = {
        "train.steps": steps, "train.batch_seconds": batch_seconds, "train.seed": seed, "train.device": "cpu",
        "train.warmup_steps": 1, "train.log_every": 1, "train.validate_every": steps, "train.checkpoint_every": steps,
        "train.validate_seconds": 1, "student.frontend": "frozen", "student.pace": pace,
        "student.predict_layers": json.dumps([layer for layer in layers_of(setting, uri) if layer]),
        "data.crop_seconds": 0, "data.valid_fraction": 0.0001,
    }  # fmt: skip
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    local = ["--local", str(near)] if near else []
    command = [*GDIST, "train", "--cache", uri, "--out", str(out), "--student", STUDENT, *flags, *local]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def layers_of(setting: Setting, uri: str) -> list[int]:
    return Cache.open(str(setting.folder(uri.rstrip("/").rpartition("/")[2]))).layers


def finish(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait for trainings; the benchmark ends with the words of the first that failed."""
    for process in processes:
        _, words = process.communicate()
        if process.returncode:
            raise SystemExit(f"error: a training ended with exit code {process.returncode}\n{words.decode()[-2000:]}")


def waits(out: Path) -> tuple[float, float]:
    """The share of a training's time that it waited for data: of all steps, and of those after the first."""
    rows = [row for row in Run(out).read_metrics() if row["kind"] == "train"]

    def share(some: list[dict[str, float]]) -> float:
        waited = sum(row["data_wait_fraction"] * row["step_seconds"] for row in some)
        return waited / sum(row["step_seconds"] for row in some)

    return share(rows), share(rows[1:])


def data_wait(setting: Setting, say: Say) -> None:
    """An epoch at 0.8 of the pace at which the loader reads the cache from this machine's disk."""
    loader.RESIDENT_BYTES = 0
    folder = setting.folder("int8")
    passes = Passes(Cache.open(str(folder)), setting.options.batch_seconds, epochs=2)
    steps = len(passes.loader.epoch_batches(0))
    passes.epoch()  # warm up
    pace = PACE * passes.audio_seconds / passes.epoch()
    passes.close()
    with setting.new_folder() as near, setting.new_folder() as runs:
        ways: dict[str, tuple[str, Path | None]] = {
            "plain disk": (str(folder), None),
            "streamed": (setting.uri("int8"), None),
            "--local, first": (setting.uri("int8"), near),
            "--local, second": (setting.uri("int8"), near),
        }
        for way, (uri, local) in ways.items():
            setting.line()
            out = runs / way.replace(" ", "-")
            finish([started(setting, uri, out, steps, setting.options.batch_seconds, pace, local)])
            whole, later = waits(out)
            say(f"data_wait {way}", whole)
            say(f"data_wait {way}, after the first step", later)


def eight(setting: Setting, say: Say) -> None:
    """Eight trainings that start at once, of different seeds, on one folder; and one alone."""
    uri, batch_seconds = setting.uri("two"), 120.0
    cache = Cache.open(str(setting.folder("two")))
    audio = cache.entries.numbers("num_frames").sum() / cache.framing.frames_per_second
    steps = int(audio / batch_seconds * 1.1) + 1  # an epoch and a little of the next, padding included
    fetched = []
    for count in (1, 8):
        with setting.new_folder() as near, setting.new_folder() as runs:
            setting.line()
            seeds = {seed: runs / str(seed) for seed in range(count)}
            finish([started(setting, uri, out, steps, batch_seconds, 1e9, near, seed) for seed, out in seeds.items()])
            fetched.append(setting.bucket.traffic())
    say("eight_runs_bytes_of_one", fetched[1].bytes / fetched[0].bytes)
    say("eight_runs_gets_of_one", fetched[1].gets / fetched[0].gets)
    say("eight_runs_requests_besides_of_one", fetched[1].others / fetched[0].others)
