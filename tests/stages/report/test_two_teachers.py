"""Runs of two teachers, of different depth and width: each teacher has a part, and nothing is said across them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from conftest import extracted, make_teacher
from made_sweeps import make_sweep
from test_report import DISTILHUBERT, GENDISTILLER, layer_rows, make_run, probe
from test_several import WIDE
from test_train import run, short

from gdist.stages.report.page import report_command
from gdist.stages.sweep.best import best
from gdist.stages.train.train import train

Gdist = Callable[..., Result]
DEEP = [cosine - 0.3 for cosine in GENDISTILLER for _ in range(2)]
LARGE = {"name": "demo/large", "fingerprint": "1" * 64, "params": 20_000_000, "num_layers": 24, "dim": 1024}
REFERENCES = {"mean_frame": layer_rows([0.1] * 24), "copy_h0": layer_rows([0.2] * 24)}


def large(folder: Path, shift: float = 0.0, accuracy: float = 0.5, **more: Any) -> Path:
    """A student of another teacher than :func:`make_run`'s: of 24 layers, which has its own probe results."""
    teacher = {"name": "demo/large", "params": 20_000_000, "fingerprint": "1" * 64, "probes": probe(0.55)}
    origin = {"teacher": LARGE, "cache": "demo/large-cache"}
    cosines = [cosine + shift for cosine in DEEP]
    evaluated: dict[str, Any] = {"references": REFERENCES, "teacher": teacher, "log_mel": None}
    return make_run(folder, cosines, 4_000_000, accuracy, origin=origin, **(evaluated | more))


def parts(page: str) -> list[str]:
    """The text of the page: its head, and the part of each teacher."""
    text = page.replace("\N{NO-BREAK SPACE}", " ").split('<section id="provenance">')[0]
    return re.split(r'<header[^>]* id="students-\d"[^>]*>', text)


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [
        make_run(tmp_path / "small-a", GENDISTILLER),
        large(tmp_path / "large-a"),
        make_run(tmp_path / "small-b", DISTILHUBERT, params=1_588_992),
        large(tmp_path / "large-b", 0.05),
    ]


def test_each_teacher_has_its_part(folders: list[Path], tmp_path: Path) -> None:
    assert report_command(folders, tmp_path / "report.html") == 0
    head, small, big = parts((tmp_path / "report.html").read_text())
    assert "<h1>4 students of 2 teachers</h1>" in head
    assert "students of 2 teachers: <b>demo/teacher</b> (5.93 M parameters) and <b>demo/large</b> (20.00 M" in head
    for best_of, tile in (("small-a", "mean cosine to demo/teacher<br>1.07 M parameters, 82% fewer"),
                          ("large-b", "mean cosine to demo/large<br>4.00 M parameters, 80% fewer")):  # fmt: skip
        assert f"{best_of}</div>" in head and tile in head
    assert "The teacher <b>demo/teacher</b> (5.93 M parameters) ran once" in small
    assert "<b>small-a</b> is closest to the teacher at layers 1–11" in small
    assert "the teacher has 89.6%" in small and "large" not in small
    assert "The teacher <b>demo/large</b> (20.00 M parameters) ran once" in big
    assert "<b>large-b</b> is closest to the teacher at layers 1–24, by 0.050." in big
    assert "the teacher has 55.0%" in big and "small" not in big.replace("<small>", "").replace("</small>", "")
    assert [len(re.findall(r'<section id="ranking-\d">', part)) for part in (head, small, big)] == [0, 1, 1]
    # Sizes are compared with a student's own teacher.
    assert re.findall(r">(\d+%)<", small.split("Fidelity by layer")[0]) == ["82%", "73%"]
    assert re.findall(r">(\d+%)<", big.split("Fidelity by layer")[0]) == ["80%", "80%"]


def test_ids_are_unique_and_links_lead_somewhere(folders: list[Path], tmp_path: Path) -> None:
    report_command(folders, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    links = re.findall(r'href="#([^"]+)"', page)
    assert links == ["students-1", "students-2"] and set(links) <= set(ids)


def test_two_runs_are_called_by_their_names(folders: list[Path], tmp_path: Path) -> None:
    report_command(folders[:2], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<h1>small-a and large-a</h1>" in page and "1 student of demo/large" in page
    assert "is closest to the teacher" not in page, "there is nothing to compare either with"


def test_markdown_and_best_of_a_sweep(tmp_path: Path) -> None:
    """The best student of each teacher; the one that is closer to its teacher is not ahead of the other."""
    sweep = make_sweep(
        tmp_path / "sweep",
        [
            {"name": "a small", "cosines": [0.90, 0.91], "set": {"cache": "small"}},
            {"name": "a large", "cosines": [0.60, 0.61], "set": {"cache": "large"}},
            {"name": "b small", "cosines": [0.80, 0.81], "set": {"cache": "small", "train.lr": 0.1}},
            {"name": "b large", "cosines": [0.70, 0.71], "set": {"cache": "large", "train.lr": 0.1}},
            {"name": "to come", "cosines": [None], "set": {"cache": "large", "train.lr": 0.2}},
        ],
    )
    for folder in (sweep / "runs").glob("?-large*"):
        about = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(about | {"teacher": LARGE, "cache": "demo/large-cache"}))
    found = best(sweep)
    assert found["teacher"] == "demo/teacher" and found["point"] == "a small" and found["second"] == "b small"
    (other,) = found["other_teachers"]
    assert other["teacher"] == "demo/large" and other["point"] == "b large" and other["second"] == "a large"
    assert found["left_out"] == {} and other["left_out"].keys() == {"to come"}
    assert report_command([sweep], tmp_path / "report.html") == 0
    head, small, big = parts((tmp_path / "report.html").read_text())
    assert "students of 2 teachers" in head
    assert "Take a small" in small and "Take b large" in big and "large" not in small.replace("large-cache", "")
    assert "82% fewer than demo/teacher" in small and "95% fewer than demo/large" in big
    assert report_command([sweep], tmp_path / "report.md", "md") == 0
    text = (tmp_path / "report.md").read_text()
    first, second = text.split("## Students of demo/large")
    assert "## Students of demo/teacher" in first and "### Which student to take" in first
    assert "**a small** has the highest cosine" in first and "**b large** has the highest cosine" in second
    assert "The teacher demo/large (20.00 M parameters)" in second and "large" not in first.split("### Which")[1]
    for link in re.findall(r"\]\((.*?\.svg)\)", text):
        assert (tmp_path / link).exists()


def test_real_runs(tiny_cache: Path, speech: Path, tmp_path: Path, gdist: Gdist) -> None:
    """Three layers of 32 features, two of 48, and a student of both teachers."""
    extracted(make_teacher(tmp_path / "wide", seed=1, **WIDE), speech, tmp_path / "other")
    run(tiny_cache, tmp_path / "one", short("distilhubert", train__steps=2))
    run(tmp_path / "other", tmp_path / "two", short("distilhubert", train__steps=2))
    both = [f"a={tiny_cache}", f"b={tmp_path / 'other'}"]
    train(both, tmp_path / "both", short("distilhubert", train__steps=2), show_progress=False)
    runs = [tmp_path / name for name in ("one", "two", "both")]
    shown = gdist("eval", *runs, "--probes", "none", "--device", "cpu")
    assert shown.exit_code == 0, shown.stderr
    assert "cosine to tiny-wavlm on 8 test utterances" in shown.stdout
    assert "cosine to wide on 8 test utterances" in shown.stdout
    report = tmp_path / "report.html"
    assert gdist("report", *runs, "--out", report).exit_code == 0
    head, tiny, wide = parts(report.read_text())
    assert "3 students of 2 teachers" in head and "2 students of tiny-wavlm" in tiny and "1 student of wide" in wide
    assert "Fidelity to each teacher" in tiny and "Fidelity to each teacher" not in wide
    table = tiny.split("Fidelity to each teacher</h3>")[1].split("</table>")[0]
    assert re.findall(r"</span>(\w+)</th>", table.split('class="rows"')[1]) and "two</th>" in table


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_the_screen(browser: Any, folders: list[Path], tmp_path: Path, width: int) -> None:
    some = json.loads((folders[0] / "eval.json").read_text())
    (folders[0] / "evaluations").mkdir()
    other = some | {"cache": "s3://speech/other-corpus", "minutes": 5.0, "mean_cosine": 0.812, "probes": {}}
    (folders[0] / "evaluations" / "test-0.json").write_text(json.dumps(other))
    report_command(folders, tmp_path / "report.html")
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto((tmp_path / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    rows = page.locator(".elsewhere .rows tr").all_inner_texts()
    assert (
        len(rows) == 2 and "other-corpus" in rows[1] and "5 minutes of each voice" in rows[1] and "0.812" in rows[1]
    )
    page.locator(".tiles a").nth(1).click()
    assert page.locator("#students-2 h2").is_visible() and page.url.endswith("#students-2")
    page.close()


def test_a_gap_is_drawn_where_a_layer_was_not_judged(tmp_path: Path) -> None:
    rows = [row for row in layer_rows(GENDISTILLER) if row["layer"] in (4, 8, 12)]
    absent = [layer for layer in range(1, 12) if layer % 4]
    mean = sum(row["cosine"] for row in rows) / 3
    some = make_run(tmp_path / "some", GENDISTILLER, layers=rows, absent_layers=[0, *absent], mean_cosine=mean)
    whole = make_run(tmp_path / "whole", DISTILHUBERT)
    report_command([some, whole], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "They are compared at layers 4, 8, 12, where all were judged." in page
    assert "Not in the cache of these, and so not judged: <b>some</b> (layers 1–3, 5–7, 9–11)." in page
    assert page.count('<polyline class="gap"') == 2 * 2 * 2  # between three layers; in two charts, wide and narrow
    column = re.findall(r'<th scope="row"[^>]*>(\d+)</th>\s*<td[^>]*>(.*?)</td>', page.split('class="heat')[1])
    assert [text for layer, text in column if int(layer) % 4] == ["–"] * 9


def test_an_evaluation_on_another_cache_is_said_to_be_one(tmp_path: Path) -> None:
    origin = {"cache_checksum": "mine"}
    own = make_run(tmp_path / "own", GENDISTILLER, origin=origin, cache="demo/cache", cache_checksum="mine")
    other = make_run(tmp_path / "other", DISTILHUBERT, origin=origin, cache="demo/int8", cache_checksum="another")
    pages = []
    for folders in ([own], [own, other]):
        report_command(folders, tmp_path / "report.html")
        pages.append((tmp_path / "report.html").read_text())
    told = "Not evaluated on the cache that it was trained from: <b>other</b> (on demo/int8)."
    assert told not in pages[0] and told in pages[1]
    assert "evaluated on different speech or caches" not in pages[0]
    assert "evaluated on different speech or caches" in pages[1]
