"""`gdist best`: the best point, its margin, whether seeds can tell, and what had to be left out."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from made_sweeps import make_sweep

from gdist.pipeline.errors import RunError, UsageError
from gdist.stages.sweep.best import best

Gdist = Callable[..., Result]
SMALL = """
seeds = [0, 1]
[set]
"train.steps" = 2
"train.warmup_steps" = 1
"train.batch_seconds" = 2.0
"train.validate_every" = 2
"train.validate_seconds" = 2.0
"student.dropout" = 0.0
[grid]
"student.history" = ["student", "teacher"]
"""


def answer_of(gdist: Gdist, *arguments: object) -> dict[str, Any]:
    result = gdist("best", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_real_runs(tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
    """The numbers are those of the runs' own files, and the command that it prints exports the run."""
    (tmp_path / "small.toml").write_text(SMALL)
    out = tmp_path / "sweep"
    assert gdist("sweep", tmp_path / "small.toml", "--cache", tiny_cache, "--out", out, "--jobs", 2).exit_code == 0
    found = answer_of(gdist, out)
    by_name: dict[str, list[float]] = {}
    for point in json.loads((out / "sweep.json").read_text())["points"]:
        rows = map(json.loads, (out / "runs" / point["run"] / "metrics.jsonl").read_text().splitlines())
        last = [row for row in rows if row["kind"] == "valid"][-1]
        by_name.setdefault(point["name"], []).append(last["cosine"])
    means = {name: sum(values) / 2 for name, values in by_name.items()}
    winner = max(means, key=lambda name: means[name])
    assert found["point"] == winner and found["mean"] == pytest.approx(means[winner])
    assert found["value"] == max(by_name[winner]) and found["seeds"] == found["of_seeds"] == 2
    assert found["margin"] == pytest.approx(abs(means["history=student"] - means["history=teacher"]))
    assert found["split"] is None and found["left_out"] == {}

    command = found["export"].replace("FOLDER", str(tmp_path / "exported")).split()
    assert gdist(*command[1:]).exit_code == 0
    assert (tmp_path / "exported" / "model.safetensors").exists()

    losses = answer_of(gdist, out, "--metric", "loss")
    assert not losses["higher_is_better"] and losses["value"] <= losses["mean"]
    unknown = gdist("best", out, "--metric", "kws")
    assert unknown.exit_code == 2 and "has the metric 'kws' on the split valid" in unknown.stderr
    assert "they have cosine, loss" in unknown.stderr

    # A student that was evaluated: its probes are known, on the split that they were measured on.
    run = found["run"]
    assert gdist("eval", run, "--probes", "sid", "--split", "test").exit_code == 0
    elsewhere = gdist("best", out, "--metric", "mean_cosine")
    assert elsewhere.exit_code == 2 and "--split test" in elsewhere.stderr
    by_sid = answer_of(gdist, out, "--metric", "sid", "--split", "test")
    assert by_sid["run"] == run and by_sid["seeds"] == 1 and by_sid["of_seeds"] == 2 and by_sid["clear"] is None
    assert set(by_sid["left_out"].values()) == {"sid was not measured"}


def test_a_margin_is_clear_at_twice_its_standard_error(tmp_path: Path) -> None:
    points = [
        {"name": "near", "cosines": [0.78, 0.80, 0.82]},
        {"name": "best", "cosines": [0.79, 0.81, 0.83]},
        {"name": "far", "cosines": [0.60, 0.62, 0.64]},
    ]
    found = best(make_sweep(tmp_path / "three", points))
    error = math.sqrt(2 * 0.02**2 / 3)
    assert (found["point"], found["second"], found["level"]) == ("best", "near", ["near"])
    assert found["margin"] == pytest.approx(0.01) and found["error"] == pytest.approx(error) and not found["clear"]
    assert found["run"].endswith("seed-2-000000000005")
    found = best(make_sweep(tmp_path / "two", points[1:]))
    assert found["clear"] is True and found["margin"] == pytest.approx(0.19) and found["level"] == []


def test_the_same_value_is_no_lead(tmp_path: Path) -> None:
    same = [{"name": name, "cosines": [0.5, 0.5]} for name in ("first", "second")]
    found = best(make_sweep(tmp_path / "same", same))
    assert found["point"] == "first" and found["margin"] == 0 and found["error"] == 0 and found["clear"] is False


def test_what_is_missing_is_said(tmp_path: Path, gdist: Gdist) -> None:
    points: list[dict[str, Any]] = [
        {"name": "whole", "cosines": [0.7, 0.72]},
        {"name": "half", "cosines": [0.8, None]},
        {"name": "odd", "cosines": [math.nan, math.inf]},
        {"name": "broken", "cosines": [None], "failed": {"exit_code": 1, "log": ["steps", "error: no space left"]}},
        {"name": "weak", "cosines": [None], "stopped": {"rung": 1, "step": 20, "reason": "3rd of 4"}},
        {"name": "new", "cosines": [None]},
    ]
    sweep = make_sweep(tmp_path / "gaps", points)
    found = best(sweep)
    assert (found["point"], found["seeds"], found["of_seeds"]) == ("half", 1, 2)
    assert found["error"] is None and found["clear"] is None
    assert found["left_out"] == {
        "odd": "its cosine is not a finite number",
        "broken": "no space left",
        "weak": "stopped at rung 1, step 20: 3rd of 4",
        "new": "not begun",
    }
    shown = gdist("best", sweep).stderr
    assert "one of 2 seeds" in shown and "takes two seeds of each to know" in shown
    assert "left out: broken: no space left" in shown and "next: gdist export" in shown


def test_the_judge_of_the_sweep_is_the_default(tmp_path: Path) -> None:
    points = [{"name": "a", "cosines": [0.7]}, {"name": "b", "cosines": [0.8]}]
    sweep = make_sweep(tmp_path / "judged", points, judge={"metric": "ks", "split": "test"})
    runs = sorted((sweep / "runs").iterdir())
    for run, value in zip(runs, (0.9, 0.6), strict=True):
        probe = {"value": value, "higher_is_better": True}
        (run / "eval.json").write_text(json.dumps({"mean_cosine": 0.5, "layers": [], "probes": {"ks": probe}}))
    assert (best(sweep)["point"], best(sweep)["metric"], best(sweep)["split"]) == ("a", "ks", "test")
    assert best(sweep, "cosine")["point"] == "b"
    (runs[0] / "eval.json").write_text('{"mean_cosine": 0.5, "layers": [], "probes": {"ks": {}}}')
    with pytest.raises(RunError, match=r"eval\.json is damaged: its probes\[…\] lacks value") as caught:
        best(sweep)
    assert caught.value.hint and caught.value.hint.startswith("gdist eval ")


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="contains no sweep"):
        best(tmp_path)
    sweep = make_sweep(tmp_path / "new", [{"name": "a", "cosines": [None]}])
    with pytest.raises(RunError, match=r"no point of .* is finished"):
        best(sweep)
    made = make_sweep(tmp_path / "made", [{"name": "a", "cosines": [math.nan]}])
    with pytest.raises(UsageError, match="a finite cosine"):
        best(made)
    record = json.loads((made / "sweep.json").read_text())
    record["points"][0]["run"] = "../../elsewhere"
    (made / "sweep.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"its points\[0\].run is not text of the right form"):
        best(made)


def test_all_points_are_ranked_by_one_kind_of_evaluation(tmp_path: Path) -> None:
    """By what the sweep asks for, whatever else some of them were evaluated on by hand."""
    judge = {"metric": "mean_cosine", "split": "valid", "probes": "none", "minutes": 5.0}
    points = [{"name": name, "cosines": [0.5]} for name in ("first", "second")]
    sweep = make_sweep(tmp_path / "judged", points, judge=judge)
    for name, value in (("first", 0.6), ("second", 0.7)):
        (folder,) = (sweep / "runs").glob(f"{name}-*")
        whole = {"mean_cosine": value, "layers": [], "cache": "demo/cache", "minutes": 5.0, "probes": {}}
        (folder / "eval-valid.json").write_text(json.dumps(whole))
    assert best(sweep)["point"] == "second"
    (folder,) = (sweep / "runs").glob("first-*")
    (folder / "evaluations").mkdir()
    (folder / "eval-valid.json").rename(folder / "evaluations" / "valid-5.json")
    probe = {"value": 0.3, "higher_is_better": True}
    whole |= {"mean_cosine": 0.9, "minutes": 0.0, "probes": {"ks": probe}}
    (folder / "eval-valid.json").write_text(json.dumps(whole))
    found = best(sweep)
    assert found["point"] == "second" and found["margin"] == pytest.approx(0.1)
    by_hand = best(sweep, "ks")
    assert by_hand["point"] == "first" and by_hand["left_out"] == {"second": "ks was not measured"}
