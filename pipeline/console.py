"""Data goes to stdout, messages for people to stderr. Progress is a bar on a terminal, and plain lines elsewhere.

Whatever is printed is data. A name may contain what rich reads as markup (``[/]``) or as an emoji (``:100:``): both
are printed as they are. It may contain what a terminal obeys (``\\x1b[31m``): that is printed as an escape. Consoles
are made in one place, :func:`_console`.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from gdist.pipeline.printing import all_without_credentials, harmless, printable, same_json

PLAIN_LINE_SECONDS = 10.0  # how often progress is reported where there is no terminal (CI, nohup, a log file)

_silent = False
_bar: "_Bar | None" = None  # the bar on the terminal, if there is one
_waiting = ""  # what is being waited for, while that is shown
_waited_at = -PLAIN_LINE_SECONDS


class Log(Protocol):
    """Takes what is said to people, where programs read it instead: a level, the words, and what they are made of."""

    def __call__(self, level: str, message: str, **fields: Any) -> None: ...


Watcher = Callable[[str, str, float, float], None]  # (title, unit, done, total)
_log: Log | None = None
_watchers: list[Watcher] = []


def is_logged() -> bool:
    """Whether programs read what is said."""
    return _log is not None


def _console(**settings: Any) -> Console:
    return Console(markup=False, emoji=False, highlight=False, **settings)


@contextmanager
def silenced(silent: bool = True) -> Iterator[None]:
    """Print no messages and no progress for the length of a ``with``: of several ranks, only one prints. Errors are
    still shown."""
    global _silent
    before, _silent = _silent, silent
    try:
        yield
    finally:
        _silent = before


def people() -> Console:
    """Return the console for people: stderr. It is created on every call, so that redirected streams are honored."""
    return _console(stderr=True, soft_wrap=True)


@contextmanager
def logged(log: Log) -> Iterator[None]:
    """Give everything that is for people to ``log`` instead, for the length of a ``with``."""
    global _log
    before, _log = _log, log
    try:
        yield
    finally:
        _log = before


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Tell ``watcher`` of all progress, shown or not, for the length of a ``with``."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def say(text: str, style: str | None = None, **fields: Any) -> None:
    """Print one line for people. ``fields`` are what it is made of, for programs that read it instead."""
    if _silent:
        return
    if _log is not None:
        _log({"yellow": "warning", "red": "error"}.get(style or "", "info"), text, **fields)
    else:
        if _waiting and _bar is None:
            _replace("")
        people().print(harmless(text), style=style)


def wait_for(text: str) -> None:
    """Show what is being waited for: on a terminal one line, replaced each time; elsewhere a line every ten seconds
    at most. :func:`settle` ends it."""
    global _waiting, _waited_at
    if _silent:
        return
    if people().is_terminal and _log is None:
        _waiting = text
        _replace(text)
    elif time.monotonic() - _waited_at >= PLAIN_LINE_SECONDS:
        _waited_at = time.monotonic()
        say(text)


def settle(text: str = "") -> None:
    """Remove what :func:`wait_for` shows, and print ``text`` instead, if there is any."""
    global _waiting
    if _waiting and not _silent:
        _waiting = ""
        _replace("")
    if text:
        say(text)


def _replace(text: str) -> None:
    text = printable(text)
    if _bar is not None:
        _bar.show(text)
    else:
        sys.stderr.write(f"\r{text[: people().width - 1]}\x1b[K")
        sys.stderr.flush()


class _Bar(Progress):
    """A bar, and below it what is being waited for."""

    below = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        if self.below:
            yield Text(self.below, style="yellow", no_wrap=True, overflow="ellipsis")

    def show(self, text: str) -> None:
        """Replace the line below the bar."""
        self.below = text
        self.refresh()


def emit(result: dict[str, Any] | list[Any]) -> None:
    """Print one JSON value on stdout, as ``--json`` does."""
    text = json.dumps(all_without_credentials(result), ensure_ascii=False)
    sys.stdout.write(same_json(text) + "\n")
    sys.stdout.flush()


def print_lines(lines: list[str]) -> None:
    """Print lines of results on stdout; each stays one line, however long it is."""
    for line in lines:
        _console(soft_wrap=True).print(harmless(line))


def print_table(title: str, columns: list[str], rows: list[list[str]], words: bool = False) -> None:
    """Print a table of results on stdout; numbers are right-aligned, ``words`` are not."""
    table = Table()
    for position, column in enumerate(columns):
        justify: Literal["left", "right"] = "left" if words or position == 0 else "right"
        table.add_column(Text(harmless(column)), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(Text(harmless(cell)) for cell in row))
    console = _console()
    if not console.is_terminal:
        console.width = 120  # a pipe has no width; 80 would cut the columns
    # On a separate line: as the table's title it would be wrapped to the width of the columns.
    console.print(Text(harmless(title), style="bold"), soft_wrap=True)
    console.print(table)


class Advance(Protocol):
    """Report that ``n`` more units are done, optionally with a note such as the loss or the throughput."""

    def __call__(self, n: float = 1, note: str = "") -> None: ...


@contextmanager
def progress(title: str, total: float, unit: str, start: float = 0, enabled: bool = True) -> Iterator[Advance]:
    """Show progress: a bar with the time left on a terminal; elsewhere, one line every ten seconds.

    Args:
        total, start: in ``unit``; ``start`` is the amount that an earlier run had already done.
    """
    with _shown(title, total, unit, start, enabled and not _silent) as advance:
        if not _watchers or _silent:
            yield advance
            return
        done = start

        def counted(n: float = 1, note: str = "") -> None:
            nonlocal done
            done += n
            advance(n, note)
            for watcher in _watchers:
                watcher(title, unit, done, total)

        counted(0)
        yield counted


@contextmanager
def _shown(title: str, total: float, unit: str, start: float, enabled: bool) -> Iterator[Advance]:
    if not enabled:
        yield lambda n=1, note="": None
        return
    console = people()
    if console.is_terminal and _log is None:
        columns = [
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            TextColumn("{task.completed:.0f}/{task.total:.0f} " + unit, markup=False),
            TextColumn("ETA", markup=False),
            TimeRemainingColumn(compact=True),
            # The note gets the rest of the line: on a narrow terminal the note is cut, not the numbers.
            TextColumn(
                "{task.fields[note]}",
                markup=False,
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
        ]
        global _bar
        with _Bar(*columns, console=console, expand=True) as bar:
            task = bar.add_task(printable(title), total=total, note="")
            bar.update(task, completed=start)
            outer, _bar = _bar, bar

            def advance(n: float = 1, note: str = "") -> None:
                bar.update(task, advance=n)
                if note:
                    bar.update(task, note=printable(note))

            try:
                yield advance
            finally:
                _bar = outer
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
        finished = done >= total * (1 - 1e-9)  # a sum of seconds differs from its total by a few bits
        if now - last >= PLAIN_LINE_SECONDS or finished:
            last = now
            rate = (done - start) / max(now - began, 1e-9)
            left = f", {duration((total - done) / rate)} left" if rate and not finished else ""
            line = f"{title}: {done:.0f}/{total:.0f} {unit}{left}{'  ' + note if note else ''}"
            say(line, title=title, done=done, total=total, unit=unit)

    yield advance_plainly


def duration(seconds: float) -> str:
    """Format seconds: ``3725`` → ``1 h 02 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(num_bytes: float) -> str:
    """Format bytes: ``1_500_000`` → ``1.5 MB`` (powers of ten, as disks and buckets are sold)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if num_bytes < 1000 or unit == "TB":
            break
        num_bytes /= 1000
    return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
