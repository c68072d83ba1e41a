"""The command lines that train the points of a sweep by hand."""

import json
import re
import shlex
from collections.abc import Sequence

from gdist.pipeline.storage.locations import in_shell
from gdist.stages.report.sweeps.board import Board, Point

MANY = 12  # points, from which what all of them share is written once
FAMILY = 5  # points of one alternative, from which its grid is written instead of a line for each
UNQUOTED = re.compile(r'="(?!(?:true|false|none|nan|inf)")([A-Za-z][\w./-]*)"$')


def commands(board: Board) -> str:
    """One line for each point, with the place of the cache as a word: CACHE, or CACHE-int8 where it has a name."""
    caches = _caches(board)
    found = {point: _arguments(point, caches) for point in board.points}
    shared = _shared(list(found.values())) if len(found) > MANY else ()
    head = f"gdist train {' '.join([*shared, 'SETTINGS'])}        # SETTINGS are:\n" if shared else ""
    start = "" if shared else "gdist train "
    lines = []
    for family in _families(board.points):
        each = [[argument for argument in found[point] if argument not in shared] for point in family]
        title = family[0].title if len(family) == 1 else f"{family[0].entries[0].alternative}, {len(family)} points"
        lines.append(f"{start}{' '.join(each[0] if len(each) == 1 else _one_of(each))}    # {title.lstrip(', ')}")
    return head + "\n".join(lines)


def _families(points: Sequence[Point]) -> list[list[Point]]:
    """The points of each grid together, where they are many; the others one by one."""
    found: dict[tuple[str, ...], list[Point]] = {}
    for point in points:
        entry = point.entries[0]
        found.setdefault((entry.alternative, *entry.varied), []).append(point)
    families: list[list[Point]] = []
    for (_, *varied), some in found.items():
        families += [some] if varied and len(some) >= FAMILY else [[one] for one in some]
    return families


def _one_of(each: Sequence[Sequence[str]]) -> list[str]:
    """Options with all values that several command lines have for them: ``--set train.lr=0.001|0.002``."""
    values: dict[str, list[str]] = {}
    for arguments in each:
        for argument in arguments:
            option, equals, value = " ".join(shlex.split(argument)).partition("=")
            known = values.setdefault(option + equals, [])
            if value not in known:
                known.append(value)
    return [option + "|".join(known) for option, known in values.items()]


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
