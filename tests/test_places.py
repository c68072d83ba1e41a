"""A link at any name of a run, a sweep or an export leads to somebody else's files: no command opens, writes or
deletes them. Nor does any wait for a FIFO that has such a name."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from click.testing import Result
from conftest import contents
from inotify import watched
from test_train import SHORT

Gdist = Callable[..., Result]
SETTINGS = SHORT | {
    "train.steps": 4,
    "train.ema_decay": 0.9,
    "train.checkpoint_every": 2,
    "train.schedule": "constant",
}
SWEEP = """
seeds = [0]
[set]
"train.steps" = 2
"train.warmup_steps" = 1
"train.batch_seconds" = 4.0
"""
SECONDS = 30  # for which a command may wait


def training(cache: Path, run: Path, steps: int = 4) -> list[object]:
    flags = [
        part for item in (SETTINGS | {"train.steps": steps}).items() for part in ("--set", "=".join(map(str, item)))
    ]
    return ["train", "--cache", cache, "--out", run, *flags]


@pytest.fixture(scope="module")
def made(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory, gdist: Gdist) -> Path:
    """A run, a sweep and an export, for reading only."""
    folder = tmp_path_factory.mktemp("places")
    run, sweep = folder / "run", folder / "sweep.toml"
    sweep.write_text(SWEEP)
    for command in (
        training(tiny_cache, run),
        ["eval", run, "--probes", "none"],
        ["eval", run, "--probes", "none", "--split", "valid"],
        ["export", run, "--format", "hf", "--out", folder / "export"],
        ["sweep", sweep, "--cache", tiny_cache, "--out", folder / "sweep"],
    ):
        result = gdist(*command)
        assert result.exit_code == 0, result.stderr
    return folder


def names_in(folder: Path) -> list[str]:
    """All names below a folder, as far as they are the same in every run."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return [name for name in found if "tfevents" not in name]


RUN = [
    "config.toml", "run.json", "metrics.jsonl", "eval.json", "eval-valid.json", "evaluations",
    "evaluations/test-*.json", "training.json", "tensorboard", "student",
    "student/config.json", "student/preprocessor_config.json",
    "student/model.safetensors", "student.tmp", "checkpoints", "checkpoints/step-0000004", "extensions",
    *(f"checkpoints/step-0000004/{name}.safetensors" for name in ("model", "optimizer", "average")),
    "checkpoints/step-0000004/state.json", "checkpoints/step-0000006.tmp", "student-step-0000004",
    ".run.json.PID.tmp", ".eval.json.PID.tmp", ".metrics.jsonl.PID.tmp",
]  # fmt: skip


def commands_on(run: Path, cache: Path, out: Path) -> dict[str, list[object]]:
    """What reads or writes a run."""
    return {
        "eval": ["eval", run, "--probes", "none"],
        "eval a checkpoint": ["eval", f"{run}@2", "--probes", "none"],
        "report": ["report", run, "--out", out / "report.html"],
        "export": ["export", run, "--format", "hf", "--out", out / "export"],
        "export a checkpoint": ["export", f"{run}@2", "--format", "hf", "--out", out / "export-2"],
        "start from it": [*training(cache, out / "other", 2), "--start-from", run],
        "train more": training(cache, run, 6),
        "train": training(cache, run),
    }


@contextmanager
def patience() -> Iterator[None]:
    """Interrupt what waits for longer than SECONDS."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("it waits for something that never comes")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def plant(folder: Path, name: str, kind: str, outside: Path) -> str:
    """Put a link to a copy outside, or a FIFO, in the place of what has a name; return the name."""
    name = name.replace("PID", str(os.getpid()))
    names = [each for each in sorted(folder.glob(name)) if not each.is_symlink()] or [folder / name]
    path, copy = names[0], outside / Path(name).name.replace("*", "it")
    if path.is_dir():
        shutil.copytree(path, copy)
        shutil.rmtree(path)
    elif path.exists():
        shutil.copy2(path, copy)
        path.unlink()
    elif "." in Path(name).name.removesuffix(".tmp") and "step-" not in name:
        copy.write_text("somebody's")
    else:
        copy.mkdir()
        (copy / "model.safetensors").write_text("somebody's")
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to(copy)
    return path.relative_to(folder).as_posix()


def attempt(gdist: Gdist, line: list[object], what: str) -> Result:
    with patience():
        result = gdist(*line)
    assert result.exit_code in (0, 1, 2), f"{what}: {result.exception!r}"
    assert result.exception is None or isinstance(result.exception, SystemExit), f"{what}: {result.exception!r}"
    return result


@pytest.mark.parametrize("kind", ["link", "FIFO"])
@pytest.mark.parametrize("name", RUN)
def test_of_a_run(made: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist, name: str, kind: str) -> None:
    for what, line in commands_on(tmp_path / "run", tiny_cache, tmp_path / "out").items():
        for part in ("run", "outside", "out"):
            shutil.rmtree(tmp_path / part, ignore_errors=True)
        shutil.copytree(made / "run", tmp_path / "run")
        (tmp_path / "outside").mkdir()
        planted = plant(tmp_path / "run", name, kind, tmp_path / "outside")
        before = contents(tmp_path / "outside")
        with watched(tmp_path / "outside") as seen:
            result = attempt(gdist, line, what)
        assert not seen, f"{what}: {seen}"
        assert contents(tmp_path / "outside") == before
        if result.exit_code:
            assert result.stderr.count("error: ") == 1 and planted.partition("/")[0] in result.stderr, result.stderr


def test_of_a_student_that_was_set_aside(made: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    shutil.copytree(made / "run", run)
    assert gdist(*training(tiny_cache, run, 6)).exit_code == 0
    (run / "student-step-0000004").rename(outside)
    (run / "student-step-0000004").symlink_to(outside)
    shutil.rmtree(run / "checkpoints" / "step-0000004", ignore_errors=True)
    with watched(outside) as seen:
        result = attempt(gdist, ["eval", f"{run}@4", "--probes", "none"], "eval")
    assert result.exit_code == 1 and "student-step-0000004 is a link" in result.stderr and not seen


@pytest.mark.parametrize("kind", ["link", "FIFO"])
@pytest.mark.parametrize("name", ["gdist-export.json", "config.json", "model.safetensors", "README.md", ".x.tmp"])
def test_of_an_export(made: Path, tmp_path: Path, gdist: Gdist, name: str, kind: str) -> None:
    shutil.copytree(made / "export", tmp_path / "export")
    (tmp_path / "outside").mkdir()
    plant(tmp_path / "export", name, kind, tmp_path / "outside")
    before = contents(tmp_path / "outside")
    with watched(tmp_path / "outside") as seen:
        result = attempt(gdist, ["export", made / "run", "--format", "hf", "--out", tmp_path / "export"], "export")
    assert result.exit_code == 1 and "left alone" in result.stderr
    assert not seen and contents(tmp_path / "outside") == before


SWEEP_NAMES = [
    "sweep.json", "runs", "logs", "failed", "search", "measured", "equal.json", "training.json", "runs/*",
    "runs/*/run.json", "runs/*/metrics.jsonl", "runs/*/student", "logs/*.log", ".sweep.json.PID.tmp", "failed/x.json",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["link", "FIFO"])
@pytest.mark.parametrize("name", SWEEP_NAMES)
def test_of_a_sweep(made: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist, name: str, kind: str) -> None:
    sweep = tmp_path / "sweep"
    for what, line in {
        "sweep": ["sweep", made / "sweep.toml", "--cache", tiny_cache, "--out", sweep],
        "best": ["best", sweep],
        "report": ["report", sweep, "--out", tmp_path / "report.html"],
    }.items():
        shutil.rmtree(sweep, ignore_errors=True)
        shutil.rmtree(tmp_path / "outside", ignore_errors=True)
        shutil.copytree(made / "sweep", sweep)
        (tmp_path / "outside").mkdir()
        planted = plant(sweep, name, kind, tmp_path / "outside")
        before = contents(tmp_path / "outside")
        with watched(tmp_path / "outside") as seen:
            attempt(gdist, line, what)
        assert not seen, f"{what}, {planted}: {seen}"
        assert contents(tmp_path / "outside") == before


def test_of_a_log(made: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist) -> None:
    """A job of a sweep writes its log, which somebody may have made a link: the run fails, and says so."""
    name = next((made / "sweep" / "runs").iterdir()).name
    (tmp_path / "sweep" / "logs").mkdir(parents=True)
    (tmp_path / "thesis").write_text("mine")
    (tmp_path / "sweep" / "logs" / f"{name}.log").symlink_to(tmp_path / "thesis")
    shutil.copy(made / "sweep" / "sweep.json", tmp_path / "sweep")
    sweep = ["sweep", made / "sweep.toml", "--cache", tiny_cache, "--out", tmp_path / "sweep", "--jobs", 1]
    result = attempt(gdist, sweep, "sweep")
    assert result.exit_code == 1 and "is a link" in result.stderr
    assert (tmp_path / "thesis").read_text() == "mine"


@pytest.mark.parametrize("form", ["html", "md"])
def test_of_a_page(made: Path, tmp_path: Path, gdist: Gdist, form: str) -> None:
    (tmp_path / "outside").mkdir()
    notes = "<!-- notes -->mine<!-- /notes -->"
    for name in (f"page.{form}", f".page.{form}.{os.getpid()}.tmp"):
        (tmp_path / "outside" / name).write_text(notes)
        (tmp_path / name).symlink_to(tmp_path / "outside" / name)
    before = contents(tmp_path / "outside")
    result = attempt(gdist, ["report", made / "sweep", "--format", form, "--out", tmp_path / f"page.{form}"], form)
    assert result.exit_code == 0 and contents(tmp_path / "outside") == before
    assert (tmp_path / f"page.{form}").is_file() and not (tmp_path / f"page.{form}").is_symlink()


def cache_names(cache: Path) -> list[str]:
    """One name of each kind in a cache: documents, folders and shards."""
    found = [name for name in names_in(cache) if not any(each in name for each in ("/02", "/03", "00001"))]
    return [*found, "lock", "planning", "generations", "zarr.json#1"]


def commands_in(cache: Path, teacher: Path, speech: Path, out: Path) -> dict[str, list[object]]:
    """What reads or writes a cache."""
    extract = ["extract", "--teacher", teacher, "--manifest", speech, "--cache", cache, "--device", "cpu"]
    return {
        "extract": extract,
        "restart": [*extract, "--restart"],
        "verify": ["verify", cache],
        "repair": ["verify", "--repair", cache, "--teacher", teacher, "--manifest", speech],
        "inspect": ["inspect", cache],
        "train": training(cache, out / "run", 1),
        "copy": ["copy", cache, out / "copy"],
    }


@pytest.mark.thorough  # test_links.py has some of these
@pytest.mark.parametrize("kind", ["link", "FIFO"])
@pytest.mark.parametrize("what", ["extract", "restart", "verify", "repair", "inspect", "train", "copy"])
def test_of_a_cache(
    tiny_cache: Path, tiny_teacher: Path, speech: Path, tmp_path: Path, gdist: Gdist, what: str, kind: str
) -> None:
    """Of a cache, a layer may lie on another disk: links in it are read, and what they lead to must have the digests
    that the cache knows. Nothing is written or deleted there."""
    for name in cache_names(tiny_cache):
        for part in ("cache", "outside", "out"):
            shutil.rmtree(tmp_path / part, ignore_errors=True)
        shutil.copytree(tiny_cache, tmp_path / "cache")
        (tmp_path / "outside").mkdir()
        plant(tmp_path / "cache", name, kind, tmp_path / "outside")
        before = contents(tmp_path / "outside")
        line = commands_in(tmp_path / "cache", tiny_teacher, speech, tmp_path / "out")[what]
        result = attempt(gdist, line, f"{what}, {name}")
        assert contents(tmp_path / "outside") == before, name
        assert "Traceback" not in result.output
