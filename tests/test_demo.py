"""The demo from end to end: its own code with shortened speech and recipes, and the report that it writes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from conftest import contents

from gdist.data_manifests import demo_folder
from gdist.pipeline.manifest.table import Manifest
from gdist.stages import demo
from gdist.stages.demo import beats_references
from gdist.stages.train.config import TrainConfig, load_config


@pytest.fixture
def short_demo(tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seventh of the demo's speech, a tiny teacher, and eight steps."""
    shutil.copytree(tiny_teacher, tmp_path / "bundle" / "teacher-nano")
    manifest = Manifest.read(demo_folder() / "demo.parquet")
    seventh = manifest.table.take(list(range(0, manifest.table.num_rows, 7)))
    Manifest(seventh, manifest.root).write(tmp_path / "bundle" / "demo.parquet")

    def cut_short(recipe: str | None, student: str | None, settings: tuple[str, ...]) -> TrainConfig:
        return load_config(recipe, student, (*settings, "train.steps=8", "train.warmup_steps=2"))

    monkeypatch.setattr(demo, "demo_folder", lambda: tmp_path / "bundle")
    monkeypatch.setattr(demo, "load_config", cut_short)


@pytest.mark.usefixtures("short_demo")
def test_the_demo_and_again(tmp_path: Path, gdist: Callable[..., Result]) -> None:
    first = gdist("demo", "--out", tmp_path / "out", "--json")
    assert first.exit_code == 0, first.stderr
    result = json.loads(first.stdout)
    assert result["verify"]["ok"] and result["extract"]["utterances"] == 203
    assert [one["run"] for one in result["eval"]] == ["gendistiller", "distilhubert"]
    assert set(result["eval"][0]["probes"]) == {"ks", "qbe", "sid", "lid"}
    assert result["train"]["gendistiller"]["steps"] == 8
    page = Path(result["report"]).read_text(encoding="utf-8")
    for text in ("gendistiller", "distilhubert", "mean frame", "teacher", "log-mel"):
        assert text in page
    before = contents(tmp_path / "out")
    again = gdist("demo", "--out", tmp_path / "out")
    assert again.exit_code == 0, again.stderr
    assert "gendistiller is closer to the teacher than both references: " in again.stderr
    after = contents(tmp_path / "out")
    changed = {name for name in after if after[name] != before.get(name) and "tensorboard" not in name}
    assert changed == set(), "finished work is not repeated"


def test_beating_the_references_by_hand() -> None:
    """0.9 is above 0.8 and 0.5; 0.7 is above 0.5 only; 0.6 equals 0.6, which is no win."""
    rows = [{"layer": layer, "cosine": cosine} for layer, cosine in ((1, 0.9), (2, 0.7), (3, 0.6))]
    references = {"copy_h0": [{"cosine": 0.8}] * 2 + [{"cosine": 0.6}], "mean_frame": [{"cosine": 0.5}] * 3}
    assert beats_references({"layers": rows, "references": references}) == {"1": True, "2": False, "3": False}
