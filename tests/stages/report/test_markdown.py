"""The Markdown page of a sweep, or of a list of runs: its tables, its figures, and the notes that it keeps."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from made_sweeps import make_sweep
from test_report import DISTILHUBERT, GENDISTILLER, error_rate, make_run, probe
from test_sweep_report import Gdist, Points, ablation

from gdist.pipeline.errors import UsageError
from gdist.stages.report.page import report_command


def test_notes_are_kept_and_nothing_else(tmp_path: Path, gdist: Gdist) -> None:
    sweep = make_sweep(tmp_path / "ablation", ablation())
    out = tmp_path / "docs" / "page.md"
    assert gdist("report", sweep, "--format", "md", "--out", out, "--title", "An ablation").exit_code == 0
    page = out.read_text(encoding="utf-8")
    assert page.startswith("# An ablation\n") and "<!-- notes -->\n<!-- /notes -->" in page
    edited = page.replace("<!-- notes -->\n", "<!-- notes -->\n**What it shows**: nothing.\n").replace(
        "## What", "## Why"
    )
    out.write_text(edited, encoding="utf-8")
    report_command([sweep], out, "md", title="An ablation")
    again = out.read_text(encoding="utf-8")
    assert "**What it shows**: nothing." in again
    assert again.replace("**What it shows**: nothing.\n", "") == page

    out.write_text("# My own page\n")
    with pytest.raises(UsageError, match="somebody's own work"):
        report_command([sweep], out, "md")
    assert out.read_text() == "# My own page\n"


def test_figures_are_next_to_it_and_can_be_opened(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "ablation", ablation())
    out = tmp_path / "page.md"
    report_command([sweep], out, "md")
    links = re.findall(r"!\[.*?\]\((.*?)\)", out.read_text(encoding="utf-8"))
    assert links == ["page-cosine-by-compute.svg", "page-cosine-by-parameters.svg"]
    for link in links:
        root = ET.parse(tmp_path / link).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and "var(" not in (tmp_path / link).read_text()


def test_what_was_run(tmp_path: Path) -> None:
    settings = ["train.lr=0.001", 'student.history="teacher"', 'student.width="true"', "train.seed=0"]
    points: Points = [
        {"name": "a | b", "cosines": [0.5], "recipe": "demo-gendistiller", "settings": settings},
        {"name": "int8", "cosines": [0.4], "set": {"cache": "int8"}, "recipe": None, "settings": ["train.lr=0.001"]},
        {"name": "unknown", "cosines": [0.4], "set": {"train.lr": 2e-3}},
    ]
    out = tmp_path / "page.md"
    report_command([make_sweep(tmp_path / "made", points)], out, "md")
    page = out.read_text(encoding="utf-8")
    assert (
        "gdist train --cache CACHE --out RUN --recipe demo-gendistiller --set train.lr=0.001 "
        "--set student.history=teacher --set 'student.width=\"true\"'    # a | b\n" in page
    )
    assert "gdist train --cache CACHE --out RUN … --set train.lr=0.002    # unknown\n" in page
    assert r"| a \| b | 1.07, 1.07 |" in page
    assert "**a | b** has the highest" in page
    assert str(tmp_path) not in page, "a page for docs knows no paths of this machine"


def evaluated(folder: Path, name: str, cosines: list[float], values: list[float], **more: Any) -> list[Path]:
    """Runs of one configuration, with digits and an error rate that is 1 − digits."""
    made = []
    for seed, value in enumerate(values):
        probes = probe(value) | error_rate(round(1 - value, 3))
        reference = {"probes": probe(0.9) | error_rate(0.05)}
        train = {"seed": seed, **more}
        made.append(
            make_run(
                folder / f"{name}-seed{seed}",
                cosines,
                train=train,
                probes=probes,
                teacher=reference,
                log_mel=reference,
            )
        )
    return made


def test_a_list_of_runs(tmp_path: Path, gdist: Gdist) -> None:
    """Configs that differ only in their seed are points; every comparison says whether seeds can tell."""
    good = evaluated(tmp_path, "good", GENDISTILLER, [0.80, 0.82, 0.84])
    bad = evaluated(tmp_path, "bad", DISTILHUBERT, [0.60, 0.62, 0.64], lr=2e-3)
    out = tmp_path / "page.md"
    shown = gdist("report", *good, *bad, "--format", "md", "--out", out)
    assert shown.exit_code == 0, shown.stderr
    page = out.read_text(encoding="utf-8")
    assert "| good | 1.07, 1.07 | **0.903 ± 0.000** |" in page
    assert "| layer | 1 | 2 |" in page and "| good | 0.970 | 0.958 |" in page
    assert "Copying layer 0 to every layer gives 0.636" in page
    assert "|  | digits (accuracy ↑) | asv (equal error rate ↓) |" in page
    assert "| teacher | 0.900 (0.860–0.940) | 0.050 (0.030–0.070) |" in page
    assert "| good | 0.820 ± 0.020 | 0.180 ± 0.020 |" in page
    assert "| chance | 0.100 | 0.500 |" in page and "| test items | 240 | 900 |" in page
    assert "| bad | **−0.070 ± 0.000** | **−0.200 ± 0.016** | **−0.200 ± 0.016** | 0, 2 of 2 |" in page
    assert "| train.lr: 0.002, against 0.001 | **−0.0702 ± 0.0000** | 0 of 1 |" in page


def test_results_from_the_teachers_layer_0_are_not_compared(tmp_path: Path) -> None:
    chosen = {"layer": 0, "layer_weights": [1.0] + [0.0] * 12}
    runs: list[Path] = []
    for name, value in (("one", 0.8), ("two", 0.8)):
        answer = {"digits": probe(value)["digits"] | chosen}
        runs.append(
            make_run(tmp_path / name, GENDISTILLER, probes=answer, layer_0="teacher", train={"lr": len(runs) + 1.0})
        )
    out = tmp_path / "page.md"
    report_command(runs, out, "md")
    page = out.read_text(encoding="utf-8")
    assert "| two | +0.000 | layer 0 | 0, 0 of 0 |" in page
    assert "`digits`: all students answered from the teacher's layer 0: not a comparison." in page


def test_a_sweep_without_pairs_or_seeds(tmp_path: Path) -> None:
    points = [{"name": "only", "cosines": [0.5]}]
    out = tmp_path / "page.md"
    report_command([make_sweep(tmp_path / "made", points)], out, "md")
    page = out.read_text(encoding="utf-8")
    assert "No other point has a value to compare it with." in page
    assert "## Every point against" not in page and "## Every field" not in page


def test_a_name_is_no_html(tmp_path: Path) -> None:
    points = [{"name": "<img src=x>", "cosines": [0.5]}, {"name": "it's", "cosines": [0.4]}]
    out = tmp_path / "page.md"
    report_command([make_sweep(tmp_path / "made", points)], out, "md")
    page = out.read_text(encoding="utf-8")
    outside = page.replace(page[page.index("```") : page.rindex("```")], "")
    assert "<img" not in outside and "**&lt;img src=x>**" in outside.replace("&gt;", ">") and "**it's**" in outside
