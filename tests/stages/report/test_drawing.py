"""Charts stand alone side by side, labels stay apart, and a logarithmic axis has equal ratios at equal distances."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from gdist.stages.report.charts import LABEL_GAP, Line, chart, spread
from gdist.stages.report.drawing import HEIGHT, NARROW, WIDE, standalone
from gdist.stages.report.plots import Dot, scatter

SVG = "{http://www.w3.org/2000/svg}"


def errors(log_y: bool) -> Markup:
    dots = [Dot(f"1e{power}", 10.0**-power, 10.0**power, "c1", 10.0**power, 10.0**power) for power in (-4, -3, -1)]
    return scatter("error", "bytes", "relative error", dots, "{:g}".format, "{:.0e}".format, log_y=log_y)


def test_equal_ratios_are_at_equal_distances_on_a_logarithmic_axis() -> None:
    drawn = str(errors(log_y=True))
    low, middle, high = sorted(float(y) for y in re.findall(r'<circle class="strong" \S+ cy="([\d.]+)"', drawn))[::-1]
    assert (middle - high) / (low - middle) == pytest.approx(2, abs=0.01)
    assert re.findall(r'text-anchor="end">(.*?)<', drawn) == ["1e-04", "1e-03", "1e-02", "1e-01"]


def test_charts_stand_alone_side_by_side() -> None:
    line = chart("cosine <&>", "layer", "cosine", [Line("a <b>", [(1, 0.5), (2, 0.9)], "c1")], integers=True)
    text = standalone(line, errors(log_y=False))
    root = ElementTree.fromstring(text)
    assert root.attrib["viewBox"] == f"0 0 {WIDE + NARROW} {HEIGHT}"
    assert [(one.get("x"), one.get("aria-label")) for one in root.findall(f"{SVG}svg")] == [
        ("0", "cosine <&>: cosine against layer"),
        (str(WIDE), "error: relative error against bytes"),
    ]
    assert "var(" not in text and not re.findall(r' class="wide|narrow"', text)


@given(st.lists(st.floats(0, 300), max_size=20))
def test_labels_stay_apart_in_their_order_and_inside_where_there_is_room(heights: list[float]) -> None:
    placed = spread(heights, 0, 300)
    order = sorted(range(len(heights)), key=lambda at: heights[at])
    assert all(placed[b] - placed[a] >= LABEL_GAP - 1e-6 for a, b in pairwise(order))
    assert all(-1e-6 <= one <= 300 + 1e-6 for one in placed)
