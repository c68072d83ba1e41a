"""A run that begins with another student's weights takes all of them, says so, and is another run than without."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from click.testing import Result
from conftest import contents
from ranked import torchrun
from test_train import SHORT, Killed, curves, kill_at, short

from gdist.pipeline.errors import ConfigError, RunError
from gdist.pipeline.run import Run
from gdist.stages.students import load_student
from gdist.stages.train.start import digest
from gdist.stages.train.train import train

AVERAGED: dict[str, Any] = {"train__schedule": "constant", "train__ema_decay": 0.8}


def begun(
    cache: Path, out: Path, start_from: str | Path | None = None, student: str = "gendistiller", **fields: Any
) -> Run:
    start = None if start_from is None else Path(start_from)
    train(str(cache), out, short(student, **fields), show_progress=False, start_from=start)
    return Run(out)


@pytest.fixture(scope="module")
def origin(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six steps, with averaged weights and checkpoints of 3 and 6."""
    return begun(tiny_cache, tmp_path_factory.mktemp("origin") / "first", train__steps=6, **AVERAGED).folder


def test_all_weights_are_taken_and_all_else_begins_anew(tiny_cache: Path, origin: Path, tmp_path: Path) -> None:
    made = begun(tiny_cache, tmp_path / "new", origin, train__steps=1, train__lr=1e-12, train__warmup_steps=0)
    theirs, own = load_student(origin).state_dict(), load_student(made.folder).state_dict()
    assert theirs.keys() == own.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(own[name], tensor, atol=1e-9, rtol=0)
    last = safetensors.torch.load_file(made.checkpoint(1) / "optimizer.safetensors")
    assert {float(value) for name, value in last.items() if name.endswith(".step")} == {1.0}
    record = made.provenance()["start"]
    before = Run(origin).provenance()
    assert record == {
        "folder": str(origin), "run": "first", "step": 6, "steps": 6, "finished": True,
        "sha256": digest(theirs), "signature": before["signature"], "cache_checksum": before["cache_checksum"],
        "teacher": {"name": before["teacher"]["name"], "fingerprint": before["teacher"]["fingerprint"]},
    }  # fmt: skip
    again = begun(tiny_cache, tmp_path / "third", f"{made.folder}@1", train__steps=2)
    assert again.provenance()["start"]["start"] == record, "and where that one came from"


def test_the_same_weights_are_the_same_start_wherever_they_are(
    tiny_cache: Path, origin: Path, tmp_path: Path, gdist: Callable[..., Result]
) -> None:
    """A checkpoint, a run's student, and exports: the students that follow are equal, bit for bit."""
    longer = Path(shutil.copytree(origin, tmp_path / "longer"))
    begun(tiny_cache, longer, **AVERAGED)
    places: list[str | Path] = [origin, f"{origin}@6", f"{longer}@6", origin / "student"]
    for form in ("hf", "s3prl"):
        assert gdist("export", origin, "--format", form, "--out", tmp_path / form).exit_code == 0
        places.append(tmp_path / form)
    made = [begun(tiny_cache, tmp_path / f"new{n}", place, train__steps=2) for n, place in enumerate(places)]
    first, *others = made
    for other in others:
        assert contents(other.student) == contents(first.student)
        assert other.provenance()["signature"] == first.provenance()["signature"]
    assert made[-1].provenance()["start"]["exported"] == {"run": "first", "step": 6, "steps": 6, "finished": True}
    plain = begun(tiny_cache, tmp_path / "plain", train__steps=2)
    assert plain.provenance()["signature"] != first.provenance()["signature"]
    assert contents(plain.student) != contents(first.student)


def test_resumed_equals_uninterrupted_even_where_the_origin_has_gone_on(
    tiny_cache: Path, origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(tiny_cache, tmp_path / "whole", origin)
    mine = Path(shutil.copytree(origin, tmp_path / "first"))
    for step in (2, 5, 8):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_at(patch, step)
            begun(tiny_cache, tmp_path / "cut", mine)
        if step == 2:
            begun(tiny_cache, mine, **AVERAGED, train__steps=7)  # before there is a checkpoint to go on from
        if step == 5:
            shutil.rmtree(mine)
    begun(tiny_cache, tmp_path / "cut", mine)
    assert contents(tmp_path / "cut" / "student") == contents(tmp_path / "whole" / "student")
    assert curves(tmp_path / "cut") == curves(tmp_path / "whole")
    assert Run(tmp_path / "cut").provenance()["start"]["step"] == 6


def test_another_start_is_another_run(
    tiny_cache: Path, origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gdist: Callable[..., Result]
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 5)
        begun(tiny_cache, out, origin)
    before = contents(out)
    with pytest.raises(RunError, match=f"--start-from: {origin}@6 → none") as caught:
        begun(tiny_cache, out)
    assert caught.value.hint and f"--start-from {origin}@6 goes on with it" in caught.value.hint
    with pytest.raises(RunError, match=f"--start-from: {origin}@6 → {origin}@3"):
        begun(tiny_cache, out, f"{origin}@3")
    with pytest.raises(RunError, match=f"--start-from: none → {origin}@6"):
        begun(tiny_cache, origin, origin, train__steps=6, **AVERAGED)
    assert {k: v for k, v in contents(out).items() if k != "training.json"} == {
        k: v for k, v in before.items() if k != "training.json"
    }
    # The command that is printed for an unfinished run goes on with it.
    with pytest.raises(RunError, match="no finished student") as caught:
        load_student(out)
    assert caught.value.hint and f"--start-from {origin}@6" in caught.value.hint
    result = gdist(*caught.value.hint.split()[1:])
    assert result.exit_code == 0 and Run(out).is_finished, result.stderr


@pytest.mark.parametrize(
    ("student", "fields", "words"),
    [
        ("distilhubert", {}, "it is a gendistiller, and this run's student is a distilhubert"),
        ("gendistiller", {"student__width": 16}, "width: None → 16"),
        ("gendistiller", {"student__skip": False, "student__num_layers": 2}, "num_layers: 1 → 2 (and 1 more)"),
        ("gendistiller", {"student__history": "all"}, "history: the layer before → all"),
        ("gendistiller", {"student__frontend": "frozen"}, "with a frozen front-end: that must be the teacher's"),
    ],
)
def test_another_student_is_refused(
    tiny_cache: Path, origin: Path, tmp_path: Path, student: str, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        begun(tiny_cache, tmp_path / "run", origin, student, **fields)
    assert words in caught.value.message and str(origin) in caught.value.message
    assert not (tmp_path / "run").exists()


def test_what_may_differ(tiny_cache: Path, origin: Path, tmp_path: Path) -> None:
    """How it is trained: whose states it starts from, dropout, the loss."""
    fields: dict[str, Any] = {
        "student__history": "teacher",
        "student__dropout": 0.0,
        "loss__name": "l1",
        "train__accumulate": 2,
    }
    assert begun(tiny_cache, tmp_path / "run", origin, train__steps=2, **fields).is_finished
    frozen = begun(tiny_cache, tmp_path / "frozen", train__steps=2, student__frontend="frozen")
    more = begun(tiny_cache, tmp_path / "more", frozen.folder, train__steps=2, student__frontend="frozen")
    assert more.is_finished


def test_where_there_is_nothing_to_start_from(tiny_cache: Path, origin: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has kept nothing of step 5"):
        begun(tiny_cache, tmp_path / "run", f"{origin}@5")
    with pytest.raises(RunError, match="neither a run nor an exported student"):
        begun(tiny_cache, tmp_path / "run", tmp_path / "none")
    assert not (tmp_path / "run").exists()


@pytest.mark.thorough
def test_in_two_ranks(tiny_cache: Path, origin: Path, tmp_path: Path) -> None:
    settings = SHORT | {"train.steps": 1, "train.lr": 1e-12, "train.warmup_steps": 0}
    process = torchrun(2, tiny_cache, tmp_path / "run", settings, "--start-from", str(origin))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    own, theirs = load_student(tmp_path / "run").state_dict(), load_student(origin).state_dict()
    for name, tensor in theirs.items():
        torch.testing.assert_close(own[name], tensor, atol=1e-9, rtol=0)
    assert Run(tmp_path / "run").provenance()["start"]["sha256"] == digest(theirs)


def test_it_is_shown(tiny_cache: Path, origin: Path, tmp_path: Path, gdist: Callable[..., Result]) -> None:
    out = tmp_path / "run"
    result = gdist("train", "--cache", tiny_cache, "--out", out, "--recipe", "smoke", "--start-from", f"{origin}@6")
    assert result.exit_code == 0, result.stderr
    assert gdist("export", out, "--format", "hf", "--out", tmp_path / "hf").exit_code == 0
    assert (
        "| begun with | the weights of first, step 6 of 6, SHA-256 `" in (tmp_path / "hf" / "README.md").read_text()
    )
    assert gdist("eval", out, "--probes", "none").exit_code == 0
    assert gdist("report", out, "--out", tmp_path / "report.html").exit_code == 0
    page = (tmp_path / "report.html").read_text()
    assert f"--start-from {origin}@6" in page
