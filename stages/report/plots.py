"""The report's scatter plots and dots with whiskers, drawn with what is in drawing.py."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from gdist.stages.report.drawing import (
    BOTTOM,
    HEIGHT,
    LEFT,
    LETTER,
    NARROW,
    TOP,
    WIDE,
    Box,
    axes,
    bent,
    log_ticks,
    marker,
    number,
    shortened,
    straight,
    svg,
    ticks,
    words,
)

RIGHT = 16  # pixels to the right of a scatter plot's axes
WHISKER_GAP = 7.0  # pixels between whiskers that are side by side
ROW, HEAD = 21, 24  # pixels per row of dots and whiskers, and above the first row
LETTER_HEIGHT = 13


@dataclass(frozen=True)
class Dot:
    """One system in a plot.

    Attributes:
        low, high: the interval of ``y``; both are equal if it is not known.
        values: the values of the seeds, which :func:`whiskers` draws faintly if there are several.
    """

    name: str
    x: float
    y: float
    style: str
    low: float
    high: float
    values: tuple[float, ...] = ()


def scatter(
    title: str,
    x_label: str,
    y_label: str,
    dots: Sequence[Dot],
    show_x: Callable[[float], str],
    show_y: Callable[[float], str],
    level: tuple[str, float] | None = None,
    side_by_side: bool = False,
    log_y: bool = False,
) -> Markup:
    """A scatter plot with logarithmic x, and names where there is room for them.

    Args:
        level: a reference without an x (log-mel has no parameters), drawn as a line across the plot.
        side_by_side: whether to move points with (almost) the same x apart, so that their whiskers do not overlap.
    """
    ys = [y for dot in dots for y in (dot.low, dot.high)] + ([level[1]] if level else [])
    y_ticks = log_ticks(min(ys) / 2, max(ys) * 2) if log_y else ticks(min(ys), max(ys))
    scale = math.log if log_y else float
    y_low, y_high = scale(min(*ys, *y_ticks)), scale(max(*ys, *y_ticks))
    low, high = math.log(min(dot.x for dot in dots)), math.log(max(dot.x for dot in dots))
    margin = 0.09 * (high - low) + 0.02
    low, high = low - margin, high + margin
    left, top, right, bottom = inside = (LEFT, TOP, NARROW - RIGHT, HEIGHT - BOTTOM)

    def place(x: float, y: float) -> tuple[float, float]:
        share = (scale(y) - y_low) / (y_high - y_low)
        return left + (math.log(x) - low) / (high - low) * (right - left), bottom - share * (bottom - top)

    across = [(place(x, y_ticks[0])[0], show_x(x)) for x in log_ticks(math.exp(low), math.exp(high))]
    up = [(place(1.0, y)[1], show_y(y) if log_y else number(y, y_ticks)) for y in y_ticks]
    parts = [axes(inside, across, up, x_label, y_label)]
    spots = [place(dot.x, dot.y) for dot in dots]
    spots = _side_by_side(spots) if side_by_side else spots
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in spots]
    if level:
        at = place(1.0, level[1])[1]
        line = bent([(left, at), (right, at)]) + words(left + 4, at - 5, level[0])
        parts.append(f'<g class="ref">{line}</g>')
        taken.append((left, at - 17, left + 4 + LETTER * len(level[0]), at))
    ends = [
        ((x, place(dot.x, dot.low)[1]), (x, place(dot.x, dot.high)[1]))
        for dot, (x, _) in zip(dots, spots, strict=True)
    ]
    lines = [(x - 2, highest, x + 2, lowest) for (x, lowest), (_, highest) in ends]
    drawn = []
    for dot, spot, whisker in zip(dots, spots, ends, strict=True):
        tip = f"{dot.name}: {show_y(dot.y)} with {show_x(dot.x)}"
        whole = [straight(*whisker, "whisker")] if dot.low < dot.high else []
        whole.append(marker(dot.style, spot, dot.style not in ("rest", "ref"), tip))
        if dot.style != "rest":
            whole.append(_label(shortened(dot.name, 20), spot, inside, taken, lines))
        drawn.append(f'<g class="{dot.style}">{"".join(whole)}</g>')
    parts += reversed(drawn)  # so that the best are on top
    drawing = svg(parts, title, NARROW, HEIGHT, f"{title}: {y_label} against {x_label}")
    return Markup('<div class="chart">{}</div>').format(drawing)


def _side_by_side(spots: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Move points that are horizontally closer than :data:`WHISKER_GAP` side by side, around their mean position.

    >>> _side_by_side([(100.0, 7.0), (200.0, 8.0), (101.0, 9.0)])
    [(97.0, 7.0), (200.0, 8.0), (104.0, 9.0)]
    """
    order = sorted(range(len(spots)), key=lambda at: spots[at][0])
    clusters: list[list[int]] = []
    for at in order:
        near = clusters and spots[at][0] - spots[clusters[-1][-1]][0] < WHISKER_GAP
        clusters[-1].append(at) if near else clusters.append([at])
    moved = list(spots)
    for cluster in clusters:
        middle = sum(spots[at][0] for at in cluster) / len(cluster)
        for place, at in enumerate(cluster):
            shift = WHISKER_GAP * (place - (len(cluster) - 1) / 2)
            moved[at] = (middle + shift, spots[at][1])
    return moved


def _label(name: str, spot: tuple[float, float], inside: Box, taken: list[Box], lines: Sequence[Box]) -> str:
    """A name next to its point where it overlaps nothing, or only whiskers; an empty string if there is no room."""
    (x, y), length = spot, LETTER * len(name)
    places = [(x + 8, y + 4), (x - 8 - length, y + 4)]
    places += [(left, y + drop) for drop in (-9, 18) for left in (x - length / 2, x - length + 6, x - 6)]
    for avoided in ([*taken, *lines], taken):
        for left, base in places:
            box = (left, base - LETTER_HEIGHT + 2, left + length, base + 3)
            fits = box[0] >= inside[0] and box[1] >= inside[1] - 14 and box[2] <= NARROW and box[3] <= inside[3]
            if fits and not any(_overlap(box, other) for other in avoided):
                taken.append(box)
                return words(left, base, name)
    return ""


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def whiskers(
    title: str, label: str, dots: Sequence[Dot], show: Callable[[float], str], chance: float | None = None
) -> Markup:
    """One row per system with its value, interval and seeds, and the value of guessing as a line across all rows."""
    drawings = (_rows(title, label, dots, show, chance, width) for width in (WIDE, NARROW))
    return Markup('<div class="chart">{}</div>').format(Markup("").join(drawings))


def _rows(
    title: str, label: str, dots: Sequence[Dot], show: Callable[[float], str], chance: float | None, width: int
) -> Markup:
    names = [shortened(dot.name, 26 if width == WIDE else 17) for dot in dots]
    texts = [show(dot.y) for dot in dots]
    left, right = 12 + LETTER * max(map(len, names)), 14 + LETTER * max(map(len, texts))
    known = [value for dot in dots for value in (dot.y, dot.low, dot.high, *dot.values)]
    far = chance is not None and _far(chance, known)
    known += [] if chance is None or far else [chance]
    x_ticks = ticks(min(known), max(known), 5 if width == WIDE else 3)
    edge, bottom = width - right, HEAD + ROW * len(dots)

    def place(value: float) -> float:
        return left + (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (edge - left)

    parts = [axes((left, HEAD, edge, bottom), [(place(x), number(x, x_ticks)) for x in x_ticks], [], label)]
    if chance is not None:
        at = None if far else place(chance)
        parts.append(_guessing(f"guessing {show(chance)}", at, chance < min(known), (left, edge), bottom))
    for row, (dot, name, text) in enumerate(zip(dots, names, texts, strict=True)):
        y = HEAD + ROW * (row + 0.5)
        bounds = f", 95% interval {show(dot.low)} to {show(dot.high)}" if dot.low < dot.high else ""
        parts.append(f'<g class="{dot.style} row"><title>{escape(dot.name)}: {escape(text)}{bounds}</title>')
        parts.append(words(0, y + 4, name))
        if dot.low < dot.high:
            parts.append(straight((place(dot.low), y), (place(dot.high), y), "whisker"))
        if len(dot.values) > 1:
            parts += [f'<circle class="seed" cx="{place(value):.1f}" cy="{y}" r="2.6"/>' for value in dot.values]
        parts.append(marker(dot.style, (place(dot.y), y), dot.style != "ref", text))
        parts.append(words(width, y + 4, text, "end") + "</g>")
    return svg(parts, title, width, bottom + BOTTOM, size="wide" if width == WIDE else "narrow")


def _far(chance: float, known: Sequence[float]) -> bool:
    """Whether an axis that includes ``chance`` would leave less than half of its length for the systems."""
    return max(min(known) - chance, chance - max(known)) > max(known) - min(known)


def _guessing(text: str, at: float | None, before: bool, ends: tuple[float, float], bottom: float) -> str:
    """The value of guessing: a line across the rows, or an arrow if it is far outside the axis (``at`` is None)."""
    line = ""
    if at is None:
        at, text = (ends[0], f"← {text}") if before else (ends[1], f"{text} →")
    else:
        before = at < sum(ends) / 2
        line = straight((at, HEAD - 6), (at, bottom), "chance")
    return line + words(at, 12, text, "start" if before else "end", "guess")
