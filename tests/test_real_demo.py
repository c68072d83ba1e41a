"""`gdist demo` in full, as `make demo` runs it. It takes minutes: `make test` has test_demo.py, its short form."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.thorough
@pytest.mark.browser
def test_it_keeps_its_promise(tmp_path: Path, browser: Any) -> None:
    """GenDistiller beats both references at every layer, and the page shows it."""
    command = [sys.executable, "-c", "from gdist.stages.cli import main; main()", "demo", "--json"]
    done = subprocess.run([*command, "--out", tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["extract"]["utterances"], result["extract"]["quarantined"]) == (1420, 0)
    assert result["verify"] == {"ok": True, "packs": 12, "packs_missing": [], "bad": []}
    assert result["beats_references"]["gendistiller"] == {str(layer): True for layer in range(1, 13)}
    student, baseline = result["eval"]
    assert student["params_with_heads"] < baseline["params"]
    ks = {name: student[name]["probes"]["ks"]["value"] for name in ("teacher", "log_mel")}
    assert ks["teacher"] > ks["log_mel"] > 0.25, "ten digits by new voices: chance is 0.1"
    assert student["probes"]["ks"]["value"] > ks["log_mel"]

    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(Path(result["report"]).as_uri())
    text = page.inner_text("body")
    assert f"{student['mean_cosine']:.3f}" in text and f"{baseline['mean_cosine']:.3f}" in text
    for row in student["layers"]:
        assert f"{row['cosine']:.3f}" in text, "the report shows every layer"
    assert page.locator("svg:visible").count() >= 6
    page.close()
