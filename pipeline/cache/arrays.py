"""The only module that uses zarr: the arrays' metadata, reads of what is stored in other ways, and of damaged shards.

An array is [rows, width], sharded by pack and chunked by 128 rows. A shard is encoded in memory (encode.py) and
written by the caller as one object, so that its digest is known and two writers never share a shard.
"""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore, ObjectStore

from gdist.pipeline.cache.chunks import CRC_BYTES, INDEX_ENTRY_BYTES, layout_of
from gdist.pipeline.cache.encode import COMPRESS, level_of
from gdist.pipeline.cache.pieces import Rows
from gdist.pipeline.cache.place import Whereabouts
from gdist.pipeline.cache.shards import ShardReader
from gdist.pipeline.storage.objects import Storage

# Object stores are dominated by latency: many requests in flight, not zarr's default of ten. The fused pipeline
# decodes chunks without one task per chunk: whole packs are three times as fast as with zarr's default, same bytes.
zarr.config.set({"async.concurrency": 64, "codec_pipeline.path": "zarr.core.codec_pipeline.FusedCodecPipeline"})

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
    array, bad = _array_of(spec, shard), []
    for position, (start, stop) in enumerate(ranges):
        try:
            array[start:stop]
        # Damage can surface anywhere in the decoder (checksum, zstd, index), as any exception; all mean the same.
        except Exception:
            bad.append(position)
    return bad


def whole_pack(spec: ArraySpec, shard: bytes) -> np.ndarray[Any, Any]:
    """Return all rows of a shard, [pack rows, width], from its bytes alone.

    Raises:
        ValueError: a part of it is damaged, or is not covered by any of its checksums.
    """
    size = spec.pack_rows // spec.chunk_rows * INDEX_ENTRY_BYTES + CRC_BYTES
    if len(shard) <= size:
        raise ValueError("it is cut short")
    index = np.frombuffer(shard[-size:-CRC_BYTES], "<u8").reshape(-1, 2)
    ends = [0, *index.sum(axis=1).tolist()]
    if index[:, 0].tolist() != ends[:-1] or ends[-1] != len(shard) - size:
        raise ValueError("its index does not describe it")
    try:
        return np.asarray(_array_of(spec, shard)[:])
    except Exception as error:  # as above
        raise ValueError("it does not match its own checksums") from error


def _array_of(spec: ArraySpec, shard: bytes) -> zarr.Array[Any]:
    objects: dict[str, Buffer] = {}
    array = spec.create(MemoryStore(objects), None, 1)
    objects["c/0/0"] = default_buffer_prototype().buffer.from_bytes(shard)
    return array


class Reader:
    """Reads row ranges of a cache's arrays. Opening reads one object: the consolidated metadata.

    Args:
        threads: how many threads decompress at a time.
        near: knows which shards are not read in the store; None where all are.
    """

    def __init__(self, storage: Storage, threads: int = THREADS, near: Whereabouts | None = None) -> None:
        self._storage = storage
        self._documents: dict[str, Any] = parse(storage.get("zarr.json"))["consolidated_metadata"]["metadata"]
        self.layouts = {name: layout_of(document) for name, document in self._documents.items()}
        self._shards = ShardReader(storage, threads, BUCKET_THREADS, near)
        self._others: dict[str, zarr.Array[Any]] = {}

    def read(self, name: str, ranges: Sequence[Rows], empty: Empty = np.empty) -> np.ndarray[Any, Any]:
        """Read rows of array ``name``, the ranges one after another: [sum of lengths, width].

        Args:
            empty: allocates the array that is returned, given its shape and type.

        Raises:
            ValueError, zarr's own errors: some of the rows are missing or torn.
            CacheError: the store does not answer.
        """
        layout = self.layouts[name]
        if layout is None:
            return self._read_with_zarr(name, ranges)
        rows = empty((sum(stop - start for start, stop in ranges), layout.width), layout.dtype)
        self._shards.read(name, layout, ranges, rows)
        return rows

    def _read_with_zarr(self, name: str, ranges: Sequence[Rows]) -> np.ndarray[Any, Any]:
        """Read with any codecs, some 0.3 ms per chunk slower."""
        if name not in self._others:
            array = zarr.open_array(ObjectStore(self._storage.store, read_only=True), path=name, mode="r")
            self._others[name] = array
        rows = np.concatenate([np.arange(start, stop) for start, stop in ranges])
        return np.asarray(self._others[name].oindex[rows])


def parse(metadata_json: bytes) -> dict[str, Any]:
    """Parse a ``zarr.json``."""
    document: dict[str, Any] = json.loads(metadata_json)
    return document
