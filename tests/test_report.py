"""The report: right about who wins, safe to open, and readable on a phone and a desk, by day and by night."""

import doctest
import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from gdist.pipeline.config import signature, to_toml
from gdist.pipeline.errors import RunError, UsageError
from gdist.stages import report_charts, report_plots, report_probes, report_runs, report_story, report_tables
from gdist.stages.report import RunSummary, report_command, write_report

SECTIONS = ["ranking", "fidelity", "probes", "quality", "training", "cost", "provenance"]

# Layers 1 to 12. The values are like those of students of a 12-layer teacher; layers 4, 8 and 12 are the baseline's.
GENDISTILLER = [0.97, 0.958, 0.945, 0.934, 0.925, 0.915, 0.905, 0.895, 0.88, 0.865, 0.84, 0.80]
DISTILHUBERT = [0.80, 0.825, 0.845, 0.86, 0.842, 0.848, 0.85, 0.855, 0.835, 0.82, 0.80, 0.81]
COPY_H0 = [0.94, 0.87, 0.81, 0.75, 0.70, 0.65, 0.60, 0.56, 0.52, 0.47, 0.41, 0.35]
MEAN_FRAME = [0.43, 0.40, 0.37, 0.34, 0.32, 0.30, 0.29, 0.28, 0.27, 0.24, 0.22, 0.16]
EXTRAS = {
    "extract": {
        "utterances": 1420,
        "frames": 49_800,
        "audio_seconds": 1008.0,
        "seconds": 41.0,
        "realtime_factor": 24.6,
        "bytes": 251_000_000,
        "packs": 4,
        "quarantined": 0,
    },
    "cache": {"uri": "demo/cache", "encoding": "fp16", "dim": 192, "layers": list(range(13))},
    "verify": {"ok": True, "packs": 4},
}


def layer_rows(cosines: list[float]) -> list[dict[str, float]]:
    return [
        {"layer": layer, "cosine": cosine, "l1": 1 - cosine, "relative_error": (1 - cosine**2) ** 0.5}
        for layer, cosine in enumerate(cosines, start=1)
    ]


def probe(value: float) -> dict[str, Any]:
    weights = [0.05] * 12 + [0.4]
    return {"digits": {"metric": "accuracy", "value": value, "test_items": 240, "layer_weights": weights}}


def make_run(
    folder: Path, cosines: list[float], params: int = 1_068_416, accuracy: float = 0.88, **judged: Any
) -> Path:
    """A run's folder as train and eval leave it."""
    folder.mkdir(parents=True)
    tables: dict[str, dict[str, Any]] = {"train": {"steps": 160, "lr": 1e-3}, "student": {"name": "gendistiller"}}
    teacher = {"name": "demo/teacher", "params": 5_928_040, "num_layers": 12, "dim": 192}
    about: dict[str, Any] = {"cache": "demo/cache", "encoding": "fp16", "student": "gendistiller", "teacher": teacher}
    about |= {"params": params, "params_with_heads": params, "signature": signature(tables)}
    rows = []
    for step in range(10, 161, 10):
        row = {"step": step, "seconds": step * 1.1, "loss": 0.6 + 9 / (step + 10)}
        speed = {"audio_seconds": 312.0, "audio_seconds_per_second": 28.4, "data_wait_fraction": 0.003}
        rows.append(row | speed | {"kind": "train", "steps": 10, "lr": 1e-3})
        if step % 40 == 0:
            rows.append(row | {"kind": "valid", "cosine": cosines[5] - 4 / (step + 10)})
    (folder / "config.toml").write_text(to_toml(tables))
    (folder / "run.json").write_text(json.dumps(about | {"versions": {"gdist": "0.1.0", "torch": "2.11.0"}}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = {
        "run": folder.name,
        "student": "gendistiller",
        "params": params,
        "params_with_heads": params,
        "mean_cosine": sum(cosines) / len(cosines),
        "split": "test",
        "utterances": 283,
        "layers": layer_rows(cosines),
        "references": {"mean_frame": layer_rows(MEAN_FRAME), "copy_h0": layer_rows(COPY_H0)},
        "probes": probe(accuracy),
        "teacher": {"name": "demo/teacher", "params": 5_928_040, "probes": probe(0.896)},
        "log_mel": {"probes": probe(0.867)},
        "predicted_layers": list(range(1, len(cosines) + 1)),
    }
    (folder / "eval.json").write_text(json.dumps(result | judged))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[RunSummary]:
    first = make_run(tmp_path / "gendistiller", GENDISTILLER)
    second = make_run(
        tmp_path / "distilhubert", DISTILHUBERT, params=1_588_992, accuracy=0.892, predicted_layers=[4, 8, 12]
    )
    return [RunSummary.read(first), RunSummary.read(second)]


@pytest.mark.parametrize(
    "module", [report_charts, report_plots, report_probes, report_runs, report_story, report_tables]
)
def test_worked_examples(module: Any) -> None:
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


def test_it_says_who_wins_where(runs: list[RunSummary], tmp_path: Path) -> None:
    write_report(runs, tmp_path / "report.html", EXTRAS)
    page = (tmp_path / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "<b>gendistiller</b> is nearest to the teacher at layers 1–11, by 0.040 to 0.170." in page
    assert "<b>distilhubert</b> is nearest to the teacher at layer 12, by 0.010." in page
    assert "No better than “h₀ copied”: <b>distilhubert</b> at layers 1–2." in page
    assert "The best student is <b>distilhubert</b> (89.2%), the teacher has 89.6%, log-mel has 86.7%" in page
    assert "<b>distilhubert</b> (4, 8, 12)" in page


def test_a_student_that_beats_every_reference_is_told_so(tmp_path: Path) -> None:
    run = RunSummary.read(make_run(tmp_path / "alone", GENDISTILLER))
    write_report([run], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "beats both trivial answers at every layer" in page
    assert "nearest to the teacher at" not in page


def test_what_the_cache_saved(runs: list[RunSummary], tmp_path: Path) -> None:
    write_report(runs, tmp_path / "report.html", EXTRAS)
    page = (tmp_path / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    # 2 runs × 16 rows × 312 s of speech, at 24.6 × real time
    assert "320 steps without the teacher" in page
    assert "which spared it 6 min 46 s of work" in page
    assert "9.9 × what its run took" in page


def test_the_same_runs_give_the_same_bytes(runs: list[RunSummary], tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_report(runs, tmp_path / name, EXTRAS)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_nothing_is_fetched(runs: list[RunSummary], tmp_path: Path) -> None:
    write_report(runs, tmp_path / "report.html", EXTRAS)
    page = (tmp_path / "report.html").read_text()
    assert not [
        word for word in ("http:", "https:", "<script ", " src=", "@import", "url(", "fetch(") if word in page
    ]


def test_runs_that_recorded_little_are_reported_all_the_same(tmp_path: Path) -> None:
    folder = make_run(
        tmp_path / "bare", GENDISTILLER, references={}, probes={}, teacher=None, log_mel=None, predicted_layers=None
    )
    (folder / "run.json").write_text("{}")
    (folder / "metrics.jsonl").unlink()
    write_report([RunSummary.read(folder)], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert all(f'id="{section}"' in page for section in SECTIONS)


def test_a_sweep_of_many_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(9):
        make_run(tmp_path / "sweep" / f"run-{number}", [cosine - number / 100 for cosine in GENDISTILLER])
    assert report_command([tmp_path / "sweep"], tmp_path / "report.html") == 0
    assert "9 runs" in capfd.readouterr().err
    page = (tmp_path / "report.html").read_text()
    assert "9 students of demo/teacher" in page
    assert "The six best runs have colours." in page
    ranks = re.findall(r'<tr><td data-key="(\d)">.*?</span>(.*?)</th>', page)
    assert ranks == [(str(place + 1), f"run-{place}") for place in range(9)]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    pair = [RunSummary.read(make_run(tmp_path / place / "run", GENDISTILLER)) for place in ("a", "b")]
    write_report(pair, tmp_path / "report.html")
    assert "a/run and b/run" in (tmp_path / "report.html").read_text()


def test_a_run_without_eval_is_refused_with_the_command_to_type(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", GENDISTILLER)
    (folder / "eval.json").unlink()
    with pytest.raises(RunError, match="has not been evaluated") as caught:
        report_command([folder], tmp_path / "report.html")
    assert caught.value.hint == f"gdist eval {folder}"


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run at"):
        report_command([tmp_path], tmp_path / "report.html")


def test_teachers_of_different_depth_do_not_share_a_table(tmp_path: Path) -> None:
    deep = RunSummary.read(make_run(tmp_path / "deep", GENDISTILLER * 2))
    flat = RunSummary.read(make_run(tmp_path / "flat", GENDISTILLER))
    with pytest.raises(UsageError, match="12 and 24 layers"):
        write_report([deep, flat], tmp_path / "report.html")


# --- in a browser ---------------------------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(browser: Any, runs: list[RunSummary], tmp_path: Path, width: int, scheme: str) -> None:
    write_report(runs, tmp_path / "report.html", EXTRAS)
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") == width

    assert page.evaluate("[...document.querySelectorAll('section')].map(s => s.id)") == SECTIONS
    charts = page.locator("svg:visible")
    assert charts.count() == 2 + 1 + 2 + 4 + 2  # fidelity, probe, quality, training, cost
    for chart in charts.all():
        box = chart.bounding_box()
        assert box["width"] > 300 and box["height"] > 100
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
        labels = chart.locator("text").all_text_contents()
        assert {"gendistiller", "distilhubert"} <= set(labels)
    background, ink = page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
    assert (luminance(background) < luminance(ink)) == (scheme == "dark")
    page.close()


def luminance(colour: str) -> int:
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))


@pytest.mark.browser
def test_labels_of_lines_do_not_overlap(browser: Any, tmp_path: Path) -> None:
    close = [
        RunSummary.read(make_run(tmp_path / f"run-{n}", [cosine - n / 5000 for cosine in GENDISTILLER]))
        for n in range(6)
    ]
    write_report(close, tmp_path / "report.html")
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto((tmp_path / "report.html").as_uri())
    for chart in page.locator("svg:visible").all():
        boxes = [label.bounding_box() for label in chart.locator("g:not(.axes) > text").all()]
        for one, other in combinations(boxes, 2):
            apart = [abs(one[x] - other[x]) > min(one[w], other[w]) - 4 for x, w in (("x", "width"), ("y", "height"))]
            assert any(apart), (one, other)
    page.close()


@pytest.mark.browser
def test_a_name_cannot_inject_html(browser: Any, runs: list[RunSummary], tmp_path: Path) -> None:
    evil = make_run(
        tmp_path / '"><img src=x onerror=alert(1)>', DISTILHUBERT, teacher={"name": "<script>alert(2)</script>"}
    )
    write_report([RunSummary.read(evil), *runs], tmp_path / "report.html")
    page = browser.new_page()
    dialogs: list[Any] = []

    def dismiss(dialog: Any) -> None:
        dialogs.append(dialog)
        dialog.dismiss()

    page.on("dialog", dismiss)
    page.goto((tmp_path / "report.html").as_uri())
    assert dialogs == []
    assert page.locator("img").count() == 0 and page.locator("script").count() == 1
    assert '"><img src=x onerror=alert(1)>' in page.inner_text("#ranking")
    page.close()


def test_a_frozen_front_end_is_told(tmp_path: Path) -> None:
    thawed, frozen = make_run(tmp_path / "thawed", GENDISTILLER), make_run(tmp_path / "frozen", GENDISTILLER)
    config = frozen / "config.toml"
    config.write_text(
        config.read_text().replace('name = "gendistiller"', 'name = "gendistiller"\nfrontend = "frozen"')
    )
    pages = []
    for folders in ([thawed], [thawed, frozen], [frozen]):
        write_report([RunSummary.read(folder) for folder in folders], tmp_path / "report.html")
        pages.append((tmp_path / "report.html").read_text(encoding="utf-8"))
    told = "cached layer 0: "
    assert told not in pages[0] and f"{told}<b>frozen</b>." in pages[1] and f"{told}All." in pages[2]
