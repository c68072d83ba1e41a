"""Validation on what is trained on is said, and recorded wherever its figures are shown."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from test_train import run, short

from gdist.pipeline.run import Run


def test_validating_on_training_utterances_is_said_everywhere(
    tiny_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], gdist: Callable[..., Result]
) -> None:
    out = tmp_path / "run"
    run(tiny_cache, out, short(train__steps=2, data__valid_split="train*,valid*", data__test_split="train*"))
    said = capsys.readouterr().err
    assert "14 of the 22 utterances of the split valid are trained on, too" in said
    assert "14 of the 14 utterances of the split test" in said
    assert Run(out).provenance()["also_trained_on"] == {"valid": 14, "test": 14}
    valid = [row for row in Run(out).read_metrics() if row["kind"] == "valid"]
    assert valid and all(row["also_trained_on"] == 14 for row in valid)
    result = gdist("eval", out, "--probes", "none", "--json")
    assert result.exit_code == 0 and "split test are trained on, too" in result.stderr
    assert "split valid" not in result.stderr, "which was not measured on"
    assert json.loads(result.stdout)["also_trained_on"] == 14
    assert gdist("report", out, "--out", tmp_path / "report.html").exit_code == 0
    page = (tmp_path / "report.html").read_text()
    assert "they have trained on, too: <b>run</b>" in page and "unseen utterances" not in page


def test_where_splits_are_apart_nothing_is_said(
    tiny_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tiny_cache, tmp_path / "run", short(train__steps=2))
    assert "trained on" not in capsys.readouterr().err
    assert Run(tmp_path / "run").provenance()["also_trained_on"] == {}
    assert not any("also_trained_on" in row for row in Run(tmp_path / "run").read_metrics())
