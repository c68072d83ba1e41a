"""The report names the right winners, is safe to open, and is readable on any screen, in light and dark mode."""

import doctest
import json
import math
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from gdist.pipeline.config import signature, to_toml
from gdist.pipeline.errors import RunError, UsageError
from gdist.stages.report import charts as report_charts
from gdist.stages.report import drawing as report_drawing
from gdist.stages.report import figures as report_figures
from gdist.stages.report import heat as report_heat
from gdist.stages.report import plots as report_plots
from gdist.stages.report import probes as report_probes
from gdist.stages.report import runs as report_runs
from gdist.stages.report.page import RunSummary, report_command, write_report

SECTIONS = ["ranking", "fidelity", "probes", "quality", "training", "cost", "provenance"]

# Layers 1 to 12, with values like those of students of a 12-layer teacher. The baseline predicts layers 4, 8 and 12.
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


def probe(value: float, half: float = 0.04) -> dict[str, Any]:
    """What eval says of a probe of which more is better."""
    known = {"title": "digits", "metric": "accuracy", "value": value, "low": value - half, "high": value + half}
    more: dict[str, Any] = {"higher_is_better": True, "chance": 0.1, "test_items": 240, "classes": 10}
    return {"digits": known | more | {"layer_weights": [0.05] * 12 + [0.4]}}


def error_rate(value: float, half: float = 0.02) -> dict[str, Any]:
    """The result of eval for a probe whose metric is better when lower, with its bootstrap interval."""
    known = {"title": "speaker verification", "metric": "equal error rate", "value": value, "test_items": 900}
    bounds = {"low": value - half, "high": value + half, "higher_is_better": False, "chance": 0.5}
    rest: dict[str, Any] = {"classes": 2, "learning_rate": None, "layer_weights": [], "also": {"minDCF": 0.2}}
    return {"asv": known | bounds | rest}


def make_run(
    folder: Path,
    cosines: list[float],
    params: int = 1_068_416,
    accuracy: float = 0.88,
    train: dict[str, Any] | None = None,
    origin: dict[str, Any] | None = None,
    student: dict[str, Any] | None = None,
    **evaluated: Any,
) -> Path:
    """Make the folder of a run as train and eval leave it, with ``origin`` added to run.json and ``evaluated`` to
    eval.json."""
    folder.mkdir(parents=True)
    tables: dict[str, dict[str, Any]] = {
        "train": {"steps": 160, "lr": 1e-3} | (train or {}),
        "student": {"name": "gendistiller"} | (student or {}),
    }
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
    (folder / "run.json").write_text(
        json.dumps(about | {"versions": {"gdist": "0.1.0", "torch": "2.11.0"}} | (origin or {}))
    )
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
    (folder / "eval.json").write_text(json.dumps(result | evaluated))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[RunSummary]:
    first = make_run(tmp_path / "gendistiller", GENDISTILLER)
    second = make_run(
        tmp_path / "distilhubert", DISTILHUBERT, params=1_588_992, accuracy=0.892, predicted_layers=[4, 8, 12]
    )
    return [RunSummary.read(first), RunSummary.read(second)]


@pytest.mark.parametrize(
    "module",
    [report_charts, report_drawing, report_figures, report_heat, report_plots, report_runs],
)
def test_worked_examples(module: Any) -> None:
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


def test_it_names_the_winner_at_each_layer(runs: list[RunSummary], tmp_path: Path) -> None:
    write_report(runs, tmp_path / "report.html", EXTRAS)
    page = (tmp_path / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "<b>gendistiller</b> is closest to the teacher at layers 1–11, by 0.040 to 0.170." in page
    assert "<b>distilhubert</b> is closest to the teacher at layer 12, by 0.010." in page
    assert "No better than “h₀ copied”: <b>distilhubert</b> at layers 1–2." in page
    assert "The best student is <b>distilhubert</b> (89.2%); the teacher has 89.6% and log-mel has 86.7%." in page
    assert "<b>distilhubert</b> (4, 8, 12)" in page


def fields(table: Any, *place: str | int) -> Iterator[tuple[str | int, ...]]:
    """The places of all fractions of a document; of a list's items, the first one's."""
    if isinstance(table, float):
        yield place
    elif isinstance(table, dict):
        for key, value in table.items():
            yield from fields(value, *place, key)
    elif isinstance(table, list):
        yield from fields(table[:1] and table[0], *place, 0)


def test_what_has_no_value_is_not_drawn(tmp_path: Path) -> None:
    """NaN in each field of eval.json in turn: of a student that diverged, an interval of too few items, and so on."""
    folders = [make_run(tmp_path / "one", GENDISTILLER), make_run(tmp_path / "two", DISTILHUBERT)]
    text = (folders[0] / "eval.json").read_text()
    reported = []
    for *parts, last in fields(json.loads(text)):
        changed = inner = json.loads(text)
        for part in parts:
            inner = inner[part]
        inner[last] = math.nan
        (folders[0] / "eval.json").write_text(json.dumps(changed))
        try:
            report_command(folders, tmp_path / "report.html")
        except RunError as error:
            assert "eval.json" in error.message
        else:
            reported.append(last)
            drawn = re.findall(r"<svg.*?</svg>", (tmp_path / "report.html").read_text(), re.DOTALL)
            assert drawn and not any("nan" in drawing for drawing in drawn), (*parts, last)
    assert {"low", "high", "chance"} <= set(reported) and "value" in reported  # of the teacher and of log-mel


def test_a_student_that_diverged_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [make_run(tmp_path / "one", [math.nan] * 12), make_run(tmp_path / "two", DISTILHUBERT)]
    report_command(folders, tmp_path / "report.html")
    assert "one diverged" in capsys.readouterr().err
    assert "<title>two" in (tmp_path / "report.html").read_text()
    with pytest.raises(RunError, match="diverged"):
        report_command(folders[:1], tmp_path / "report.html")


def test_a_student_that_beats_every_reference(tmp_path: Path) -> None:
    run = RunSummary.read(make_run(tmp_path / "alone", GENDISTILLER))
    write_report([run], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "beats both trivial predictions at every layer" in page
    assert "closest to the teacher at" not in page


def test_what_the_cache_saved(runs: list[RunSummary], tmp_path: Path) -> None:
    write_report(runs, tmp_path / "report.html", EXTRAS)
    page = (tmp_path / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    # 2 runs × 16 rows × 312 s of speech, at 24.6 × real time
    assert "320 steps without the teacher" in page
    assert "which saved 6 min 46 s of teacher time" in page
    assert "9.9 × the time of its single run" in page


def test_where_the_data_came_from(tmp_path: Path) -> None:
    """Two columns, and only if a run read from a bucket: 16 reports of 250 MB, and of 1 GB from the local folder."""
    folders = [make_run(tmp_path / name, GENDISTILLER) for name in ("far", "near")]

    def written() -> str:
        write_report([RunSummary.read(folder) for folder in folders], tmp_path / "report.html")
        return (tmp_path / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")

    assert "from the bucket" not in written()
    metrics = folders[1] / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    read = {"bytes_fetched": 250_000_000, "bytes_local": 1_000_000_000}
    metrics.write_text("".join(json.dumps(row | read if row["kind"] == "train" else row) + "\n" for row in rows))
    page = written()
    assert "from the bucket" in page and "from the local folder" in page
    assert "4.0 GB" in page and "16.0 GB" in page


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


def test_runs_that_recorded_little_are_still_reported(tmp_path: Path) -> None:
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
    assert "The six best runs have colors." in page
    ranks = re.findall(r'<tr><td data-key="(\d)">.*?</span>(.*?)</th>', page)
    assert ranks == [(str(place + 1), f"run-{place}") for place in range(9)]


def test_runs_that_share_a_name_are_distinguished_by_their_folders(tmp_path: Path) -> None:
    pair = [RunSummary.read(make_run(tmp_path / place / "run", GENDISTILLER)) for place in ("a", "b")]
    write_report(pair, tmp_path / "report.html")
    assert "a/run and b/run" in (tmp_path / "report.html").read_text()


def test_a_run_without_eval_is_refused_with_the_command_to_type(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", GENDISTILLER)
    (folder / "eval.json").unlink()
    with pytest.raises(RunError, match="has not been evaluated") as caught:
        report_command([folder], tmp_path / "report.html")
    assert caught.value.hint == f"gdist eval {folder}"


def test_one_that_is_not_evaluated_does_not_block_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run(tmp_path / name, GENDISTILLER) for name in ("one", "other")]
    (runs[0] / "eval.json").unlink()
    report_command(runs, tmp_path / "report.html")
    assert f"left out: {runs[0]} has not been evaluated" in capsys.readouterr().err
    assert "other" in (tmp_path / "report.html").read_text()
    with pytest.raises(RunError, match="no run at"):
        report_command([runs[1], tmp_path / "nothing"], tmp_path / "report.html")


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run at"):
        report_command([tmp_path], tmp_path / "report.html")


def test_no_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run to report on"):
        write_report([], tmp_path / "report.html")


def test_an_error_rate_is_better_when_lower_and_ties_are_not_overclaimed(tmp_path: Path) -> None:
    rates = {"low": 0.10, "near": 0.13, "high": 0.19}  # ± 0.02: only the first two overlap
    runs = [
        RunSummary.read(make_run(tmp_path / name, GENDISTILLER, probes=error_rate(rate), log_mel=None))
        for name, rate in rates.items()
    ]
    write_report(runs, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert re.search(r'class="best">10.0%<.*class="tie">13.0%<.*data-key="0.19">19.0%<', page, re.DOTALL)
    assert "The best student is <b>low</b> (10.0%)." in page
    assert "Not distinguishable from it: <b>near</b>; the other student is worse." in page
    assert "minDCF 20.0%" in page and "equal error rate, lower is better" in page


def test_seeds_are_grouped(tmp_path: Path) -> None:
    def run(name: str, shift: float, accuracy: float, **train: Any) -> RunSummary:
        cosines = [0.9 + shift] * 12
        return RunSummary.read(make_run(tmp_path / name, cosines, accuracy=accuracy, train=train, log_mel=None))

    runs = [run(f"fast-seed{seed}", 0.02 * seed, 0.8 + 0.1 * seed, lr=2e-3, seed=seed) for seed in range(3)]
    runs += [run(f"slow-seed{seed}", 0, 0.8, seed=seed) for seed in range(2)] + [run("other", 0, 0.8, steps=9)]
    write_report(runs, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    table = page.split('class="ranking configurations')[1].split("</table>")[0]
    assert re.findall(r"</span>(.*?)</th>", table.split('class="rows"')[1]) == ["fast", "slow", "other"]
    assert ">0.920 ± 0.020<" in table  # of 0.90, 0.92, 0.94: their mean, and the square root of (0.0004 × 2) / 2
    assert ">90.0 ± 10.0%<" in table
    assert ">0.900 ± 0.000<" in table and ">0.900<" in table
    assert ">lr 0.002<" in table and ">steps 9<" in table
    assert "<b>fast (3 seeds)</b> is closest to the teacher" in page
    assert page.count('class="ranking ranked"') == 1 and ">slow-seed1<" in page.split('class="ranking ranked"')[1]


def test_one_config_run_twice_with_one_seed_is_not_two_seeds(tmp_path: Path) -> None:
    runs = [RunSummary.read(make_run(tmp_path / name, GENDISTILLER, train={"seed": 0})) for name in ("a", "b")]
    write_report(runs, tmp_path / "report.html")
    assert "seeds" not in (tmp_path / "report.html").read_text()


def test_whiskers_show_the_intervals(tmp_path: Path) -> None:
    run = RunSummary.read(make_run(tmp_path / "run", GENDISTILLER, probes=error_rate(0.30, 0.15), log_mel=None))
    [task] = report_probes.tasks([run])
    drawn = str(report_figures.probe(task, report_runs.configurations([run]), [run]))
    ticks = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="middle">([\d.]+)</text>', drawn.split("</g>")[0])
    (x0, v0), (x1, v1) = ((float(x), float(value)) for x, value in (ticks[0], ticks[-1]))

    def at(x: str) -> float:
        return v0 + (float(x) - x0) / (x1 - x0) * (v1 - v0)

    whisker = re.search(r'class="whisker" x1="([\d.]+)" x2="([\d.]+)"', drawn)
    dot = re.search(r'<circle class="strong" cx="([\d.]+)"', drawn)
    chance = re.search(r'class="chance" x1="([\d.]+)"', drawn)
    assert whisker and dot and chance
    found = [at(x) for x in (*whisker.groups(), *dot.groups(), *chance.groups())]
    assert found == pytest.approx([0.15, 0.45, 0.30, 0.50], abs=2e-4)


def test_guessing_far_outside_an_axis_is_an_arrow(runs: list[RunSummary], tmp_path: Path) -> None:
    for run in runs:
        run.eval["probes"]["digits"]["chance"] = 0.1
    write_report(runs, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count(">← guessing 10.0%<") == 2 and 'class="chance"' not in page.split("<body>")[1]


# --- in a browser ---------------------------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(browser: Any, runs: list[RunSummary], tmp_path: Path, width: int, scheme: str) -> None:
    write_report(runs, tmp_path / "report.html", EXTRAS)
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    messages: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())
    assert messages == []
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


def luminance(color: str) -> int:
    return sum(int(part) for part in color.removeprefix("rgb(").removesuffix(")").split(","))


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


def many(folder: Path, count: int) -> list[RunSummary]:
    """Runs that get worse with their number. Those with odd numbers were not probed on the second task."""
    found = []
    for n in range(count):
        rates = error_rate((count - n) // 2 * 0.01) if n % 2 == 0 else {}
        cosines = [cosine - n / 500 for cosine in GENDISTILLER]
        name = folder / f"a-rather-long-name-of-a-run-{n:02d}"
        params = 1_000_000 + 10_000 * (n % 4)
        found.append(RunSummary.read(make_run(name, cosines, params, probes=probe(0.8 + n / 1000) | rates)))
    return found


def order(page: Any) -> list[int]:
    return [int(name[-2:]) for name in page.locator(".ranking .rows th").all_text_contents()]


@pytest.mark.browser
def test_columns_sort(browser: Any, tmp_path: Path) -> None:
    write_report(many(tmp_path, 6), tmp_path / "report.html")
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    heads = {head.inner_text().split("\n")[0].strip(): head for head in page.locator(".ranking thead th").all()}
    assert order(page) == [0, 1, 2, 3, 4, 5]
    assert page.locator(".ranking [aria-sort]").all_inner_texts() == [heads["cosine"].inner_text()]
    accuracy = heads["digits"].get_by_role("button")
    accuracy.click()  # higher is better: the best first
    assert order(page) == [5, 4, 3, 2, 1, 0] and heads["digits"].get_attribute("aria-sort") == "descending"
    accuracy.press("Enter")
    assert order(page) == [0, 1, 2, 3, 4, 5] and heads["digits"].get_attribute("aria-sort") == "ascending"
    rates = heads["speaker verification"].get_by_role("button")
    rates.focus()
    page.keyboard.press("Space")  # lower is better; rows without a value come last
    assert order(page) == [4, 2, 0, 1, 3, 5] and heads["digits"].get_attribute("aria-sort") is None
    rates.click()
    assert order(page) == [0, 2, 4, 1, 3, 5]
    heads["parameters"].get_by_role("button").click()  # runs 0 and 4, 1 and 5 are equal: in the order of the ranking
    assert order(page) == [0, 4, 1, 5, 2, 3]
    heads["run"].get_by_role("button").press("Enter")
    assert order(page) == [0, 1, 2, 3, 4, 5]
    assert page.locator(".ranking .references th").all_inner_texts() == ["teacher", "log-mel"]
    page.close()


@pytest.mark.browser
def test_forty_runs_on_a_phone_and_without_a_script(browser: Any, tmp_path: Path) -> None:
    write_report(many(tmp_path, 40), tmp_path / "report.html")
    context = browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    assert order(page) == list(range(40))
    assert page.locator("[role=button]").count() == 0 and not page.locator(".scripted").is_visible()
    assert page.locator(".by-run .rows tr").count() == 40  # one row per run if there are many
    widths = page.locator("main, .scroll").evaluate_all("all => all.map(one => one.offsetWidth)")
    assert max(widths) <= 390
    for chart in page.locator("svg:visible").all():
        box = chart.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    context.close()


@pytest.mark.browser
@pytest.mark.parametrize(("probes", "width"), [(1, 703), (6, 1031)])  # A4 without margins; landscape for many
def test_paper(browser: Any, tmp_path: Path, probes: int, width: int) -> None:
    runs = many(tmp_path, 40)
    for run in runs:
        titled = run.eval["probes"]["digits"] | {"title": "identification of a language"}
        run.eval["probes"] = {f"probe-{n}": titled for n in range(probes)}
    write_report(runs, tmp_path / "report.html")
    page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme="dark")
    page.goto((tmp_path / "report.html").as_uri())
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator(".wide-print").count() == (width > 703)
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert relative_luminance(ink) < 0.1  # whatever the color scheme of the screen
    assert page.locator(".numbers table").first.is_visible()  # closed on the screen, but printed
    # Chromium leaves form controls out of the heads that it repeats on every page.
    assert page.locator("thead button").count() == 0 and page.locator("thead [role=button]").count() > 0
    page.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_values_can_be_read_on_every_shade(browser: Any, tmp_path: Path, scheme: str) -> None:
    write_report(many(tmp_path, 12), tmp_path / "report.html")
    page = browser.new_page(color_scheme=scheme)
    page.goto((tmp_path / "report.html").as_uri())
    shades = page.locator(".heat td").evaluate_all(
        "cells => cells.map(c => [getComputedStyle(c).color, getComputedStyle(c).backgroundColor])"
    )
    page.close()
    assert len({ground for _, ground in shades}) > 50
    assert min(contrast(ink, ground) for ink, ground in shades) >= 4.5


def contrast(one: str, other: str) -> float:
    """The contrast ratio (WCAG) of two colors as Chromium formats them."""
    light = sorted((relative_luminance(one), relative_luminance(other)))
    return (light[1] + 0.05) / (light[0] + 0.05)


def relative_luminance(color: str) -> float:
    """The relative luminance (WCAG) of a color.

    >>> round(relative_luminance("rgb(255, 255, 255)"), 6), relative_luminance("color(srgb 0 0 0)")
    (1.0, 0.0)
    """
    parts = [float(part) for part in re.findall(r"[\d.]+(?:e-?\d+)?", color)][:3]
    shares = parts if color.startswith("color") else [part / 255 for part in parts]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.browser
def test_a_name_cannot_inject_html(browser: Any, runs: list[RunSummary], tmp_path: Path) -> None:
    evil = make_run(
        tmp_path / '"><img src=x onerror=alert(1)>',
        DISTILHUBERT,
        teacher={"name": "<script>alert(2)</script>"},
        probes={"ks": probe(0.9)["digits"] | {"title": "<img src=x onerror=alert(3)>", "metric": "</script><img>"}},
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


def test_a_frozen_front_end_is_mentioned(tmp_path: Path) -> None:
    thawed = make_run(tmp_path / "thawed", GENDISTILLER)
    frozen = make_run(tmp_path / "frozen", GENDISTILLER, student={"frontend": "frozen"})
    pages = []
    for folders in ([thawed], [thawed, frozen], [frozen]):
        write_report([RunSummary.read(folder) for folder in folders], tmp_path / "report.html")
        pages.append((tmp_path / "report.html").read_text(encoding="utf-8"))
    mention = " trained with a frozen front-end, from the teacher's cached layer 0"
    assert mention not in pages[0] and f"<b>frozen</b>{mention}" in pages[1] and f"All students{mention}" in pages[2]
