"""A model card has the figures of its own weights and of its own teachers, or it says that there are none."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from conftest import extracted, make_teacher
from safetensors.torch import load_file, save_file
from test_several import WIDE
from test_train import run, short

from gdist.pipeline.run import Run
from gdist.stages.train.train import train

Gdist = Callable[..., Result]


@pytest.fixture(scope="module")
def evaluated(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory, gdist: Gdist) -> Path:
    folder = tmp_path_factory.mktemp("card") / "run"
    run(tiny_cache, folder, short("distilhubert", train__steps=2, student__predict_layers=[3]))
    assert gdist("eval", folder, "--probes", "sid", "--device", "cpu").exit_code == 0
    return folder


@pytest.fixture
def mine(evaluated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(evaluated, tmp_path / "run"))


def card(gdist: Gdist, folder: Path) -> str:
    out = folder.parent / "export"
    result = gdist("export", folder, "--format", "hf", "--out", out)
    assert result.exit_code == 0, result.stderr
    return (out / "README.md").read_text(encoding="utf-8")


def found(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "eval.json").read_text())
    return document


def test_its_own_cache_comes_first(
    mine: Path, tiny_teacher: Path, speech: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist
) -> None:
    extracted(tiny_teacher, speech, tmp_path / "coarse", encoding="int8")
    assert gdist("eval", mine, "--probes", "none", "--cache", tmp_path / "coarse", "--minutes", 0.05).exit_code == 0
    text = card(gdist, mine)
    every = [json.loads(path.read_text()) for path in (mine / "evaluations").iterdir()]
    (other,) = [each for each in every if each["cache"].endswith("coarse")]
    assert f"of the cache `{tiny_cache.name}`, generating freely" in text
    assert f"mean {found(mine)['mean_cosine']:.3f}:" in text and "| sid | accuracy |" in text
    assert f"of the cache `coarse`, 0.05 minutes of each voice: mean cosine {other['mean_cosine']:.3f}" in text
    assert str(tmp_path) not in text, "paths of this machine are not published"


def test_other_weights_have_not_been_evaluated(mine: Path, gdist: Gdist) -> None:
    path = mine / "student" / "model.safetensors"
    save_file({name: 1.5 * tensor for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    Run(mine).note_finished()
    text = card(gdist, mine)
    assert "It has not been evaluated" in text and "| layer | cosine |" not in text


@pytest.mark.parametrize("lost", ["weights", "fingerprint"])
def test_what_may_be_of_another_student_or_teacher_is_left_out(mine: Path, gdist: Gdist, lost: str) -> None:
    """An earlier version said neither of which weights an evaluation is, nor of which teacher; and it took any."""
    document = found(mine)
    if lost == "weights":
        del document["weights"]
    else:
        document["teacher"]["fingerprint"] = "0" * 64
    del document["checksum"]
    shutil.rmtree(mine / "evaluations")
    (mine / "eval.json").write_text(json.dumps(document))
    assert "It has not been evaluated" in card(gdist, mine)


def test_each_teacher_has_its_name(tiny_cache: Path, speech: Path, tmp_path: Path, gdist: Gdist) -> None:
    extracted(make_teacher(tmp_path / "wide", seed=1, **WIDE), speech, tmp_path / "other")
    caches = [f"a={tiny_cache}", f"b={tmp_path / 'other'}"]
    train(caches, tmp_path / "run", short("distilhubert", train__steps=2), show_progress=False)
    assert gdist("eval", tmp_path / "run", "--probes", "none", "--device", "cpu").exit_code == 0
    teachers = found(tmp_path / "run")["teachers"]
    text = card(gdist, tmp_path / "run")
    assert "Cosine to the hidden states of tiny-wavlm, mean" in text
    assert f"| tiny-wavlm | {teachers['a']['mean_cosine']:.3f} | 1–3 |" in text
    assert f"| wide | {teachers['b']['mean_cosine']:.3f} | 1–2 |" in text
