"""A few faults and damages, so that `make faults` itself keeps working; it does a thousand."""

import os
from collections import Counter
from pathlib import Path

import pytest
from faulting.campaign import difference, names, run, wrong_with
from faulting.damage import ARTEFACTS
from faulting.faults import End
from faulting.phases import PHASES, Place


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts disks, and gives up root's rights in the processes it starts")
def test_a_few_of_each() -> None:
    counts = run(
        9, 5, 180.0, ["export", "report", "cache's files"], ["SIGKILL", "disk fills up", "permissions", "cut", "gone"]
    )
    assert not counts.failures
    ends = Counter(end for _, _, end in counts.ends.elements())
    assert sum(ends.values()) == 9 and ends["right"] + ends["refused"] >= 5
    assert "cut" in counts.table()


@pytest.mark.parametrize(
    ("end", "wrong"),
    [
        (End(0, ""), False),
        (End(-9, ""), False),
        (End(1, "error: cannot write it"), False),
        (End(130, "interrupted"), False),
        (End(1, ""), True),
        (End(-11, "loading"), True),
        (End(1, "error: x\nTraceback (most recent call last):"), True),
        (End(0, "Traceback (most recent call last):"), True),
    ],
)
def test_what_is_wrong_with_an_end(end: End, wrong: bool) -> None:
    assert bool(wrong_with(end)) == wrong


def test_what_is_left_behind_is_seen(tmp_path: Path) -> None:
    (tmp_path / "run/tensorboard").mkdir(parents=True)
    (tmp_path / "run/tensorboard/events.1").touch()
    (tmp_path / "run/.student.tmp").touch()
    assert names(Place(tmp_path, ""), PHASES["train"]) == {"run", "run/tensorboard", "run/.student.tmp"}


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"checkpoints/step-0000005/model.safetensors": b"x", "student/a": b"a"}, ""),
        ({"checkpoints/step-0000004/model.safetensors": b"other", "student/a": b"a"}, "step-0000004"),
        ({"checkpoints/step-0000004/model.safetensors": b"x"}, "student/a"),
        ({"checkpoints/step-0000006/model.safetensors": b"x", "student/a": b"a"}, "step-0000006"),
    ],
)
def test_an_earlier_checkpoint_may_be_another_and_no_other_one(found: dict[str, bytes], told: str) -> None:
    expected = {"checkpoints/step-0000004/model.safetensors": b"x", "student/a": b"a"}
    said = difference(expected, lambda: found, PHASES["train"].loose)
    assert told in said and bool(told) == bool(said)


def test_each_name_means_one_thing() -> None:
    """Else the faults of one of two would never be done."""
    assert not PHASES.keys() & ARTEFACTS.keys()
