"""The caches that a run is trained from: as they were when it began, even if they have grown since."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.console import say
from gdist.pipeline.errors import CacheError
from gdist.pipeline.files import is_there
from gdist.pipeline.loading.joined import Joined, named_locations
from gdist.pipeline.local.folder import LocalFolder
from gdist.pipeline.run import Run
from gdist.pipeline.run.identity import given_caches
from gdist.pipeline.storage.locations import folder_of, in_shell, require_no_server, scheme_of


def bound_to(run: Run) -> str | None:
    """The state of the caches that a run which has begun was begun with."""
    return recorded(run).get("cache_checksum")


def recorded(run: Run) -> dict[str, Any]:
    """The provenance of a run; empty where it has not begun."""
    return run.provenance() if run.has_begun and (run.folder / "run.json").exists() else {}


def open_caches(run: Run, given: str | Sequence[str], local: LocalFolder | None = None) -> Joined:
    """Open caches as they were when the run began.

    Args:
        given: what is typed after each ``--cache``: locations, which may have names.
    """
    origin = recorded(run)
    states: list[str | None] = [each["checksum"] for each in origin.get("caches", ())] or [
        origin.get("cache_checksum")
    ]
    locations = named_locations([given] if isinstance(given, str) else given)
    if len(states) != len(locations):
        states = [None] * len(locations)  # another number of caches; `Run.begin` raises the error
    opened = [
        (name, _open(run, location, state, local)) for (name, location), state in zip(locations, states, strict=True)
    ]
    return Joined(opened)


def newest(given: str | Sequence[str], local: LocalFolder | None = None) -> Joined:
    """Open caches as they are now."""
    locations = named_locations([given] if isinstance(given, str) else given)
    return Joined([(name, Cache.open(location, local=local)) for name, location in locations])


def of_run(run: Run, local: LocalFolder | None = None) -> Joined:
    """Open the caches that a run was trained from, where it found them.

    Raises:
        UsageError: that is a server in the web, which has to be typed.
    """
    given = given_caches(run.provenance())
    typed = " ".join(f"--cache {in_shell(each)}" for each in given)
    for _, uri in named_locations(given):
        require_no_server(uri, run.folder / "run.json", f"gdist eval {in_shell(run.folder)} {typed}{run.use_options}")
    try:
        return open_caches(run, given, local)
    except CacheError as error:
        lost = [uri for _, uri in named_locations(given) if scheme_of(uri) == "file" and not is_there(folder_of(uri))]
        if not lost:
            raise
        relative = ", which is relative to the folder that training was started in" * (
            not Path(lost[0]).is_absolute()
        )
        raise CacheError(
            f"the cache that {run.folder} was trained from is not where it was: at {lost[0]}{relative}",
            f"say where it is now: gdist eval {in_shell(run.folder)} --cache URI{run.use_options}",
        ) from error


def _open(run: Run, uri: str, bound: str | None, local: LocalFolder | None) -> Cache:
    cache = Cache.open(uri, local=local)
    if bound is None or bound == cache.gdist["checksum"]:
        return cache
    with suppress(CacheError):  # a different cache; `Run.begin` raises the error
        cache = Cache.open(uri, bound, local)
        say(f"the cache at {uri} has grown since {run.folder} was started; it is read as it was then")
    return cache
