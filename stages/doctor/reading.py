"""Reading from a store, where nothing is written: the objects are those that are there."""

from collections.abc import Iterator

from gdist.pipeline.errors import CacheError
from gdist.pipeline.storage.hints import lacks_permission
from gdist.pipeline.storage.locations import scheme_of
from gdist.pipeline.storage.objects import Storage
from gdist.pipeline.storage.trial import some_objects
from gdist.stages.doctor.check import Check, milliseconds, note, ok, problem, refused, speed, timed

READ = 4 * 10**6  # bytes that are read of one object
CACHE_ROOT = "zarr.json"  # which every cache has

Object = tuple[Storage, str]
"""An object that may be there, by the place above it and its key."""


def check_listed(uri: str, storage: Storage, itself: Object | None) -> Iterator[Check]:
    """List the first objects of a bucket, and read the largest of them.

    Args:
        itself: the object of which ``uri`` is the name, if there is one.
    """
    try:
        found, seconds = timed(lambda: some_objects(storage))
    except CacheError as error:
        yield refused(uri, "list", "no", error)
        if lacks_permission(error.__cause__, scheme_of(uri)):  # else, whatever is asked would fail alike
            yield from check_web(uri, storage, itself)
        return
    yield ok(uri, "list", f"{milliseconds(seconds)}, {_counted(len(found))}")
    objects = [(storage, max(found, key=lambda key: int(found[key]["size"])))] if found else []
    read, checks = _read(uri, objects + ([itself] if itself else []))
    if read:
        yield from checks
    else:
        means = "nothing is there yet, so reading could not be tried"
        yield note(uri, "read", "not tried", means)


def _counted(objects: int) -> str:
    return f"{objects:,} object{'s' * (objects != 1)} in the first answer" if objects else "nothing is there"


def check_web(uri: str, storage: Storage, itself: Object | None) -> Iterator[Check]:
    """Read from a place that lists nothing: the root of a cache, or the object of which ``uri`` is the name."""
    read, checks = _read(uri, [(storage, CACHE_ROOT), *([itself] if itself else [])])
    yield from checks
    if not read:
        means = "the server answers, and has neither a cache nor a file of this name"
        yield problem(uri, "read", "nothing is there", means, "check the name")


def _read(uri: str, objects: list[Object]) -> tuple[bool, list[Check]]:
    """Read the first of some objects that is there, and ranges of it. Returns whether one was there, or may have
    been."""
    refusal: CacheError | None = None
    for storage, key in objects:
        try:
            (data, _), seconds = timed(lambda at=storage, key=key: at.get_part(key, 0, READ))  # type: ignore[misc]
        except FileNotFoundError:
            continue
        except CacheError as error:
            refusal = refusal or error
            continue
        checks = [ok(uri, "read", speed(len(data), seconds))]
        return True, checks + ([of_ranges(uri, storage, key, bytes(data))] if len(data) > 1 else [])
    return refusal is not None, [refused(uri, "read", "no", refusal)] if refusal else []


def of_ranges(uri: str, storage: Storage, key: str, data: bytes) -> Check:
    """Ask for two ranges of an object whose first bytes are ``data``, at least two, and compare them."""
    half = len(data) // 2
    ranges = [(0, min(1024, half)), (half, min(half + 65536, len(data)))]
    try:
        parts, seconds = timed(lambda: [bytes(part) for part in storage.get_ranges(key, ranges)])
    except CacheError as error:
        return refused(uri, "read a range", "no", error)
    except (FileNotFoundError, ValueError) as error:
        means = f"{key} was read a moment ago, and parts of it cannot be: {error}"
        return problem(uri, "read a range", "no", means, "see who else writes there, and check again")
    if parts != [data[start:stop] for start, stop in ranges]:
        means = "the server answered with other bytes than it was asked for"
        return problem(uri, "read a range", "wrong bytes", means, "look for a proxy between here and the store")
    return ok(uri, "read a range", milliseconds(seconds))
