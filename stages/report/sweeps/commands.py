"""The command lines that train the points of a sweep by hand."""

import json
import re
from collections.abc import Sequence

from gdist.pipeline.storage.locations import in_shell
from gdist.stages.report.sweeps.board import Board, Point

MANY = 12  # points, from which what all of them share is written once
UNQUOTED = re.compile(r'="(?!(?:true|false|none|nan|inf)")([A-Za-z][\w./-]*)"$')


def commands(board: Board) -> str:
    """One line for each point, with the place of the cache as a word: CACHE, or CACHE-int8 where it has a name."""
    caches = _caches(board)
    found = {point: _arguments(point, caches) for point in board.points}
    shared = _shared(list(found.values())) if len(found) > MANY else ()
    head = f"gdist train {' '.join([*shared, 'SETTINGS'])}        # SETTINGS are:\n" if shared else ""
    lines = []
    for point, arguments in found.items():
        own = [argument for argument in arguments if argument not in shared]
        start = "" if shared else "gdist train "
        lines.append(f"{start}{' '.join(own)}    # {point.title}")
    return head + "\n".join(lines)


def _arguments(point: Point, caches: dict[str, str]) -> list[str]:
    """The options of a point's command line, each with its value; without the seed."""
    entry = point.entries[0]
    uri = str(point.any.provenance.get("cache")) if point.any else ""
    named = str(entry.varied.get("cache", ""))
    default = f"CACHE-{named}" if named.isidentifier() else "CACHE"
    found = [f"--cache {caches.get(uri, default)}", "--out RUN"]
    if entry.recipe is None and not entry.settings:  # not recorded: what sets it apart, at least
        settings = [
            f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in entry.varied.items() if key != "cache"
        ]
        found.append("…")
    else:
        settings = [setting for setting in entry.settings if not setting.startswith("train.seed=")]
        found += [f"--recipe {in_shell(entry.recipe)}"] if entry.recipe else []
    return found + [f"--set {in_shell(UNQUOTED.sub(r'=\1', setting))}" for setting in settings]


def _caches(board: Board) -> dict[str, str]:
    """URI → what stands for it."""
    found: dict[str, str] = {}
    for point in board.points:
        if point.any is None:
            continue
        uri = str(point.any.provenance.get("cache"))
        name = str(point.entries[0].varied.get("cache", ""))
        if uri not in found:
            plain_name = name.isidentifier()
            found[uri] = f"CACHE-{name}" if plain_name else "CACHE" if not found else f"CACHE-{len(found) + 1}"
    return found


def _shared(each: Sequence[Sequence[str]]) -> tuple[str, ...]:
    return tuple(argument for argument in each[0] if all(argument in other for other in each))
