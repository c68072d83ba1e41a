"""A run on a disk that is full, or that cannot be written: one message, before the work where that is possible."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from conftest import contents, mounted
from test_train import SHORT

from gdist.pipeline.run import Run

Gdist = Callable[..., Result]
SETTINGS = SHORT | {"train.log_every": 1}


def training(cache: Path, run: Path, *more: object) -> list[object]:
    flags = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    return ["train", "--cache", cache, "--out", run, *flags, *more]


@pytest.fixture(scope="module")
def whole(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory, gdist: Gdist) -> Path:
    """A finished run, for reading only."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert gdist(*training(tiny_cache, folder)).exit_code == 0
    return folder


def fill(disk: Path, left: int) -> Path:
    """A file that takes all of the disk except ``left`` bytes."""
    (disk / "filler").write_bytes(b"x" * max(shutil.disk_usage(disk).free - left, 0))
    return disk / "filler"


def test_a_disk_without_room_for_the_checkpoints_is_refused_at_once(
    tiny_cache: Path, tmp_path: Path, gdist: Gdist
) -> None:
    with mounted(tmp_path / "disk", "size=64m") as disk:
        filler = fill(disk, 300_000)
        result = gdist(*training(tiny_cache, disk / "run"))
        assert result.exit_code == 1 and result.stderr.count("error: ") == 1
        assert "of disk left, and a run that keeps 2 checkpoints (train.keep_checkpoints) needs" in result.stderr
        assert "try: free some space" in result.stderr and not (disk / "run" / "metrics.jsonl").exists()
        filler.unlink()
        assert gdist(*training(tiny_cache, disk / "run")).exit_code == 0


@pytest.mark.thorough
@pytest.mark.parametrize("at", ["checkpoints", "metrics.jsonl", "student"])
def test_a_disk_that_fills_up_loses_nothing_that_was_there(
    whole: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist, at: str
) -> None:
    """It fills up before something is written. One message, no traceback; with room again, the run goes on."""
    with mounted(tmp_path / "disk", "size=64m") as disk:
        run = disk / "run"
        until = [] if at == "student" else ["--until", "6"]
        assert gdist(*training(tiny_cache, run, *until)).exit_code == 0
        if at == "student":
            shutil.rmtree(run / "student")
        script = f"""
import os, shutil, sys
from pathlib import Path
from gdist.pipeline.run import Run
from gdist.stages.cli import main
before = {{"checkpoints": "save", "metrics.jsonl": "report", "student": "replacing"}}["{at}"]
original = getattr(Run, before)
def filled(self, *given, **named):
    filler = Path("{disk}/filler")
    if not filler.exists():
        with filler.open("wb") as file, __import__("contextlib").suppress(OSError):
            while True:
                os.write(file.fileno(), bytes(4096))
    return original(self, *given, **named)
setattr(Run, before, filled)
main()
"""
        command = [sys.executable, "-c", script, *map(str, training(tiny_cache, run))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and done.stderr.count("error: ") == 1, done.stderr
        assert "Traceback" not in done.stderr and "try: free some space" in done.stderr, done.stderr
        assert str(run) in done.stderr and ("No space left" in done.stderr or "of disk left" in done.stderr)
        assert Run(run).steps()[-1] == (9 if at == "student" else 6)
        assert not [path for path in run.rglob("*.tmp*") if path.is_dir()], "what is unfinished takes no room"
        (disk / "filler").unlink()
        result = gdist(*training(tiny_cache, run))
        assert result.exit_code == 0, result.stderr
        assert contents(run / "student") == contents(whole / "student")


def test_eval_refuses_before_the_work_and_prints_what_it_cannot_keep(
    whole: Path, tmp_path: Path, gdist: Gdist, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mounted(tmp_path / "disk", "size=64m") as disk:
        run = Path(shutil.copytree(whole, disk / "run"))
        filler = fill(disk, 100_000)
        monkeypatch.setattr("gdist.stages.evaluate.evaluate.Bench", None)  # nothing is begun
        result = gdist("eval", run, "--probes", "none")
        assert result.exit_code == 1 and "of disk left, and its evaluation needs 1.0 MB" in result.stderr
        monkeypatch.undo()
        filler.unlink()
        filler = fill(disk, 0)
        monkeypatch.setattr("gdist.stages.evaluate.evaluate.ROOM_FOR_RESULTS", 0)  # as if it filled up meanwhile
        result = gdist("eval", run, "--probes", "none", "--json")
        assert result.exit_code == 1 and '"mean_cosine"' in result.stdout, result.stderr
        assert result.stderr.count("error: ") == 1 and "No space left on device" in result.stderr
        filler.unlink()
        assert gdist("eval", run, "--probes", "none").exit_code == 0


@pytest.mark.parametrize("command", ["train", "eval", "export", "report"])
@pytest.mark.parametrize("how", ["full", "read-only"])
def test_one_message(whole: Path, tiny_cache: Path, tmp_path: Path, gdist: Gdist, how: str, command: str) -> None:
    with mounted(tmp_path / "disk", "size=64m") as disk:
        run = Path(shutil.copytree(whole, disk / "run"))
        assert gdist("eval", run, "--probes", "none").exit_code == 0
        commands: dict[str, list[object]] = {
            "train": training(tiny_cache, run),
            "eval": ["eval", run, "--probes", "none"],
            "export": ["export", run, "--format", "hf", "--out", disk / "export"],
            "report": ["report", run, "--out", disk / "report.html"],
        }
        before = contents(run)
        if how == "full":
            fill(disk, 0)
        else:
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        result = gdist(*commands[command])
        code, said = result.exit_code, result.stderr
        assert code == (2 if command == "report" else 1), said
        assert said.count("error: ") == 1 and said.count("  try: ") == 1 and "Traceback" not in said, said
        why = os.strerror(errno.ENOSPC if how == "full" else errno.EROFS)
        assert str(disk) in said and (why in said or "of disk left" in said), said
        if how == "read-only":
            subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        assert contents(run) == before, "nothing is lost"
