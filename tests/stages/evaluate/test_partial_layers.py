"""Caches that lack layers: what is there is judged, and every hint is a command that works."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from conftest import extracted, make_teacher
from test_several import WIDE
from test_train import SHORT

from gdist.pipeline.run import Run
from gdist.stages.report.page import report_command

Gdist = Callable[..., Result]
SETTINGS = [
    part for name, value in (SHORT | {"train.steps": 2}).items() for part in ("--set", f"{name}={json.dumps(value)}")
]


@pytest.fixture
def some(tiny_teacher: Path, speech: Path, tmp_path: Path) -> Path:
    """Layers 1 and 3 of the tiny teacher's 0 to 3."""
    extracted(tiny_teacher, speech, tmp_path / "some", layers="1,3")
    return tmp_path / "some"


def evaluated(gdist: Gdist, *args: object) -> tuple[dict[str, Any], str]:
    result = gdist("eval", *args, "--device", "cpu", "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout), result.stderr


def commands(stderr: str) -> list[list[str]]:
    """What the lines of a message say to type after ``gdist``."""
    return [shlex.split(line.partition("gdist ")[2]) for line in stderr.splitlines() if ": gdist " in line]


def test_every_hint_on_the_way(
    some: Path, tiny_teacher: Path, speech: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist
) -> None:
    """From a cache without layers 0 and 2 to a student of all layers, by nothing but what is printed."""
    typed = ["train", "--cache", some, "--student", "gendistiller", *SETTINGS]
    refused = gdist(*typed, "--out", tmp_path / "run")
    assert refused.exit_code == 1 and "needs layers [2]" in refused.stderr
    settings = [word for word in refused.stderr.split() if word.startswith("student.")]
    assert [setting.rstrip(",;") for setting in settings] == ["student.predict_layers=1,3"]
    trained = gdist(*typed, "--out", tmp_path / "run", "--set", settings[0].rstrip(",;"))
    assert trained.exit_code == 0, trained.stderr
    (following,) = commands(trained.stderr)
    assert following == ["eval", str(tmp_path / "run")]
    found, said = evaluated(gdist, *following[1:], "--probes", "sid")
    assert [row["layer"] for row in found["layers"]] == [1, 3] and found["absent_layers"] == [0, 2]
    assert "layers that are judged and probed: 1, 3, those in the cache; it lacks 0, 2" in said
    extract, again = commands(said)
    real = {tiny_teacher.name: str(tiny_teacher), "M.parquet": str(speech)}
    added = gdist(*(real.get(word, word) for word in extract))
    assert added.exit_code == 0, added.stderr
    whole, said = evaluated(gdist, *again[1:], "--probes", "none")
    assert [row["layer"] for row in whole["layers"]] == [1, 2, 3] and "lacks" not in said
    exact, _ = evaluated(gdist, tmp_path / "run", "--probes", "none", "--cache", tiny_cache)
    for place, layer in ((0, 0), (1, 2)):
        assert found["layers"][place] == pytest.approx(exact["layers"][layer], abs=1e-3)
    # The evaluation on the cache as it was stays, with its probe.
    assert json.loads((tmp_path / "run" / "eval.json").read_text())["probes"].keys() == {"sid"}


def test_probes_of_the_same_layers(some: Path, tmp_path: Path, gdist: Gdist) -> None:
    """The teacher's and the student's; a weight is at the place of its layer, and what is lacking has none."""
    settings = ["--student", "distilhubert", *SETTINGS, "--set", "student.predict_layers=3"]
    assert gdist("train", "--cache", some, "--out", tmp_path / "run", *settings).exit_code == 0
    found, _ = evaluated(gdist, tmp_path / "run", "--probes", "label:digit")
    assert found["probed_layers"] == [1, 3]
    for system in (found, found["teacher"]):
        weights = system["probes"]["label:digit"]["layer_weights"]
        assert weights[0] == weights[2] == 0 < min(weights[1], weights[3])
    assert found["log_mel"]["probes"]["label:digit"]["layer_weights"] == [1.0]
    assert found["layer_0"] == "own", "the front-end's weights are in the cache, whether layer 0 is or not"
    assert report_command([tmp_path / "run"], tmp_path / "report.html") == 0
    page = (tmp_path / "report.html").read_text()
    assert "Not in the cache, and so not judged: layer\N{NO-BREAK SPACE}2." in page
    assert "at every layer that was judged" in page or "No better than" in page


def test_teachers_of_which_layers_are_cached(some: Path, speech: Path, tmp_path: Path, gdist: Gdist) -> None:
    other = make_teacher(tmp_path / "wide", seed=1, **WIDE)
    extracted(other, speech, tmp_path / "other", layers="2")
    caches = ["--cache", f"a={some}", "--cache", f"b={tmp_path / 'other'}"]
    refused = gdist("train", *caches, "--out", tmp_path / "run", "--student", "distilhubert", *SETTINGS)
    assert refused.exit_code == 1
    (setting,) = [word for word in refused.stderr.split() if word.startswith("student.")]
    settings = ["--student", "distilhubert", *SETTINGS, "--set", setting.rstrip(",;")]
    trained = gdist("train", *caches, "--out", tmp_path / "run", *settings)
    assert trained.exit_code == 0, trained.stderr
    (following,) = commands(trained.stderr)
    found, said = evaluated(gdist, *following[1:], "--probes", "none")
    assert [row["layer"] for row in found["teachers"]["a"]["layers"]] == [1, 3]
    assert [row["layer"] for row in found["teachers"]["b"]["layers"]] == [2]
    assert found["teachers"]["b"]["absent_layers"] == [0, 1]
    assert "of a that are judged and probed: 1, 3" in said and "of b that are judged and probed: 2," in said
    real = {"tiny-wavlm": str(Run(tmp_path / "run").folder), "M.parquet": str(speech), "wide": str(other)}
    _, _, extract, again = commands(said)
    assert gdist(*(real.get(word, word) for word in extract)).exit_code == 0
    found, _ = evaluated(gdist, *again[1:], "--probes", "none")
    assert [row["layer"] for row in found["teachers"]["b"]["layers"]] == [1, 2]


def test_a_cache_of_layer_0_alone_judges_nothing(
    tiny_teacher: Path, speech: Path, some: Path, tmp_path: Path, gdist: Gdist
) -> None:
    settings = ["--student", "distilhubert", *SETTINGS, "--set", "student.predict_layers=3"]
    assert gdist("train", "--cache", some, "--out", tmp_path / "run", *settings).exit_code == 0
    extracted(tiny_teacher, speech, tmp_path / "zero", layers="0")
    result = gdist("eval", tmp_path / "run", "--cache", tmp_path / "zero", "--probes", "none")
    assert result.exit_code == 1 and "has only layer 0" in result.stderr
    copied = gdist("copy", some, tmp_path / "less", "--layers", "3", "--encoding", "int8")
    assert copied.exit_code == 0, copied.stderr
    found, said = evaluated(gdist, tmp_path / "run", "--cache", tmp_path / "less", "--probes", "none")
    assert [row["layer"] for row in found["layers"]] == [3]
    (again,) = commands(said)
    found, _ = evaluated(gdist, *again[1:], "--probes", "none")
    assert [row["layer"] for row in found["layers"]] == [1, 3]
