"""A run goes on to another number of steps exactly where no step taken would have differed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from conftest import contents
from test_train import Killed, kill_at, run, short

from gdist.pipeline.errors import RunError
from gdist.pipeline.run import Run
from gdist.pipeline.run.evaluations import Evaluations

CONSTANT = {"train__schedule": "constant"}


def last(folder: Path, step: int) -> dict[str, bytes]:
    """A checkpoint, without what depends on the clock."""
    found = contents(folder / "checkpoints" / f"step-{step:07d}")
    del found["state.json"]
    return found


@pytest.mark.parametrize(
    ("student", "fields"),
    [
        ("gendistiller", {"train__ema_decay": 0.8, "train__forcing_steps": 8, "train__layers_per_step": 2}),
        ("gendistiller", {"student__frontend": "frozen", "train__thaw_step": 7, "augment__noise": 0.7}),
        ("distilhubert", {"train__accumulate": 2, "data__crop_seconds": 1.0}),
    ],
)
def test_more_steps_end_in_the_weights_of_a_training_that_was_always_longer(
    tiny_cache: Path, tmp_path: Path, student: str, fields: dict[str, object]
) -> None:
    """Also past the steps at which it thaws, and at which forcing ends."""
    fields = CONSTANT | fields
    run(tiny_cache, tmp_path / "whole", short(student, **fields))
    for steps in (5, 7, 9):
        run(tiny_cache, tmp_path / "longer", short(student, **fields, train__steps=steps))
    assert contents(tmp_path / "longer" / "student") == contents(tmp_path / "whole" / "student")
    assert last(tmp_path / "longer", 9) == last(tmp_path / "whole", 9)
    whole, longer = Run(tmp_path / "whole"), Run(tmp_path / "longer")
    assert longer.tables() == whole.tables() and longer.provenance()["signature"] == whole.provenance()["signature"]


def test_the_earlier_student_is_set_aside(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing takes it for the student of the longer training, not even while that is not finished."""
    out = tmp_path / "run"
    run(tiny_cache, out, short(**CONSTANT, train__steps=5))
    found = {"mean_cosine": 0.5, "step": 5, "layers": []}
    for name in ("eval.json", "eval-valid.json"):
        (out / name).write_text(json.dumps(found))
    (out / "student" / "notes.txt").write_text("mine")
    earlier = contents(out / "student")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 8)
        run(tiny_cache, out, short(**CONSTANT))
    assert f"its student after step 5 is now {out}@5" in capsys.readouterr().err
    assert not Run(out).is_finished
    assert not list(out.glob("eval.json")) and not list(out.glob("eval-valid.json"))
    assert contents(out / "student-step-0000005") == earlier
    for split in ("test", "valid"):
        assert Evaluations(Run(out)).first(split) is None and Evaluations(Run(out), 5).first(split) == found
    run(tiny_cache, out, short(**CONSTANT))
    assert Run(out).is_finished and contents(out / "student-step-0000005") == earlier


def test_fewer_steps_are_possible_until_they_are_taken(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tiny_cache, tmp_path / "whole", short(**CONSTANT, train__steps=7))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 8)
        run(tiny_cache, tmp_path / "fewer", short(**CONSTANT, train__steps=20))
    assert Run(tmp_path / "fewer").steps() == [3, 6]
    run(tiny_cache, tmp_path / "fewer", short(**CONSTANT, train__steps=7))
    assert contents(tmp_path / "fewer" / "student") == contents(tmp_path / "whole" / "student")
    with pytest.raises(RunError, match=r"has taken 7 steps already, more than train\.steps = 6") as caught:
        run(tiny_cache, tmp_path / "fewer", short(**CONSTANT, train__steps=6))
    assert caught.value.hint and f"{tmp_path / 'fewer'}@6" in caught.value.hint


def test_a_linear_schedule_can_change_only_while_it_warms_up(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After that, each rate depends on the number of steps."""
    run(tiny_cache, tmp_path / "whole", short(train__warmup_steps=4, **CONSTANT))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 5)
        run(tiny_cache, tmp_path / "run", short(train__warmup_steps=4, train__steps=6))
    config = short(train__warmup_steps=4, **CONSTANT)
    run(tiny_cache, tmp_path / "run", config)
    assert contents(tmp_path / "run" / "student") == contents(tmp_path / "whole" / "student")

    run(tiny_cache, tmp_path / "linear", short(train__steps=5))
    before = contents(tmp_path / "linear")
    for fields in ({}, CONSTANT):
        with pytest.raises(RunError, match="the rates from step 3 on would have been others") as caught:
            run(tiny_cache, tmp_path / "linear", short(**fields))
        assert caught.value.hint and f"--start-from {tmp_path / 'linear'} --out NEW" in caught.value.hint
        assert "--set train.schedule=constant" in caught.value.hint
    with pytest.raises(RunError, match=r"another config:\n  train\.lr: 0\.002 → 0\.1\n  train\.steps: 5 → 9"):
        run(tiny_cache, tmp_path / "linear", short(train__lr=0.1))
    after = contents(tmp_path / "linear")
    assert {k: v for k, v in after.items() if k != "training.json"} == before


def test_what_cannot_go_on(tiny_cache: Path, tmp_path: Path) -> None:
    run(tiny_cache, tmp_path / "run", short(**CONSTANT, train__steps=5))
    for path in sorted((tmp_path / "run" / "checkpoints").iterdir()):
        shutil.rmtree(path)
    with pytest.raises(RunError, match="has its student after step 5, but no checkpoint to go on from"):
        run(tiny_cache, tmp_path / "run", short(**CONSTANT))
    assert Run(tmp_path / "run").is_finished
    sweep = tmp_path / "sweep" / "runs" / "point"
    run(tiny_cache, sweep, short(**CONSTANT, train__steps=2))
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    with pytest.raises(RunError, match="belongs to a sweep"):
        run(tiny_cache, sweep, short(**CONSTANT))


def test_on_the_command_line(tiny_cache: Path, tmp_path: Path, gdist: Callable[..., Result]) -> None:
    options = ["--cache", tiny_cache, "--recipe", "smoke", "--set", "train.schedule=constant"]
    for steps in (2, 3):
        result = gdist("train", *options, "--out", tmp_path / "run", "--set", f"train.steps={steps}", "--json")
        assert result.exit_code == 0 and json.loads(result.stdout)["steps"] == steps, result.stderr
    result = gdist("train", *options, "--out", tmp_path / "run", "--set", "train.steps=1")
    assert result.exit_code == 1 and "choose another --out" in result.stderr
