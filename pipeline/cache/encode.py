"""A pack's rows → its shard's bytes: what zarr writes with the same codecs, without zarr's Python code and copies.

A shard is its chunks one after another, each compressed (or not) and then the crc32c of that, and an index at the
end: offset and length of every chunk, and the crc32c of those (zarr's ``sharding_indexed``). Everything is computed
chunk by chunk, so that a chunk is still in the processor's cache for the next step.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from google_crc32c import value as crc32c
from numcodecs.zstd import Zstd

from gdist.pipeline.cache.chunks import CRC_BYTES, INDEX_ENTRY_BYTES
from gdist.pipeline.errors import UsageError

COMPRESS = "zstd:-1"
"""Negative levels look for repetitions only: padding shrinks to nothing, activations stay as they are. Level 1 takes
7 % less space for activations in fp16, at a quarter of the speed in both directions (benchmarks/shards.py)."""
UNCOMPRESSED = "none"
LEVELS = range(-100, 23)

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

# Memory of shards that were written, for the next ones: having the kernel provide new pages takes as long as a fifth
# of encoding. As many are kept as there are writers at most; there are never more than were in use at a time.
_KEPT = 16
_free: deque[Bytes] = deque(maxlen=_KEPT)


@dataclass(frozen=True)
class Shard:
    """A shard's bytes, and what its receipt says about them."""

    data: memoryview
    record: dict[str, Any]


def compression(text: str) -> str:
    """Return how chunks are compressed as a cache's identity records it: ``zstd:LEVEL`` or ``none``.

    Raises:
        UsageError: it is neither, or there is no such level.
    """
    name, colon, level = text.partition(":")
    if text == UNCOMPRESSED:
        return text
    if text == "zstd":
        return COMPRESS
    try:
        if name == "zstd" and colon and int(level) in LEVELS:
            return f"zstd:{int(level)}"
    except ValueError:
        pass
    raise UsageError(
        f"--compress {text}: it is neither zstd:LEVEL, with a level from {LEVELS[0]} to {LEVELS[-1]}, nor none",
        f"--compress {COMPRESS} (fast), --compress zstd:3 (smaller), or --compress none",
    )


def level_of(compress: str) -> int | None:
    """Return zstd's level of a compression as :func:`compression` returns it; None without compression."""
    return None if compress == UNCOMPRESSED else int(compress.partition(":")[2])


@contextmanager
def encoded(rows: np.ndarray[Any, Any], chunk_rows: int, compress: str) -> Iterator[Shard]:
    """Encode one pack's rows, [rows, width]. Same rows, same bytes. The shard's memory is used again after the block.

    Any number of threads may do this at a time: zstd and the digest leave the interpreter to others.
    """
    chunks = np.ascontiguousarray(rows).reshape(len(rows) // chunk_rows, -1).view(np.uint8)
    memory = _memory(len(chunks) * (largest(chunks.shape[1]) + INDEX_ENTRY_BYTES) + CRC_BYTES)
    try:
        data = memoryview(memory)[: _fill(memory, chunks, level_of(compress))]
        yield Shard(data, record(data))
    finally:
        _free.append(memory)


def record(data: bytes | memoryview) -> dict[str, Any]:
    """Return what a receipt says about a shard."""
    return {"bytes": len(data), "xxh3_128": digest(data)}


def digest(data: bytes | memoryview) -> str:
    """Return the digest of a shard that its receipt contains: XXH3-128, which keeps up with memory. It finds damage;
    nobody is kept from making other bytes with the same digest."""
    return xxhash.xxh3_128(data).hexdigest()


def _fill(memory: Bytes, chunks: Bytes, level: int | None) -> int:
    """Write the shard of chunks, [chunks, bytes], into ``memory``. Returns its size."""
    zstd = None if level is None else Zstd(level=level)
    shard, index, end = memoryview(memory), np.empty((len(chunks), 2), "<u8"), 0
    for number, chunk in enumerate(chunks):
        packed = chunk if zstd is None else zstd.encode(chunk)
        start, end = end, end + len(packed)
        shard[start:end] = packed
        shard[end : end + CRC_BYTES] = crc32c(packed).to_bytes(CRC_BYTES, "little")
        end += CRC_BYTES
        index[number] = start, end - start
    tail = index.tobytes()
    tail += crc32c(tail).to_bytes(CRC_BYTES, "little")
    shard[end : end + len(tail)] = tail
    return end + len(tail)


def largest(size: int) -> int:
    """Return the largest number of bytes that a chunk of ``size`` bytes takes: a bound on zstd's own bound."""
    return size + (size >> 8) + 128 + CRC_BYTES


def _memory(size: int) -> Bytes:
    try:
        memory = _free.pop()
    except IndexError:  # the first shards
        return np.empty(size, np.uint8)
    return memory if len(memory) >= size else np.empty(size, np.uint8)
