"""What is found of an unfinished student says so everywhere, and never stands for the run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from test_train import Killed, kill_at, run, short

from gdist.pipeline.errors import RunError
from gdist.pipeline.run import Run
from gdist.pipeline.run.evaluations import Evaluations
from gdist.stages.report.runs import RunSummary

CONSTANT = {"train__schedule": "constant"}
Gdist = Callable[..., Result]


@pytest.fixture(scope="module")
def place(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed at step 8 of 9, with checkpoints of 3 and 6; and one that was finished after step 6."""
    folder = tmp_path_factory.mktemp("unfinished")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 8)
        run(tiny_cache, folder / "cut", short(**CONSTANT))
    run(tiny_cache, folder / "six", short(**CONSTANT, train__steps=6))
    return folder


@pytest.fixture
def cut(place: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(place / "cut", tmp_path / "cut"))


def found(gdist: Gdist, *typed: object) -> dict[str, Any]:
    result = gdist("eval", *typed, "--probes", "none", "--json")
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_an_interrupted_run_is_evaluated_at_its_newest_checkpoint(place: Path, cut: Path, gdist: Gdist) -> None:
    result = gdist("eval", cut, "--probes", "none", "--json")
    assert result.exit_code == 0 and f"{cut}@6 is unfinished: step 6 of 9" in result.stderr, result.stderr
    newest = json.loads(result.stdout)
    assert (newest["run"], newest["step"], newest["steps"], newest["finished"]) == ("cut", 6, 9, False)
    finished = found(gdist, place / "six")
    assert newest["layers"] == finished["layers"] and finished["finished"] and finished["steps"] == 6
    assert found(gdist, f"{cut}@3")["layers"] != newest["layers"]
    # Nothing stands for the run: for a sweep, for `gdist best`, or for weights of its layers.
    assert not (cut / "eval.json").exists() and Evaluations(Run(cut)).first() is None
    at_six = Evaluations(Run(cut), 6).first()
    assert at_six == newest and Evaluations(Run(cut), 5).first() is None
    shown = gdist("eval", f"{cut}@3", cut, "--probes", "none")
    assert shown.exit_code == 0 and "cut@3 is unfinished: step 3 of 9" in shown.stdout


def test_a_finished_students_evaluation_is_not_overwritten(place: Path, tmp_path: Path, gdist: Gdist) -> None:
    """By that of one of its checkpoints; its last step is the finished student."""
    six = Path(shutil.copytree(place / "six", tmp_path / "six"))
    found(gdist, six)
    before = (six / "eval.json").read_bytes()
    earlier = found(gdist, f"{six}@3")
    assert (earlier["step"], earlier["finished"]) == (3, False)
    assert (six / "eval.json").read_bytes() == before
    assert [each["step"] for each in Evaluations(Run(six)).every()] == [6]
    again = found(gdist, f"{six}@6")
    assert again["finished"] and json.loads((six / "eval.json").read_text())["mean_cosine"] == again["mean_cosine"]


def test_one_that_goes_on_is_evaluated_anew(place: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
    six = Path(shutil.copytree(place / "six", tmp_path / "six"))
    first = found(gdist, six)
    run(tiny_cache, six, short(**CONSTANT))
    assert Evaluations(Run(six)).first() is None and not (six / "eval.json").exists()
    result = gdist("report", six, "--out", tmp_path / "report.html")
    assert result.exit_code == 1 and f"gdist eval {six}" in result.stderr
    summary = RunSummary.read(Path(f"{six}@6"))
    assert summary.name == "six@6" and summary.eval["layers"] == first["layers"]
    assert (summary.eval["step"], summary.eval["steps"], summary.eval["finished"]) == (6, 9, False)
    assert found(gdist, six)["step"] == 9 and RunSummary.read(six).name == "six"


def test_the_report_and_the_card_say_it(place: Path, cut: Path, tmp_path: Path, gdist: Gdist) -> None:
    six = Path(shutil.copytree(place / "six", tmp_path / "six"))
    with pytest.raises(RunError, match="has not been evaluated"):
        RunSummary.read(cut)
    found(gdist, six)
    found(gdist, f"{cut}@3")
    newest = found(gdist, cut)
    for typed, name in ((cut, "cut@6"), (f"{cut}@6", "cut@6"), (f"{cut}@3", "cut@3")):
        result = gdist("report", typed, six, "--out", tmp_path / "report.html")
        assert result.exit_code == 0, result.stderr
        page = (tmp_path / "report.html").read_text()
        assert f"Unfinished students, taken from checkpoints: <b>{name}</b> (step {name[-1]} of 9)." in page
        assert "trained for different numbers of steps" in page or name == "cut@6"
    assert RunSummary.read(Path(f"{cut}@3")).training()["steps"] <= 3
    assert gdist("export", cut, "--format", "hf", "--out", tmp_path / "hf").exit_code == 0
    card = (tmp_path / "hf" / "README.md").read_text()
    assert f"mean {newest['mean_cosine']:.3f}" in card and "after step 6 of 9" in card
    assert gdist("export", six, "--format", "hf", "--out", tmp_path / "hf").exit_code == 0
    assert "nfinished" not in (tmp_path / "hf" / "README.md").read_text()
    # Those that have not been evaluated at all block no others.
    fresh = Path(shutil.copytree(place / "cut", tmp_path / "fresh"))
    result = gdist("report", fresh, six, "--out", tmp_path / "report.html")
    assert result.exit_code == 0 and f"left out: {fresh} has not been evaluated" in result.stderr
