"""Any file of a run, damaged in any way, and what each command then does: it names the file and what to type, or the
file is mended; nothing is silently shortened."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from conftest import contents
from test_train import SHORT, curves

from gdist.pipeline.run import Run

Gdist = Callable[..., Result]

FILES = (
    "config.toml",
    "run.json",
    "metrics.jsonl",
    "eval.json",
    "checkpoints/step-0000009/model.safetensors",
    "checkpoints/step-0000009/optimizer.safetensors",
    "checkpoints/step-0000009/average.safetensors",
    "checkpoints/step-0000009/state.json",
    "student/config.json",
    "student/preprocessor_config.json",
    "student/model.safetensors",
)
DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda whole: None,
    "empty": lambda whole: b"",
    "cut": lambda whole: whole[: len(whole) // 2],
    "zeros": lambda whole: bytes(len(whole)),
    "half zeros": lambda whole: whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2),
    "not UTF-8": lambda whole: b"\xff\xfe\xfd" + whole,
    "a list": lambda whole: b"[]",
    "a table": lambda whole: b"{}",
    "a number": lambda whole: b"7",
}
SETTINGS = SHORT | {"train.ema_decay": 0.9, "train.log_every": 1}


@pytest.fixture(scope="module")
def made(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory, gdist: Gdist) -> Path:
    """A sweep's folder with one run, which is finished and evaluated, for reading only."""
    folder = tmp_path_factory.mktemp("made") / "sweep"
    run = folder / "runs" / "one-abc"
    assert gdist(*training(tiny_cache, run)).exit_code == 0
    for split in ("test", "valid"):
        assert gdist("eval", run, "--probes", "none", "--split", split).exit_code == 0
    point = {"name": "one", "seed": 0, "signature": "abc", "run": "one-abc", "varied": {}}
    judge = {"metric": "mean_cosine", "split": "test", "probes": "none", "minutes": 0.0}
    (folder / "sweep.json").write_text(json.dumps({"name": "sweep", "points": [point], "judge": judge, "wall": []}))
    return folder


def training(cache: Path, run: Path) -> list[object]:
    flags = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    return ["train", "--cache", cache, "--out", run, *flags]


STUDENT = {file for file in FILES if file.startswith("student")}
# What each command reads of a run.
READ = {
    "eval": {"config.toml", "run.json", *STUDENT},
    "report": {"config.toml", "run.json", "eval.json"},
    "report of a sweep": {"config.toml", "run.json", "eval.json"},
    "best": {"run.json", "eval.json"},
    "export": {"config.toml", "run.json", "eval.json", *STUDENT},
    "train": {"run.json"},
}


def damaged(made: Path, folder: Path, file: str, damage: str) -> Path:
    """A copy of the run, of which one file is damaged."""
    run = Path(shutil.copytree(made, folder)) / "runs" / "one-abc"
    content = DAMAGE[damage]((run / file).read_bytes())
    (run / file).unlink()
    if content is not None:
        (run / file).write_bytes(content)
    return run


SELDOM = ("half zeros", "not UTF-8", "a list", "a number")  # each is like one of the others


@pytest.mark.parametrize(
    "damage", [pytest.param(each, marks=pytest.mark.thorough) if each in SELDOM else each for each in DAMAGE]
)
@pytest.mark.parametrize("file", FILES)
def test_each_command_names_it_or_mends_it(
    made: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist, file: str, damage: str
) -> None:
    run = damaged(made, tmp_path / "sweep", file, damage)
    commands: dict[str, list[object]] = {
        "eval": ["eval", run, "--probes", "none", "--split", "valid"],
        "report": ["report", run, "--out", tmp_path / "report.html"],
        "report of a sweep": ["report", run.parents[1], "--out", tmp_path / "sweep.html"],
        "best": ["best", run.parents[1]],
        "export": ["export", run, "--format", "hf", "--out", tmp_path / "export"],
        "train": training(tiny_cache, run),
    }
    said = ""
    for name, command in commands.items():
        result = gdist(*command)
        said += result.stderr
        if file == "student/model.safetensors" and name in ("report", "report of a sweep", "best"):
            assert not result.exit_code or re.search("has not been evaluated|has the metric", result.stderr)
            told = f"{run / file} is missing: the run was finished"
            assert (told in result.stderr) == (damage == "missing" and name != "best"), result.stderr
            continue  # an evaluation is of certain weights, and these are others
        hint = result.stderr.partition("  try: ")[2]
        optional = (file, damage) in {("run.json", "a table"), ("run.json", "missing"), ("eval.json", "missing")}
        if result.exit_code == 0:
            assert optional or file not in READ[name], f"{name} says nothing of it"
        else:
            assert (result.exit_code, result.stderr.count("error: "), bool(hint)) == (1, 1, True), result.stderr
            named = file.partition("/")[0] if file.startswith("student") else file
            assert file in READ[name] and named in result.stderr and str(run) in result.stderr, result.stderr
    if file == "run.json" and damage != "missing":
        assert f"rm -f {run / file}" in hint
        (run / file).unlink()
        result = gdist(*commands["train"])
        assert result.exit_code == 0 and "run.json is missing; it is written anew" in result.stderr
    if file == "metrics.jsonl":
        assert str(run / file) in said and re.search("left out|lost", said), "rows are not lost in silence"
    whole = made / "runs" / "one-abc"
    for part in ("student", "checkpoints"):
        ours, theirs = contents(run / part), contents(whole / part)
        assert ours.keys() == theirs.keys()
        assert all(ours[path] == theirs[path] for path in ours if not path.endswith("state.json"))
    assert Run(run).tables() == Run(whole).tables() and Run(run).provenance()["signature"]
    if file != "metrics.jsonl":
        assert curves(run) == curves(whole)


@pytest.mark.parametrize("damage", ["empty", "zeros"])
def test_a_config_is_written_anew_only_for_the_run_that_it_was_of(
    made: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist, damage: str
) -> None:
    run = damaged(made, tmp_path / "sweep", "config.toml", damage)
    result = gdist(*training(tiny_cache, run), "--set", "train.lr=1e-3")
    assert result.exit_code == 1 and "config.toml" in result.stderr and "once more" in result.stderr
    assert (run / "config.toml").read_bytes().strip(b"\0") == b""


def test_lines_of_metrics_that_are_damaged_are_counted_and_the_others_kept(
    made: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist
) -> None:
    """One line of zeros in the middle, one that is cut, and one that is no row; then the run is resumed."""
    run = Path(shutil.copytree(made, tmp_path / "sweep")) / "runs" / "one-abc"
    lines = (run / "metrics.jsonl").read_text().splitlines()
    broken = lines.copy()
    broken[1], broken[4], broken[6] = "\0" * len(lines[1]), lines[4][:20], '{"step": "7"}'
    (run / "metrics.jsonl").write_text("\n".join(broken) + "\n")
    shutil.rmtree(run / "checkpoints" / "step-0000009")
    expected = [row for number, row in enumerate(lines) if number not in (1, 4, 6)]
    said = f"metrics.jsonl: lines 2, 5, 7 are damaged and are left out; {len(expected)} rows are whole"
    assert said in gdist("report", run, "--out", tmp_path / "report.html").stderr
    assert gdist(*training(tiny_cache, run)).exit_code == 0
    rows, kept = Run(run).read_metrics(), [row for row in map(json.loads, expected) if row["step"] <= 6]
    assert rows[: len(kept)] == kept
    assert [row["step"] for row in rows[len(kept) :]] == [7, 8, 8, 9, 9]


def test_a_damaged_checkpoint_stays_until_its_step_is_saved_again(
    made: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist
) -> None:
    """The checkpoints that a run keeps are those up to its own step: the damaged one, of a later step, is none."""
    run = damaged(made, tmp_path / "sweep", "checkpoints/step-0000009/optimizer.safetensors", "cut")
    size = (run / "checkpoints/step-0000009/optimizer.safetensors").stat().st_size
    often = ("--set", "train.checkpoint_every=1", "--set", "train.keep_checkpoints=1")
    result = gdist(*training(tiny_cache, run), *often, "--until", "8")
    assert result.exit_code == 0 and "continuing from the one before it, of step 6" in result.stderr
    assert "optimizer.safetensors" in result.stderr
    assert Run(run).steps() == [8, 9]
    assert (run / "checkpoints/step-0000009/optimizer.safetensors").stat().st_size == size
    result = gdist(*training(tiny_cache, run), *often)
    assert result.exit_code == 0 and "resuming" in result.stderr and Run(run).steps() == [9]
    assert contents(run / "student") == contents(made / "runs" / "one-abc" / "student")


def test_no_checkpoint_is_whole(made: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
    run = damaged(made, tmp_path / "sweep", "checkpoints/step-0000009/state.json", "empty")
    (run / "checkpoints/step-0000006/model.safetensors").write_bytes(b"")
    result = gdist(*training(tiny_cache, run))
    assert result.exit_code == 1 and "step-0000006: model.safetensors" in result.stderr
    assert f"try: delete {run / 'checkpoints'} to begin anew" in result.stderr
    shutil.rmtree(run / "checkpoints")
    assert gdist(*training(tiny_cache, run)).exit_code == 0
    assert contents(run / "student") == contents(made / "runs" / "one-abc" / "student")
