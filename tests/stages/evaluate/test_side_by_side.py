"""Evaluations are kept side by side, by cache and speech, and one of them keeps the probes that were run before."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from conftest import extracted
from safetensors.torch import load_file, save_file
from test_train import run, short

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.run import Run
from gdist.pipeline.run.evaluation import read_evaluation
from gdist.pipeline.run.evaluations import Evaluations, Speech
from gdist.stages.report.page import RunSummary

Gdist = Callable[..., Result]


@pytest.fixture(scope="module")
def trained(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept") / "run"
    run(tiny_cache, folder, short(train__steps=2))
    return folder


@pytest.fixture
def mine(trained: Path, tmp_path: Path) -> Run:
    """A run that was not evaluated yet."""
    return Run(Path(shutil.copytree(trained, tmp_path / "run")))


@pytest.fixture(scope="module")
def probed(trained: Path, gdist: Gdist) -> Path:
    """The same, with an evaluation that took a few seconds."""
    folder = Path(shutil.copytree(trained, trained.parent / "probed" / "run"))
    found(gdist, Run(folder), "--probes", "sid", "--control")
    return folder


@pytest.fixture
def judged(probed: Path, tmp_path: Path) -> Run:
    return Run(Path(shutil.copytree(probed, tmp_path / "run")))


@pytest.fixture(scope="module")
def coarse(tiny_teacher: Path, speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The teacher's cache once more, in another encoding."""
    folder = tmp_path_factory.mktemp("coarse") / "int8"
    extracted(tiny_teacher, speech, folder, encoding="int8")
    return folder


def found(gdist: Gdist, mine: Run, *options: object) -> dict[str, Any]:
    result = gdist("eval", mine.folder, "--device", "cpu", *options, "--json")
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def standing(mine: Run, split: str = "test") -> dict[str, Any]:
    document = Evaluations(mine).first(split)
    assert document is not None
    return document


def test_fewer_probes_keep_the_earlier_ones(judged: Run, gdist: Gdist) -> None:
    """Of the student, the teacher and log-mel; what is printed is what was run."""
    one = standing(judged)
    assert one["probes"].keys() == {"sid"} and one["probes"]["sid"]["shuffled"] is not None
    said = gdist("eval", judged.folder, "--device", "cpu", "--probes", "none")
    assert "kept from before, on the same speech: sid" in said.stderr and standing(judged) == one
    again = found(gdist, judged, "--probes", "sid")
    assert again["probes"]["sid"] == one["probes"]["sid"] | {"shuffled": None}
    assert standing(judged) == one, "the control that was run before is kept, too"
    other = found(gdist, judged, "--probes", "label:digit")
    assert other["probes"].keys() == other["teacher"]["probes"].keys() == {"label:digit"}
    both = standing(judged)
    for who in ("teacher", "log_mel"):
        assert both[who]["probes"] == one[who]["probes"] | other[who]["probes"]
    assert both["probes"] == one["probes"] | other["probes"]
    assert len(list(Evaluations(judged).every())) == 1


def test_another_cache_and_less_speech_are_kept_beside_it(
    judged: Run, tiny_cache: Path, coarse: Path, gdist: Gdist
) -> None:
    own = standing(judged)
    other = found(gdist, judged, "--probes", "none", "--cache", coarse)
    less = found(gdist, judged, "--probes", "none", "--minutes", 0.05)
    assert own["cache_checksum"] == Cache.open(str(tiny_cache)).gdist["checksum"] != other["cache_checksum"]
    assert standing(judged) == own == read_evaluation(judged.folder / "eval.json")
    kept = list(Evaluations(judged).every())
    assert kept[0] == own and len(kept) == 3 and other in kept and less in kept
    assert Evaluations(judged).on("test", Speech(0.05)) == less
    assert Evaluations(judged).on("test", Speech(cache=str(coarse))) == other
    assert Evaluations(judged).on("test", Speech(5.0)) is None
    said = gdist("eval", judged.folder, "--device", "cpu", "--probes", "none", "--cache", coarse).stderr
    assert f"eval.json stays what was found on {tiny_cache}, 8 utterances" in said
    assert f"kept beside it: what was found on {tiny_cache}, 0.05 minutes of each voice" in said
    summary = RunSummary.read(judged.folder)
    assert summary.eval["cache"] == str(tiny_cache) and summary.eval["probes"].keys() == {"sid"}
    assert [other["cache"] for other in summary.others].count(str(coarse)) == 1 and len(summary.others) == 2


def test_its_own_cache_takes_the_place_of_another(mine: Run, tiny_cache: Path, coarse: Path, gdist: Gdist) -> None:
    other = found(gdist, mine, "--probes", "none", "--cache", coarse)
    assert standing(mine) == other, "better than nothing"
    less = found(gdist, mine, "--probes", "none", "--minutes", 0.05)
    assert standing(mine) == less
    moved = Path(shutil.copytree(tiny_cache, mine.folder.parent / "moved"))
    own = found(gdist, mine, "--probes", "none", "--cache", moved)
    assert standing(mine) == own and own["cache"] == str(moved), "a cache is what it contains, wherever it is"
    valid = found(gdist, mine, "--probes", "none", "--split", "valid")
    assert standing(mine) == own and standing(mine, "valid") == valid


def test_other_weights_are_another_student(judged: Run, tiny_cache: Path, gdist: Gdist, tmp_path: Path) -> None:
    """As after training again: what was found before is no longer shown, and is there if the weights come back."""
    before = standing(judged)
    path = judged.student / "model.safetensors"
    was = path.read_bytes()
    weights = load_file(path)
    save_file({name: 1.5 * tensor for name, tensor in weights.items()}, path, {"format": "pt"})
    judged.note_finished()
    assert Evaluations(judged).first() is None and not list(Evaluations(judged).every())
    result = gdist("report", judged.folder, "--out", tmp_path / "report.html")
    assert result.exit_code == 1 and "has not been evaluated: its student has changed since" in result.stderr
    assert f"gdist eval {judged.folder}" in result.stderr
    now = found(gdist, judged, "--probes", "none")
    assert standing(judged) == now and not now["probes"] and now["mean_cosine"] != before["mean_cosine"]
    path.write_bytes(was)  # at another time: it is the content that counts
    judged.note_finished()
    assert list(Evaluations(judged).every()) == [before]


def test_an_evaluation_of_an_earlier_version(judged: Run, coarse: Path, gdist: Gdist) -> None:
    """It does not say of which weights it is. With the same figures, it is of the same student; else it is kept."""
    before = standing(judged)
    shutil.rmtree(judged.folder / "evaluations")
    new = {"weights", "cache_checksum", "data", "step", "finished"}
    old = {name: value for name, value in before.items() if name not in new}
    (judged.folder / "eval.json").write_text(json.dumps(old))
    assert list(Evaluations(judged).every()) == [old]
    found(gdist, judged, "--probes", "none", "--cache", coarse)
    assert standing(judged) == old and len(list(Evaluations(judged).every())) == 2
    found(gdist, judged, "--probes", "none")
    assert standing(judged) == before
    (judged.folder / "eval.json").write_text(json.dumps(old | {"frames": 7, "mean_cosine": 0.5}))
    found(gdist, judged, "--probes", "none")
    assert standing(judged) == before
    assert [each["mean_cosine"] for each in Evaluations(judged).every()].count(0.5) == 1


def test_a_damaged_one_is_no_obstacle(judged: Run, gdist: Gdist) -> None:
    before = standing(judged)
    (judged.folder / "eval.json").write_text('{"run": ')
    result = gdist("report", judged.folder)
    assert result.exit_code == 1 and f"gdist eval {judged.folder}" in result.stderr
    found(gdist, judged, "--probes", "none")
    assert standing(judged) == before
