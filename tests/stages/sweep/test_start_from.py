"""Points of a sweep that begin with another student's weights."""

from pathlib import Path

import pytest
from sweeping import LEAST, Gdist, counts, points_in, run
from test_train import run as trained
from test_train import short

from gdist.pipeline.run import Run


def grid(file: Path, start: Path | str) -> Path:
    text = LEAST.replace("seeds = [0, 1]", "seeds = [0]").replace('"student.history" = ["student", "teacher"]', "")
    file.write_text(text + f'start_from = ["", "{start}"]\n')
    return file


def test_what_a_point_begins_with_is_part_of_what_it_is(tiny_cache: Path, tmp_path: Path) -> None:
    """The same weights in another place are the same point."""
    trained(tiny_cache, tmp_path / "first", short(train__steps=2))
    plain, begun = points_in(grid(tmp_path / "small.toml", f"{tmp_path / 'first'}@2"), tiny_cache)
    assert plain.signature != begun.signature and "--start-from" not in plain.command(tmp_path)
    assert f"--start-from {tmp_path / 'first'}@2" in begun.command(tmp_path)
    (tmp_path / "first").rename(tmp_path / "moved")
    again = points_in(grid(tmp_path / "small.toml", tmp_path / "moved"), tiny_cache)
    assert [point.signature for point in again] == [plain.signature, begun.signature]


@pytest.mark.thorough
def test_a_grid_over_what_points_begin_with(tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
    trained(tiny_cache, tmp_path / "first", short(train__steps=2))
    file = grid(tmp_path / "small.toml", tmp_path / "first")
    for options in (("--together", 2), ()):
        out = tmp_path / f"sweep{len(options)}"
        found = run(gdist, file, tiny_cache, out, *options)
        assert counts(found) == (2, 2, 2, 0, 0)
        plain, begun = (Run(Path(row["run"])).provenance().get("start") for row in found["table"])
        assert plain is None and begun and begun["folder"] == str(tmp_path / "first") and begun["step"] == 2
        assert counts(run(gdist, file, tiny_cache, out)) == (2, 2, 0, 0, 0)


def test_what_does_not_fit_is_said_before_anything_runs(tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
    trained(tiny_cache, tmp_path / "first", short(train__steps=2))
    file = tmp_path / "small.toml"
    for wrong, words in (
        (f'start_from = "{tmp_path / "first"}"\n"student.width" = 16', "width: None → 16"),
        (f'start_from = "{tmp_path / "first"}@1"', "has kept nothing of step 1"),
        ("start_from = 3", "start_from = 3: must be text"),
    ):
        file.write_text(LEAST.replace("[set]", f"[set]\n{wrong}"))
        result = gdist("sweep", file, "--cache", tiny_cache, "--out", tmp_path / "sweep")
        assert result.exit_code in (1, 2) and words in result.stderr and not (tmp_path / "sweep").exists()
