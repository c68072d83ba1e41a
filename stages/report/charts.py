"""The report's line charts, as hand-written SVG without fonts, scripts or colors. The other charts are in plots.py.

Everything is drawn with classes and ``currentColor``, which the page's stylesheet defines, so one drawing works in
light mode, in dark mode and on paper. Each chart is drawn twice, for wide and narrow screens, so that its text need
not shrink.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from markupsafe import Markup, escape

WIDE, NARROW = 500, 342  # pixels: one of two charts side by side on the page, and the full width of a phone
HEIGHT = 312
TOP, BOTTOM, LEFT = 30, 44, 46
TICK = 17  # pixels that a layer number takes
LETTER = 6.6  # pixels per letter of a label: a generous mean
LABEL_GAP = 15  # pixels between two labels, from baseline to baseline
MAX_LABELS = 9  # the best runs and the references; with more lines, gray ones get no label
SHAPES = ("circle", "square", "diamond", "triangle")  # so that color is never the only difference


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
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x_ticks = [float(x) for x in range(int(min(xs)), int(max(xs)) + 1)] if integers else ticks(min(0.0, *xs), max(xs))
    x_ticks = [x for x in x_ticks if x <= max(xs)]
    y_ticks = ticks(min(ys), max(ys))
    if integers:
        every = math.ceil(len(x_ticks) * TICK / (width - LEFT - right))
        x_ticks = [x for x in x_ticks if x % every == 0]
    x_low, x_high = (min(xs), max(xs)) if integers else (min(0.0, *xs), max(xs))
    y_low, y_high = min(y_ticks[0], *ys), max(y_ticks[-1], *ys)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (x - x_low) / ((x_high - x_low) or 1) * (width - LEFT - right),
            HEIGHT - BOTTOM - (y - y_low) / ((y_high - y_low) or 1) * (HEIGHT - TOP - BOTTOM),
        )

    parts = [f'<title>{escape(title)}</title><g class="axes">']
    for y in y_ticks:
        height = place(x_low, y)[1]
        parts.append(f'<line x1="{LEFT}" x2="{width - right:.1f}" y1="{height:.1f}" y2="{height:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{height + 4:.1f}" text-anchor="end">{number(y, y_ticks)}</text>')
    for x in x_ticks:
        at = place(x, y_low)[0]
        parts.append(
            f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{number(x, x_ticks)}</text>'
        )
    parts.append(f'<text x="8" y="13" class="unit">{escape(y_label)}</text>')
    middle = (LEFT + width - right) / 2
    parts.append(
        f'<text x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle" class="unit">{escape(x_label)}</text>'
    )
    parts.append("</g>")
    cut = {at for at, line in enumerate(lines) if line.style == "ref" and line.points[-1][0] < x_high}
    labelled = [at for at, label in enumerate(labels) if label and at not in cut]
    ends = spread([place(*lines[at].points[-1])[1] for at in labelled], TOP, HEIGHT - BOTTOM)
    heights = dict(zip(labelled, ends, strict=True))
    # Gray lines are drawn first, so that colored lines are on top.
    for at in sorted(range(len(lines)), key=lambda at: (lines[at].style[1:].isdigit(), lines[at].strong is not None)):
        line = lines[at]
        spots = [place(x, y) for x, y in line.points]
        parts.append(f'<g class="{line.style}"><title>{escape(line.name)}</title>')
        for piece, is_gap in _pieces(line.points, spots, 1.0 if integers else math.inf):
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in piece)
            parts.append(f'<polyline{" class='gap'" * is_gap} points="{path}"/>')
        for (x, y), spot in zip(line.points, spots, strict=True):
            if line.strong is not None:
                tip = f"{line.name}, {x_label} {x:g}: {y:.3f}"
                parts.append(marker(shape_of(line.style), spot, "strong" if x in line.strong else "weak", tip))
        if at in heights:
            end, height = spots[-1], heights[at]
            if abs(end[1] - height) > 3:
                bend = f"{end[0] + 5:.1f},{end[1]:.1f} {width - right + 9:.1f},{height:.1f}"
                parts.append(f'<polyline class="leader" points="{bend}"/>')
            parts.append(f'<text x="{width - right + 12:.1f}" y="{height + 4:.1f}">{escape(labels[at])}</text>')
        elif at in cut:
            parts.append(f'<text x="{spots[-1][0] + 6:.1f}" y="{spots[-1][1] - 5:.1f}">{escape(labels[at])}</text>')
        parts.append("</g>")
    size = "wide" if width == WIDE else "narrow"
    return Markup(
        f'<svg class="{size}" viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{escape(title)}: '
        f'{escape(y_label)} against {escape(x_label)}">{"".join(parts)}</svg>'
    )


def _pieces(
    points: Sequence[tuple[float, float]], spots: Sequence[tuple[float, float]], step: float
) -> Iterator[tuple[list[tuple[float, float]], bool]]:
    """The pieces of a line, as places on the drawing; each with whether it crosses a gap, wider than ``step``."""
    piece = [spots[0]]
    for (before, at), spot in zip(pairwise(points), spots[1:], strict=True):
        if at[0] - before[0] > step:
            yield piece, False
            yield [piece[-1], spot], True
            piece = []
        piece.append(spot)
    yield piece, False


def _labels(lines: Sequence[Line]) -> list[str]:
    """A label for the first line of each name, but no labels for gray runs if there is no room for all."""
    names = [line.name for line in lines]
    crowded = len(set(names)) > MAX_LABELS
    return [
        "" if names.index(line.name) < place or (crowded and line.style == "rest") else line.name
        for place, line in enumerate(lines)
    ]


def shape_of(style: str) -> str:
    """The marker shape that goes with a color."""
    return SHAPES[(int(style[1:]) - 1) % len(SHAPES)] if style[1:].isdigit() else SHAPES[0]


def marker(shape: str, spot: tuple[float, float], kind: str, tip: str) -> str:
    """A point, hollow (``weak``) or filled (``strong``), with a tooltip."""
    x, y = spot
    if shape == "circle":
        drawn = f'circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.4"'
    else:
        corners = {
            "square": ((-3, -3), (3, -3), (3, 3), (-3, 3)),
            "diamond": ((0, -4.4), (4.4, 0), (0, 4.4), (-4.4, 0)),
            "triangle": ((0, -4.2), (4.2, 3.2), (-4.2, 3.2)),
        }[shape]
        drawn = f'polygon class="{kind}" points="{" ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)}"'
    return f"<{drawn}><title>{escape(tip)}</title></{drawn.split()[0]}>"


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


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """About ``about`` round numbers that cover low … high.

    >>> ticks(0.16, 0.97)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = (high - low) or abs(high) or 1.0
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 10) for n in range(first, max(last, first + 1) + 1)]


def spread(heights: Sequence[float], top: float, bottom: float) -> list[float]:
    """Move label heights apart, as little as possible, until no two labels overlap.

    >>> spread([100.0, 104.0, 200.0], 0, 300)
    [94.5, 109.5, 200.0]
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    groups: list[tuple[float, list[int]]] = []  # (center, members): labels that touch move together
    for index in order:
        groups.append((heights[index], [index]))
        while len(groups) > 1 and _bottom(groups[-2]) + LABEL_GAP > _top(groups[-1]) + 1e-9:
            (_, below), (_, above) = groups.pop(), groups.pop()
            members = above + below
            groups.append((sum(heights[i] for i in members) / len(members), members))
    placed = [0.0] * len(heights)
    for group in groups:
        start = min(max(_top(group), top), max(bottom - LABEL_GAP * (len(group[1]) - 1), top))
        for position, index in enumerate(group[1]):
            placed[index] = start + LABEL_GAP * position
    for above_label, below_label in pairwise(order):  # separate the groups that the edges pushed together again
        placed[below_label] = max(placed[below_label], placed[above_label] + LABEL_GAP)
    return placed


def _top(group: tuple[float, list[int]]) -> float:
    return group[0] - LABEL_GAP * (len(group[1]) - 1) / 2


def _bottom(group: tuple[float, list[int]]) -> float:
    return group[0] + LABEL_GAP * (len(group[1]) - 1) / 2


def number(value: float, among: Sequence[float]) -> str:
    """The text of a tick, with as many decimals as are needed to tell the ticks apart."""
    step = among[1] - among[0] if len(among) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(abs(step)) + 1e-9))
    if abs(among[-1]) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.{decimals}f}"


def shortened(name: str, letters: int) -> str:
    """Shorten a name by cutting out its middle, because the names in a sweep differ at their ends.

    >>> shortened("gendistiller-trained", 14)
    'gend…r-trained'
    """
    start = (letters - 1) // 3
    return name if len(name) <= letters else f"{name[:start]}…{name[len(name) - (letters - 1 - start) :]}"
