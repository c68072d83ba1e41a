"""The caches of a place as a table, or as JSON.

What a table shows comes from other people's documents, so characters that a terminal would obey are replaced.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from gdist.pipeline import console
from gdist.pipeline.cache.describe import Description
from gdist.pipeline.cache.survey import Note, Survey, survey
from gdist.pipeline.console import PLAIN_LINE_SECONDS
from gdist.pipeline.errors import EXIT_OK
from gdist.pipeline.printing import printable
from gdist.pipeline.storage.locations import in_shell

SHOWN = 5  # of the folders that were not looked at
COLUMNS = ["cache", "teacher", "hours", "layers", "encoding", "size", "state", "last change"]


def caches_command(uri: str, depth: int, folders: int, as_json: bool) -> int:
    """Print the caches at and below a location."""
    found = survey(uri, depth, folders, reporter(not as_json))
    if as_json:
        console.emit(document(uri, found))
        return EXIT_OK
    if found.caches:
        size = console.size(sum(cache.bytes for cache in found.caches))
        title = f"{printable(uri)}: {_count(len(found.caches), 'cache')}, {size}"
        console.print_table(title, COLUMNS, [row(uri, cache) for cache in found.caches])
    else:
        console.say(f"{printable(uri)}: no cache in {_count(found.folders, 'folder')}")
    for note in found.problems:
        console.say(f"{printable(note.uri)}: {printable(note.reason)}", style="yellow")
    for line in unseen(uri, depth, folders, found.not_looked_at):
        console.say(line, style="yellow")
    return EXIT_OK


def reporter(enabled: bool) -> Callable[[Survey], None]:
    """Return a function that says now and then how far the search is: a slow bucket takes a while."""
    last = time.monotonic()

    def report(so_far: Survey) -> None:
        nonlocal last
        if enabled and time.monotonic() - last >= PLAIN_LINE_SECONDS:
            last = time.monotonic()
            looked = f"{_count(so_far.folders, 'folder')} looked at, {_count(len(so_far.caches), 'cache')} so far"
            console.say(f"caches: {looked}")

    return report


def document(uri: str, found: Survey) -> dict[str, Any]:
    """Return the fields of ``gdist caches --json``."""
    return {
        "uri": encodable(uri),
        "caches": [
            asdict(cache)
            | {"uri": encodable(cache.uri), "whole": cache.whole}
            | {"changed": cache.changed.isoformat(timespec="seconds")}
            for cache in found.caches
        ],
        "problems": [_note(note) for note in found.problems],
        "not_looked_at": [_note(note) for note in found.not_looked_at],
        "folders": found.folders,
    }


def _note(note: Note) -> dict[str, str]:
    return {"uri": encodable(note.uri), "reason": encodable(note.reason)}


def row(uri: str, cache: Description) -> list[str]:
    """Return a cache's cells, its location relative to ``uri``."""
    hours = cache.audio_seconds / 3600
    return [
        printable(cache.uri.removeprefix(uri.removesuffix("/")).removeprefix("/") or "."),
        printable(cache.teacher)[:80],
        f"{hours:,.1f}" if hours >= 1 else f"{hours:.2f}",
        layers_text(cache.layers),
        printable(cache.encoding),
        console.size(cache.bytes),
        state(cache),
        cache.changed.astimezone().strftime("%Y-%m-%d %H:%M"),
    ]


def state(cache: Description) -> str:
    """Return how far a cache is, in words."""
    if cache.whole:
        return "whole"
    return f"{cache.tasks_done:,} of {cache.tasks:,} packs{', locked' if cache.locked else ''}"


def layers_text(layers: Sequence[int]) -> str:
    """Return layers as ``--layers`` takes them: 0, 1, 2, 3, 8 → ``0-3,8``."""
    runs = [[layer for _, layer in run] for _, run in groupby(enumerate(layers), lambda pair: pair[1] - pair[0])]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def unseen(uri: str, depth: int, folders: int, notes: Sequence[Note]) -> list[str]:
    """Return the lines about what was not looked at: how much, where, and what to type."""
    lines = []
    for reason, count in Counter(note.reason for note in notes).items():
        some = [printable(note.uri) for note in notes if note.reason == reason][:SHOWN]
        more = f" and {count - len(some):,} more" if count > len(some) else ""
        lines.append(f"not looked at ({reason}): {', '.join(some)}{more}")
    if notes:
        deeper = f"--depth {2 * depth + 1} --folders {10 * folders}"
        lines.append(f"  try: gdist caches {in_shell(encodable(uri))} {deeper}, or one of these folders")
    return lines


def encodable(text: str) -> str:
    """Return a text that UTF-8 can contain: names on a disk may be any bytes."""
    return text.encode(errors="backslashreplace").decode()


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
