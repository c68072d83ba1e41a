"""The report's scatter plots and dots with whiskers, as hand-written SVG like that of charts.py."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from gdist.stages.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    LETTER,
    NARROW,
    TOP,
    WIDE,
    marker,
    number,
    shape_of,
    shortened,
    ticks,
)

RIGHT = 16  # pixels to the right of a scatter plot's axes
WHISKER_GAP = 7.0  # pixels between whiskers that are side by side
ROW, HEAD = 21, 24  # pixels per row of dots and whiskers, and above the first row
LETTER_HEIGHT = 13
Box = tuple[float, float, float, float]  # left, top, right, bottom


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
) -> Markup:
    """A scatter plot with logarithmic x, and names where there is room for them.

    Args:
        level: a reference without an x (log-mel has no parameters), drawn as a line across the plot.
        side_by_side: whether to move points with (almost) the same x apart, so that their whiskers do not overlap.
    """
    ys = [y for dot in dots for y in (dot.low, dot.high)] + ([level[1]] if level else [])
    y_ticks = ticks(min(ys), max(ys))
    low, high = math.log(min(dot.x for dot in dots)), math.log(max(dot.x for dot in dots))
    margin = 0.09 * (high - low) + 0.02
    low, high = low - margin, high + margin
    x_ticks = log_ticks(math.exp(low), math.exp(high))

    def place(x: float, y: float) -> tuple[float, float]:
        share = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        across = (math.log(x) - low) / (high - low)
        return LEFT + across * (NARROW - LEFT - RIGHT), HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<title>{escape(title)}</title><g class="axes"><text x="8" y="13" class="unit">{escape(y_label)}</text>'
    ]
    for y in y_ticks:
        at = place(math.exp(low), y)[1]
        parts.append(f'<line x1="{LEFT}" x2="{NARROW - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{number(y, y_ticks)}</text>')
    for x in x_ticks:
        at = place(x, y_ticks[0])[0]
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{escape(show_x(x))}</text>')
    parts.append(f'<text x="{(LEFT + NARROW) / 2:.1f}" y="{HEIGHT - 6}" text-anchor="middle" class="unit">')
    parts.append(f"{escape(x_label)}</text></g>")
    if level:
        at = place(math.exp(low), level[1])[1]
        parts.append(f'<g class="ref"><polyline points="{LEFT},{at:.1f} {NARROW - RIGHT},{at:.1f}"/>')
        parts.append(f'<text x="{LEFT + 4}" y="{at - 5:.1f}">{escape(level[0])}</text></g>')
    spots = [place(dot.x, dot.y) for dot in dots]
    spots = _side_by_side(spots) if side_by_side else spots
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in spots]
    if level:
        taken.append((LEFT, at - 17, LEFT + 4 + LETTER * len(level[0]), at))
    lines = [
        (x - 2, place(dot.x, dot.high)[1], x + 2, place(dot.x, dot.low)[1])
        for dot, (x, _) in zip(dots, spots, strict=True)
    ]
    drawn = []
    for dot, spot in zip(dots, spots, strict=True):
        tip = f"{dot.name}: {show_y(dot.y)} with {show_x(dot.x)}"
        whole = [f'<g class="{dot.style}">']
        if dot.low < dot.high:
            bottom, top = place(dot.x, dot.low)[1], place(dot.x, dot.high)[1]
            whole.append(
                f'<line class="whisker" x1="{spot[0]:.1f}" x2="{spot[0]:.1f}" y1="{bottom:.1f}" y2="{top:.1f}"/>'
            )
        whole.append(marker(shape_of(dot.style), spot, "weak" if dot.style in ("rest", "ref") else "strong", tip))
        if dot.style != "rest":
            whole.append(_label(shortened(dot.name, 20), spot, taken, lines))
        drawn.append("".join([*whole, "</g>"]))
    parts += reversed(drawn)  # so that the best are on top
    label = f"{title}: {y_label} against {x_label}"
    return Markup(
        f'<div class="chart"><svg viewBox="0 0 {NARROW} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg></div>"
    )


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


def _label(name: str, spot: tuple[float, float], taken: list[Box], lines: Sequence[Box]) -> str:
    """A name next to its point where it overlaps nothing, or only whiskers; an empty string if there is no room."""
    (x, y), length = spot, LETTER * len(name)
    places = [(x + 8, y + 4), (x - 8 - length, y + 4)]
    places += [(left, y + drop) for drop in (-9, 18) for left in (x - length / 2, x - length + 6, x - 6)]
    for avoided in ([*taken, *lines], taken):
        for left, base in places:
            box = (left, base - LETTER_HEIGHT + 2, left + length, base + 3)
            inside = box[0] >= LEFT and box[2] <= NARROW and box[1] >= TOP - 14 and box[3] <= HEIGHT - BOTTOM
            if inside and not any(_overlap(box, other) for other in avoided):
                taken.append(box)
                return f'<text x="{left:.1f}" y="{base:.1f}">{escape(name)}</text>'
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
    bottom = HEAD + ROW * len(dots)

    def place(value: float) -> float:
        return left + (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (width - left - right)

    parts = [f'<title>{escape(title)}</title><g class="axes">']
    for x in x_ticks:
        parts.append(f'<line x1="{place(x):.1f}" x2="{place(x):.1f}" y1="{HEAD - 4}" y2="{bottom}"/>')
        parts.append(f'<text x="{place(x):.1f}" y="{bottom + 16}" text-anchor="middle">{number(x, x_ticks)}</text>')
    middle = (left + width - right) / 2
    parts.append(
        f'<text x="{middle:.1f}" y="{bottom + 36}" text-anchor="middle" class="unit">{escape(label)}</text></g>'
    )
    if chance is not None:
        at, ends = None if far else place(chance), (left, width - right)
        parts.append(_guessing(f"guessing {show(chance)}", at, chance < min(known), ends, bottom))
    for row, (dot, name, text) in enumerate(zip(dots, names, texts, strict=True)):
        y = HEAD + ROW * (row + 0.5)
        bounds = f", 95% interval {show(dot.low)} to {show(dot.high)}" if dot.low < dot.high else ""
        parts.append(f'<g class="{dot.style} row"><title>{escape(dot.name)}: {escape(text)}{bounds}</title>')
        parts.append(f'<text x="0" y="{y + 4:.1f}">{escape(name)}</text>')
        if dot.low < dot.high:
            parts.append(
                f'<line class="whisker" x1="{place(dot.low):.1f}" x2="{place(dot.high):.1f}" y1="{y}" y2="{y}"/>'
            )
        if len(dot.values) > 1:
            parts += [f'<circle class="seed" cx="{place(value):.1f}" cy="{y}" r="2.6"/>' for value in dot.values]
        parts.append(marker(shape_of(dot.style), (place(dot.y), y), "weak" if dot.style == "ref" else "strong", text))
        parts.append(f'<text x="{width}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text></g>')
    size = "wide" if width == WIDE else "narrow"
    return Markup(
        f'<svg class="{size}" viewBox="0 0 {width} {bottom + 44}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


def _far(chance: float, known: Sequence[float]) -> bool:
    """Whether an axis that includes ``chance`` would leave less than half of its length for the systems."""
    return max(min(known) - chance, chance - max(known)) > max(known) - min(known)


def _guessing(text: str, at: float | None, before: bool, ends: tuple[float, float], bottom: float) -> str:
    """The value of guessing: a line across the rows, or an arrow if it is far outside the axis (``at`` is None)."""
    if at is None:
        x, anchor, text = (ends[0], "start", f"← {text}") if before else (ends[1], "end", f"{text} →")
        return f'<text class="guess" x="{x:.1f}" y="12" text-anchor="{anchor}">{escape(text)}</text>'
    anchor = "start" if at < sum(ends) / 2 else "end"
    line = f'<line class="chance" x1="{at:.1f}" x2="{at:.1f}" y1="{HEAD - 6}" y2="{bottom}"/>'
    return f'{line}<text class="guess" x="{at:.1f}" y="12" text-anchor="{anchor}">{escape(text)}</text>'


def log_ticks(low: float, high: float) -> list[float]:
    """Round multiples of powers of ten within low … high; the wider the range, the fewer multiples per power.

    >>> log_ticks(0.9e6, 5.9e6), log_ticks(3, 4000), log_ticks(1.05e6, 1.09e6)
    ([1000000.0, 2000000.0, 5000000.0], [10.0, 100.0, 1000.0], [1070000.0])
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1,)):
        every = [float(f"{factor}e{power}") for power in powers for factor in factors]
        found = [tick for tick in every if low <= tick <= high]
        if len(found) <= 5:
            break
    middle = [float(f"{(low * high) ** 0.5:.{digits}g}") for digits in (2, 3, 4)]
    return found or [next((tick for tick in middle if low <= tick <= high), middle[-1])]
