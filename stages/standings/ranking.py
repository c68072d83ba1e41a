"""Which point of a sweep is ahead by a metric, by how much, and whether that is more than the scatter of seeds.

One rule holds everywhere: a difference is clear if it is at least :data:`CLEAR` times its standard error over seeds.
"""

import contextlib
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gdist.pipeline.errors import RunError, UsageError
from gdist.pipeline.run import EVALUATIONS, Run
from gdist.pipeline.run.evaluations import Evaluations, Speech
from gdist.pipeline.storage.locations import in_shell
from gdist.stages.standings.record import Entry, Sweep

CLEAR = 2.0  # standard errors by which a difference is more than the scatter of seeds
OF_TRAINING = {"cosine": True, "loss": False}  # metrics of the last validation in training → whether higher is better
OF_EVAL = "mean_cosine"
NAMED = 12  # metrics that a message lists


@dataclass(frozen=True)
class Candidate:
    """A point with what its finished seeds have: seed → (value, run).

    Attributes:
        of_seeds: how many seeds the sweep has for it, finished or not.
    """

    name: str
    seeds: dict[int, tuple[float, Path]]
    of_seeds: int = 0

    @property
    def values(self) -> list[float]:
        return [value for value, _ in self.seeds.values()]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float | None:
        """The standard deviation over seeds; None with one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def best(self, higher: bool) -> tuple[float, Path]:
        """The value and the folder of its best run."""
        return (max if higher else min)(self.seeds.values(), key=lambda pair: pair[0])


@dataclass(frozen=True)
class Ranking:
    """The points that have a metric, the best first.

    Attributes:
        split: that ``gdist eval`` measured on; None for metrics of the training.
        speech: the part of it, and whose; None for what stands for each student.
        left_out: point → why it has no place in the ranking.
    """

    metric: str
    higher: bool
    split: str | None
    candidates: tuple[Candidate, ...]
    left_out: dict[str, str]
    speech: Speech | None = None

    def level(self) -> list[Candidate]:
        """The others that are within the scatter of seeds of the first; none where that is not known."""
        first, *others = self.candidates
        errors = {other.name: scatter(first, other) for other in others}
        known = [other for other in others if errors[other.name] is not None]
        return [other for other in known if not is_clear(first.mean - other.mean, errors[other.name])]


def rank(sweep: Sweep, metric: str, split: str) -> Ranking:
    """Rank the points of a sweep by the mean over the seeds that are finished.

    All are ranked by one kind of evaluation: the one that the sweep asks for, or else by those that stand for the
    students, as far as they have the metric.

    Raises:
        RunError: nothing is finished, or an evaluation cannot be read.
        UsageError: no finished run has this metric; the message lists those that there are.
    """
    if split == sweep.split and metric not in OF_TRAINING:
        with contextlib.suppress(UsageError):
            return _rank(sweep, metric, split, sweep.speech)
    return _rank(sweep, metric, split, None)


def _rank(sweep: Sweep, metric: str, split: str, speech: Speech | None) -> Ranking:
    found: dict[str, dict[int, tuple[float, Path]]] = {}
    left_out: dict[str, str] = {}
    higher, known, finished = True, set[str](), 0
    for name, entries in sweep.points.items():
        for entry in entries:
            if entry.state != "finished":
                continue
            finished += 1
            metrics = metrics_of(Run(entry.folder), split, speech)
            known |= metrics.keys()
            if metric in metrics:
                value, higher = metrics[metric]
                if math.isfinite(value):
                    found.setdefault(name, {})[entry.seed] = (value, entry.folder)
        if name not in found:
            left_out[name] = _why(entries, metric, split, speech)
    if not finished:
        raise RunError(f"no point of {sweep.folder} is finished", "gdist sweep …, the same command again")
    if not found:
        raise _unknown(sweep, metric, split, known)
    candidates = [Candidate(name, seeds, len(sweep.points[name])) for name, seeds in found.items()]
    ranked = sorted(candidates, key=lambda one: one.mean, reverse=higher)
    return Ranking(metric, higher, None if metric in OF_TRAINING else split, tuple(ranked), left_out, speech)


def metrics_of(run: Run, split: str, speech: Speech | None = None) -> dict[str, tuple[float, bool]]:
    """Every metric that a run has → its value, and whether higher is better.

    Args:
        split, speech: that its student was evaluated on; by default, what stands for it on that split.

    Raises:
        RunError: its evaluation cannot be read.
    """
    rows = [row for row in run.read_metrics() if row.get("kind") == "valid"]
    last = rows[-1] if rows else {}
    metrics = {name: (float(last[name]), higher) for name, higher in OF_TRAINING.items() if name in last}
    evaluation = Evaluations(run).on(split, speech)
    try:
        if evaluation is not None:
            metrics[OF_EVAL] = float(evaluation[OF_EVAL]), True
            for name, one in (evaluation.get("probes") or {}).items():
                metrics[name] = float(one["value"]), bool(one["higher_is_better"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        again = f"gdist eval {in_shell(run.folder)} --split {split}"
        raise RunError(f"cannot read {run.folder / EVALUATIONS[split]}: {error!r}", again) from error
    return metrics


def scatter(one: Candidate, other: Candidate) -> float | None:
    """The standard error of the difference of two means over seeds; None where a point has one seed."""
    return error_of(one.values, other.values)


def error_of(*columns: Sequence[float]) -> float | None:
    """The standard error of the difference of the means of two columns, or of the mean of one.

    >>> error_of([0.0, 2.0], [1.0, 1.0]), error_of([0.0, 2.0], [1.0])
    (1.0, None)
    """
    if min(map(len, columns)) < 2:
        return None
    return math.sqrt(sum(statistics.variance(column) / len(column) for column in columns))


def is_clear(difference: float, error: float | None) -> bool:
    """Whether a difference is more than the scatter of seeds; never where that is not known."""
    return error is not None and difference != 0 and abs(difference) >= CLEAR * error


def _why(entries: Sequence[Entry], metric: str, split: str, speech: Speech | None) -> str:
    """Why none of a point's seeds has a value."""
    finished = [entry for entry in entries if entry.state == "finished"]
    if finished:
        has_it = any(metric in metrics_of(Run(entry.folder), split, speech) for entry in finished)
        return f"its {metric} is not a finite number" if has_it else f"{metric} was not measured"
    first = next((entry for entry in entries if entry.reason), None)
    states = {entry.state for entry in entries}
    return first.reason if first else "begun, and not finished" if "begun" in states else "not begun"


def _unknown(sweep: Sweep, metric: str, split: str, known: set[str]) -> UsageError:
    where = "" if metric in OF_TRAINING else f" on the split {split}"
    other = next(name for name in EVALUATIONS if name != split)
    elsewhere = [Run(entry.folder) for entry in sweep.entries if (entry.folder / EVALUATIONS[other]).exists()]
    if metric in known:
        return UsageError(f"no finished run of {sweep.folder} has a finite {metric}{where}")
    listed = ", ".join(sorted(known)[:NAMED]) + (f" and {len(known) - NAMED} more" if len(known) > NAMED else "")
    hint = f"they have {listed}" if known else "gdist eval RUN…"
    if any(metric in metrics_of(run, other) for run in elsewhere):
        hint = f"it was measured on the other split: --split {other}"
    return UsageError(f"no finished run of {sweep.folder} has the metric {metric!r}{where}", hint)
