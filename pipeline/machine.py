"""Which process on which machine: what a lock says of its owner, and whether that one still lives."""

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any


def myself() -> dict[str, Any]:
    """This process, so that :func:`alive` can find it from another one of the same machine."""
    pid = os.getpid()
    return {"pid": pid, "started": _started(pid), **_machine()}


def is_here(seen: dict[str, Any]) -> bool:
    """Whether the process was of this machine, since it was started, and of this namespace of processes."""
    here = _machine()
    return bool(here["boot"]) and all(seen.get(key) == value for key, value in here.items())


def alive(seen: dict[str, Any]) -> bool | None:
    """Whether the process runs; None when that cannot be told from here."""
    return _started(seen.get("pid")) == seen.get("started") if is_here(seen) else None


def _machine() -> dict[str, str]:
    """Where a process number means something: a host since it was started, and a namespace of processes on it."""
    found = {"host": socket.gethostname(), "boot": "", "processes": ""}
    with suppress(OSError):  # only Linux has them
        found["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        found["processes"] = str(Path("/proc/self/ns/pid").readlink())
    return found


def _started(pid: object) -> str | None:
    """When a process of this machine was started, in the kernel's ticks; None when there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]  # a zombie writes no more
