"""Rows of a shard straight from its bytes: what zarr reads, without zarr's Python code between two chunks.

What a shard is, and how it is written: encode.py. Where its bytes are: in a store, or near (near.py). On a disk, a
chunk in which nothing could be compressed (most of them, at zstd's negative levels) is read straight into its place.

Nothing that is missing or torn reads as zeros: it always raises ValueError. No chunk is decompressed to more bytes
than the array's chunks have, whatever it says of itself.
"""

import math
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from itertools import batched
from typing import Any

import numpy as np
from google_crc32c import extend
from google_crc32c import value as crc32c
from numcodecs.zstd import Zstd

from gdist.pipeline.cache.chunks import CRC_BYTES, Layout, content_size
from gdist.pipeline.cache.encode import largest
from gdist.pipeline.cache.pieces import Piece, Rows, join, range_of, runs_of
from gdist.pipeline.cache.place import Bytes, Place, Whereabouts
from gdist.pipeline.errors import CacheError
from gdist.pipeline.storage.objects import Storage

Index = np.ndarray[Any, np.dtype[np.uint64]]
Filler = Callable[[Sequence[Bytes], int], int]  # see Storage.filling

INDICES = 4096  # indices kept, of 2 kB each; a training reads from eight packs of 14 arrays at a time
PIECES = 8  # chunks that a thread takes at a time
RUN_BYTES = 1 << 19  # bytes read at a time from a disk, so that they are still in the processor's cache afterwards
PLAIN_BYTES = 1 << 14  # smaller chunks are not read straight into their places: it takes longer than a copy
ABSENT = 2**64 - 1  # offset and length of a chunk that was never written
zstd = Zstd()
_own = threading.local()  # memory of each thread, see _memory


def decoded(shard: bytes, layout: Layout, rows: Rows) -> np.ndarray[Any, Any]:
    """Return rows [start, stop) of a shard, from its bytes.

    Raises:
        ValueError: some of them are missing or torn.
    """
    start, stop = rows
    out = np.empty((stop - start, layout.width), layout.dtype)
    index = _parse_index(shard[-layout.index_bytes :], len(shard), layout)
    _read_memory(np.frombuffer(shard, np.uint8), _pieces(index, layout, [(start, stop, 0)]), layout, out)
    return out


class ShardReader:
    """Reads row ranges of arrays with a known :class:`Layout`; any number of threads may use it.

    Args:
        threads: how many threads decompress at a time. zstd releases the GIL, so two cores decompress 1.8 times as
            much as one; but training on CPUs keeps the cores busy, and training on a GPU does not.
        requests: how many threads fetch from a bucket at a time, and mostly wait.
        near: knows which shards are not read in the store; None where all are.
    """

    def __init__(self, storage: Storage, threads: int, requests: int = 1, near: Whereabouts | None = None) -> None:
        self.storage, self.near = storage, near
        self._pool = ThreadPoolExecutor(threads, "gdist-read") if threads > 1 else None
        self._requests = ThreadPoolExecutor(requests, "gdist-request") if storage.folder is None else None
        self._index = lru_cache(INDICES)(self._read_index)

    def read(self, name: str, layout: Layout, ranges: Sequence[Rows], rows: np.ndarray[Any, Any]) -> None:
        """Fill ``rows`` with the ranges of array ``name``, one after another.

        Raises:
            ValueError: some of the rows are missing or torn.
            CacheError: the store does not answer.
        """
        assert rows.dtype == layout.dtype and rows.flags.c_contiguous
        shards: dict[int, list[tuple[int, int, int]]] = {}
        row = 0
        for start, stop in ranges:
            while start < stop:  # once, unless a range crosses the end of its pack
                pack, first = divmod(start, layout.pack_rows)
                last = min(first + stop - start, layout.pack_rows)
                shards.setdefault(pack, []).append((first, last, row))
                row, start = row + last - first, start + last - first
        try:
            self._fill(name, layout, shards, rows)
        except ValueError:
            self._index.cache_clear()  # a repair may have replaced the shard since its index was read
            if self.near is not None:
                for pack in shards:
                    self.near.doubt(name, pack)
            self._fill(name, layout, shards, rows)

    def _fill(
        self, name: str, layout: Layout, shards: dict[int, list[tuple[int, int, int]]], rows: np.ndarray[Any, Any]
    ) -> None:
        def shard(item: tuple[int, list[tuple[int, int, int]]]) -> list[tuple[Place, list[Piece]]]:
            pack, wanted = item
            place = self.near.place(name, pack) if self.near else Place(self.storage, f"{name}/c/{pack}/0")
            local = place.data is None and place.storage.folder is not None and layout.chunk_bytes >= PLAIN_BYTES
            pieces = _pieces(self._index_of(place, layout), layout, wanted, local)
            if self.near and not place.counted:
                self.near.count(place, sum(piece.stop - piece.start for piece in pieces))
            # A bucket gets one call per shard; on a disk that saves nothing, and threads can share a shard.
            size = PIECES if place.at_hand and self._pool else len(pieces)
            return [(place, list(some)) for some in batched(pieces, size)]

        def part(item: tuple[Place, list[Piece]]) -> None:
            place, pieces = item
            try:
                if place.data is not None:
                    _read_memory(place.data, pieces, layout, rows)
                elif place.storage.folder is not None:
                    self._read_local(place, pieces, layout, rows)
                else:
                    self._read(place, pieces, layout, rows)
            except FileNotFoundError as error:
                raise ValueError("its shard is missing") from error
            except CacheError as error:
                if place.storage is self.storage:
                    raise
                raise ValueError(f"its local copy cannot be read: {error.message}") from error

        jobs = [job for found in self._each(self._requests or self._pool, shard, shards.items()) for job in found]
        at_hand = [job for job in jobs if job[0].at_hand]
        self._each(self._pool, part, at_hand)
        self._each(self._requests, part, [job for job in jobs if not job[0].at_hand])

    @staticmethod
    def _each[X, Y](pool: ThreadPoolExecutor | None, function: Callable[[X], Y], items: Iterable[X]) -> list[Y]:
        if pool is None:
            return [function(item) for item in items]
        futures = [pool.submit(function, item) for item in items]
        wait(futures)  # for all, even if one fails: none may still write into the rows afterwards
        return [future.result() for future in futures]

    def _index_of(self, place: Place, layout: Layout) -> Index:
        if (data := place.data) is None:
            return self._index(place.storage, place.key, layout)
        return _parse_index(data[-layout.index_bytes :].tobytes(), len(data), layout)

    def _read_index(self, storage: Storage, key: str, layout: Layout) -> Index:
        """Read and check a shard's index: offsets and lengths, [chunks, 2]."""
        try:
            return _parse_index(*storage.get_tail(key, layout.index_bytes), layout)
        except FileNotFoundError as error:
            raise ValueError("its shard is missing") from error
        except CacheError as error:
            if storage is self.storage:
                raise
            raise ValueError(f"its local copy cannot be read: {error.message}") from error

    def _read(self, place: Place, pieces: list[Piece], layout: Layout, rows: np.ndarray[Any, Any]) -> None:
        runs = runs_of(pieces, math.inf)
        ranges = [range_of(run) for run in runs]
        joined = join(ranges)
        found = place.storage.get_ranges(place.key, joined)
        parts = dict(zip(joined, (np.frombuffer(part, np.uint8) for part in found), strict=True))
        starts = [start for start, _ in joined]
        for run, (start, stop) in zip(runs, ranges, strict=True):
            around = joined[bisect_right(starts, start) - 1]
            _decode(parts[around][start - around[0] : stop - around[0]], run, layout, rows)

    def _read_local(self, place: Place, pieces: list[Piece], layout: Layout, rows: np.ndarray[Any, Any]) -> None:
        with place.storage.filling(place.key) as fill:
            for run in runs_of(pieces, RUN_BYTES):
                if run[0].plain and self._fill_plain(fill, run, layout, rows):
                    continue
                start, stop = range_of(run)
                data = _memory("run", stop - start)
                _decode(data[: fill([data], start)], run, layout, rows)

    def _fill_plain(self, fill: Filler, run: list[Piece], layout: Layout, rows: np.ndarray[Any, Any]) -> bool:
        """Read chunks straight into their places. Returns whether they have the expected length, heads and checksums;
        if not, their places are to be filled in another way."""
        values = rows.reshape(-1).view(np.uint8)
        row_bytes = layout.chunk_bytes // layout.chunk_rows
        between = len(layout.plain_heads) + CRC_BYTES  # bytes of a chunk that are not its own values
        around = _memory("around", len(run) * between)
        parts: list[Bytes] = []
        for number, piece in enumerate(run):
            at, place = number * between, piece.row * row_bytes
            for head, size in layout.blocks:
                parts += [around[at : at + len(head)], values[place : place + size]]
                at, place = at + len(head), place + size
            parts.append(around[at : at + CRC_BYTES])
        if fill(parts, run[0].start) < run[-1].stop - run[0].start:
            return False
        read = around.tobytes()
        for number, piece in enumerate(run):
            at, place, checksum = number * between, piece.row * row_bytes, 0
            if not read.startswith(layout.plain_heads, at):
                return False
            for head, size in layout.blocks:
                checksum = extend(extend(checksum, head), values[place : place + size])
                place += size
            if not read.startswith(checksum.to_bytes(CRC_BYTES, "little"), at + len(layout.plain_heads)):
                return False
        return True


def _parse_index(tail: bytes, shard_size: int, layout: Layout) -> Index:
    """Check a shard's index, which is at the end of ``tail``: offsets and lengths, [chunks, 2]."""
    size = layout.index_bytes
    if len(tail) < size or crc32c(tail[:-CRC_BYTES]) != int.from_bytes(tail[-CRC_BYTES:], "little"):
        raise ValueError("the shard's index does not match its checksum")
    index = np.frombuffer(tail[:-CRC_BYTES], "<u8").reshape(-1, 2)
    there = index[index[:, 0] != ABSENT]
    if (there > shard_size).any() or (there.sum(axis=1) > shard_size - size).any():
        raise ValueError("the shard's index points past its end")
    if (there[:, 1] <= CRC_BYTES).any():
        raise ValueError("the shard's index has an empty chunk")
    if (there[:, 1] > largest(layout.chunk_bytes)).any():
        raise ValueError("the shard's index has a chunk that is larger than chunks are")
    return index


def _pieces(index: Index, layout: Layout, wanted: Iterable[tuple[int, int, int]], local: bool = False) -> list[Piece]:
    """Return the pieces of one shard, in the order of their bytes.

    Args:
        local: whether chunks as they are may be read straight into their places.
    """
    pieces = []
    for first, last, row in wanted:
        chunk = first // layout.chunk_rows
        for offset, length in index[chunk : -(-last // layout.chunk_rows)].tolist():
            if offset == ABSENT:
                raise ValueError(f"chunk {chunk} was never written")
            begin = chunk * layout.chunk_rows
            low, high = max(first - begin, 0), min(last - begin, layout.chunk_rows)
            plain = local and length == layout.plain_bytes and high - low == layout.chunk_rows
            pieces.append(Piece(offset, offset + length, low, high, row, plain))
            row, chunk = row + high - low, chunk + 1
    return sorted(pieces, key=lambda piece: piece.start)


def _read_memory(data: Bytes, pieces: list[Piece], layout: Layout, rows: np.ndarray[Any, Any]) -> None:
    for run in runs_of(pieces, math.inf):
        start, stop = range_of(run)
        _decode(data[start:stop], run, layout, rows)


def _decode(data: Bytes, run: list[Piece], layout: Layout, rows: np.ndarray[Any, Any]) -> None:
    """Decode the chunks of a run from its bytes."""
    start, stop = range_of(run)
    if len(data) < stop - start:
        raise ValueError("the shard is cut short")
    for piece in run:
        _chunk(data[piece.start - start : piece.stop - start], piece, layout, rows)


def _chunk(data: Bytes, piece: Piece, layout: Layout, rows: np.ndarray[Any, Any]) -> None:
    packed = data[:-CRC_BYTES]
    if crc32c(packed) != int.from_bytes(data[-CRC_BYTES:].tobytes(), "little"):
        raise ValueError("a chunk does not match its checksum")
    size = content_size(packed[:14].tobytes()) if layout.compressed else len(packed)
    if size != layout.chunk_bytes:  # the decoder would leave the rest as it was
        raise ValueError(f"a chunk does not have {layout.chunk_bytes} bytes")
    place = rows[piece.row : piece.row + piece.last - piece.first]
    whole = packed
    if layout.compressed:
        whole = place if len(place) == layout.chunk_rows else _memory("chunk", layout.chunk_bytes)
        try:
            zstd.decode(packed, whole)
        except RuntimeError as error:
            raise ValueError(f"a chunk cannot be decompressed: {error}") from error
    if whole is not place:
        place[:] = whole.view(layout.dtype).reshape(layout.chunk_rows, -1)[piece.first : piece.last]


def _memory(what: str, size: int) -> Bytes:
    """Return memory of this thread. It is reused: having the kernel provide new pages takes longer than reading
    cached ones."""
    memory: Bytes | None = getattr(_own, what, None)
    if memory is None or len(memory) < size:
        memory = np.empty(size, np.uint8)
        setattr(_own, what, memory)
    return memory[:size]
