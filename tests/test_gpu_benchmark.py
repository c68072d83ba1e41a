"""``benchmarks/gpu.py`` as a dry run on the CPU: every step ends, and every figure is there."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FIGURES = {
    "machine": {"plain_write_GBps", "bf16_tflops", "device_copy_GBps", "to_device_GBps", "launch_us"},
    "extraction": {"bf16 to fp16"},
    "training": {"gendistiller, bf16", "distilhubert, bf16", "train() of (c), targets in int8"},
    "loader": {"fp16 stored_GBps", "int8 stored_GBps"},
    "launches": {"step of gendistiller, bf16", "step of distilhubert, bf16", "forward"},
    "choices": {"attention_one_write_ms", "positions_toeplitz_ms", "fold_ms", "adamw_fused_ms", "adamw_foreach_ms"},
    "inference": {"bf16, 1 × 1 s"},
}
WITHIN = {
    ("extraction", "bf16 to fp16"): {"forward", "sink", "gdist", "loop", "sink_GBps", "of_the_slower", "over_loop"},
    ("training", "gendistiller, bf16"): {"online", "cached", "(c)", "cached over online", "cached peak_GB"},
    ("training", "train() of (c), targets in int8"): {"step_seconds", "data_wait_fraction"},
    ("launches", "forward"): {"launches", "synchronisations"},
    ("inference", "bf16, 1 × 1 s"): {"teacher", "gendistiller", "gendistiller over teacher"},
}


def dry_run(out: Path, *steps: str) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", "cpu", "--small", "--json", str(out)]
    done = subprocess.run(
        [*command, *steps], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return results


def numbers(found: Any) -> Iterator[float]:
    """Every number in a result."""
    if isinstance(found, dict):
        for value in found.values():
            yield from numbers(value)
    elif isinstance(found, int | float):
        yield float(found)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return dry_run(tmp_path_factory.mktemp("gpu") / "cpu.json", *FIGURES)


@pytest.mark.parametrize("step", FIGURES)
def test_every_step_gives_its_figures(results: dict[str, Any], step: str) -> None:
    found = results[step]
    assert found["status"] == "ok"
    assert FIGURES[step] <= found.keys()
    for (of, name), wanted in WITHIN.items():
        assert of != step or wanted <= found[name].keys()
    assert all(math.isfinite(number) for number in numbers(found))


@pytest.mark.thorough
def test_a_step_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no such step: nothing"):
        dry_run(tmp_path / "cpu.json", "nothing")
