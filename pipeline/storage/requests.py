"""The requests that are sent to a store, each in two forms: one that this thread waits for, and one that can be
abandoned while it is under way (see outage.py). The first is faster where other threads keep Python busy."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import obstore

from gdist.pipeline.files import require_size

PART = 5 << 20  # bytes of a part: the least that S3 takes, but for the last one


class Request[T](NamedTuple):
    """What to ask of a store that is given later: each form takes the store and returns the answer."""

    now: Callable[[Any], T]
    later: Callable[[Any], Awaitable[T]]


def get(key: str, options: Any = None, limit: int | None = None) -> Request[tuple[memoryview, int]]:
    """Get an object or, as ``options`` say, a range of it, without copying it; and the whole object's size. The bytes
    of one that is larger than ``limit`` are not asked for: UnreadableError."""

    def now(store: Any) -> tuple[memoryview, int]:
        answer = obstore.get(store, key, options=options)
        require_size(answer.meta["size"], limit)
        return memoryview(answer.bytes()), answer.meta["size"]

    async def later(store: Any) -> tuple[memoryview, int]:
        answer = await obstore.get_async(store, key, options=options)
        require_size(answer.meta["size"], limit)
        return memoryview(await answer.bytes_async()), answer.meta["size"]

    return Request(now, later)


def get_ranges(key: str, starts: Sequence[int], stops: Sequence[int]) -> Request[Sequence[Any]]:
    """Get several ranges; only those that touch are fetched together."""
    ranges: Any = {"starts": starts, "ends": stops, "coalesce": 0}
    return Request(
        lambda store: obstore.get_ranges(store, key, **ranges),
        lambda store: obstore.get_ranges_async(store, key, **ranges),
    )


def size(key: str) -> Request[int]:
    """Ask for an object's size."""

    async def later(store: Any) -> int:
        return int((await obstore.head_async(store, key))["size"])

    return Request(lambda store: int(obstore.head(store, key)["size"]), later)


def put(key: str, data: bytes | memoryview, create: bool = False) -> Request[Any]:
    """Write one whole object, however large: the parts of a killed upload in parts would stay, unseen and paid for.
    ``create``: only where there is none of that name."""
    options: Any = {"mode": "create"} if create else {"use_multipart": False}
    return Request(
        lambda store: obstore.put(store, key, data, **options),
        lambda store: obstore.put_async(store, key, data, **options),
    )


def put_in_parts(key: str, data: bytes) -> Request[Any]:
    """Write one whole object in parts, as other tools do with large ones and gdist never does."""
    options: Any = {"use_multipart": True, "chunk_size": PART}
    return Request(
        lambda store: obstore.put(store, key, data, **options),
        lambda store: obstore.put_async(store, key, data, **options),
    )


def some(prefix: str) -> Request[Sequence[Any]]:
    """List objects below a prefix: those of the first answer, a thousand at most."""

    async def later(store: Any) -> Sequence[Any]:
        async for found in obstore.list(store, prefix=prefix or None, chunk_size=1000):
            return found
        return []

    return Request(lambda store: next(iter(obstore.list(store, prefix=prefix or None, chunk_size=1000)), []), later)


def objects(prefix: str) -> Request[Sequence[Any]]:
    """List the objects below a prefix."""

    async def later(store: Any) -> Sequence[Any]:
        return await obstore.list(store, prefix=prefix or None).collect_async()

    return Request(lambda store: obstore.list(store, prefix=prefix or None).collect(), later)


def delete(keys: str | list[str]) -> Request[None]:
    """Delete one object, or several."""
    return Request(lambda store: obstore.delete(store, keys), lambda store: obstore.delete_async(store, keys))


def copy(origin: str, key: str) -> Request[Any]:
    """Copy an object within its store, replacing one of that name."""
    return Request(
        lambda store: obstore.copy(store, origin, key),
        lambda store: obstore.copy_async(store, origin, key),
    )


def level(prefix: str) -> Request[Any]:
    """List the objects and the folders directly below a prefix."""
    return Request(
        lambda store: obstore.list_with_delimiter(store, prefix or None),
        lambda store: obstore.list_with_delimiter_async(store, prefix or None),
    )
