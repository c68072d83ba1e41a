"""What one check found: one line of the table, and where it is not fine, what that means and what to do."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gdist.pipeline import console
from gdist.pipeline.errors import GdistError

Status = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        area: what was examined: ``packages``, ``gpu``, …, or the folder or URI.
        name: what was asked of it.
        status: ``problem`` where work would stop, ``note`` for what is worth knowing.
        value: what was found, in a few words.
        means: what that means for the work, as a sentence; empty where all is well.
        hint: what to do or type next, as GdistError has it; empty where there is nothing.
    """

    area: str
    name: str
    status: Status
    value: str
    means: str = ""
    hint: str = ""


def ok(area: str, name: str, value: str) -> Check:
    return Check(area, name, "ok", value)


def note(area: str, name: str, value: str, means: str, hint: str | None = None) -> Check:
    return Check(area, name, "note", value, means, hint or "")


def problem(area: str, name: str, value: str, means: str, hint: str | None = None) -> Check:
    return Check(area, name, "problem", value, means, hint or "")


def refused(area: str, name: str, value: str, error: GdistError) -> Check:
    """A problem in the words of an error of gdist."""
    return problem(area, name, value, error.message, error.hint)


def timed[T](action: Callable[[], T]) -> tuple[T, float]:
    """Return what an action returns, and how many seconds it took."""
    began = time.perf_counter()
    return action(), time.perf_counter() - began


def milliseconds(seconds: float) -> str:
    """``0.0123`` → ``12 ms``."""
    return f"{1000 * seconds:.0f} ms" if seconds >= 0.001 else "less than 1 ms"


def speed(num_bytes: int, seconds: float) -> str:
    """How much took how long: ``4.2 MB in 80 ms, 52.4 MB/s``."""
    rate = console.size(num_bytes / max(seconds, 1e-9))
    return f"{console.size(num_bytes)} in {milliseconds(seconds)}, {rate}/s"
