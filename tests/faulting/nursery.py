"""Real processes of gdist without the seconds that importing takes: each is forked from one that has imported all.

A process may see a clock that jumps, and may be without root's right to ignore permissions.
"""

import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVER = """
import json, os, sys
from faulting.nursery import begin
import torch
import transformers.models.wavlm.modeling_wavlm
from gdist.stages.cli import main
from gdist.stages import extract, teachers, students
import gdist.stages.extract.extract, gdist.stages.extract.repair, gdist.stages.train.train
import gdist.stages.evaluate.evaluate, gdist.stages.export.export, gdist.stages.report.page, gdist.stages.sweep.sweep
torch.set_num_threads(1)
print("ready", flush=True)
for line in sys.stdin:
    task = json.loads(line)
    child = os.fork()
    if not child:
        begin(task)
        main(task["line"])
    print(child, flush=True)
"""


def begin(task: dict[str, Any]) -> None:
    """Become the process that a task describes; called right after the fork."""
    os.setsid()
    log = os.open(str(task["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(task["environment"])
    faulthandler.enable()  # what crashes says where
    if task["clock"]:
        _jump(*task["clock"])
    if task["obeys"]:
        _obey_permissions()


def _jump(seconds: float, after: int) -> None:
    """Let the clock jump once, after it was asked so many times."""
    original, left = time.time, [after]

    def jumped() -> float:
        left[0] -= 1
        return original() + (seconds if left[0] < 0 else 0.0)

    time.time = jumped


def _obey_permissions() -> None:
    """Give up CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: permissions now count for root too."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then their upper halves
    if libc.capget(header, sets) == 0:
        for at in range(3):
            sets[at] &= ~0b110
        if libc.capset(header, sets) == 0:
            return
    raise OSError(ctypes.get_errno(), "the right to ignore permissions cannot be given up")


@dataclass
class Process:
    """A running command.

    Attributes:
        log: what it prints.
    """

    pid: int
    log: Path

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it and to all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    @property
    def runs(self) -> bool:
        with suppress(FileNotFoundError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return False

    def code(self, seconds: float = 120.0) -> int:
        """Wait for its end. Returns its exit code, negative for a signal; TimeoutError if it does not end."""
        deadline = time.monotonic() + seconds
        while self.runs:
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                raise TimeoutError(f"it did not end within {seconds:.0f} s")
            time.sleep(0.005)
        status = Path(f"/proc/{self.pid}/stat").read_text().rsplit(" ", 1)[-1]
        return os.waitstatus_to_exitcode(int(status))

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Nursery:
    """Starts commands. Ended ones are kept as zombies, whose exit codes can still be read, until the nursery ends."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        folder.mkdir(parents=True)
        tests = str(Path(__file__).parents[1])
        path = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        )  # fmt: skip
        assert self.server.stdout is not None
        assert self.server.stdout.readline() == "ready\n"

    def start(
        self,
        line: list[str],
        environment: dict[str, str] | None = None,
        clock: tuple[float, int] | None = None,
        obeys: bool = False,
    ) -> Process:
        """Start a command.

        Args:
            clock: (seconds by which the clock jumps, how often it is asked before).
            obeys: whether permissions count, though it runs as root.
        """
        assert self.server.stdin is not None and self.server.stdout is not None
        self.number += 1
        log = self.folder / f"{self.number}.log"
        task = {"line": line, "environment": environment or {}, "clock": clock, "obeys": obeys, "log": str(log)}
        self.server.stdin.write(json.dumps(task) + "\n")
        self.server.stdin.flush()
        return Process(int(self.server.stdout.readline()), log)

    def run(self, line: list[str], **how: object) -> tuple[int, str]:
        """Run a command to its end. Returns its exit code and what it printed."""
        process = self.start(line, **how)  # type: ignore[arg-type]
        return process.code(), process.said

    def end(self) -> None:
        """End the server, and with it all that is left of its processes."""
        self.server.kill()
        self.server.communicate()
