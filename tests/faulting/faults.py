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

from servers import Flaky

from faulting.nursery import Nursery, Process


@dataclass
class Scene:
    """One command, ready to be started.

    Attributes:
        disk: a tmpfs of its own; ``out`` is a folder on it.
        seconds: how long the command takes undisturbed.
        environment: variables of the command.
        store: the server that has the cache, behind a proxy that misbehaves; None for a disk.
    """

    nursery: Nursery
    random: Random
    line: list[str]
    disk: Path
    out: Path
    seconds: float
    environment: dict[str, str]
    store: Flaky | None

    def start(self, **how: object) -> Process:
        """Start the command."""
        return self.nursery.start(self.line, self.environment, **how)  # type: ignore[arg-type]

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


def store_fails(scene: Scene) -> End:
    """The object store refuses some requests, loses answers, and cuts transfers off."""
    assert scene.store is not None
    kinds = ["status", "reset", "reset-after", "cut-upload", "cut-download"]
    rule = {"faults": kinds, "times": scene.random.randrange(1, 12), "rate": 0.5, "seed": scene.random.randrange(99)}
    scene.store.does(rule)
    process = scene.start()
    code = process.code()
    reached = bool(scene.store.faults())
    scene.store.does()
    return End(code, process.said, reached)


def store_slow(scene: Scene) -> End:
    """The object store takes its time for every second request."""
    assert scene.store is not None
    delay = scene.random.uniform(0.01, 0.15)
    scene.store.does({"fault": "pass", "delay": delay, "rate": 0.5, "seed": scene.random.randrange(99)})
    process = scene.start()
    code = process.code()
    scene.store.does()
    return End(code, process.said)


def store_gone(scene: Scene) -> End:
    """From some moment on the object store answers nothing but errors, for longer than gdist has patience."""
    assert scene.store is not None
    process = scene.start()
    scene.wait(process)
    reached = process.runs
    status = scene.random.choice([503, 500, 403, 401, 404])
    code = {503: "SlowDown", 500: "InternalError", 403: "AccessDenied", 401: "ExpiredToken", 404: "NoSuchBucket"}
    scene.store.does({"fault": "status", "status": status, "code": code[status]})
    end = process.code()
    scene.store.does()
    return End(end, process.said, reached)


BUCKET_FAULTS: dict[str, Callable[[Scene], End]] = {
    "store fails": store_fails,
    "store is slow": store_slow,
    "store is gone": store_gone,
}
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
