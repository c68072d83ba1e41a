"""The two places of a copy: whether they overlap, and whether their store can copy from one to the other."""

from collections.abc import Callable

from gdist.pipeline.storage import requests
from gdist.pipeline.storage.locations import AZURE, GOOGLE, S3, Location, folder_of, scheme_of
from gdist.pipeline.storage.objects import Storage

_STORES = (S3, GOOGLE, AZURE)


def overlap(first: str, second: str) -> bool:
    """Whether two locations are the same place, or one of them is inside the other. Links are followed."""
    one, other = _parts(first), _parts(second)
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def _parts(uri: str) -> tuple[str, ...]:
    """Return what leads to a place, from the store down: the beginning of another place's only if that is inside."""
    scheme = scheme_of(uri)
    if scheme == "file":
        return ("file", *folder_of(uri).resolve().parts)
    location = Location.parse(uri)
    if scheme == "memory":  # each name is a store of its own
        return ("memory", f"{location.bucket}/{location.key}")
    return (_store(location), location.account, location.bucket, *filter(None, location.key.split("/")))


def _store(location: Location) -> str:
    """Return one name for all schemes that lead to the same store."""
    return next((store[0] for store in _STORES if location.scheme in store), location.scheme)


def copier(source: Storage, target: Storage) -> Callable[[str], None] | None:
    """Return what copies an object of ``source``, given its key, to ``target`` within their store; None where their
    bytes have to pass through this machine.

    Credentials and endpoint come from the environment, so two places in one bucket are always reached with the same.
    A folder is not copied this way: a link to a file would make one file of both.
    """
    if source.bucket is None or target.bucket is None:
        return None
    here, there = source.bucket.location, target.bucket.location
    if (_store(here), here.account, here.bucket) != (_store(there), there.account, there.bucket):
        return None
    if here.scheme not in (*S3, *GOOGLE, *AZURE):
        return None
    whole = Storage(there.root)
    bucket = whole.bucket
    assert bucket is not None, "it is in one"

    def copy(key: str) -> None:
        origin, copied = (f"{location.key}/{key}".lstrip("/") for location in (here, there))
        try:
            bucket.repeat(requests.copy(origin, copied))
        except Exception as error:
            whole.require_reachable(error, origin)  # raises what explains a store's error
            raise

    return copy
