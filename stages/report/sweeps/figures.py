"""The figures of a sweep: the Pareto front, the history of a search, and the values of numeric fields."""

from collections.abc import Sequence
from dataclasses import replace

from markupsafe import Markup

from gdist.stages.report.charts import Line, chart
from gdist.stages.report.plots import Dot, scatter
from gdist.stages.report.sweeps import answer
from gdist.stages.report.sweeps.board import Board, Measure
from gdist.stages.report.sweeps.effects import Effect, Factor
from gdist.stages.report.sweeps.front import Placed

Figures = list[tuple[str, Markup]]
MAX_SIDE_BY_SIDE = 12  # points of about the same size that are moved apart; more would leave the axes
MIN_VALUES = 3  # of a numeric field, from which it has a plot


def front(board: Board, points: Sequence[Placed], on_front: frozenset[str]) -> Figures:
    """Quality against compute and against parameters: filled markers are on the front, whiskers are the seeds."""
    if not points:
        return []
    unit, _ = board.compute()
    title, show = board.metric, answer.shown(board)
    figures = []
    time, scale = _unit(unit, [one.compute for one in points])
    few = len(points) <= MAX_SIDE_BY_SIDE
    for name, label, show_x, across in (
        (f"{title} by compute", f"{time}, logarithmic", "{:g}".format, [one.compute / scale for one in points]),
        (f"{title} by parameters", "parameters, logarithmic", _millions, [one.params for one in points]),
    ):
        if min(across) <= 0:
            continue
        dots = []
        for one, x in zip(points, across, strict=True):
            values = one.point.standing.values if one.point.standing else [one.value]
            style = one.point.style if one.point.name in on_front else "rest"
            if one.point.name in on_front and style == "rest":
                style = "c6"  # on the front, and not among the best by quality
            dots.append(Dot(one.point.title, x, one.value, style, min(values), max(values)))
        dots.sort(key=lambda dot: dot.style == "rest")
        figures.append((name, scatter(name, label, title, dots, show_x, show, side_by_side="param" in name and few)))
    return figures


def cosine_by_compute(board: Board, measure: Measure) -> Figures:
    """Fidelity against compute, where points are judged by something else."""
    unit, compute = board.compute()
    dots = []
    for point in board.ranked:
        x, y = point.spread(compute), list(point.values(measure).values())
        if x and x.mean > 0 and y:
            dots.append(Dot(point.title, x.mean, sum(y) / len(y), point.style, min(y), max(y)))
    if not dots:
        return []
    time, scale = _unit(unit, [dot.x for dot in dots])
    dots = [replace(dot, x=dot.x / scale) for dot in dots]
    title = "mean cosine by compute"
    drawn = scatter(title, f"{time}, logarithmic", "mean cosine", dots, "{:g}".format, "{:.3f}".format)
    return [(title, drawn)]


def history(board: Board) -> Figures:
    """Value by trial, and the best so far, of a search."""
    trials: dict[int, float] = {}
    for point in board.points:
        number = next((entry.trial for entry in point.entries if entry.trial is not None), None)
        if number is not None and point.standing:
            trials[number] = point.standing.mean
    if len(trials) < 2:
        return []
    so_far, best = [], None
    for number, value in sorted(trials.items()):
        best = value if best is None or board.merit(value) > board.merit(best) else best
        so_far.append((float(number), best))
    values = [(float(number), value) for number, value in sorted(trials.items())]
    lines = [
        Line("each trial", values, "rest", frozenset()),
        Line("best so far", so_far, "c1"),
    ]
    return [("Search history", chart("Search history", "trial", board.metric, lines))]


def numeric(board: Board, factors: Sequence[Factor], effects: Sequence[Effect]) -> Figures:
    """Value against a numeric field with several values: a dot for each point."""
    figures = []
    for factor in factors:
        numbers = factor.numbers
        if not numbers or len(numbers) < MIN_VALUES or min(numbers.values()) <= 0:
            continue
        dots = []
        for point in board.ranked:
            values = point.standing.values if point.standing else []
            x = numbers[factor.levels[point.name]]
            dots.append(
                Dot(point.title, x, sum(values) / len(values), _plain_style(point.style), min(values), max(values))
            )
        title = f"{board.metric} by {factor.name}"
        drawn = scatter(
            title,
            f"{factor.name}, logarithmic",
            board.metric,
            dots,
            "{:g}".format,
            answer.shown(board),
            side_by_side=len(dots) <= MAX_SIDE_BY_SIDE,
        )
        figures.append((title, drawn))
    return figures


def _plain_style(style: str) -> str:
    return style if style == "c1" else "rest"


def _unit(unit: str, seconds: Sequence[float]) -> tuple[str, float]:
    """The unit of an axis in words, and what a second is divided by."""
    for word, scale in (("hours", 3600.0), ("minutes", 60.0)):
        if max(seconds) >= 2 * scale:
            return unit.replace("seconds", word), scale
    return unit, 1.0


def _millions(params: float) -> str:
    return f"{params / 1e6:.3g}\N{NO-BREAK SPACE}M"
