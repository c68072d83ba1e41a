"""What earlier versions wrote opens, and contains what it did: the archives in tests/formats are never changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from formats import VERSIONS, unpack
from formats.make import SETTINGS, hidden, stored

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.run import Run
from gdist.pipeline.run.evaluation import read_evaluation
from gdist.pipeline.storage.objects import seal
from gdist.stages.report.page import RunSummary
from gdist.stages.students import load_student

Gdist = Callable[..., Result]
NEAR = 2e-4  # by which means of hidden states may differ between machines and versions of torch


@pytest.fixture(scope="module", params=VERSIONS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a version wrote, for reading only."""
    return unpack(request.param, tmp_path_factory.mktemp(request.param))


def golden(made: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((made / "golden.json").read_text())
    return found


@pytest.mark.parametrize("encoding", ["fp16", "int8"])
def test_a_cache_has_what_it_had(made: Path, gdist: Gdist, encoding: str) -> None:
    folder = made / f"cache-{encoding}"
    assert stored(Cache.open(str(folder))) == golden(made)["caches"][encoding]
    assert gdist("verify", folder).exit_code == 0


def test_a_student_gives_what_it_gave(made: Path) -> None:
    cache = Cache.open(str(made / "cache-fp16"))
    for location in (made / "run", f"{made / 'run'}@4", made / "export"):
        assert np.allclose(hidden(load_student(location), cache), golden(made)["hidden"], atol=NEAR), location


def test_a_run_is_reported_and_evaluated_again(made: Path, tmp_path: Path, gdist: Gdist) -> None:
    run = Path(shutil.copytree(made / "run", tmp_path / "run"))
    summary = RunSummary.read(run)
    assert summary.cosine == golden(made)["mean_cosine"] and len(summary.metrics) >= 4
    assert gdist("report", run, "--out", tmp_path / "report.html").exit_code == 0
    result = gdist("eval", run, "--cache", made / "cache-fp16", "--probes", "none", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert read_evaluation(run / "eval.json")["mean_cosine"] == pytest.approx(golden(made)["mean_cosine"], abs=1e-3)


def test_a_run_goes_on(made: Path, tmp_path: Path, gdist: Gdist) -> None:
    """From its checkpoint, as it was: what is resumed gives what was trained without an interruption."""
    run = Path(shutil.copytree(made / "run", tmp_path / "run"))
    shutil.rmtree(run / "student")
    shutil.rmtree(run / "checkpoints" / "step-0000004")
    flags = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    result = gdist("train", "--cache", made / "cache-fp16", "--out", run, *flags)
    assert result.exit_code == 0 and "after step 2" in result.stderr, result.stderr
    cache = Cache.open(str(made / "cache-fp16"))
    assert np.allclose(hidden(load_student(run), cache), golden(made)["hidden"], atol=NEAR)
    assert Run(run).tables() == Run(made / "run").tables()


def test_a_cache_is_copied(made: Path, tmp_path: Path, gdist: Gdist) -> None:
    copy = tmp_path / "cache"
    result = gdist("copy", made / "cache-fp16", copy, "--layers", "1,2")
    assert result.exit_code == 0, result.stderr
    assert Cache.open(str(copy)).layers == [1, 2]


@pytest.mark.parametrize(
    ("number", "typed"), [(0, "--cache NEW makes it again"), (99, "pip install --upgrade gdist")]
)
def test_another_format_is_refused_with_what_to_type(
    made: Path, tmp_path: Path, gdist: Gdist, number: int, typed: str
) -> None:
    cache = Path(shutil.copytree(made / "cache-fp16", tmp_path / "cache"))
    for name in ("zarr.json", "plans/00000.json"):
        document = json.loads((cache / name).read_bytes())
        described = document["attributes"]["gdist"]
        described["format"] = number
        (cache / name).write_bytes(seal(document, described))
    result = gdist("inspect", cache)
    assert result.exit_code == 1 and f"has cache format {number}" in result.stderr and typed in result.stderr
