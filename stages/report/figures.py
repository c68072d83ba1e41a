"""The report's figures: the numbers that each chart shows."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from markupsafe import Markup

from gdist.stages.report import probes
from gdist.stages.report.charts import Line, chart
from gdist.stages.report.plots import Dot, scatter, whiskers
from gdist.stages.report.probes import Result, Task
from gdist.stages.report.runs import Configuration, RunSummary
from gdist.stages.report.story import Rows

HOURS_FROM = 7200.0  # seconds from which axes use hours instead of minutes
CURVE_POINTS = 240  # per curve, about two pixels each
PROGRESS = (("Training loss", "loss", "train"), ("Held-out cosine", "cosine", "valid"))
Figures = list[tuple[str, Markup]]


def fidelity(groups: Sequence[Configuration], references: Mapping[str, Rows]) -> Figures:
    """Cosine and relative error by layer, averaged over seeds."""
    charts = []
    for key, title, label in (
        ("cosine", "Cosine to the teacher by layer", "mean cosine"),
        ("relative_error", "Relative error by layer", "relative error"),
    ):
        lines = [Line(name, [(row["layer"], row[key]) for row in rows], "ref") for name, rows in references.items()]
        for group in groups:
            points = [(row["layer"], row[key]) for row in group.layers]
            own = group.first.eval.get("predicted_layers") or [x for x, _ in points]
            strong = frozenset(map(float, own)) if group.style != "rest" else None
            lines.append(Line(group.name, points, group.style, strong))
        charts.append((title, chart(title, "teacher layer", label, lines, integers=True)))
    return charts


def progress(groups: Sequence[Configuration]) -> Figures:
    """Loss and held-out cosine, by step and by time, with one line per run and one label per configuration."""
    unit, seconds = _unit([run for group in groups for run in group.runs])
    charts = []
    for title, y, kind in PROGRESS:
        for x, by, label, scale in (
            ("step", "step", "step", 1.0),
            ("seconds", "time", f"{unit} of training", seconds),
        ):
            lines = [
                Line(
                    group.name,
                    thinned([(at / scale, value) for at, value in run.curve(kind, x, y)]),
                    group.style,
                    strong=frozenset() if kind == "valid" and group.style != "rest" else None,
                )
                for group in groups
                for run in group.runs
            ]
            charts.append((f"{title} by {by}", chart(f"{title} by {by}", label, y, lines)))
    return [(title, drawing) for title, drawing in charts if drawing]


def thinned(points: Sequence[tuple[float, float]], limit: int = CURVE_POINTS) -> list[tuple[float, float]]:
    """Average neighboring points so that at most ``limit`` remain, to keep the page small for long or many runs.

    >>> thinned([(1, 4.0), (2, 6.0), (3, 1.0)], limit=2)
    [(1.5, 5.0), (3.0, 1.0)]
    """
    size = math.ceil(len(points) / limit) or 1
    chunks = [points[start : start + size] for start in range(0, len(points), size)]
    return [(fmean(x for x, _ in chunk), fmean(y for _, y in chunk)) for chunk in chunks]


def quality(groups: Sequence[Configuration], teacher: Mapping[str, Any], tasks: Sequence[Task]) -> Figures:
    """Mean cosine, and the result of each probe, against the number of parameters.

    A result from the teacher's layer 0, as others have it, is not a student's: it is left out.
    """
    runs = [run for group in groups for run in group.runs]
    dots = [
        _dot(group, group.first.eval["params"], group.cosine.mean, [run.cosine for run in group.runs])
        for group in groups
    ]
    if teacher["params"]:
        dots.append(Dot("teacher", teacher["params"], 1.0, "ref", 1.0, 1.0))
    figures = [("Mean cosine", _by_params("mean cosine", dots, "{:.3f}".format))]
    for task in tasks:
        same = probes.alike(task, groups)
        found = [(group, probes.result(task, group.runs)) for group in groups if group.name not in same]
        dots = [
            _probe_dot(group.name, group.style, result, group.first.eval["params"])
            for group, result in found
            if result
        ]
        if not dots:
            continue
        of_teacher = probes.reference(task, runs, "teacher")
        if teacher["params"] and of_teacher:
            dots.append(_probe_dot("teacher", "ref", of_teacher, teacher["params"]))
        log_mel = probes.reference(task, runs, "log_mel")
        level = ("log-mel", log_mel.value.mean) if log_mel else None
        title = task.title[:1].upper() + task.title[1:]
        figures.append((title, _by_params(_measure(task), dots, task.show, level)))
    return figures


def spent(groups: Sequence[Configuration]) -> Figures:
    """Mean cosine against training time, and against the speech in training, with one dot per run."""
    runs = [run for group in groups for run in group.runs]
    figures = []
    for key, title, of in (
        ("seconds", "Cosine by training time", "training"),
        ("audio_seconds", "Cosine by speech in training", "speech"),
    ):
        unit, scale = _unit(runs, key)
        dots = [
            Dot(group.name, run.training()[key] / scale, run.cosine, group.style, run.cosine, run.cosine)
            for group in groups
            for run in group.runs
            if run.training().get(key)
        ]
        if dots:
            drawn = scatter(
                title, f"{unit} of {of} (logarithmic)", "mean cosine", dots, "{:g}".format, "{:.3f}".format
            )
            figures.append((title, drawn))
    return figures


def probe(task: Task, groups: Sequence[Configuration], runs: Sequence[RunSummary]) -> Markup:
    """The value of every system with its interval, the best on top; one row for all that are alike."""
    same = probes.alike(task, groups)
    found = [(group.name, group.style, probes.result(task, group.runs)) for group in groups if group.name not in same]
    found += [(probes.SHORT, "ref", probes.of_layer_0(task, groups))]
    found += [
        (name, "ref", probes.reference(task, runs, key))
        for key, name in (("teacher", "teacher"), ("log_mel", "log-mel"))
        if not (key == "teacher" and same.teacher)
    ]
    dots = [_probe_dot(name, style, result, 0.0) for name, style, result in found if result]
    dots.sort(key=lambda dot: -task.merit(dot.y))
    chance = task.chance if math.isfinite(task.chance) else None
    return whiskers(f"{task.title}: {_measure(task)}", _measure(task), dots, task.show, chance)


def _by_params(
    label: str, dots: Sequence[Dot], show: Callable[[float], str], level: tuple[str, float] | None = None
) -> Markup:
    def millions(params: float) -> str:
        return f"{params / 1e6:g}\N{NO-BREAK SPACE}M"

    title = f"{label} by parameters"
    return scatter(title, "parameters (logarithmic)", label, dots, millions, show, level, side_by_side=True)


def _dot(group: Configuration, x: float, y: float, values: Sequence[float]) -> Dot:
    """A dot whose whisker reaches from the worst seed to the best."""
    return Dot(group.name, x, y, group.style, min(values), max(values))


def _probe_dot(name: str, style: str, result: Result, x: float) -> Dot:
    return Dot(name, x, result.value.mean, style, result.low, result.high, result.values)


def _measure(task: Task) -> str:
    return task.metric if task.higher_is_better else f"{task.metric}, lower is better"


def _unit(runs: Sequence[RunSummary], key: str = "seconds") -> tuple[str, float]:
    longest = max((run.training().get(key) or 0.0 for run in runs), default=0.0)
    return ("hours", 3600.0) if longest >= HOURS_FROM else ("minutes", 60.0)
