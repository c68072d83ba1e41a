"""All points of a sweep with what is known of them: their runs' files, the judged metric, sizes and costs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from gdist.pipeline.files import content_of
from gdist.pipeline.run import EVALUATIONS, Run
from gdist.pipeline.run.evaluations import Speech
from gdist.pipeline.run.identity import identifying
from gdist.pipeline.run.schema import DOCUMENT_BYTES
from gdist.pipeline.schema import parse
from gdist.stages.report.runs import COLORS, Configuration, RunSummary, Spread, configurations, told_apart
from gdist.stages.standings.ranking import OF_EVAL, OF_TRAINING, Candidate, Ranking, rank
from gdist.stages.standings.record import Entry, Sweep

Measure = Callable[[RunSummary], float | None]
FEW = 24  # points that are compared one by one; of a larger sweep, some of them
SEEDS = ("train.seed", "data.seed")
Fields = dict[str, Any]
"""``table.field``, or ``cache`` → value"""


@dataclass(frozen=True, eq=False)
class Point:
    """One point of a sweep.

    Attributes:
        style: the CSS class that colors it: ``c1`` … for the best points, ``rest`` for others.
        entries: its seeds.
        runs: seed → what its folder has, for those that have begun.
        standing: its values, if it has a place in the ranking.
    """

    name: str
    style: str
    entries: tuple[Entry, ...]
    runs: Mapping[int, RunSummary]
    standing: Candidate | None = None

    @property
    def title(self) -> str:
        return self.name or "the only point"

    @property
    def finished(self) -> dict[int, RunSummary]:
        return {entry.seed: self.runs[entry.seed] for entry in self.entries if entry.state == "finished"}

    @property
    def evaluated(self) -> list[RunSummary]:
        """The runs whose evaluations can be shown: those of students that diverged cannot."""
        return [run for run in self.finished.values() if run.eval and not run.has_diverged]

    @property
    def any(self) -> RunSummary | None:
        """A run of it, a finished one if there is one."""
        return next(iter([*self.finished.values(), *self.runs.values()]), None)

    def values(self, measure: Measure) -> dict[int, float]:
        """Seed → value, for finished runs that have it as a finite number."""
        found = {seed: measure(run) for seed, run in sorted(self.finished.items())}
        return {seed: value for seed, value in found.items() if value is not None and math.isfinite(value)}

    def spread(self, measure: Measure) -> Spread | None:
        values = self.values(measure)
        return Spread.over(values.values()) if values else None

    @property
    def params(self) -> int | None:
        return self.any.params if self.any else None

    @cached_property
    def fields(self) -> Fields:
        """Every field of its resolved config that changes what is computed, and its cache; without seeds."""
        varied = dict(self.entries[0].varied)
        if self.any is None:
            return varied
        tables = identifying(self.any.config)
        flat: Fields = {f"{table}.{key}": value for table, fields in tables.items() for key, value in fields.items()}
        flat |= {name: varied.get(name, "") for name in ("cache", "start_from")}
        return {key: value for key, value in flat.items() if key not in SEEDS}

    @cached_property
    def saved(self) -> Fields:
        """The fields of its finished student, those with default values included."""
        if self.any is None:
            return {}
        run = Run(Path(self.any.folder))
        try:
            found = parse(content_of(run.own(run.student / "config.json"), DOCUMENT_BYTES))
            return {f"student.{key}": value for key, value in found.items()}
        except (OSError, ValueError, AttributeError):
            return {}


def wall_seconds(run: RunSummary) -> float | None:
    return run.training().get("seconds")


def cpu_seconds(run: RunSummary) -> float | None:
    return run.training().get("cpu_seconds")


def measured(metric: str) -> Measure:
    """How a run's value of a metric is read, where it has it."""

    def of(run: RunSummary) -> float | None:
        if metric in OF_TRAINING:
            rows = [row for row in run.metrics if row.get("kind") == "valid" and metric in row]
            return float(rows[-1][metric]) if rows else None
        if metric == OF_EVAL:
            return run.eval.get(OF_EVAL)
        found = (run.eval.get("probes") or {}).get(metric)
        return None if found is None else float(found["value"])

    return of


@dataclass(frozen=True)
class Board:
    """A sweep, or a list of runs as one.

    Attributes:
        points: in the order of the file.
        seeds: how many seeds a point has; the largest number.
    """

    sweep: Sweep
    ranking: Ranking
    points: tuple[Point, ...]

    @classmethod
    def read(cls, sweep: Sweep, metric: str | None = None, split: str | None = None) -> "Board":
        """Read the folders of a sweep's runs.

        Raises:
            RunError: nothing is finished, or a run's files cannot be read.
            UsageError: no finished run has this metric.
        """
        ranking = rank(sweep, metric or sweep.metric, split or sweep.split)
        read_from = ranking.split or _evaluated_split(sweep, split)
        styles = {one.name: f"c{at + 1}" for at, one in enumerate(ranking.candidates[:COLORS])}
        standing = {one.name: one for one in ranking.candidates}
        points = []
        for name, entries in sweep.points.items():
            begun = [
                entry
                for entry in entries
                if entry.state == "finished" or (entry.state != "new" and (entry.folder / "config.toml").exists())
            ]
            runs = {entry.seed: _summary(entry, read_from, ranking.speech) for entry in begun}
            points.append(Point(name, styles.get(name, "rest"), entries, runs, standing.get(name)))
        return cls(sweep, ranking, tuple(points))

    @property
    def metric(self) -> str:
        return self.ranking.metric

    @property
    def seeds(self) -> int:
        return max(len(point.entries) for point in self.points)

    @property
    def first(self) -> Point:
        """The best point."""
        return self.named[self.ranking.candidates[0].name]

    @property
    def named(self) -> dict[str, Point]:
        return {point.name: point for point in self.points}

    @property
    def ranked(self) -> list[Point]:
        """The points that have a place in the ranking, the best first."""
        return [self.named[one.name] for one in self.ranking.candidates]

    @property
    def runs(self) -> list[RunSummary]:
        """All runs that have begun, whether they were finished or not."""
        return [run for point in self.points for run in point.runs.values()]

    @property
    def fidelity(self) -> str:
        """The metric of fidelity that all ranked points have: of `gdist eval` if there is one, else of training."""
        runs = [run for point in self.ranked for run in point.finished.values()]
        return OF_EVAL if all(run.eval for run in runs) else "cosine"

    @property
    def evaluated(self) -> list[RunSummary]:
        return [run for point in self.points for run in point.evaluated]

    def few(self) -> list[Point]:
        """All points; of a large sweep, the best ones, and the first one of each alternative."""
        if len(self.points) <= FEW:
            return list(self.points)
        first: dict[str, Point] = {}
        for point in self.points:
            if point.standing:
                first.setdefault(point.entries[0].alternative, point)
        chosen = {point.name for point in [*self.ranked[: FEW // 2], *first.values()]}
        return [point for point in self.points if point.name in chosen]

    def merit(self, value: float) -> float:
        """The value, with its sign changed if lower is better."""
        return value if self.ranking.higher else -value

    @property
    def teacher(self) -> dict[str, Any]:
        about = [(run.eval.get("teacher") or run.provenance.get("teacher") or {}) for run in self.runs]
        return {"name": "the teacher", "params": None} | next((found for found in about if found), {})

    def features(self) -> dict[str, Fields]:
        """Ranked point → every field that the config of any of them names → value."""
        ranked = [point for point in self.points if point.standing]  # in the order of the file
        named = dict.fromkeys(key for point in ranked for key in point.fields)
        return {point.name: {key: point.fields.get(key, point.saved.get(key)) for key in named} for point in ranked}

    def compute(self) -> tuple[str, Measure]:
        """What compute is measured in: CPU seconds of the steps if every ranked point has them, else wall time."""
        known = all(point.values(cpu_seconds) for point in self.ranked)
        return ("CPU seconds", cpu_seconds) if known else ("seconds of training", wall_seconds)

    def configurations(self, evaluated: bool) -> list[Configuration]:
        """The points as the report's configurations, the best first; only with evaluated runs, or with all that
        have begun."""
        found = []
        for point in [*self.ranked, *(point for point in self.points if point.standing is None)]:
            runs = tuple(point.evaluated if evaluated else point.runs.values())
            if runs:
                found.append(Configuration(point.title, runs, point.style))
        return sorted(found, key=lambda one: -one.cosine.mean) if evaluated else found


def _summary(entry: Entry, split: str, speech: Speech | None) -> RunSummary:
    name = f"{entry.name} seed {entry.seed}".strip()
    return replace(RunSummary.read(entry.folder, split, evaluated=False, speech=speech), name=name)


def _evaluated_split(sweep: Sweep, wanted: str | None) -> str:
    """The split whose evaluations are shown: the one asked for, else the first of which there are any."""
    splits = [wanted] if wanted else ["test", "valid"]
    there = [s for s in splits if any((entry.folder / EVALUATIONS[s]).exists() for entry in sweep.entries)]
    return (there or splits)[0]


def sweep_of(folders: Sequence[Path]) -> Sweep:
    """A list of runs as a sweep: configs that differ only in their seeds are its points.

    Raises:
        RunError: one is not a run, or cannot be read.
    """
    runs = told_apart([RunSummary.read(folder, evaluated=False) for folder in dict.fromkeys(folders)])
    flat = {
        run.folder: {f"{t}.{k}": v for t, fields in run.config.items() for k, v in fields.items()} for run in runs
    }
    caches = {run.provenance.get("cache") for run in runs}
    usual: Fields = flat[runs[0].folder]
    entries = []
    for group in sorted(configurations(runs), key=lambda one: runs.index(one.first)):
        for place, run in enumerate(group.runs):
            own = {k: v for k, v in flat[run.folder].items() if usual.get(k, v) != v and k not in SEEDS}
            own |= {"cache": Path(str(run.provenance.get("cache"))).name} if len(caches) > 1 else {}
            seed = run.config.get("train", {}).get("seed", place)
            signature = str(run.provenance.get("signature", ""))
            entries.append(Entry(group.name, int(str(seed)), signature, Path(run.folder), own))
    judge = {"metric": OF_EVAL, "split": "test"} if all(run.eval for run in runs) else {}
    return Sweep(folders[0].parent, "", tuple(entries), judge)
