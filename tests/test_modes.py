"""Every file gets the mode that the umask gives: in a group's folder the group can read it, and under a private umask
nobody else can."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

WORK = """
import os, sys
from pathlib import Path
os.umask(int(sys.argv[1], 8))
import torch
torch.set_num_threads(1)
from conftest import extracted
from test_train import run, short
from gdist.pipeline.manifest.table import Manifest
from gdist.stages.evaluate.evaluate import eval_command
from gdist.stages.export.export import export
from gdist.stages.report.page import report_command
teacher, speech, out = map(Path, sys.argv[2:])
Manifest.read(speech).write(out / "made" / "m.parquet")
extracted(teacher, out / "made" / "m.parquet", out / "cache", encoding="rvq")
run(out / "cache", out / "run", short(train__ema_decay=0.9))
run(out / "cache", out / "run", short(train__ema_decay=0.9))
eval_command([out / "run"], None, "none", False, False)
report_command([out / "run"], out / "page" / "report.html")
for name in ("hf", "hf", "s3prl", *["onnx"] * (sys.argv[1] == "2")):  # onnx takes its time
    export(out / "run", name, out / "exports" / name, {})
"""


@pytest.mark.parametrize(
    "umask", [0o077, *(pytest.param(umask, marks=pytest.mark.thorough) for umask in (0o022, 0o002))]
)
def test_modes_follow_the_umask(tiny_teacher: Path, speech: Path, tmp_path: Path, umask: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WORK, f"{umask:o}", str(tiny_teacher), str(speech), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    modes = {path.relative_to(tmp_path).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    found = {Path(name).name for name in modes}
    assert {
        "m.parquet", "report.html", "eval.json", "metrics.jsonl", "run.json", "config.toml", "state.json",
        "optimizer.safetensors", "average.safetensors", "model.safetensors", "hubconf.py",
        "gdist-export.json", "zarr.json", "tables-0.safetensors", "00000.json", "config.json",
    } <= found  # fmt: skip
    assert ("model.onnx" in found) == (umask == 0o002)
    wrong = {
        name: f"{mode:o}"
        for name, mode in modes.items()
        if mode != (0o777 if (tmp_path / name).is_dir() else 0o666) & ~umask
    }
    assert not wrong
