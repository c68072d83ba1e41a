"""RUN@STEP: the student of a checkpoint is the one that a run would have had if it had been finished there."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from click.testing import Result
from conftest import contents
from test_train import Killed, kill_at, run, short

from gdist.pipeline.errors import RunError
from gdist.pipeline.run import Run
from gdist.pipeline.run.snapshot import run_and_step, snapshot
from gdist.stages.students import Student, load_student


def weights(student: Student) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in student.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module", params=[0.0, 0.8], ids=["last weights", "averaged"])
def cut(request: pytest.FixtureRequest, tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed at step 8 of 9, with checkpoints of 3 and 6; and one that was finished after step 6."""
    place = tmp_path_factory.mktemp("cut")
    fields = {"train__schedule": "constant", "train__ema_decay": request.param}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 8)
        run(tiny_cache, place / "run", short(**fields))
    run(tiny_cache, place / "six", short(**fields, train__steps=6))
    return place


def test_a_checkpoint_is_the_student_that_would_be_finished_there(cut: Path) -> None:
    torch.manual_seed(5)
    student, drawn = load_student(f"{cut / 'run'}@6"), torch.rand(3)
    finished = load_student(cut / "six")
    assert same(weights(student), weights(finished))
    assert not student.training and student.config.to_dict().keys() >= {"history", "frontend"}
    assert student.config.in_use() == finished.config.in_use()
    assert not same(weights(load_student(f"{cut / 'run'}@3")), weights(finished))
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn), "loading draws nothing"
    if (cut / "run" / "checkpoints" / "step-0000006" / "average.safetensors").exists():
        last = safetensors.torch.load_file(cut / "run" / "checkpoints" / "step-0000006" / "model.safetensors")
        assert not same(last, weights(finished)), "the average and not the last weights"


def test_which_steps_there_are(cut: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no finished student \(step 6 of 9\)") as caught:
        load_student(cut / "run")
    assert caught.value.hint and caught.value.hint.startswith("gdist train --cache")
    with pytest.raises(RunError, match="has kept nothing of step 5: it has 3, 6") as caught:
        load_student(f"{cut / 'run'}@5")
    assert caught.value.hint and "run@6; " in caught.value.hint and "train.keep_every" in caught.value.hint
    assert snapshot(cut / "run").step == 6 and not snapshot(cut / "run").is_finished
    assert snapshot(f"{cut / 'six'}@6").folder == cut / "six" / "student"
    assert snapshot(f"{cut / 'six'}@3").progress == {"step": 3, "steps": 6, "finished": False}
    damaged = Path(shutil.copytree(cut / "run", tmp_path / "damaged"))
    for path in (damaged / "checkpoints" / "step-0000006").glob("*.safetensors"):
        path.write_bytes(b"torn")
    with pytest.raises(RunError, match=r"cannot read .*step-0000006"):
        load_student(f"{damaged}@6")
    assert same(weights(load_student(f"{damaged}@3")), weights(load_student(f"{cut / 'run'}@3")))


def test_a_folder_whose_name_has_an_at_sign_is_that_folder(cut: Path, tmp_path: Path) -> None:
    shutil.copytree(cut / "six", tmp_path / "run")
    shutil.copytree(cut / "run", tmp_path / "run@3")
    assert run_and_step(tmp_path / "run@3") == (tmp_path / "run@3", None)
    assert run_and_step(tmp_path / "run@4") == (tmp_path / "run", 4)
    assert run_and_step(tmp_path / "run@3@6") == (tmp_path / "run@3", 6)
    assert run_and_step(tmp_path / "none@3") == (tmp_path / "none@3", None)
    assert same(weights(load_student(f"{tmp_path / 'run@3'}@6")), weights(load_student(f"{cut / 'run'}@6")))
    with pytest.raises(RunError, match="has no finished student"):
        load_student(tmp_path / "run@3")


def test_a_student_that_was_set_aside(tiny_cache: Path, cut: Path, tmp_path: Path) -> None:
    """It stays when its checkpoint has gone."""
    out = Path(shutil.copytree(cut / "six", tmp_path / "run"))
    config = Run(out).tables()["train"]
    before = weights(load_student(out))
    longer = short(train__schedule="constant", train__ema_decay=config["ema_decay"], train__keep_checkpoints=1)
    run(tiny_cache, out, longer)
    assert Run(out).steps() == [9] and Run(out).students_aside() == [6]
    assert same(weights(load_student(f"{out}@6")), before) and not same(weights(load_student(out)), before)
    assert snapshot(f"{out}@6").progress == {"step": 6, "steps": 9, "finished": False}


@pytest.mark.parametrize("form", ["hf", "s3prl"])
def test_an_export_says_that_it_is_unfinished(
    cut: Path, tmp_path: Path, gdist: Callable[..., Result], form: str
) -> None:
    for typed in (cut / "run", f"{cut / 'run'}@6"):
        result = gdist("export", typed, "--format", form, "--out", tmp_path / "out", "--json")
        assert result.exit_code == 0 and "run@6 is unfinished: step 6 of 9" in result.stderr, result.stderr
        found = json.loads(result.stdout)
        assert (found["step"], found["steps"], found["finished"]) == (6, 9, False)
    (config,) = (tmp_path / "out").rglob("config.json")
    assert json.loads(config.read_text())["gdist"] == {"run": "run", "step": 6, "steps": 9, "finished": False}
    mark = json.loads((tmp_path / "out" / "gdist-export.json").read_text())
    assert (mark["step"], mark["steps"], mark["finished"]) == (6, 9, False)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "**This student is unfinished**: it was taken after step 6 of 9." in card
    assert "6 of 9 steps" in card and f"gdist eval {cut / 'run'}@6" in card
    assert gdist("export", cut / "six", "--format", form, "--out", tmp_path / "six").exit_code == 0
    assert same(weights(load_student(tmp_path / "out")), weights(load_student(tmp_path / "six")))
    assert "unfinished" not in (tmp_path / "six" / "README.md").read_text()
    mark = json.loads((tmp_path / "six" / "gdist-export.json").read_text())
    assert (mark["step"], mark["steps"], mark["finished"]) == (6, 6, True)


def test_a_run_without_any_checkpoint_has_no_student(cut: Path, tmp_path: Path, gdist: Callable[..., Result]) -> None:
    folder = Path(shutil.copytree(cut / "run", tmp_path / "run"))
    shutil.rmtree(folder / "checkpoints")
    before = contents(folder)
    result = gdist("export", folder, "--format", "hf", "--out", tmp_path / "out")
    assert result.exit_code == 1 and not (tmp_path / "out").exists() and contents(folder) == before
    assert "no finished student (step 0 of 9)" in result.stderr and "gdist train --cache" in result.stderr
