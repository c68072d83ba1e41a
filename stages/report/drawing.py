"""What the report's charts are drawn with: SVG without fonts, scripts or colors. See charts.py and plots.py.

Everything is drawn with classes and ``currentColor``, which the page's stylesheet defines, so one drawing works in
light mode, in dark mode and on paper. docs/lab-notes.md says which libraries were tried in its place.
"""

import math
import re
from collections.abc import Sequence

from markupsafe import Markup, escape

WIDE, NARROW = 500, 342  # pixels: one of two charts side by side on the page, and the full width of a phone
HEIGHT = 312
TOP, BOTTOM, LEFT = 30, 44, 46
LETTER = 6.6  # pixels per letter of a label: a generous mean
SHAPES = ("circle", "square", "diamond", "triangle")  # so that color is never the only difference
LIGHT = (  # what the page's stylesheet defines, for drawings that stand alone
    "svg{overflow:visible}text{font:12.5px system-ui,sans-serif;fill:currentColor}.axes{color:#59626d}"
    ".axes line{stroke:#e1e3e0}polyline{fill:none;stroke:currentColor;stroke-width:2}"
    ".leader{stroke-width:1;opacity:.5}.ref polyline{stroke-dasharray:2 5}.rest polyline{stroke-width:1;opacity:.6}"
    ".whisker{stroke:currentColor;stroke-width:1.6;opacity:.75}.strong{fill:currentColor}"
    ".weak{fill:#fff;stroke:currentColor;stroke-width:1.4}.c1{color:#0067a6}.c2{color:#b84700}.c3{color:#00795a}"
    ".c4{color:#9b3f78}.c5{color:#806000}.c6{color:#4f4bc4}.rest,.ref{color:#6b737c}"
)
Box = tuple[float, float, float, float]  # left, top, right, bottom
Ticks = Sequence[tuple[float, str]]  # pixels and text


def svg(parts: Sequence[str], title: str, width: int, height: int, label: str = "", size: str = "") -> Markup:
    """A drawing of its parts.

    Args:
        title: the tooltip.
        label: for screen readers, if it says more than the title.
        size: the class of a drawing that is for wide or for narrow screens only.
    """
    return Markup(
        f'<svg{f' class="{size}"' * bool(size)} viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(label or title)}"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )


def standalone(*drawings: Markup) -> str:
    """Charts as one SVG file of its own, in light colors, side by side; of each, the drawing for wide screens."""
    inner, left, tallest = [], 0, 0
    for drawing in drawings:
        found = re.search(r'<svg [^>]*?viewBox="0 0 (\d+) (\d+)"(.*?)>(.*?)</svg>', str(drawing), re.DOTALL)
        assert found, "every chart contains a drawing"
        width, height = int(found[1]), int(found[2])
        inner.append(f'<svg x="{left}" width="{width}" height="{height}"{found[3]}>{found[4]}</svg>')
        left, tallest = left + width, max(tallest, height)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left} {tallest}"><style>{LIGHT}</style>'
        f'<rect x="-4" y="-4" width="102%" height="103%" fill="#fff"/>{"".join(inner)}</svg>\n'
    )


def axes(inside: Box, x_ticks: Ticks, y_ticks: Ticks, x_label: str, y_label: str = "") -> str:
    """Ticks and what they measure; each y tick has a line across the plot, or each x tick if there are no others."""
    left, top, right, bottom = inside
    parts = [words(8, 13, y_label, kind="unit")] if y_label else []
    for at, text in y_ticks:
        parts += [straight((left, at), (right, at)), words(left - 8, at + 4, text, "end")]
    for at, text in x_ticks:
        parts += [] if y_ticks else [straight((at, top - 4), (at, bottom))]
        parts.append(words(at, bottom + 18, text, "middle"))
    parts.append(words((left + right) / 2, bottom + 38, x_label, "middle", "unit"))
    return f'<g class="axes">{"".join(parts)}</g>'


def words(x: float, y: float, text: str, anchor: str = "", kind: str = "") -> str:
    """A text whose baseline is at y; ``anchor`` says which end of it is at x, if it is not the first."""
    known = f' text-anchor="{anchor}"' * bool(anchor) + f' class="{kind}"' * bool(kind)
    return f'<text x="{x:.1f}" y="{y:.1f}"{known}>{escape(text)}</text>'


def straight(one: tuple[float, float], other: tuple[float, float], kind: str = "") -> str:
    ends = f'x1="{one[0]:.1f}" x2="{other[0]:.1f}" y1="{one[1]:.1f}" y2="{other[1]:.1f}"'
    return f"<line{f' class="{kind}"' * bool(kind)} {ends}/>"


def bent(spots: Sequence[tuple[float, float]], kind: str = "") -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    return f'<polyline{f' class="{kind}"' * bool(kind)} points="{path}"/>'


def marker(style: str, spot: tuple[float, float], is_filled: bool, tip: str) -> str:
    """A point in the shape that goes with a color, hollow or filled, with a tooltip."""
    (x, y), kind = spot, "strong" if is_filled else "weak"
    shape = SHAPES[(int(style[1:]) - 1) % len(SHAPES)] if style[1:].isdigit() else SHAPES[0]
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
