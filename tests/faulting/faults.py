"""What is done to a command while it runs: each fault is one function with a row in :data:`FAULTS`.

A fault starts the command, disturbs it once at a random moment, waits for its end, and takes the disturbance away.
It returns what became of the command; what has to be so afterwards is checked by the campaign.
"""

import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from faulting.nursery import Nursery, Process


@dataclass
class Scene:
    """One command, ready to be started.

    Attributes:
        disk: a tmpfs of its own; ``out`` is a folder on it.
        seconds: how long the command takes undisturbed.
    """

    nursery: Nursery
    random: Random
    line: list[str]
    disk: Path
    out: Path
    seconds: float

    def start(self, **how: object) -> Process:
        """Start the command."""
        return self.nursery.start(self.line, **how)  # type: ignore[arg-type]

    def wait(self, process: Process) -> None:
        """Wait until a random moment of the command, or until it has ended."""
        until = time.monotonic() + self.random.uniform(0, 1.1) * self.seconds
        while time.monotonic() < until and process.runs:
            time.sleep(0.001)


@dataclass(frozen=True)
class End:
    """How a command ended under a fault.

    Attributes:
        reached: whether it still ran when the fault was done.
    """

    code: int
    said: str
    reached: bool = True


def killed(scene: Scene) -> End:
    """It is killed, with all that it started."""
    process = scene.start()
    scene.wait(process)
    reached = process.runs
    process.send(signal.SIGKILL)
    return End(process.code(), process.said, reached)


def asked_to_stop(scene: Scene) -> End:
    """It gets SIGTERM, as from a scheduler of jobs."""
    process = scene.start()
    scene.wait(process)
    reached = process.runs
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGTERM)
    return End(process.code(), process.said, reached)


def halted(scene: Scene) -> End:
    """It stands still for a while, as in a suspended machine."""
    process = scene.start()
    scene.wait(process)
    reached = process.runs
    process.send(signal.SIGSTOP)
    time.sleep(scene.random.uniform(0.05, 1.0))
    process.send(signal.SIGCONT)
    return End(process.code(), process.said, reached)


def disk_full(scene: Scene) -> End:
    """Somebody else fills the disk, or almost."""
    process = scene.start()
    scene.wait(process)
    reached, filler = process.runs, scene.disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    os.truncate(filler, max(filler.stat().st_size - scene.random.choice([0, 4096, 50_000]), 0))
    code = process.code()
    filler.unlink()
    return End(code, process.said, reached)


def disk_small(scene: Scene) -> End:
    """The disk has too little room from the beginning."""
    filler, left = scene.disk / "filler", scene.random.choice([0, 4096, 30_000, 200_000, 1_000_000])
    free = os.statvfs(scene.disk)
    filler.write_bytes(bytes(max(free.f_bavail * free.f_bsize - left, 0)))
    process = scene.start()
    code = process.code()
    filler.unlink()
    return End(code, process.said)


def disk_read_only(scene: Scene) -> End:
    """The disk becomes read-only, as after an error; while files on it are written, that has to wait."""
    process = scene.start()
    scene.wait(process)
    reached = False
    while process.runs and not reached:
        reached = _remounted(scene.disk, "ro")
    code = process.code()
    while not _remounted(scene.disk, "rw"):
        time.sleep(0.01)
    return End(code, process.said, reached)


def _remounted(disk: Path, how: str) -> bool:
    command = ["mount", "-o", f"remount,{how}", str(disk)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def forbidden(scene: Scene) -> End:
    """A file or a folder of it loses its permissions."""
    process = scene.start(obeys=True)
    scene.wait(process)
    reached = process.runs
    there = [scene.out, *scene.out.rglob("*")]
    path = scene.random.choice(there)
    mode = scene.random.choice([0o000, 0o444, 0o555])
    before = None
    with suppress(FileNotFoundError):  # it may be gone already
        before = stat.S_IMODE(path.lstat().st_mode)
        path.chmod(mode)
    code = process.code()
    if before is not None:
        with suppress(FileNotFoundError):
            path.chmod(before)
    return End(code, process.said, reached)


def clock_jumps(scene: Scene) -> End:
    """The clock is set, forwards or backwards, by seconds to years."""
    jump = scene.random.choice([-1, 1]) * 10 ** scene.random.uniform(0, 8)
    process = scene.start(clock=(jump, scene.random.randrange(200)))
    return End(process.code(), process.said)


def two_at_once(scene: Scene) -> End:
    """The same command is started twice. One of them, at least, has to finish."""
    first = scene.start()
    if scene.random.random() < 0.5:
        scene.wait(first)
    second = scene.start()
    codes, said = [first.code(), second.code()], [first.said, second.said]
    if min(codes) != 0:
        return End(max(codes), f"neither of two finished:\n{said[0]}\n{said[1]}\nTraceback")
    return End(max(codes), said[codes.index(max(codes))])


FAULTS: dict[str, Callable[[Scene], End]] = {
    "SIGKILL": killed,
    "SIGTERM": asked_to_stop,
    "SIGSTOP": halted,
    "disk fills up": disk_full,
    "disk is small": disk_small,
    "disk read-only": disk_read_only,
    "permissions": forbidden,
    "clock jumps": clock_jumps,
    "two at once": two_at_once,
}
