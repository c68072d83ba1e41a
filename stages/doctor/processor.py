"""The processor and its memory, and what a container leaves of them."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gdist.pipeline import console
from gdist.pipeline.machine import available_memory, cores, total_memory
from gdist.stages.doctor.check import Check, note, ok

LITTLE_MEMORY = 4 * 10**9  # bytes: a Base teacher with its batches, or a student in training, takes about as much
GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Limits:
    """What the control group of this process, and those above it, allow.

    Attributes:
        cores: how many cores' time; None without a limit.
        memory: bytes; None without a limit.
    """

    cores: float | None
    memory: int | None


def limits(groups: Path = GROUPS, own: Path = OWN) -> Limits:
    """Read the limits of control groups, of either version; a container sees its own group as the root."""
    counted, memory = [], []
    for folder in _folders(groups, own):
        with suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
            counted.append(int(quota) / int(period))  # "max" is no number
        with suppress(OSError, ValueError):
            quota, period = ((folder / f"cpu.cfs_{of}_us").read_text(encoding="ascii") for of in ("quota", "period"))
            if int(quota) > 0:
                counted.append(int(quota) / int(period))
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):
                memory.append(int((folder / name).read_text(encoding="ascii")))
    # Version 1 says 2⁶³ less a page where there is no limit.
    return Limits(min(counted, default=None), min((size for size in memory if size < 1 << 62), default=None))


def _folders(groups: Path, own: Path) -> Iterator[Path]:
    """The folder of this process's group, and of each one above it."""
    yield from (groups, groups / "cpu", groups / "cpu,cpuacct", groups / "memory")
    with suppress(OSError):
        for line in own.read_text(encoding="utf-8", errors="replace").splitlines():
            kinds, _, path = line.partition(":")[2].partition(":")
            top, below = groups / kinds, path.strip("/")
            while below:
                yield top / below
                below = below.rpartition("/")[0]


def check_processor() -> Iterator[Check]:
    """Cores and memory."""
    allowed = limits()
    yield of_cores(cores(), os.cpu_count() or 1, allowed.cores)
    yield of_memory(available_memory(), total_memory(), allowed.memory)


def of_cores(usable: int, all_cores: int, allowed: float | None) -> Check:
    """What there is to compute with.

    Args:
        usable: cores on which this process may run.
        all_cores: cores of the machine.
        allowed: how many cores' time its container may use.
    """
    value = f"{usable} cores" if usable != 1 else "1 core"
    if usable < all_cores:
        value += f", of {all_cores} of this machine"
    if allowed is None or allowed >= usable:
        return ok("cpu", "cores", value)
    threads = max(round(allowed), 1)
    value += f"; the container may use the time of {allowed:g}"
    if os.environ.get("OMP_NUM_THREADS", "").isdigit() and int(os.environ["OMP_NUM_THREADS"]) <= threads:
        return ok("cpu", "cores", value)
    means = "torch starts a thread for each core, and they would wait for each other"
    return note("cpu", "cores", value, means, f"export OMP_NUM_THREADS={threads}")


def of_memory(free: int, total: int | None, allowed: int | None) -> Check:
    """What there is to compute in, in bytes: what could be used now, the machine's, and the container's limit."""
    value = f"{console.size(free)} free" + (f" of {console.size(total)}" if total else "")
    if allowed is not None and (total is None or allowed < total):
        value += f"; the container may use {console.size(allowed)}"
    if free >= LITTLE_MEMORY:
        return ok("cpu", "memory", value)
    means = (
        f"with less than {console.size(LITTLE_MEMORY)}, extraction and training with the usual batches may be killed"
    )
    hint = "use smaller batches: gdist extract --batch-seconds, gdist train --set train.batch_seconds="
    return note("cpu", "memory", value, means, hint)
