"""Shards read without zarr: row for row what zarr reads, and an error wherever something is missing or torn."""

import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google_crc32c import value as crc32c
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numcodecs.zstd import Zstd

from gdist.pipeline.cache import arrays, shards
from gdist.pipeline.cache.arrays import ArraySpec, Reader
from gdist.pipeline.cache.chunks import Layout, content_size, layout_of
from gdist.pipeline.cache.encode import encoded
from gdist.pipeline.cache.encodings import ENCODINGS
from gdist.pipeline.cache.pieces import Rows
from gdist.pipeline.cache.shards import ABSENT, ShardReader
from gdist.pipeline.errors import CacheError
from gdist.pipeline.storage.objects import Storage

CHUNK, PACK, PACKS, DIM = 4, 24, 3, 5
PARTS = {
    f"{name}-{folder}": (part.width, part.dtype, part.fill_value, 1 if part.per_chunk else CHUNK, PACK)
    for name, encoding in ENCODINGS.items()
    for folder, part in encoding.parts(DIM).items()
} | {"waveform": (320, "int16", -32_768, CHUNK, PACK)}
SPECS = {name: ArraySpec(*part) for name, part in PARTS.items()} | {
    f"{name}-{compress}": ArraySpec(*part, compress)
    for name, part in PARTS.items()
    for compress in ("none", "zstd:1")
}
LAYOUT = Layout(np.dtype("float16"), DIM, CHUNK, PACK)


def rows_of(name: str) -> np.ndarray[Any, Any]:
    """The rows of array ``name``."""
    spec, rng = SPECS[name], np.random.default_rng(sorted(SPECS).index(name))
    values = rng.integers(0, 200, (PACKS * PACK, spec.width))
    values[::7] = 3
    values[:: 2 * CHUNK] = values[1 :: 2 * CHUNK] = 5  # some chunks compress well
    return values.astype(spec.dtype)


def encode(spec: ArraySpec, rows: np.ndarray[Any, Any]) -> bytes:
    with encoded(rows, spec.chunk_rows, spec.compress) as shard:
        return bytes(shard.data)


def write(storage: Storage) -> None:
    for key, data in arrays.metadata(SPECS, PACKS, {}).items():
        storage.put(key, data)
    for name, spec in SPECS.items():
        for pack, rows in enumerate(np.split(rows_of(name), PACKS)):
            storage.put(arrays.shard_key(name, pack), encode(spec, rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every array of every encoding, for reading only."""
    path = tmp_path_factory.mktemp("shards")
    write(Storage(str(path), create=True))
    return path


@pytest.fixture(scope="module")
def memory() -> Storage:
    storage = Storage(f"memory://{uuid.uuid4()}")
    write(storage)
    return storage


def with_zarr(storage: Storage, name: str, ranges: Sequence[Rows]) -> np.ndarray[Any, Any]:
    """The same rows as zarr reads them."""
    import zarr

    array = zarr.open_array(zarr.storage.ObjectStore(storage.store, read_only=True), path=name, mode="r")
    rows = np.concatenate([np.arange(start, stop) for start, stop in ranges])
    return np.asarray(array.oindex[rows])


@st.composite
def some_rows(draw: st.DrawFn) -> Rows:
    start = draw(st.integers(0, PACKS * PACK))
    return start, draw(st.integers(start, PACKS * PACK))


class TestSameRowsAsZarr:
    @pytest.mark.parametrize("place", ["folder", "memory"])
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(name=st.sampled_from(sorted(SPECS)), ranges=st.lists(some_rows(), min_size=1, max_size=6),
           threads=st.sampled_from([1, 3]), small_runs=st.booleans(), straight=st.booleans())  # fmt: skip
    def test_any_ranges(
        self, folder: Path, memory: Storage, place: str, name: str, ranges: list[Rows], threads: int,
        small_runs: bool, straight: bool,
    ) -> None:  # fmt: skip
        """In any order, overlapping, across packs, and empty."""
        storage = Storage(str(folder)) if place == "folder" else memory
        reader = Reader(storage, SPECS, threads)
        with pytest.MonkeyPatch.context() as patch:
            if small_runs:
                patch.setattr(shards, "RUN_BYTES", 100)
                patch.setattr(shards, "PIECES", 2)
            if straight:
                patch.setattr(shards, "PLAIN_BYTES", 0)
            read = reader.read(name, ranges)
        expected = with_zarr(storage, name, ranges)
        assert read.dtype == expected.dtype and read.shape == expected.shape
        assert read.tobytes() == expected.tobytes()
        assert np.array_equal(read, np.concatenate([rows_of(name)[start:stop] for start, stop in ranges]))

    def test_into_the_callers_memory(self, folder: Path) -> None:
        mine = np.zeros((9, DIM), np.float16)
        read = Reader(Storage(str(folder)), SPECS).read("fp16-layers", [(3, 12)], lambda shape, dtype: mine)
        assert read is mine and np.array_equal(mine, rows_of("fp16-layers")[3:12])

    def test_an_index_is_read_once_and_adjacent_chunks_in_one_piece(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = noted(monkeypatch)
        reader = Reader(Storage(str(folder)), SPECS, 1)
        reader.read("fp16-layers", [(0, 7), (7, 8), (16, 18)])
        index, first, second = asked
        assert index == LAYOUT.index_bytes and len(first) == len(second) == 1
        reader.read("fp16-layers", [(0, PACK)])
        assert len(asked) == 4 and len(asked[3]) == 1

    @pytest.mark.parametrize(("compress", "heads"), [("", 1), ("-none", 1)])
    def test_what_was_not_compressed_is_read_straight_into_its_place(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, compress: str, heads: int
    ) -> None:
        """And only whole chunks are."""
        monkeypatch.setattr(shards, "PLAIN_BYTES", 0)
        values = np.random.default_rng(0).standard_normal((PACK, DIM)).astype(np.float16)
        name = f"fp16-layers{compress}"
        storage = Storage(str(folder))
        before = storage.get(f"{name}/c/2/0")
        storage.put(f"{name}/c/2/0", encode(SPECS[name], values))
        asked = noted(monkeypatch)
        mine = np.zeros((2 * CHUNK + 1, DIM), np.float16)
        start = 2 * PACK + CHUNK
        Reader(storage, SPECS, 1).read(name, [(start, start + len(mine))], lambda shape, dtype: mine)
        assert np.array_equal(mine, values[CHUNK:][: len(mine)])
        _, straight, rest = asked
        assert [part.size for part in straight if np.shares_memory(part, mine)] == [CHUNK * DIM * 2] * 2
        assert not any(np.shares_memory(part, mine) for part in rest)
        storage.put(f"{name}/c/2/0", before)


def noted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is read from local files from now on: the number of bytes of an index, and the memory that is filled."""
    asked: list[Any] = []
    pread, preadv = os.pread, os.preadv

    def note_pread(file: int, size: int, start: int) -> bytes:
        asked.append(size)
        return pread(file, size, start)

    def note_preadv(file: int, parts: Sequence[Any], start: int) -> int:
        asked.append(parts)
        return preadv(file, parts, start)

    monkeypatch.setattr("os.pread", note_pread)
    monkeypatch.setattr("os.preadv", note_preadv)
    return asked


class TestOtherWaysToStore:
    """Metadata of what is not stored as gdist does is never taken for that of a cache's array."""

    def document(self) -> dict[str, Any]:
        found = arrays.parse(arrays.metadata(SPECS, PACKS, {})["fp16-layers/zarr.json"])
        assert layout_of(found) == LAYOUT
        return found

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("zarr_format", 2),
            ("shape", [PACKS * PACK + 1, DIM]),
            ("shape", [PACKS * PACK]),
            ("chunk_grid.name", "rectilinear"),
            ("chunk_key_encoding.configuration.separator", "."),
            ("storage_transformers", [{"name": "other"}]),
            ("data_type", "an_extension"),
            ("data_type", {"name": "numpy.datetime64"}),
            ("codecs", [{"name": "bytes"}]),
            ("codecs.0.name", "other"),
            ("codecs.0.configuration.index_location", "start"),
            ("codecs.0.configuration.chunk_shape", [CHUNK, 1]),
            ("codecs.0.configuration.chunk_shape", [5, DIM]),
            ("codecs.0.configuration.codecs.0.configuration.endian", "big"),
            ("codecs.0.configuration.codecs.1.name", "gzip"),
            ("codecs.0.configuration.codecs", [{"name": "bytes"}, {"name": "zstd"}]),
            ("codecs.0.configuration.codecs", [{"name": "crc32c"}]),
            ("codecs.0.configuration.index_codecs", [{"name": "bytes"}]),
        ],
    )
    def test_other_metadata(self, path: str, value: Any) -> None:
        document = self.document()
        inner: Any = document
        *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        for step in steps:
            inner = inner[step]
        inner[last] = value
        assert layout_of(document) is None

    def test_nonsense(self) -> None:
        assert layout_of({}) is None and layout_of({"codecs": None}) is None


def checksum(data: bytes) -> bytes:
    return int(crc32c(data)).to_bytes(4, "little")


def reindexed(shard: bytes, change: Callable[[np.ndarray[Any, Any]], object]) -> bytes:
    """A shard with a changed index, whose checksum is right."""
    index = np.frombuffer(shard[-LAYOUT.index_bytes : -4], "<u8").reshape(-1, 2).copy()
    change(index)
    body: bytes = index.tobytes()
    return shard[: -LAYOUT.index_bytes] + body + checksum(body)


def with_first_chunk(shard: bytes, packed: bytes) -> bytes:
    """A shard whose first chunk is another one, with all checksums right."""
    chunk = packed + checksum(packed)
    end = len(shard) - LAYOUT.index_bytes
    there = shard[:end] + chunk + shard[end:]
    return reindexed(there, lambda index: index.__setitem__(0, (end, len(chunk))))


def flipped(shard: bytes, at: int) -> bytes:
    at %= len(shard)
    return shard[:at] + bytes([shard[at] ^ 4]) + shard[at + 1 :]


BYTES = CHUNK * DIM * 2
DAMAGE: dict[str, tuple[Callable[[bytes], bytes | None], str]] = {
    "no shard": (lambda s: None, "its shard is missing"),
    "nothing in it": (lambda s: b"", "index does not match its checksum"),
    "less than an index": (lambda s: s[-20:], "index does not match its checksum"),
    "cut short": (lambda s: s[:-1], "index does not match its checksum"),
    "the index": (lambda s: flipped(s, -30), "index does not match its checksum"),
    "the index's checksum": (lambda s: flipped(s, -1), "index does not match its checksum"),
    "zeros": (lambda s: bytes(len(s)), "index does not match its checksum"),
    "never written": (lambda s: reindexed(s, lambda i: i.__setitem__(0, ABSENT)), "chunk 0 was never written"),
    "an offset past the end": (lambda s: reindexed(s, lambda i: i.__setitem__((0, 0), 10**6)), "past its end"),
    "a length past the end": (lambda s: reindexed(s, lambda i: i.__setitem__((0, 1), 2**63)), "past its end"),
    "sums that overflow": (lambda s: reindexed(s, lambda i: i.__setitem__(0, (2**64 - 2, 2))), "past its end"),
    "more than a chunk": (lambda s: reindexed(s, lambda i: i.__setitem__(0, (0, 180))), "larger than chunks are"),
    "no bytes": (lambda s: reindexed(s, lambda i: i.__setitem__((0, 1), 0)), "has an empty chunk"),
    "too few for a checksum": (lambda s: reindexed(s, lambda i: i.__setitem__((0, 1), 3)), "has an empty chunk"),
    "a byte of the chunk": (lambda s: flipped(s, 9), "a chunk does not match its checksum"),
    "another chunk's length": (lambda s: reindexed(s, lambda i: i.__setitem__((0, 1), i[0, 1] - 1)), "its checksum"),
    "too little in it": (lambda s: with_first_chunk(s, Zstd().encode(bytes(BYTES - 2))), f"not have {BYTES} bytes"),
    "too much in it": (lambda s: with_first_chunk(s, Zstd().encode(bytes(BYTES + 2))), f"not have {BYTES} bytes"),
    "not zstd": (lambda s: with_first_chunk(s, b"gdist" * 9), f"not have {BYTES} bytes"),
    "half a frame": (lambda s: with_first_chunk(s, Zstd().encode(b"ab" * (BYTES // 2))[:-2]), "be decompressed"),
}


class TestDamage:
    @pytest.mark.parametrize("place", ["folder", "memory", "straight"])
    @pytest.mark.parametrize("what", DAMAGE)
    def test_it_is_reported(
        self, folder: Path, tmp_path: Path, place: str, what: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And the rest of the array is read as before, from the same reader."""
        damage, message = DAMAGE[what]
        monkeypatch.setattr(shards, "PLAIN_BYTES", 0 if place == "straight" else shards.PLAIN_BYTES)
        if place != "memory":
            storage = Storage(str(shutil.copytree(folder, tmp_path / "copy")))
        else:
            storage = Storage(f"memory://{uuid.uuid4()}")
            write(storage)
        key = "fp16-layers/c/1/0"
        damaged = damage(storage.get(key))
        storage.delete([key]) if damaged is None else storage.put(key, damaged)
        reader = Reader(storage, SPECS)
        for ranges in ([(PACK, PACK + 1)], [(0, 2), (PACK + 1, PACK + 7)], [(PACK, PACK + CHUNK)]):
            with pytest.raises(ValueError, match=message):
                reader.read("fp16-layers", ranges)
        whole = rows_of("fp16-layers")
        assert np.array_equal(reader.read("fp16-layers", [(0, PACK), (2 * PACK, 3 * PACK)])[:PACK], whole[:PACK])

    @pytest.mark.parametrize("place", ["folder", "memory"])
    def test_while_it_is_open(self, folder: Path, tmp_path: Path, place: str) -> None:
        """An index that was read is kept, but never used in place of a newer one: a repair, then a loss."""
        storage = Storage(str(tmp_path), create=True) if place == "folder" else Storage(f"memory://{uuid.uuid4()}")
        write(storage)
        reader, key, other = Reader(storage, SPECS), "fp16-layers/c/1/0", rows_of("fp16-layers")[PACK : 2 * PACK] * 3
        reader.read("fp16-layers", [(PACK, 2 * PACK)])
        other[::2] = 0  # other lengths, so the remembered index is wrong
        storage.put(key, encode(SPECS["fp16-layers"], other))
        assert np.array_equal(reader.read("fp16-layers", [(PACK, 2 * PACK)]), other)
        cut = storage.get(key)[:40]
        for rows in ((PACK, 2 * PACK), (2 * PACK - 1, 2 * PACK)):  # the last row's chunk begins past the end now
            reader.read("fp16-layers", [(PACK, 2 * PACK)])
            storage.put(key, cut)
            with pytest.raises(ValueError, match="index does not match its checksum"):
                reader.read("fp16-layers", [rows])
            storage.put(key, encode(SPECS["fp16-layers"], other))
        storage.delete([key])
        with pytest.raises(ValueError, match="its shard is missing"):
            reader.read("fp16-layers", [(PACK, 2 * PACK)])

    def test_an_error_of_the_store_is_not_damage(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> Any:
            raise PermissionError(13, "Permission denied")

        storage = Storage(str(folder))
        reader = ShardReader(storage, 1)
        rows = np.empty((1, DIM), np.float16)
        reader.read("fp16-layers", LAYOUT, [(0, 1)], rows)
        monkeypatch.setattr("os.preadv", refuse)
        with pytest.raises(CacheError, match=r"cannot read .*fp16-layers/c/0/0: Permission denied"):
            reader.read("fp16-layers", LAYOUT, [(0, 1)], rows)


@given(st.integers(0, 70_000), st.booleans())
@settings(max_examples=50, deadline=None)
def test_the_content_size_of_a_frame(size: int, checksum: bool) -> None:
    frame = Zstd(level=1, checksum=checksum).encode(bytes(size))
    assert content_size(frame[:14]) == size


def test_the_content_size_of_a_frame_by_hand() -> None:
    assert content_size(bytes.fromhex("28b52ffd a0 00000300")) == 0x30000
    assert content_size(bytes.fromhex("28b52ffd 20 07")) == 7
    assert content_size(bytes.fromhex("28b52ffd 60 0100")) == 257
    assert content_size(bytes.fromhex("28b52ffd 00 58 00")) == -1  # streamed: it does not say
    assert content_size(bytes.fromhex("28b52ffd a0 0000")) == -1
    assert content_size(b"") == -1


def test_sizes() -> None:
    assert replace(LAYOUT, dtype=np.dtype("float32")).chunk_bytes == CHUNK * DIM * 4
    assert LAYOUT.index_bytes == PACK // CHUNK * 16 + 4
