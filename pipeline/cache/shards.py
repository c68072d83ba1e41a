"""Rows of a shard straight from its bytes: what zarr reads, without zarr's Python code between two chunks.

A shard is its chunks one after another, each zstd and then the crc32c of that, and an index at the end: offset and
length of every chunk, and the crc32c of those (zarr's ``sharding_indexed``). zarr itself still writes, and reads
everything that is stored in another way: :func:`layout_of` accepts only this one.

Nothing that is missing or torn reads as zeros: it always raises ValueError.
"""

import math
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from itertools import batched
from typing import Any

import numpy as np
from google_crc32c import value as crc32c
from numcodecs.zstd import Zstd

from gdist.pipeline.storage.objects import Storage

Rows = tuple[int, int]  # [start, stop)
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

INDICES = 4096  # indices kept, of 2 kB each; a training reads from eight packs of 14 arrays at a time
PIECES = 8  # chunks that a thread takes at a time
RUN_BYTES = 1 << 20  # bytes read at a time from a disk, so that they are still in the processor's cache to decompress
ABSENT = 2**64 - 1  # offset and length of a chunk that was never written
_CRC_BYTES = 4
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
zstd = Zstd()


@dataclass(frozen=True)
class Layout:
    """The layout of an array whose shards can be read here."""

    dtype: np.dtype[Any]
    width: int
    chunk_rows: int
    pack_rows: int

    @property
    def chunk_bytes(self) -> int:
        """Size of a decompressed chunk."""
        return self.chunk_rows * self.width * self.dtype.itemsize

    @property
    def index_bytes(self) -> int:
        return self.pack_rows // self.chunk_rows * 16 + _CRC_BYTES


def layout_of(document: Mapping[str, Any]) -> Layout | None:
    """Return the layout that an array's ``zarr.json`` describes; None where only zarr itself can read it."""
    try:
        (sharding,) = document["codecs"]
        inner = sharding["configuration"]
        rows, width = document["shape"]
        pack_rows, pack_width = document["chunk_grid"]["configuration"]["chunk_shape"]
        chunk_rows, chunk_width = inner["chunk_shape"]
        known = (
            sys.byteorder == "little"
            and document["zarr_format"] == 3
            and document["chunk_grid"]["name"] == "regular"
            and document["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
            and not document.get("storage_transformers")
            and sharding["name"] == "sharding_indexed"
            and inner["index_location"] == "end"
            and _names(inner["codecs"]) == ["bytes", "zstd", "crc32c"]
            and _names(inner["index_codecs"]) == ["bytes", "crc32c"]
            and width == pack_width == chunk_width
            and rows % pack_rows == 0
            and pack_rows % chunk_rows == 0
        )
        return Layout(np.dtype(document["data_type"]), width, chunk_rows, pack_rows) if known else None
    except (KeyError, TypeError, ValueError):  # the metadata of some other kind of array
        return None


def _names(codecs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the codecs' names in order, without big-endian codecs, which are not supported here."""
    endians = [codec.get("configuration", {}).get("endian", "little") for codec in codecs]
    return [codec["name"] for codec, endian in zip(codecs, endians, strict=True) if endian == "little"]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows of one chunk: where its bytes are in the shard, which of its rows to read, and where to put them."""

    start: int
    stop: int
    first: int
    last: int
    row: int


class ShardReader:
    """Reads row ranges of arrays with a known :class:`Layout`; any number of threads may use it.

    Args:
        threads: how many threads fetch and decompress at a time. zstd releases the GIL, so two cores decompress 1.8
            times as much as one; but training on CPUs keeps the cores busy, and training on a GPU does not.
    """

    def __init__(self, storage: Storage, threads: int) -> None:
        self.storage = storage
        self._pool = ThreadPoolExecutor(threads, "gdist-read") if threads > 1 else None
        self._index = lru_cache(INDICES)(self._read_index)
        self._own = threading.local()

    def read(self, name: str, layout: Layout, ranges: Sequence[Rows], rows: np.ndarray[Any, Any]) -> None:
        """Fill ``rows`` with the ranges of array ``name``, one after another.

        Raises:
            ValueError: some of the rows are missing or torn.
            CacheError: the store does not answer.
        """
        assert rows.dtype == layout.dtype and rows.flags.c_contiguous
        try:
            self._fill(name, layout, ranges, rows)
        except ValueError:
            self._index.cache_clear()  # a repair may have replaced the shard since its index was read
            self._fill(name, layout, ranges, rows)

    def _fill(self, name: str, layout: Layout, ranges: Sequence[Rows], rows: np.ndarray[Any, Any]) -> None:
        shards: dict[int, list[tuple[int, int, int]]] = {}
        row = 0
        for start, stop in ranges:
            while start < stop:  # once, unless a range crosses the end of its pack
                pack, first = divmod(start, layout.pack_rows)
                last = min(first + stop - start, layout.pack_rows)
                shards.setdefault(pack, []).append((first, last, row))
                row, start = row + last - first, start + last - first

        def shard(item: tuple[int, list[tuple[int, int, int]]]) -> list[tuple[str, list[_Piece]]]:
            key = f"{name}/c/{item[0]}/0"
            pieces = self._pieces(key, layout, item[1])
            # A bucket gets one request per shard; on a disk that saves nothing, and threads can share a shard.
            size = len(pieces) if self.storage.folder is None or self._pool is None else PIECES
            return [(key, list(some)) for some in batched(pieces, size)]

        def part(item: tuple[str, list[_Piece]]) -> None:
            self._decode(*item, layout, rows)

        self._each(part, [job for found in self._each(shard, shards.items()) for job in found])

    def _each[X, Y](self, function: Callable[[X], Y], items: Iterable[X]) -> list[Y]:
        if self._pool is None:
            return [function(item) for item in items]
        futures = [self._pool.submit(function, item) for item in items]
        wait(futures)  # for all, even if one fails: none may still write into the rows afterwards
        return [future.result() for future in futures]

    def _read_index(self, key: str, size: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """Read and check a shard's index: offsets and lengths, [chunks, 2]."""
        try:
            tail, shard_size = self.storage.get_tail(key, size)
        except FileNotFoundError as error:
            raise ValueError("its shard is missing") from error
        if len(tail) < size or crc32c(tail[:-_CRC_BYTES]) != int.from_bytes(tail[-_CRC_BYTES:], "little"):
            raise ValueError("the shard's index does not match its checksum")
        index = np.frombuffer(tail[:-_CRC_BYTES], "<u8").reshape(-1, 2)
        there = index[index[:, 0] != ABSENT]
        if (there > shard_size).any() or (there.sum(axis=1) > shard_size - size).any():
            raise ValueError("the shard's index points past its end")
        if (there[:, 1] <= _CRC_BYTES).any():
            raise ValueError("the shard's index has an empty chunk")
        return index

    def _pieces(self, key: str, layout: Layout, wanted: Iterable[tuple[int, int, int]]) -> list[_Piece]:
        """Return the pieces of one shard, in the order of their bytes."""
        index = self._index(key, layout.index_bytes)
        pieces = []
        for first, last, row in wanted:
            chunk = first // layout.chunk_rows
            for offset, length in index[chunk : -(-last // layout.chunk_rows)].tolist():
                if offset == ABSENT:
                    raise ValueError(f"chunk {chunk} was never written")
                begin = chunk * layout.chunk_rows
                low, high = max(first - begin, 0), min(last - begin, layout.chunk_rows)
                pieces.append(_Piece(offset, offset + length, low, high, row))
                row, chunk = row + high - low, chunk + 1
        return sorted(pieces, key=lambda piece: piece.start)

    def _decode(self, key: str, pieces: list[_Piece], layout: Layout, rows: np.ndarray[Any, Any]) -> None:
        runs: list[list[_Piece]] = []
        limit = RUN_BYTES if self.storage.folder else math.inf
        for piece in pieces:
            if runs and piece.start <= runs[-1][-1].stop and piece.stop - runs[-1][0].start <= limit:
                runs[-1].append(piece)
            else:
                runs.append([piece])
        ranges = [(run[0].start, max(piece.stop for piece in run)) for run in runs]
        try:
            for run, (start, stop), part in zip(runs, ranges, self.storage.get_ranges(key, ranges), strict=True):
                data = np.frombuffer(part, np.uint8)
                if len(data) < stop - start:
                    raise ValueError("the shard is cut short")
                for piece in run:
                    self._chunk(data[piece.start - start : piece.stop - start], piece, layout, rows)
        except FileNotFoundError as error:
            raise ValueError("its shard is missing") from error

    def _chunk(self, data: Bytes, piece: _Piece, layout: Layout, rows: np.ndarray[Any, Any]) -> None:
        packed = data[:-_CRC_BYTES]
        if crc32c(packed) != int.from_bytes(data[-_CRC_BYTES:].tobytes(), "little"):
            raise ValueError("a chunk does not match its checksum")
        if _content_size(packed[:14].tobytes()) != layout.chunk_bytes:  # the decoder would leave the rest as it was
            raise ValueError(f"a chunk does not have {layout.chunk_bytes} bytes")
        count = piece.last - piece.first
        place = rows[piece.row : piece.row + count]
        whole = place if count == layout.chunk_rows else self._scratch(layout.chunk_bytes)
        try:
            zstd.decode(packed, whole)
        except RuntimeError as error:
            raise ValueError(f"a chunk cannot be decompressed: {error}") from error
        if whole is not place:
            place[:] = whole.view(layout.dtype).reshape(layout.chunk_rows, -1)[piece.first : piece.last]

    def _scratch(self, size: int) -> Bytes:
        memory: Bytes | None = getattr(self._own, "memory", None)
        if memory is None or len(memory) != size:
            memory = self._own.memory = np.empty(size, np.uint8)
        return memory


def _content_size(head: bytes) -> int:
    """Return the content size that a zstd frame states (RFC 8878, section 3.1.1.1); −1 if none, or not a frame.

    By hand: 28 b5 2f fd | a0 (4 bytes of size, one segment) | 00 00 03 00 is a frame of 0x30000 bytes.
    """
    if len(head) < 6 or head[:4] != _ZSTD_MAGIC:
        return -1
    flags = head[4]
    one_segment = flags >> 5 & 1
    length = (one_segment, 2, 4, 8)[flags >> 6]
    start = 5 + (1 - one_segment) + (0, 1, 2, 4)[flags & 3]
    if not length or len(head) < start + length:
        return -1
    return int.from_bytes(head[start : start + length], "little") + (256 if length == 2 else 0)
