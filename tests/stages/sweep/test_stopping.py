"""`[stopping]`: which points go on follows from what their validations measured, and from nothing else."""

import json
import random
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from sweeping import Gdist, run, send, start, weights

from gdist.pipeline.config import signature
from gdist.stages.sweep.points import Point
from gdist.stages.sweep.rungs import Progress, bracket_of, decide
from gdist.stages.sweep.stopping import Stopping
from gdist.stages.train.config import OptimConfig, TrainConfig

STOPPED = """
[set]
"train.steps" = 9
"train.warmup_steps" = 1
"train.batch_seconds" = 2.0
"train.validate_every" = 9
"train.validate_seconds" = 2.0
"student.dropout" = 0.0
[grid]
"train.lr" = [1e-4, 1e-3, 2e-3, 5e-3]
[stopping]
first = 2
factor = 2
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "stopped.toml"
    path.write_text(STOPPED)
    return path


def point(label: str, steps: int = 100) -> Point:
    """``a0``: the seed 0 of the point a."""
    name, seed = label[:-1], int(label[-1])
    config = TrainConfig(train=OptimConfig(steps=steps, warmup_steps=0, seed=seed))
    return Point(name, {}, seed, "", None, (), config, signature({"of": [name, seed]}))


def decided(
    stopping: Stopping,
    values: Mapping[str, Mapping[int, float]],
    failed: str = "",
    short: str = "",
    unkept: str = "",
) -> tuple[dict[str, int], dict[str, str]]:
    """Point → the step it waits at, and point → why it was stopped.

    Args:
        values: point → step → what was measured there.
        short: a point that ends at step 10.
        unkept: a point that was killed before its last checkpoint.
    """
    points = {label: point(label, 10 if label == short else 100) for label in values}
    progress = {
        points[label].signature: Progress(found, max(found, default=0) - (label == unkept), label == failed)
        for label, found in values.items()
    }
    decision = decide(stopping, list(points.values()), progress, higher_is_better=True)
    labels = {each.signature: label for label, each in points.items()}
    return (
        {labels[signature]: step for signature, step in decision.until.items()},
        {labels[signature]: why.reason for signature, why in decision.stopped.items()},
    )


def test_rungs() -> None:
    assert Stopping(first=10, factor=3).steps(100) == [10, 30, 90]
    assert Stopping(first=10, factor=3).steps(90) == [10, 30]  # the last step is no rung
    assert Stopping(first=10, factor=3, rungs=1).steps(100) == [10]
    assert Stopping(first=100).steps(100) == []
    assert Stopping(first=125, factor=2).steps(1000) == [125, 250, 500]


def test_a_rung_is_decided_once_all_are_there() -> None:
    stopping, measured = Stopping(first=10, factor=3, rungs=1), {"a0": {10: 0.4}, "b0": {10: 0.5}, "c0": {10: 0.6}}
    assert decided(stopping, measured | {"a0": {}}) == ({"a0": 10, "b0": 10, "c0": 10}, {})
    assert decided(stopping, measured, unkept="b0") == ({"a0": 10, "b0": 10, "c0": 10}, {})
    until, stopped = decided(stopping, measured)
    assert until == {}
    assert stopped == {
        "a0": "0.400 at step 10: 3rd of 3, the first goes on",
        "b0": "0.500 at step 10: 2nd of 3, the first goes on",
    }
    # A point that fails before the rung is not waited for; one that fails after it does not change what was decided.
    assert decided(stopping, measured | {"a0": {}}, failed="a0")[1].keys() == {"b0"}
    assert decided(stopping, measured, failed="c0")[1].keys() == {"a0", "b0"}
    # One more point: decided anew, once it is there.
    assert decided(stopping, measured | {"d0": {}})[1] == {}
    assert decided(stopping, measured | {"d0": {10: 0.9}})[1].keys() == {"a0", "b0", "c0"}


def test_seeds_share_the_fate_of_their_point() -> None:
    stopping = Stopping(first=10, factor=2, rungs=1)
    values = {"a0": {10: 0.9}, "a1": {10: 0.1}, "b0": {10: 0.6}, "b1": {10: 0.6}}
    assert decided(stopping, values)[1].keys() == {"a0", "a1"}
    # Where one seed has failed, the others are the point.
    assert decided(stopping, values | {"a1": {}}, failed="a1")[1].keys() == {"b0", "b1"}


def test_points_that_were_beyond_a_rung_go_on() -> None:
    values = {"a0": {100: 0.1}, "b0": {10: 0.5}, "c0": {10: 0.6}, "d0": {10: 0.2}}
    assert decided(Stopping(first=10, factor=2, rungs=1), values, short="d0")[1].keys() == {"b0"}


def test_hyperband_deals_by_the_signature_alone() -> None:
    labels = [f"p{number}-0" for number in range(300)]
    stopping = Stopping("hyperband", first=10, factor=3, rungs=2)
    brackets = {label: bracket_of([point(label)], stopping, 3) for label in labels}
    counts = [list(brackets.values()).count(number) for number in range(3)]
    assert counts[0] > counts[1] > counts[2] > 20
    until, _ = decided(stopping, {label: {} for label in labels})
    assert all(until.get(label) == {0: 10, 1: 30, 2: None}[number] for label, number in brackets.items())


@pytest.mark.thorough
def test_stopped_points_and_killed_sweeps(file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
    """Rungs at 2, 4 and 8 of 9 steps, four points; the same table and students with kills and two processes."""
    whole = run(gdist, file, tiny_cache, tmp_path / "whole")
    assert (whole["done"], whole["ran"], whole["failed"], whole["left"]) == (4, 1, 0, 0)
    states = [(row["state"], row["step"]) for row in whole["table"]]
    assert sorted(states) == [("done", 9), ("stopped", 2), ("stopped", 2), ("stopped", 4)]
    for row in whole["table"]:
        if row["state"] == "stopped":
            assert row["stopped"]["step"] == row["step"] and row["stopped"]["value"] == row["value"]
            assert f"at step {row['step']}: " in row["stopped"]["reason"]
    recorded = json.loads((tmp_path / "whole/sweep.json").read_text())["points"]
    assert sum("stopped" in each for each in recorded) == 3

    again = run(gdist, file, tiny_cache, tmp_path / "whole")
    assert again["ran"] == 0 and again["table"] == whole["table"]

    seed, out = time.time_ns(), tmp_path / "killed"
    rng = random.Random(seed)
    for _ in range(2):
        process = start(file, tiny_cache, out, "--jobs", 2)
        seen = len(list(out.glob("runs/*/checkpoints/step-*")))
        while len(list(out.glob("runs/*/checkpoints/step-*"))) <= seen and process.is_alive():
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.2))
        send(process, signal.SIGKILL)
    killed = run(gdist, file, tiny_cache, out)
    assert [row | {"run": ""} for row in killed["table"]] == [row | {"run": ""} for row in whole["table"]], seed

    # The one that went on is the student that it is without any stopping; and those that were stopped may go on.
    file.write_text(STOPPED.replace("[stopping]\nfirst = 2\nfactor = 2\n", ""))
    plain = run(gdist, file, tiny_cache, tmp_path / "plain", "--first")
    everything = run(gdist, file, tiny_cache, out)
    assert (everything["done"], everything["ran"]) == (4, 3)
    for identity, tensors in weights(plain).items():
        assert all(tensor.equal(weights(everything)[identity][name]) for name, tensor in tensors.items())
    for identity, tensors in weights(whole).items():
        assert all(tensor.equal(weights(everything)[identity][name]) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("first = 2", "first = 0"), "stopping.first = 0"),
        (("first = 2", ""), "stopping.first = 0"),
        (("factor = 2", "factor = 1"), "stopping.factor = 1"),
        (("factor = 2", "rungs = -1"), "stopping.rungs = -1"),
        (("factor = 2", 'method = "median"'), "not one of halving, hyperband"),
        (("factor = 2", "facter = 2"), "did you mean `stopping.factor`"),
        (("[stopping]", '[judge]\nmetric = "ks"\n[stopping]'), "where ks is not measured"),
    ],
)
def test_mistakes_are_named_before_anything_runs(
    change: tuple[str, str], message: str, file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist
) -> None:
    file.write_text(STOPPED.replace(*change))
    result = gdist("sweep", file, "--cache", tiny_cache, "--out", tmp_path / "sweep")
    assert result.exit_code == 2, result.stderr
    assert message in result.stderr
    assert not (tmp_path / "sweep").exists()
