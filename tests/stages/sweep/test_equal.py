"""`[equal]`: steps that cost what another point costs, measured once."""

import json
from pathlib import Path

import pytest
from sweeping import Gdist, run

EQUAL = """
[set]
"train.steps" = 20
"train.warmup_steps" = 1
"train.batch_seconds" = 2.0
"train.validate_every" = 20
"train.checkpoint_every" = 10
"train.validate_seconds" = 2.0
"student.dropout" = 0.0
[[points]]
name = "ours"
[[points]]
name = "small"
set = {"student.predict_layers" = [3]}
[[points]]
name = "small, as long"
set = {"student.predict_layers" = [3]}
[equal]
"small, as long" = "ours"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "equal.toml"
    path.write_text(EQUAL)
    return path


@pytest.mark.thorough
def test_steps_that_cost_the_same(file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
    out = tmp_path / "sweep"
    dry = run(gdist, file, tiny_cache, out, "--dry-run")
    assert [(row["steps"], row["equal"]) for row in dry["table"]] == [(20, None), (20, None), (None, "ours")]
    shown = gdist("sweep", file, "--cache", tiny_cache, "--out", out, "--dry-run").stdout
    assert "equal to ours, to be measured" in shown and not out.exists()

    first = run(gdist, file, tiny_cache, out, "--first")  # which needs no measuring
    assert first["done"] == 1 and not (out / "equal.json").exists()

    found = run(gdist, file, tiny_cache, out)
    assert (found["points"], found["done"], found["ran"]) == (3, 3, 2)
    (measured,) = json.loads((out / "equal.json").read_text()).values()
    assert measured["points"] == ["small, as long", "ours"] and measured["ratio"] > 0
    (row,) = [row for row in found["table"] if row["equal"]]
    assert row["steps"] == max(round(20 * measured["ratio"]), 1)
    config = Path(row["run"], "config.toml").read_text()
    assert f"validate_every = {row['steps']}\n" in config and "checkpoint_every = 10\n" in config
    assert len(list((out / "runs").iterdir())) == 3  # what was measured is no point

    written = (out / "equal.json").stat().st_mtime_ns
    again = run(gdist, file, tiny_cache, out)
    assert again["ran"] == 0 and again["table"] == found["table"]
    # The cost of a step does not depend on how many there are: nothing is measured again.
    file.write_text(EQUAL.replace('"train.steps" = 20', '"train.steps" = 10'))
    fewer = run(gdist, file, tiny_cache, out, "--dry-run")
    assert fewer["table"][2]["steps"] == max(round(10 * measured["ratio"]), 1)
    assert (out / "equal.json").stat().st_mtime_ns == written


def test_equal_to_a_point_of_a_grid(file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
    rates = EQUAL.replace('name = "ours"', 'name = "ours"\ngrid = {"train.lr" = [1e-3, 2e-3]}')
    file.write_text(rates.replace('long" = "ours"', 'long" = "ours lr=0.002"'))
    found = run(gdist, file, tiny_cache, tmp_path / "sweep", "--dry-run")
    assert [row["equal"] for row in found["table"]] == [None, None, None, "ours lr=0.002"]
    file.write_text(file.read_text().replace('0.002"', '0.02"'))
    result = gdist("sweep", file, "--cache", tiny_cache, "--out", tmp_path / "sweep")
    assert result.exit_code == 2 and "did you mean `ours lr=0.002`" in result.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('long" = "ours"', 'long" = "hours"'), "did you mean `ours`"),
        (('long" = "ours"', 'long" = 3'), "no point is called 3"),
        (('"small, as long" =', '"big" ='), "no point is called 'big'"),
        (('long" = "ours"', 'long" = "small, as long"'), "goes round in a circle"),
        (('long" = "ours"', 'long" = "small"\nsmall = "small, as long"'), "goes round in a circle"),
        (('name = "ours"', 'name = "ours"\ngrid = {"train.lr" = [1e-3, 2e-3]}'), "which cost different times"),
        (
            ('name = "ours"', 'name = "ours"\nset = {"train.thaw_step" = 3, "student.frontend" = "frozen"}'),
            "the cost",
        ),
        (
            ('name = "small, as long"\nset = {', 'name = "small, as long"\nset = {"train.steps" = 3, '),
            "which has its own",
        ),
    ],
)
def test_mistakes_are_named_before_anything_runs(
    change: tuple[str, str], message: str, file: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist
) -> None:
    text = EQUAL.replace(*change)
    file.write_text(text)
    result = gdist("sweep", file, "--cache", tiny_cache, "--out", tmp_path / "sweep")
    assert result.exit_code == 2, result.stderr
    assert message in result.stderr
    assert not (tmp_path / "sweep").exists()
