"""The report says from which layer each probe answered, and ranks no answers from the teacher's layer 0."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_report import DISTILHUBERT, GENDISTILLER, make_run, probe

from gdist.stages.report import probes as report_probes
from gdist.stages.report.heat import strips
from gdist.stages.report.page import RunSummary, write_report
from gdist.stages.report.runs import configurations

STATES = 13
SENTENCE = "all answered from the teacher's layer 0: not a comparison."


def chosen(value: float, layer: int | None, older: bool = False) -> dict[str, Any]:
    """Results of two probes: one that weighs all layers, and query by example from ``layer``."""
    found = probe(value)["digits"] | {"title": "query by example", "metric": "mean average precision"}
    found |= {"layer_weights": [float(k == layer) for k in range(STATES)]}
    return probe(value) | {"qbe": found if older else found | {"layer": layer}}


def make(folder: Path, value: float, layer: int, teachers: int = 0, older: bool = False, **more: Any) -> RunSummary:
    """A run whose front-end is the teacher's unless ``layer_0`` says otherwise; ``older`` has no field of layers."""
    more = {"layer_0": "teacher"} | more
    cosines = GENDISTILLER if folder.name == "first" else DISTILHUBERT
    log_mel = {"qbe": chosen(0.25, 0)["qbe"] | {"layer_weights": [1.0]}}
    made = make_run(
        folder,
        cosines,
        probes=chosen(value, layer, older),
        teacher={"name": "demo/teacher", "params": 5_928_040, "probes": chosen(0.42, teachers, older)},
        log_mel={"probes": log_mel},
        student={"name": "x", "frontend": "frozen"} if older else None,
        **({} if older else more),
    )
    if older:
        assert "layer_0" not in json.loads((made / "eval.json").read_text())
    return RunSummary.read(made)


def written(runs: list[RunSummary], folder: Path) -> str:
    write_report(runs, folder / "report.html")
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("&#39;", "'")


@pytest.mark.parametrize("older", [False, True])
def test_where_all_answered_from_the_teachers_layer_0(tmp_path: Path, older: bool) -> None:
    runs = [make(tmp_path / "first", 0.426, 0, older=older), make(tmp_path / "second", 0.426, 0, older=older)]
    page = written(runs, tmp_path)
    assert f"In query by example, {SENTENCE}" in page, "the story"
    assert "All answered from the teacher's layer 0 (42.0%): not a comparison. Log-mel has 25.0%." in page
    ranking = page.split('id="ranking"')[1].split("</section>")[0]
    assert ranking.count(">42.6%<small>teacher's layer 0</small>") == 2 and ">42.0%<small>layer 0</small>" in ranking
    assert "mean average precision; not a comparison" in ranking
    assert not re.search(r'class="(best|tie)">[\d.]+%<small>', page), "nothing is marked"
    drawing = page.split("<h3>Query by example</h3>")[1].split("</figure>")[0]
    assert drawing.count(">teacher's layer 0</text>") == 2, "one row, on wide and on narrow screens"
    assert "interval" not in drawing.split("teacher's layer 0: 42.0%")[0]
    assert "<h3>Query by example</h3>" not in page.split('id="quality"')[1]
    numbers = page.split("mean average precision, in numbers")[1].split("</details>")[0]
    assert numbers.count("42.6% (teacher's layer 0)</td>\n        <td>–</td>") == 2
    # The other probe is compared as ever.
    assert "The best student is <b>first</b> (42.6%); the teacher has 42.0%." in page


def test_students_with_layers_of_their_own_are_compared(tmp_path: Path) -> None:
    frozen = make(tmp_path / "first", 0.426, 0)
    own = [make(tmp_path / "own-0", 0.55, 0, layer_0="own"), make(tmp_path / "own-3", 0.30, 3)]
    page = written([frozen, *own], tmp_path)
    text = page.split("<h3>Query by example</h3>")[1].split("</p>")[0]
    assert (
        "<b>first</b> and the teacher answered from the teacher's layer 0 (42.0%): not a comparison of these." in text
    )
    assert "The best of the others is <b>own-0</b> (55.0%); log-mel has 25.0%." in text
    assert "Its interval overlaps with that of no other student." in text
    assert "clearly better than the teacher's layer 0" in text
    ranking = page.split('id="ranking"')[1].split("</section>")[0]
    assert 'class="best">55.0%<small>layer 0</small>' in ranking and ">30.0%<small>layer 3</small>" in ranking
    assert re.search(r'data-key="0.426">42.6%<small>teacher', ranking)
    assert "In query by example, <b>first</b> and the teacher answered from the teacher's layer 0" in page
    quality = page.split('id="quality"')[1].split("<h3>Query by example</h3>")[1].split("</figure>")[0]
    assert "own-0" in quality and "first" not in quality


def test_the_only_one_with_the_teachers_layer_0_is_compared(tmp_path: Path) -> None:
    runs = [make(tmp_path / "first", 0.426, 0, teachers=5), make(tmp_path / "second", 0.30, 4, teachers=5)]
    page = written(runs, tmp_path)
    assert "not a comparison" not in page
    assert 'class="best">42.6%<small>layer 0</small>' in page and ">42.0%<small>layer 5</small>" in page


def test_students_alike_where_the_teacher_has_another_layer(tmp_path: Path) -> None:
    runs = [make(tmp_path / "first", 0.426, 0, teachers=5), make(tmp_path / "second", 0.426, 0, teachers=5)]
    text = written(runs, tmp_path).split("<h3>Query by example</h3>")[1].split("</p>")[0]
    assert "All students answered from the teacher's layer 0 (42.6%): not a comparison." in text
    assert "The teacher has 42.0% and log-mel has 25.0%." in text


def test_the_layers_that_each_probe_used(tmp_path: Path) -> None:
    """Seeds that chose different layers share a row: a third of the weight, and two thirds."""
    runs = [
        make(tmp_path / f"run-seed{n}", 0.4, layer, layer_0="own", train={"seed": n})
        for n, layer in enumerate((0, 3, 3))
    ]
    digits, qbe = report_probes.tasks(runs)
    groups = configurations(runs)
    teacher, student = strips(qbe, groups, runs)
    assert (teacher.name, teacher.text, student.text) == (
        "teacher",
        "layer\N{NO-BREAK SPACE}0",
        "layers\N{NO-BREAK SPACE}0, 3",
    )
    assert student.weights[:4] == pytest.approx((1 / 3, 0, 0, 2 / 3))
    assert student.shades[:4] == pytest.approx((0.5, 0, 0, 1)) and student.chosen
    _, learned = strips(digits, groups, runs)
    assert learned.text == "12 (0.40)" and not learned.chosen and learned.shades[0] == pytest.approx(0.125)
    page = written(runs, tmp_path)
    assert page.count('<table class="used"') == 2 and 'title="layer 3: 0.67"' in page


def test_probes_that_tell_no_weights_have_no_chart(tmp_path: Path) -> None:
    bare = {"digits": {key: v for key, v in probe(0.8)["digits"].items() if key != "layer_weights"}}
    made = make_run(tmp_path / "run", GENDISTILLER, probes=bare, teacher=None, log_mel=None)
    assert 'class="used"' not in written([RunSummary.read(made)], tmp_path)


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_charts_of_layers_fit_the_screen(browser: Any, tmp_path: Path, width: int) -> None:
    names = ("first", "a-rather-long-name-of-a-run-without-end")
    runs = [make(tmp_path / name, 0.426, 0) for name in names]
    for run in runs:  # as many layers as XLS-R has
        for results in (run.eval["probes"], run.eval["teacher"]["probes"]):
            results["digits"] = results["digits"] | {"layer_weights": [1 / 49] * 49}
    write_report(runs, tmp_path / "report.html")
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto((tmp_path / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator(".used").count() == 2
    for cell in page.locator(".used tbody td:not(:last-child)").all():
        box = cell.bounding_box()
        assert box["width"] >= 2 and box["height"] > 12 and box["x"] + box["width"] <= width
    dark = page.locator(".used td[title='layer 0: 1.00']").first
    pale = page.locator(".used td[title='layer 1: 0.00']").first
    shade = "cell => getComputedStyle(cell).backgroundColor"
    assert dark.evaluate(shade) != pale.evaluate(shade)
    page.close()
