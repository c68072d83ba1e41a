"""A place in an object store or on a web server: how it is reached, and what may be done there."""

from collections.abc import Generator
from dataclasses import replace

from gdist.pipeline.errors import GdistError, UsageError
from gdist.pipeline.storage.access import access_of
from gdist.pipeline.storage.hub import is_read_only
from gdist.pipeline.storage.locations import Location, scheme_of
from gdist.pipeline.storage.objects import Storage
from gdist.pipeline.storage.patience import Patience
from gdist.stages.doctor.bucket import Bucket
from gdist.stages.doctor.check import Check, ok, refused
from gdist.stages.doctor.reading import check_listed, check_web

SILENCE, TRIES = 10.0, 3  # how patient a check is, if the environment is not less so


def require_location(uri: str) -> None:
    """Refuse what names no place that can be asked.

    Raises:
        UsageError: it is no location, or one in the memory of a process.
    """
    if scheme_of(uri) == "memory":
        raise UsageError(f"{uri} is in the memory of one process, so there is nothing to check", "name a bucket")
    Location.parse(uri)


def check_store(uri: str, read_only: bool, in_parts: bool = False) -> Generator[Check, None, None]:
    """Check a place by its URI.

    Args:
        read_only: write nothing; implied where gdist only reads.
        in_parts: try to upload in parts too.
    """
    location = Location.parse(uri)
    try:
        access = access_of(location)
        given = Patience.from_environment()
        patience = replace(given, silence=min(given.silence, SILENCE), tries=min(given.tries, TRIES))
        storage = Storage(uri, patience=patience)
    except GdistError as error:
        yield refused(uri, "settings", "cannot be used", error)
        return
    yield ok(uri, "server", access.endpoint + (f" ({access.named_by})" if access.named_by else ""))
    web = is_read_only(location.scheme)
    yield ok(
        uri, "credentials", access.credentials or ("none are sent" if web else "none here: the machine's own role")
    )
    above, _, name = uri.rstrip("/").rpartition("/")
    itself = (Storage(above, patience=patience), name) if location.key else None
    if web:
        yield from check_web(uri, storage, itself)
    elif read_only:
        yield from check_listed(uri, storage, itself)
    else:
        yield from Bucket(uri, storage, in_parts).checks()
