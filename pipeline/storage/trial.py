"""What is asked of a store only to find out whether it can be done: the first objects of a listing, an upload in
parts."""

from typing import Any

from gdist.pipeline.storage import requests
from gdist.pipeline.storage.hub import require_lists, require_writable
from gdist.pipeline.storage.objects import Storage


def some_objects(storage: Storage, prefix: str = "") -> dict[str, dict[str, Any]]:
    """Return key → {size, last_modified} of the objects below ``prefix`` that one request lists.

    Raises:
        CacheError: it may not be listed, or the store does not answer.
    """
    require_lists(storage.uri)
    with storage._explained("list", prefix):
        found = storage._repeat(requests.some(prefix))
    return {str(meta["path"]): dict(meta) for meta in found if meta["path"]}


def put_in_parts(storage: Storage, key: str, data: bytes) -> None:
    """Write one whole object in parts of 5 MiB.

    Raises:
        CacheError: it may not be written, or not in parts.
    """
    require_writable(storage.uri)
    with storage._explained("write", key):
        storage._repeat(requests.put_in_parts(key, data), len(data))
