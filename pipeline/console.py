"""Data goes to stdout, people read stderr; bars only on a terminal, plain lines now and then elsewhere."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

PLAIN_LINE_SECONDS = 10.0  # how often progress is reported where there is no terminal (CI, nohup, a log file)


_silent = False


@contextmanager
def silenced(silent: bool = True) -> Iterator[None]:
    """For the length of a ``with``, nothing is said and no progress shown: of several ranks one speaks. Errors are
    still shown."""
    global _silent
    before, _silent = _silent, silent
    try:
        yield
    finally:
        _silent = before


def people() -> Console:
    """The console for people: stderr. Made anew each time, so that redirected streams are honoured."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str, style: str | None = None) -> None:
    """One line for people. Brackets are shown as they are."""
    if not _silent:
        people().print(text, style=style, markup=False)


def emit(result: dict[str, Any] | list[Any]) -> None:
    """One JSON value on stdout: what ``--json`` prints."""
    sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table of results on stdout; numbers are right-aligned."""
    # Text, not str: rich would take the brackets of a path for markup.
    table = Table()
    for position, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if position == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120  # a pipe has no width; 80 would cut the columns
    # A line of its own: as the table's title it would be wrapped to the width of the columns.
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(table)


class Advance(Protocol):
    """Report ``n`` more units done, and optionally a note such as the loss or the throughput."""

    def __call__(self, n: float = 1, note: str = "") -> None: ...


@contextmanager
def progress(title: str, total: float, unit: str, start: float = 0, enabled: bool = True) -> Iterator[Advance]:
    """A bar with rate and time left on a terminal; a line every ten seconds elsewhere.

    Args:
        total, start: in ``unit``; ``start`` is what an earlier run had already done.
    """
    if not enabled or _silent:
        yield lambda n=1, note="": None
        return
    console = people()
    if console.is_terminal:
        columns = [
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.completed:.0f}/{task.total:.0f} " + unit),
            TextColumn("ETA"),
            TimeRemainingColumn(compact=True),
            # What is left of the line is the note's: where it is narrow, the note is cut and not the numbers.
            TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        ]
        with Progress(*columns, console=console, expand=True) as bar:
            task = bar.add_task(title, total=total, note="")
            bar.update(task, completed=start)

            def advance(n: float = 1, note: str = "") -> None:
                bar.update(task, advance=n)
                if note:
                    bar.update(task, note=note)

            yield advance
        return
    began = last = time.monotonic()
    done: float = start
    finished = False

    def advance_plainly(n: float = 1, note: str = "") -> None:
        nonlocal done, last, finished
        if finished:
            return
        done += n
        now = time.monotonic()
        finished = done >= total * (1 - 1e-9)  # a sum of seconds misses its total by a few bits
        if now - last >= PLAIN_LINE_SECONDS or finished:
            last = now
            rate = (done - start) / max(now - began, 1e-9)
            left = f", {duration((total - done) / rate)} left" if rate and not finished else ""
            say(f"{title}: {done:.0f}/{total:.0f} {unit}{left}{'  ' + note if note else ''}")

    yield advance_plainly


def duration(seconds: float) -> str:
    """``3725`` → ``1 h 02 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(num_bytes: float) -> str:
    """``1_500_000`` → ``1.5 MB`` (powers of ten, as disks and buckets are sold)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if num_bytes < 1000 or unit == "TB":
            break
        num_bytes /= 1000
    return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
