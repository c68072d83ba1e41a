"""Which process on which machine: how a lock describes its owner, and whether it is still alive; and the cores."""

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any


def myself() -> dict[str, Any]:
    """Describe this process, so that :func:`alive` can find it from another process of the same machine."""
    pid = os.getpid()
    return {"pid": pid, "started": _started(pid), **_machine()}


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def total_memory() -> int | None:
    """Return how many bytes of memory the machine has; None where it does not say."""
    with suppress(OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def available_memory() -> int:
    """Return how many bytes of memory could be used without swapping: of the machine, or of this control group."""
    found = []
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]))
    with suppress(OSError, ValueError):  # "max" where there is no limit
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        found.append(max(limit - int((group / "memory.current").read_text(encoding="ascii")), 0))
    return min(found, default=1 << 32)


def is_here(seen: dict[str, Any]) -> bool:
    """Whether the process belongs to this machine since its last boot, and to this namespace of processes."""
    here = _machine()
    return bool(here["boot"]) and all(seen.get(key) == value for key, value in here.items())


def alive(seen: dict[str, Any]) -> bool | None:
    """Whether the process is running; None when that cannot be determined from here."""
    return _started(seen.get("pid")) == seen.get("started") if is_here(seen) else None


def _machine() -> dict[str, str]:
    """Where a process id is unique: on one host since its last boot, in one namespace of processes."""
    found = {"host": socket.gethostname(), "boot": "", "processes": ""}
    with suppress(OSError):  # these files exist on Linux only
        found["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        found["processes"] = str(Path("/proc/self/ns/pid").readlink())
    return found


def _started(pid: object) -> str | None:
    """When a process of this machine started, in the kernel's clock ticks; None when there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]  # a zombie no longer writes
