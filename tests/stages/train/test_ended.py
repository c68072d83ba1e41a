"""SIGTERM, wherever a training is: it ends within seconds, with exit code 130 and the last whole step."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import contents
from test_train import SHORT, curves, run, short

from gdist.pipeline.run import Run

FIELDS: dict[str, Any] = {"train__accumulate": 3, "train__log_every": 1, "train__ema_decay": 0.9}
SECONDS = 20.0  # of a machine that does other things; the promise is 30
HELD = """
import importlib, sys, time
from pathlib import Path
from typing import Any
from gdist.stages.cli import main

where, times, marker = sys.argv.pop(1), int(sys.argv.pop(1)), Path(sys.argv.pop(1))
module, _, name = where.partition(":")
owner = importlib.import_module(module)
*path, name = name.split(".")
for part in path:
    owner = getattr(owner, part)
original, calls = getattr(owner, name), 0

def held(*given, **named):
    global calls
    calls += 1
    if calls == times:
        marker.touch()
        time.sleep(1.5 if name == "backward" else 600)
    return original(*given, **named)

setattr(owner, name, held)
main()
"""


@pytest.mark.parametrize(
    ("where", "times", "kept"),
    [
        pytest.param("gdist.stages.train.train:open_caches", 1, [], marks=pytest.mark.thorough),
        ("gdist.stages.train.validation:Validation.add", 2, [3, 4]),  # after step 4
        # the second of the three batches of step 5
        pytest.param("torch.autograd:backward", 14, [3, 4], marks=pytest.mark.thorough),
        ("gdist.pipeline.loading.loader:Loader._read_then", 20, [3, 5]),
        ("gdist.pipeline.loading.loader:Loader._read_then", -20, []),  # in a step before, while a reader waits
    ],
)
def test_it_ends_within_seconds(tiny_cache: Path, tmp_path: Path, where: str, times: int, kept: list[int]) -> None:
    settings = SHORT | {name.replace("__", "."): value for name, value in FIELDS.items()}
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    out, marker = tmp_path / "run", tmp_path / "there"
    command = [sys.executable, "-c", HELD, where, str(abs(times)), str(marker), "train", "--cache", str(tiny_cache)]
    process = subprocess.Popen([*command, "--out", str(out), *flags], stderr=subprocess.PIPE, text=True)
    while not marker.exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.5 if times > 0 else 0)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, words = process.communicate(timeout=120)
    assert process.returncode == 130 and time.monotonic() - began < SECONDS, words
    assert "run the same command again" in words and "Traceback" not in words
    assert Run(out).steps()[-1:] == kept[-1:] or times < 0, words
    config = short(**FIELDS)
    run(tiny_cache, tmp_path / "whole", config)
    run(tiny_cache, out, config)
    assert contents(out / "student") == contents(tmp_path / "whole" / "student")
    told, whole = ([(row["kind"], row["step"]) for row in curves(each)] for each in (out, tmp_path / "whole"))
    assert told == whole, "a validation that was ended is made up for"


def test_the_validation_of_the_last_step_is_made_up_for(tiny_cache: Path, tmp_path: Path) -> None:
    """It was ended in it: the checkpoint is there, and neither the row nor the student."""
    run(tiny_cache, tmp_path / "run", short())
    ended = Run(tmp_path / "run")
    rows = ended.read_metrics()
    assert (rows[-1]["kind"], rows[-1]["step"]) == ("valid", 9)
    ended.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))
    shutil.rmtree(ended.student)
    run(tiny_cache, tmp_path / "run", short())
    again = ended.read_metrics()[-1]
    assert ended.is_finished and again["kind"] == "valid" and again["cosine"] == rows[-1]["cosine"]
