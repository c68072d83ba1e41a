"""``benchmarks/sweep.py`` at a tiny size: every part ends, and every figure is there."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.thorough
def test_every_part_gives_its_figures(tmp_path: Path) -> None:
    line = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is not None
    parts = ["together", *(["line"] if line else []), "sweep", "apart"]
    options = ["--size", "tiny", "--minutes", "0.2", "--batch-seconds", "5", "--steps", "1", "--rounds", "1"]
    command = [sys.executable, str(ROOT / "benchmarks/sweep.py"), *options, "--counts", "1", "2"]
    done = subprocess.run(
        [*command, "--parts", *parts, "--json", str(tmp_path / "sweep.json")],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "sweep.json").read_text())
    for student in ("gendistiller", "distilhubert"):
        for frontend in ("trained", "frozen"):
            ratios = found["together"][student][frontend]
            assert ratios.keys() == {"1", "2"} and all(0 < each < 10 for each in ratios.values())
            assert found["apart"][student][frontend]["ratio"] == pytest.approx(1, abs=0.9)
    assert found["sweep_of_online"].keys() == {"equal", "fastest"}
    assert all(math.isfinite(each) and each > 0 for each in found["sweep_of_online"].values())
    assert not line or 0 < found["line"]["8"] < 2
    assert done.stdout.count("   limit ") == 5 + line
