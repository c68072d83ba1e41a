"""The caches below a place, found level by level: a cache is where gdist's root document is.

A bucket may have millions of objects, so no folder is listed with what is below it: its own level only, nearest
levels first, several at a time. The folders that belong to a cache or to an array are not entered. What may not be
read, or is somebody else's, is a note at most, and the search goes on.
"""

import heapq
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from gdist.pipeline.cache.describe import Description, described
from gdist.pipeline.cache.plan import INDEX, ROOT
from gdist.pipeline.cache.planning import FOLDERS, PLANNING
from gdist.pipeline.errors import GdistError
from gdist.pipeline.storage.levels import in_memory, level
from gdist.pipeline.storage.locations import in_shell, scheme_of
from gdist.pipeline.storage.objects import Storage

AT_ONCE = 16
DEPTH, MOST = 6, 5_000  # levels that are looked at, and folders: a minute in a bucket that answers in 0.2 s
ROOT_BYTES = 1 << 26  # no root document of gdist's is larger
PATIENCE = 10.0  # seconds: a folder that fails later than that was not refused, the store does not answer


@dataclass(frozen=True)
class Note:
    """Why something was not looked at, or is not counted as a cache."""

    uri: str
    reason: str


@dataclass
class Survey:
    """What was found.

    Attributes:
        caches: in order of their locations.
        problems: what looks like a cache, but cannot be used or read; and folders that could not be listed.
        not_looked_at: folders that are too deep, or too many.
        folders: how many were looked at.
    """

    caches: list[Description] = field(default_factory=list)
    problems: list[Note] = field(default_factory=list)
    not_looked_at: list[Note] = field(default_factory=list)
    folders: int = 0


@dataclass
class _Look:
    """What one level shows: a cache or a note, and the folders to enter."""

    cache: Description | None = None
    problem: str | None = None
    folders: list[str] = field(default_factory=list)
    silent: bool = False  # the store did not answer


def survey(
    uri: str, depth: int = DEPTH, most: int = MOST, notify: Callable[[Survey], None] = lambda so_far: None
) -> Survey:
    """Find the caches at and below a location.

    Args:
        depth: levels below it that are looked at.
        most: folders that are looked at.
        notify: called with what was found so far, after every folder.

    Raises:
        CacheError: the location itself cannot be listed.
    """
    found = Survey()
    for place in [uri, *(in_memory(uri) if scheme_of(uri) == "memory" else [])]:
        _walk(place, depth, most, notify, found)
    found.caches.sort(key=lambda cache: cache.uri)
    found.problems.sort(key=lambda note: note.uri)
    found.not_looked_at.sort(key=lambda note: (note.reason, note.uri))
    return found


def caches_below(uri: str) -> int:
    """Return how many caches are near below a location: for a message, so it looks at few folders and never fails."""
    try:
        return len(survey(uri, depth=2, most=200).caches)
    except GdistError:
        return 0


def _walk(uri: str, depth: int, most: int, notify: Callable[[Survey], None], found: Survey) -> None:
    storage = Storage(uri)
    # Those with few siblings first: a folder with caches before the thousands of folders of a corpus.
    waiting, silent, entered = [(0, 1, "")], 0, set[object]()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running: dict[Future[_Look], tuple[int, str]] = {}
        while waiting or running:
            while waiting and len(running) < AT_ONCE and found.folders + len(running) < most and silent < AT_ONCE:
                at, _, prefix = heapq.heappop(waiting)
                if at > depth:
                    found.not_looked_at.append(Note(_uri(uri, prefix), f"below --depth {depth}"))
                elif (place := _place(storage, prefix)) not in entered:
                    entered.add(place)
                    running[pool.submit(_look, storage, prefix)] = at, prefix
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                at, prefix = running.pop(future)
                look = future.result()
                found.folders += 1
                silent = silent + 1 if look.silent else 0
                found.caches += [look.cache] if look.cache else []
                found.problems += [Note(_uri(uri, prefix), look.problem)] if look.problem else []
                for folder in look.folders:
                    heapq.heappush(waiting, (at + 1, len(look.folders), folder))
            notify(found)
    why = "the store does not answer" if silent >= AT_ONCE else f"beyond --folders {most}"
    found.not_looked_at += [Note(_uri(uri, prefix), why) for _, _, prefix in sorted(waiting)]


def _place(storage: Storage, prefix: str) -> object:
    """What a folder is known by: on a disk, links may lead to it again, or in a circle."""
    if storage.folder is None:
        return prefix
    try:
        about = (storage.folder / prefix).stat()
    except OSError:
        return prefix
    return about.st_dev, about.st_ino


def _look(storage: Storage, prefix: str) -> _Look:
    """Look at one level."""
    began = time.monotonic()
    try:
        below, objects = level(storage, prefix)
        names = {key.rpartition("/")[2]: meta for key, meta in objects.items()}
        look = _Look(folders=below)
        _examine(storage, prefix, names, look)
    except GdistError as error:
        if not prefix:
            raise
        return _Look(problem=error.message, silent=time.monotonic() - began > PATIENCE)
    return look


def _examine(storage: Storage, prefix: str, names: Mapping[str, Any], look: _Look) -> None:
    """Find out whether a level is a cache, from the names there and the root document; leave out the folders that
    belong to it."""
    folders = {key.rpartition("/")[2] for key in look.folders}
    others = [key for key in look.folders if key.rpartition("/")[2] not in FOLDERS]
    remains, uri = INDEX in names and {"plans", "teacher"} <= folders, _uri(storage.uri, prefix)
    document: Any = None
    if ROOT in names and names[ROOT]["size"] <= ROOT_BYTES:
        here = Storage(uri)
        try:
            data = here.get(ROOT)
            document = json.loads(data)
        except (FileNotFoundError, ValueError, RecursionError):
            document = None
    if ".zarray" in names or (isinstance(document, dict) and document.get("node_type") == "array"):
        look.folders = []  # chunks
    elif isinstance(document, dict) and _has_gdist(document):
        look.folders = others
        try:
            look.cache = described(here, data, names)
        except GdistError as error:
            look.problem = error.message
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            look.problem = f"its {ROOT} does not describe a cache: {type(error).__name__} {error}"
    elif remains:
        look.folders = others
        what = f"its {ROOT} is damaged" if ROOT in names else f"it has no {ROOT}"
        begun = PLANNING in names and ROOT not in names
        why = "a cache is being planned, or its plan was interrupted" if begun else f"{what}, but it was a cache"
        look.problem = why if begun else f"{why}: gdist verify {in_shell(uri)} --repair"


def _has_gdist(document: Mapping[str, Any]) -> bool:
    attributes = document.get("attributes")
    return isinstance(attributes, dict) and "gdist" in attributes


def _uri(uri: str, prefix: str) -> str:
    return f"{uri.removesuffix('/')}/{prefix}" if prefix else uri
