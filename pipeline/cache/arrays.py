"""The arrays of a cache: their metadata, for which zarr is used here and nowhere else, and reads of their rows.

An array is [rows, width], sharded by pack and chunked by 128 rows. A shard is encoded in memory (encode.py) and
written by the caller as one object, so that its digest is known and two writers never share a shard. What is read is
decoded as the identity says (shards.py), never as metadata or zarr's other codecs might: those may be anybody's.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from gdist.pipeline.cache.chunks import CRC_BYTES, Layout
from gdist.pipeline.cache.encode import COMPRESS, largest, level_of
from gdist.pipeline.cache.pieces import Rows
from gdist.pipeline.cache.place import Whereabouts
from gdist.pipeline.cache.shards import ShardReader, decoded
from gdist.pipeline.storage.objects import Storage

# On a disk, some threads fetch while another decompresses: twice as fast from a cold disk as one thread. From the
# page cache it is no faster when the cores are busy, and takes some 7 % more of them. In a bucket, they share the
# latency.
THREADS, BUCKET_THREADS = 4, 16

Empty = Callable[[tuple[int, int], np.dtype[Any]], np.ndarray[Any, Any]]


@dataclass(frozen=True)
class ArraySpec:
    """Shape, type and compression of one array. ``fill_value`` marks rows that were never written."""

    width: int
    dtype: str
    fill_value: float | int
    chunk_rows: int
    pack_rows: int
    compress: str = COMPRESS

    @property
    def pack_bytes(self) -> int:
        """Size of one pack's rows, before compression."""
        return self.pack_rows * self.width * np.dtype(self.dtype).itemsize

    @cached_property
    def layout(self) -> Layout:
        """How its chunks are stored in its shards."""
        compressed = level_of(self.compress) is not None
        return Layout(np.dtype(self.dtype), self.width, self.chunk_rows, self.pack_rows, compressed)

    @property
    def shard_bytes(self) -> int:
        """The most bytes that a shard can have."""
        return self.pack_rows // self.chunk_rows * largest(self.layout.chunk_bytes) + self.layout.index_bytes

    def create(self, store: Store, name: str | None, packs: int) -> zarr.Array[Any]:
        """Create the (empty) array of ``packs`` packs in ``store``."""
        level = level_of(self.compress)
        return zarr.create_array(
            store,
            name=name,
            shape=(packs * self.pack_rows, self.width),
            shards=(self.pack_rows, self.width),
            chunks=(self.chunk_rows, self.width),
            dtype=self.dtype,
            fill_value=self.fill_value,
            # crc32c comes last: it guards the compressed bytes of every chunk.
            compressors=[*([] if level is None else [ZstdCodec(level=level, checksum=False)]), Crc32cCodec()],
        )

    def empty_pack(self) -> np.ndarray[Any, Any]:
        """Return one pack's rows, all marked as never written."""
        return np.full((self.pack_rows, self.width), self.fill_value, dtype=self.dtype)


def shard_key(name: str, pack: int) -> str:
    """Return the key of the object that contains ``pack``'s rows of array ``name``."""
    return f"{name}/c/{pack}/0"


def metadata(specs: dict[str, ArraySpec], packs: int, attributes: dict[str, Any]) -> dict[str, bytes]:
    """Return key → JSON of every ``zarr.json``: the root group (with consolidated metadata), groups and arrays."""
    objects: dict[str, Buffer] = {}
    store = MemoryStore(objects)
    zarr.create_group(store, attributes=attributes)
    for name, spec in specs.items():
        spec.create(store, name, packs)
    with warnings.catch_warnings():
        # Consolidated metadata is not in the v3 specification yet; readers that ignore it lose nothing.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(store)
    return {key: value.to_bytes() for key, value in sorted(objects.items())}


def unwritten(rows: np.ndarray[Any, Any], fill_value: float | int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which rows were never written: [rows]. A row is written whole or not at all, so its first number is
    enough."""
    first_W = rows[:, 0]
    found: np.ndarray[Any, np.dtype[np.bool_]] = first_W == fill_value
    return np.isnan(first_W) if fill_value != fill_value else found


def damaged_rows(spec: ArraySpec, shard: bytes, ranges: Sequence[Rows]) -> list[int]:
    """Return the positions of the row ranges (relative to the pack) that cannot be decoded from a shard's bytes."""
    bad = []
    for position, rows in enumerate(ranges):
        try:
            decoded(shard, spec.layout, rows)
        except ValueError:
            bad.append(position)
    return bad


def whole_pack(spec: ArraySpec, shard: bytes) -> np.ndarray[Any, Any]:
    """Return all rows of a shard, [pack rows, width], from its bytes alone; chunks that are not there are marked as
    never written.

    Raises:
        ValueError: a part of it is damaged, or is not covered by any of its checksums.
    """
    size = spec.layout.index_bytes
    if len(shard) <= size:
        raise ValueError("it is cut short")
    index = np.frombuffer(shard[-size:-CRC_BYTES], "<u8").reshape(-1, 2)
    ends = [0, *index.sum(axis=1).tolist()]
    if index[:, 0].tolist() != ends[:-1] or ends[-1] != len(shard) - size:
        raise ValueError("its index does not describe it")
    try:
        return decoded(shard, spec.layout, (0, spec.pack_rows))
    except ValueError as error:
        raise ValueError("it does not match its own checksums") from error


class Reader:
    """Reads row ranges of a cache's arrays.

    Args:
        specs: name → how an array is stored.
        threads: how many threads decompress at a time.
        near: knows which shards are not read in the store; None where all are.
    """

    def __init__(
        self,
        storage: Storage,
        specs: Mapping[str, ArraySpec],
        threads: int = THREADS,
        near: Whereabouts | None = None,
    ) -> None:
        self._specs = specs
        self._shards = ShardReader(storage, threads, BUCKET_THREADS, near)

    def read(self, name: str, ranges: Sequence[Rows], empty: Empty = np.empty) -> np.ndarray[Any, Any]:
        """Read rows of array ``name``, the ranges one after another: [sum of lengths, width].

        Args:
            empty: allocates the array that is returned, given its shape and type.

        Raises:
            ValueError: some of the rows are missing or torn.
            CacheError: the store does not answer.
        """
        layout = self._specs[name].layout
        rows = empty((sum(stop - start for start, stop in ranges), layout.width), layout.dtype)
        self._shards.read(name, layout, ranges, rows)
        return rows


def parse(metadata_json: bytes) -> dict[str, Any]:
    """Parse a ``zarr.json``."""
    document: dict[str, Any] = json.loads(metadata_json)
    return document
