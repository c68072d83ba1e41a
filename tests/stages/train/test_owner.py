"""One training process per run: a second one refuses while the first is alive, and takes over when it is dead."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from click.testing import Result
from conftest import contents
from ranked import torchrun
from test_ranks import STEPS, config, finish
from test_train import COMMAND, SHORT, curves, run, short, started, wait_for_step

from gdist.pipeline.errors import RunError
from gdist.pipeline.owner import OWNER, Owner
from gdist.pipeline.run import Run

BEAT = 0.05


def of_another_machine(folder: Path, token: str = "theirs", beat: int = 0) -> None:
    record = {
        "token": token,
        "beat": beat,
        "pid": 1,
        "started": "0",
        "host": "far",
        "boot": "b",
        "since": "yesterday",
    }
    (folder / OWNER).write_text(json.dumps(record))


def test_it_is_owned_named_and_released(tmp_path: Path) -> None:
    with Owner(tmp_path, BEAT) as owner:
        record = json.loads((tmp_path / OWNER).read_text())
        assert record["pid"] == os.getpid() and record["since"][:2] == "20" and record["host"]
        time.sleep(3 * BEAT)
        owner.require()
        assert json.loads((tmp_path / OWNER).read_text())["beat"] >= 1
        with pytest.raises(RunError, match=rf"is using .*: process {os.getpid()} on .*, since 20") as caught:
            Owner(tmp_path).__enter__()
        assert "choose another --out" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="bad"), Owner(tmp_path):
        raise ValueError("bad")
    assert not list(tmp_path.iterdir())


def test_one_that_is_about_to_end_is_waited_for(tmp_path: Path) -> None:
    """A process that was killed has its lock until the kernel has cleaned up after it."""
    owner = Owner(tmp_path)
    owner.__enter__()
    threading.Timer(0.2, owner.__exit__, (None, None, None)).start()
    began = time.monotonic()
    with Owner(tmp_path):
        assert time.monotonic() - began > 0.1


def test_of_many_at_once_one_becomes_the_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeatedly, so that some open the file while the previous owner is deleting it."""
    monkeypatch.setattr("gdist.pipeline.owner.DYING_SECONDS", 0.0)  # so that some are refused
    inside, most, refused = 0, 0, 0
    guard = threading.Lock()

    def attempt() -> None:
        nonlocal inside, most, refused
        for _ in range(50):
            try:
                with Owner(tmp_path):
                    with guard:
                        inside += 1
                        most = max(most, inside)
                    time.sleep(0.001)
                    with guard:
                        inside -= 1
            except RunError:
                with guard:
                    refused += 1

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and 0 < refused < 400 and not list(tmp_path.iterdir())


HOLD = """
import sys, time
from pathlib import Path
from gdist.pipeline.owner import Owner
with Owner(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_stopped_process_still_owns_it_and_a_killed_one_does_not(tmp_path: Path) -> None:
    process = holder(tmp_path)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(RunError, match=f"process {process.pid} on"):
        Owner(tmp_path).__enter__()
    process.kill()
    process.wait()
    assert (tmp_path / OWNER).exists()
    began = time.monotonic()
    with Owner(tmp_path):
        assert time.monotonic() - began < 1


def test_a_silent_owner_elsewhere_is_replaced_after_a_wait(tmp_path: Path) -> None:
    """The file is another machine's, on a disk that does not share locks, or this machine's from before a reboot."""
    of_another_machine(tmp_path)
    began = time.monotonic()
    with Owner(tmp_path, BEAT):
        assert time.monotonic() - began > 3 * BEAT


def test_an_owner_elsewhere_that_shows_activity_stays_the_owner(tmp_path: Path) -> None:
    of_another_machine(tmp_path)
    threading.Timer(2 * BEAT, of_another_machine, (tmp_path,), {"beat": 1}).start()
    with pytest.raises(RunError, match="process 1 on far, since yesterday"):
        Owner(tmp_path, BEAT).__enter__()
    assert json.loads((tmp_path / OWNER).read_text())["token"] == "theirs"


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_a_truncated_file_owns_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / OWNER).write_text(text)
    with Owner(tmp_path, BEAT) as owner:
        owner.require()


def test_without_locks_the_file_alone_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(file: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    process = holder(tmp_path)
    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(RunError, match=f"process {process.pid} on"):
        Owner(tmp_path).__enter__()
    process.kill()
    process.wait()
    with Owner(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_an_owner_that_lost_the_run_stops_writing_and_does_not_remove_the_file(
    tiny_cache: Path, tmp_path: Path
) -> None:
    for lose in (of_another_machine, lambda folder: (folder / OWNER).unlink()):
        with Owner(tmp_path, BEAT) as owner:
            lose(tmp_path)
            time.sleep(3 * BEAT)  # its heartbeats do not restore it
            with pytest.raises(RunError, match="may no longer write"):
                owner.require()
    (tmp_path / OWNER).unlink(missing_ok=True)

    class Overtaken(Run):
        def report(self, row: dict[str, object]) -> None:
            of_another_machine(self.folder)
            super().report(row)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RunError, match="process 1 on far"):
        patch.setattr("gdist.stages.train.member.Run", Overtaken)
        run(tiny_cache, tmp_path / "run", short())
    assert Run(tmp_path / "run").steps() == [], "it reports at step 2, and would save at 3"


@pytest.mark.thorough
def test_two_real_trainings(tiny_cache: Path, tmp_path: Path, gdist: Callable[..., Result]) -> None:
    """The second refuses, also with another number of ranks, and changes nothing; reading still works.

    When the first is killed, another can take over at once.
    """
    steps, out = 400, tmp_path / "run"
    first = started(tiny_cache, out, steps)
    wait_for_step(out, 4, first)
    flags = [
        p for n, v in (SHORT | {"train.steps": steps, "train.log_every": 1}).items() for p in ("--set", f"{n}={v}")
    ]
    second = subprocess.run(
        [*COMMAND, "train", "--cache", str(tiny_cache), "--out", str(out), *flags],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    message = f"another process of gdist is using {out}: process {first.pid} on "
    assert second.returncode == 1 and message in second.stderr and ", since 20" in second.stderr
    ranks = finish(torchrun(2, tiny_cache, out, SHORT | {"train.steps": steps, "train.log_every": 1}), 1)
    assert ranks.count(f"error: {message}") == 2, "every rank says why"
    assert first.poll() is None
    said = gdist("eval", out, "--probes", "none").stderr
    assert "no finished student" in said or "is unfinished: step" in said, "it disturbs nobody"
    first.send_signal(signal.SIGKILL)
    first.wait()
    seen = Run(out).read_metrics()[-1]["step"]
    assert [row["step"] for row in Run(out).read_metrics() if row["kind"] == "train"] == list(range(1, seen + 1))
    third = started(tiny_cache, out, steps)
    began = time.monotonic()
    wait_for_step(out, seen + 1, third)
    assert time.monotonic() - began < 30, "there is no wait"
    third.kill()
    third.wait()


@pytest.mark.thorough
def test_ranks_that_are_killed_leave_the_run_to_others(tiny_cache: Path, tmp_path: Path) -> None:
    settings = STEPS | {"train.steps": 12}
    out = tmp_path / "run"
    killed = torchrun(2, tiny_cache, out, settings)
    wait_for_step(out, 4, killed)
    ranks = [p for p in psutil.Process(killed.pid).children() if "gdist.stages.cli" in " ".join(p.cmdline())]
    for rank in ranks:
        rank.kill()
    finish(killed, None)
    run(tiny_cache, out, config(settings))  # by one process
    assert OWNER not in contents(out) and [row["step"] for row in curves(out)][-1] == 12
