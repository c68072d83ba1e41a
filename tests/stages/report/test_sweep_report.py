"""The report of a sweep says which student to take and why, what it cost, and what cannot be known."""

import json
import math
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from made_sweeps import make_sweep
from test_report import GENDISTILLER, make_run, probe

from gdist.pipeline.errors import UsageError
from gdist.stages.report.page import report_command
from gdist.stages.report.sweeps.board import Board
from gdist.stages.report.sweeps.front import front, placed
from gdist.stages.report.sweeps.spending import Spending, read_pass
from gdist.stages.standings.record import read_sweep

Gdist = Callable[..., Result]
Points = list[dict[str, Any]]


def ablation() -> Points:
    """Two fields that interact: `skip` gains 0.1 on its own and 0.3 with `lr` 0.002; and what can go wrong."""
    points: Points = []
    for skip, lr in product((False, True), (1e-3, 2e-3)):
        mean = 0.5 + 0.1 * skip + 0.2 * (skip and lr > 1e-3)
        points.append(
            {
                "name": f"skip={str(skip).lower()} lr={lr:g}",
                "set": {"student.skip": skip, "train.lr": lr},
                "cosines": [mean - 0.01, mean, mean + 0.01],
                "cpu": 60.0 if skip else 20.0,
            }
        )
    return [
        *points,
        {"name": "small", "set": {"student.width": 8}, "cosines": [0.4, None, 0.42], "params": 100_000},
        {"name": "weak", "cosines": [None], "stopped": {"rung": 1, "step": 10, "reason": "3rd of 3"}},
        {"name": "broken", "cosines": [None], "failed": {"exit_code": 1, "log": ["error: <no> space left"]}},
    ]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return make_sweep(tmp_path / "ablation", ablation(), wall=[{"began": "now", "seconds": 300.0}])


def words(path: Path) -> str:
    text = path.read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    return re.sub(r"\s+", " ", text)


def test_the_first_screen_says_which_student_to_take_and_why(sweep: Path, tmp_path: Path, gdist: Gdist) -> None:
    out = tmp_path / "report.html"
    assert gdist("report", sweep, "--out", out).exit_code == 0
    page = words(out)
    head = page[: page.index('<section id="points">')]
    assert ">Take skip=true lr=0.002</h1>" in head
    assert "highest cosine in the last validation: <b>0.8000 ± 0.0100</b> (3 seeds)" in head
    assert "ahead of <b>skip=true lr=0.001</b> by 0.2000 ± 0.0082, which is more than the scatter of seeds" in head
    assert (
        "1.07 M parameters, 82% fewer than demo/teacher, and one training of it took 40 s (1 min 00 s of CPU)" in head
    )
    assert re.search(r"<pre>gdist export \S+/runs/skip=true-lr=0.002-seed-2-\S+ --format hf --out FOLDER</pre>", head)
    assert "Of 17 runs, 14 are finished, 1 stopped early, 1 failed, 1 not begun." in head
    assert "With fewer seeds than others: <b>small</b> (2 of 3 seeds)" in head


def test_points_effects_front_and_costs(sweep: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    report_command([sweep], out)
    page = words(out)
    assert "stopped at rung 1, step 10: 3rd of 3" in page
    assert "&lt;no&gt; space left" in page and "<no>" not in page
    assert "train.lr × student.skip" in page
    assert "train.lr 0.002, against 0.001</td>" in page
    assert "+0.2000 ± 0.0000<small>student.skip true</small>" in page
    assert "+0.0000 ± 0.0000<small>student.skip false</small>" in page
    assert "+0.2000 ± 0.0000" in page  # the interaction; and the effect of skip is the mean of 0.1 and 0.3:
    assert re.search(r"true, against false</td><td data-key=\"0.2\d*\" class=\"best\">\+0.2000 ± 0.0000", page)
    assert "Of 5 points, 4 are as good as any other that has no more parameters and takes no more compute" in page
    assert "<b>skip=true lr=0.002</b>, <b>skip=false lr=0.001</b>, <b>skip=false lr=0.002</b>, <b>small</b>." in page
    assert "<b>600 student steps</b> in 15 trainings" in page
    assert "5 min 00 s of wall time for the whole sweep" in page
    assert "60.0 kB from the bucket" in page
    assert "not recorded in a cache" in page and "--extraction FILE" in page
    assert '<section id="probes">' not in page and '<section id="ranking">' not in page  # nothing was evaluated


def test_the_front_is_of_parameters_compute_and_quality(sweep: Path) -> None:
    board = Board.read(read_sweep(sweep))
    assert board.compute()[0] == "CPU seconds"
    # lr costs nothing and, without skip, gains nothing: neither of those two beats the other.
    names = [one.point.name for one in front(placed(board))]
    assert names == ["skip=true lr=0.002", "skip=false lr=0.001", "skip=false lr=0.002", "small"]


def test_what_the_sweep_would_have_cost_online(sweep: Path, tmp_path: Path, gdist: Gdist) -> None:
    """600 steps saw 6000 s of speech; at 20 × real time, that is 300 s of the teacher."""
    extraction = tmp_path / "extract.json"
    record = {"realtime_factor": 20.0, "seconds": 50.0, "audio_seconds": 1000.0, "packs_resumed": 0}
    extraction.write_text(json.dumps(record))
    spending = Spending.of(Board.read(read_sweep(sweep)), read_pass(extraction))
    assert spending.audio_seconds == 6000 and spending.teacher_seconds == 300
    assert spending.of_online == pytest.approx((600 + 50) / (600 + 300))
    gdist("report", sweep, "--out", tmp_path / "report.html", "--extraction", extraction)
    page = words(tmp_path / "report.html")
    assert "single pass over 16 min 40 s of speech took <b>50 s</b>, 20.0 × real time" in page
    assert "<b>5 min 00 s</b> more, at that speed; extraction and sweep together took <b>0.72</b>" in page
    assert "Not known:" in page

    # Resumed: the time is not that of the whole. A plan: only the forward pass. An assumption is no measurement.
    extraction.write_text(json.dumps(record | {"packs_resumed": 3}))
    assert Spending.of(Board.read(read_sweep(sweep)), read_pass(extraction)).of_online is None
    extraction.write_text(json.dumps({"speed": {"realtime_factor": 90.0, "source": "measured"}}))
    assert "forward pass alone" in " ".join(
        Spending.of(Board.read(read_sweep(sweep)), read_pass(extraction)).sentences()
    )
    for bad in ('{"speed": {"realtime_factor": 90.0, "source": "assumed"}}', "{}", '{"realtime_factor": 0}', "x"):
        extraction.write_text(bad)
        with pytest.raises(UsageError, match="how fast the teacher was"):
            read_pass(extraction)


def test_a_search_and_its_rungs(tmp_path: Path) -> None:
    points: Points = [
        {"name": f"trial {at}", "trial": at, "cosines": [value], "set": {"train.lr": 10.0**-at}}
        for at, value in enumerate([0.3, 0.5, 0.4], start=2)
    ]
    points += [{"name": "trial 9", "trial": 9, "cosines": [None], "stopped": {"rung": 0, "step": 10}}]
    sweep = make_sweep(tmp_path / "search", points)
    report_command([sweep], tmp_path / "report.html")
    page = words(tmp_path / "report.html")
    assert "Search history" in page and "best so far" in page and "each trial" in page
    assert "Rungs of early stopping" in page and "trial 9 seed 0" in page
    assert "Cosine by train.lr" in page  # a plot of the field's values
    assert "Every point has one seed" in page and "takes two seeds of each" in page


def test_evaluated_runs_have_the_rest_of_the_report_too(tmp_path: Path) -> None:
    points: Points = [
        {"name": name, "cosines": [0.5, 0.6], "set": {"student.skip": name == "with"}} for name in ("with", "without")
    ]
    sweep = make_sweep(tmp_path / "evaluated", points, judge={"metric": "digits", "split": "test"})
    for place, run in enumerate(sorted((sweep / "runs").iterdir())):
        evaluated = make_run(tmp_path / f"made-{place}", GENDISTILLER, probes=probe(0.7 + place / 100))
        (run / "eval.json").write_bytes((evaluated / "eval.json").read_bytes())
    report_command([sweep], tmp_path / "report.html")
    page = words(tmp_path / "report.html")
    assert "highest accuracy in digits on the test split: <b>0.725 ± 0.007</b>" in page
    for section in ("points", "front", "effects", "spent", "ranking", "fidelity", "probes", "quality", "cost"):
        assert f'<section id="{section}">' in page
    assert "with seed 0" in page


def test_students_that_diverged(tmp_path: Path) -> None:
    """A learning rate that is too high: no value is no reason not to write the page."""
    points: Points = [{"name": name, "cosines": [0.5, 0.6]} for name in ("a", "b")]
    sweep = make_sweep(tmp_path / "diverged", [*points, {"name": "c", "cosines": [math.nan, 0.4]}])
    for place, run in enumerate(sorted((sweep / "runs").iterdir())):
        made = json.loads((make_run(tmp_path / f"made-{place}", GENDISTILLER) / "eval.json").read_text())
        if place == 4:
            made["mean_cosine"] = math.nan
            made["layers"] = [row | {"cosine": math.nan, "relative_error": math.nan} for row in made["layers"]]
            (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text().replace("0.2", "NaN"))
        (run / "eval.json").write_text(json.dumps(made))
    for metric in ("cosine", "mean_cosine"):
        report_command([sweep], tmp_path / "report.html", metric=metric, split="test")
        report_command([sweep], tmp_path / "report.md", "md", metric, "test")
        assert "<b>c</b> (1 of 2 seeds)" in words(tmp_path / "report.html")
        assert "nan" not in words(tmp_path / "report.md")


def test_the_same_sweep_gives_the_same_bytes(sweep: Path, tmp_path: Path) -> None:
    for name in ("one.html", "two.html", "one.md", "two.md"):
        report_command([sweep], tmp_path / name, "md" if name.endswith("md") else "html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    one, two = (tmp_path / f"{name}.md" for name in ("one", "two"))
    assert one.read_text() == two.read_text().replace("two-", "one-")


def test_runs_of_a_sweep_that_its_file_no_longer_lists_are_left_out(sweep: Path, tmp_path: Path) -> None:
    record = json.loads((sweep / "sweep.json").read_text())
    record["points"] = [point for point in record["points"] if "true" not in point["name"]]
    (sweep / "sweep.json").write_text(json.dumps(record))
    report_command([sweep], tmp_path / "report.html")
    assert "Take skip=false" in words(tmp_path / "report.html") and "skip=true" not in words(tmp_path / "report.html")


def test_a_list_of_runs_that_were_only_trained(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "made", ablation()[:2])
    runs = sorted((sweep / "runs").iterdir())
    report_command(runs, tmp_path / "report.html")
    page = words(tmp_path / "report.html")
    assert "gdist report · 6 runs" in page and "highest cosine in the last validation" in page


def test_an_option_that_would_do_nothing_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", GENDISTILLER)
    with pytest.raises(UsageError, match="--metric is for a sweep's folder"):
        report_command([run], tmp_path / "report.html", metric="ks")
    with pytest.raises(UsageError, match="--title is for --format md"):
        report_command([run], tmp_path / "report.html", title="mine")


@pytest.mark.browser
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_answer_is_on_the_first_screen(
    browser: Any, sweep: Path, tmp_path: Path, width: int, height: int, scheme: str
) -> None:
    report_command([sweep], tmp_path / "report.html")
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto((tmp_path / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for selector in ("h1", ".story", ".answer pre", ".tile"):
        box = page.locator(selector).first.bounding_box()
        assert box and box["y"] + box["height"] <= height, selector
    for selector in (".tile", ".chart svg", "pre"):
        for element in page.locator(selector).all():
            box = element.bounding_box()
            assert box is None or box["x"] + box["width"] <= width + 1
    page.close()
