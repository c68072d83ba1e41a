"""Whole objects of a bucket, fetched in parts over several connections."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any

import numpy as np

from gdist.pipeline.storage.objects import Storage

PART_BYTES = 16_000_000  # one request; a slow connection transfers it in less than a second
CONNECTIONS = 16  # at a time, of this process


def download(
    storage: Storage, key: str, size: int, arrived: Callable[[int], None] = lambda size: None
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return an object's bytes.

    Args:
        size: of the object.
        arrived: called with the size of each part, once it is here.

    Raises:
        ValueError: the object has another size.
        FileNotFoundError: there is no such object.
        CacheError: the store does not answer.
    """
    data = np.empty(size, np.uint8)
    count = max(-(-size // PART_BYTES), 1)
    edges = [size * place // count for place in range(count + 1)]

    def part(place: int) -> None:
        start, stop = edges[place], edges[place + 1]
        found, whole = storage.get_part(key, start, stop - start)
        if whole != size or len(found) != stop - start:
            raise ValueError(f"the object has {whole:,} bytes, not {size:,}")
        data[start:stop] = np.frombuffer(found, np.uint8)
        arrived(stop - start)

    futures = [_connections().submit(part, place) for place in range(count)]
    wait(futures)
    for future in futures:
        future.result()
    return data


@cache
def _connections() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CONNECTIONS, "gdist-part")
