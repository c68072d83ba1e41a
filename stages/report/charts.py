"""The report's line charts. The other charts are in plots.py; what both are drawn with is in drawing.py.

Each chart is drawn twice, for wide and narrow screens, so that its text need not shrink.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from markupsafe import Markup, escape
from sklearn.isotonic import isotonic_regression

from gdist.stages.report.drawing import (
    BOTTOM,
    HEIGHT,
    LEFT,
    LETTER,
    NARROW,
    TOP,
    WIDE,
    axes,
    bent,
    marker,
    number,
    shortened,
    svg,
    ticks,
    words,
)

TICK = 17  # pixels that a layer number takes
LABEL_GAP = 15  # pixels between two labels, from baseline to baseline
MAX_LABELS = 9  # the best runs and the references; with more lines, gray ones get no label


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        style: the CSS class that colors it: ``c1`` … ``c6`` or ``rest`` for runs, ``ref`` for references.
        strong: the x values whose markers are filled; the others are hollow. None draws no markers.
    """

    name: str
    points: Sequence[tuple[float, float]]
    style: str
    strong: frozenset[float] | None = None


def chart(title: str, x_label: str, y_label: str, lines: Sequence[Line], integers: bool = False) -> Markup:
    """A line chart with a label at the end of each line. Lines of one name (a configuration's seeds) share a label.

    References are drawn as far as they are inside the axes of the runs.

    Args:
        title: the title for screen readers, and the tooltip.
        integers: whether to put a tick at every integer x, as for layers; else ticks are at round numbers.
    """
    runs = [y for line in lines if line.style != "ref" for _, y in line.points]
    if not runs:
        return Markup()
    # The axis fits the runs: differences between them are small compared with those to the trivial predictions.
    reach = ticks(min(runs), max(runs))
    lines = [
        replace(line, points=inside(line.points, reach[0], reach[-1])) if line.style == "ref" else line
        for line in lines
    ]
    lines = [line for line in lines if line.points]
    drawings = Markup("").join(_draw(title, x_label, y_label, lines, integers, width) for width in (WIDE, NARROW))
    return Markup('<div class="chart">{}</div>').format(drawings)


def _draw(title: str, x_label: str, y_label: str, lines: Sequence[Line], integers: bool, width: int) -> Markup:
    labels = [shortened(name, 18 if width == WIDE else 14) for name in _labels(lines)]
    right = 16 + LETTER * max(map(len, labels))
    edge = width - right
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x_low, x_high = (min(xs), max(xs)) if integers else (min(0.0, *xs), max(xs))
    x_ticks = [float(x) for x in range(int(x_low), int(x_high) + 1)] if integers else ticks(x_low, x_high)
    every = math.ceil(len(x_ticks) * TICK / (edge - LEFT)) if integers else 0
    x_ticks = [x for x in x_ticks if x <= x_high and not (every and x % every)]
    y_ticks = ticks(min(ys), max(ys))
    y_low, y_high = min(y_ticks[0], *ys), max(y_ticks[-1], *ys)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (x - x_low) / ((x_high - x_low) or 1) * (edge - LEFT),
            HEIGHT - BOTTOM - (y - y_low) / ((y_high - y_low) or 1) * (HEIGHT - TOP - BOTTOM),
        )

    across = [(place(x, y_low)[0], number(x, x_ticks)) for x in x_ticks]
    up = [(place(x_low, y)[1], number(y, y_ticks)) for y in y_ticks]
    parts = [axes((LEFT, TOP, edge, HEIGHT - BOTTOM), across, up, x_label, y_label)]
    cut = {at for at, line in enumerate(lines) if line.style == "ref" and line.points[-1][0] < x_high}
    labelled = [at for at, label in enumerate(labels) if label and at not in cut]
    ends = spread([place(*lines[at].points[-1])[1] for at in labelled], TOP, HEIGHT - BOTTOM)
    heights = dict(zip(labelled, ends, strict=True))
    # Gray lines are drawn first, so that colored lines are on top.
    for at in sorted(range(len(lines)), key=lambda at: (lines[at].style[1:].isdigit(), lines[at].strong is not None)):
        line = lines[at]
        spots = [place(x, y) for x, y in line.points]
        parts.append(f'<g class="{line.style}"><title>{escape(line.name)}</title>')
        parts += _pieces(line.points, spots, 1.0 if integers else math.inf)
        if line.strong is not None:
            for (x, y), spot in zip(line.points, spots, strict=True):
                parts.append(marker(line.style, spot, x in line.strong, f"{line.name}, {x_label} {x:g}: {y:.3f}"))
        (x, y), height = spots[-1], heights.get(at, math.nan)
        if abs(y - height) > 3:
            parts.append(bent([(x + 5, y), (edge + 9, height)], "leader"))
        if at in heights:
            parts.append(words(edge + 12, height + 4, labels[at]))
        elif at in cut:
            parts.append(words(x + 6, y - 5, labels[at]))
        parts.append("</g>")
    size = "wide" if width == WIDE else "narrow"
    return svg(parts, title, width, HEIGHT, f"{title}: {y_label} against {x_label}", size)


def _pieces(points: Sequence[tuple[float, float]], spots: Sequence[tuple[float, float]], step: float) -> list[str]:
    """A line, which is thin where its points are further apart than ``step``."""
    gaps = [at for at, (before, after) in enumerate(pairwise(points), 1) if after[0] - before[0] > step]
    ends = [0, *gaps, len(spots)]
    return [*(bent(spots[a:b]) for a, b in pairwise(ends)), *(bent(spots[at - 1 : at + 1], "gap") for at in gaps)]


def _labels(lines: Sequence[Line]) -> list[str]:
    """A label for the first line of each name, but no labels for gray runs if there is no room for all."""
    names = [line.name for line in lines]
    crowded = len(set(names)) > MAX_LABELS
    return [
        "" if names.index(line.name) < place or (crowded and line.style == "rest") else line.name
        for place, line in enumerate(lines)
    ]


def inside(points: Sequence[tuple[float, float]], low: float, high: float) -> list[tuple[float, float]]:
    """The first part of a line that is within low … high, cut where it leaves that range.

    >>> inside([(1, 0.9), (2, 0.7), (3, 0.3)], 0.6, 1.0)
    [(1, 0.9), (2, 0.7), (2.25, 0.6)]
    """
    kept: list[tuple[float, float]] = []
    for x, y in points:
        if low <= y <= high:
            kept.append((x, y))
        elif kept:
            (x0, y0), edge = kept[-1], low if y < low else high
            share = (edge - y0) / (y - y0)
            if share > 0:
                kept.append((round(x0 + share * (x - x0), 6), edge))
            break
    return kept


def spread(heights: Sequence[float], top: float, bottom: float) -> list[float]:
    """Move label heights apart, as little as possible, until no two labels overlap.

    That is isotonic regression of the heights, each less the room for the labels above it.

    >>> spread([100.0, 104.0, 200.0], 0, 300)
    [94.5, 109.5, 200.0]
    """
    if not heights:
        return []
    order = sorted(range(len(heights)), key=lambda at: heights[at])
    room = {at: LABEL_GAP * place for place, at in enumerate(order)}
    lowest = max(bottom - max(room.values()), top)
    moved = isotonic_regression([heights[at] - room[at] for at in order], y_min=top, y_max=lowest)
    return [height for _, height in sorted((at, float(one) + room[at]) for at, one in zip(order, moved, strict=True))]
