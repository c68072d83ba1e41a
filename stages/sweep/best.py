"""`gdist best`: which run of a sweep to take, by how much it is ahead, and whether that is more than scatter."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gdist.pipeline import console
from gdist.pipeline.config import did_you_mean
from gdist.pipeline.errors import RunError, UsageError
from gdist.pipeline.run import EVALUATIONS, Run
from gdist.pipeline.storage.locations import in_shell

CLEAR = 2.0  # standard errors by which a difference is more than the scatter of seeds
OF_TRAINING = {"cosine": True, "loss": False}  # metrics of the last validation in training → whether higher is better


@dataclass(frozen=True)
class Candidate:
    """A point with what its finished seeds have: seed → (value, run)."""

    name: str
    seeds: dict[int, tuple[float, Path]]

    @property
    def values(self) -> list[float]:
        return [value for value, _ in self.seeds.values()]

    @property
    def mean(self) -> float:
        return statistics.mean(self.values)


def best(folder: Path, metric: str, split: str = "valid") -> dict[str, Any]:
    """The best point of a sweep, and its best run.

    Returns:
        the fields of ``gdist best --json`` (see docs/commands.md).

    Raises:
        RunError: the folder contains no sweep, or nothing in it is finished.
        UsageError: no finished run has this metric.
    """
    try:
        points = json.loads((folder / "sweep.json").read_text())["points"]
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{folder} contains no sweep", "give the --out of `gdist sweep`") from error
    found: dict[str, Candidate] = {}
    higher, known = True, set(OF_TRAINING)
    for point in points:
        run = Run(folder / "runs" / point["run"])
        if not (run.student / "model.safetensors").exists():
            continue
        metrics = metrics_of(run, split)
        known |= metrics.keys()
        if metric in metrics:
            value, higher = metrics[metric]
            found.setdefault(point["name"], Candidate(point["name"], {})).seeds[point["seed"]] = (value, run.folder)
    if not found:
        raise UsageError(
            f"no finished run of {folder} has the metric {metric!r}"
            + (f" on the split {split}" if metric not in OF_TRAINING else ""),
            did_you_mean(metric, known) if metric not in known else None,
        )
    ranked = sorted(found.values(), key=lambda one: one.mean, reverse=higher)
    return _answer(ranked, metric, higher)


def metrics_of(run: Run, split: str) -> dict[str, tuple[float, bool]]:
    """Every metric that a run has → its value, and whether higher is better."""
    rows = [row for row in run.read_metrics() if row["kind"] == "valid"]
    metrics = {name: (float(rows[-1][name]), higher) for name, higher in OF_TRAINING.items()} if rows else {}
    path = run.folder / EVALUATIONS[split]
    if path.exists():
        evaluation = json.loads(path.read_text())
        metrics["mean_cosine"] = float(evaluation["mean_cosine"]), True
        metrics |= {name: (one["value"], one["higher_is_better"]) for name, one in evaluation["probes"].items()}
    return metrics


def _answer(ranked: Sequence[Candidate], metric: str, higher: bool) -> dict[str, Any]:
    first = ranked[0]
    choose = max if higher else min
    value, run = choose(first.seeds.values(), key=lambda pair: pair[0])
    answer: dict[str, Any] = {
        "metric": metric,
        "higher_is_better": higher,
        "point": first.name,
        "mean": first.mean,
        "seeds": len(first.seeds),
        "run": str(run),
        "value": value,
        "export": f"gdist export {in_shell(run)} --format hf --out FOLDER",
        "second": None,
        "margin": None,
        "error": None,
        "clear": None,
    }
    if len(ranked) > 1:
        second = ranked[1]
        margin = abs(first.mean - second.mean)
        error = _error(first, second)
        clear = None if error is None else margin >= CLEAR * error and margin > 0
        answer |= {"second": second.name, "margin": margin, "error": error, "clear": clear}
    return answer


def _error(one: Candidate, other: Candidate) -> float | None:
    """The standard error of the difference of two means over seeds; None where a point has one seed."""
    if min(len(one.values), len(other.values)) < 2:
        return None
    return math.sqrt(sum(statistics.variance(each.values) / len(each.values) for each in (one, other)))


def show(answer: dict[str, Any]) -> None:
    """Print the answer for people."""
    seeds = f"mean of {answer['seeds']} seeds" if answer["seeds"] > 1 else "one seed"
    console.say(
        f"{answer['point'] or 'the only point'}: {answer['metric']} {answer['mean']:.4f} ({seeds})", style="green"
    )
    if answer["second"] is not None:
        words = {True: "more than the scatter of seeds", False: "within the scatter of seeds"}
        how = words.get(answer["clear"], "whether that is more than scatter takes two seeds of each to know")
        error = "" if answer["error"] is None else f" ± {answer['error']:.4f}"
        console.say(f"  ahead of {answer['second']} by {answer['margin']:.4f}{error}: {how}")
    console.say(f"  its best run: {answer['run']} ({answer['value']:.4f})")
    console.say(f"  next: {answer['export']}")
