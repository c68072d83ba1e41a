"""Shards as zarr writes them, byte for byte, from rows of every kind."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import xxhash
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from gdist.pipeline.cache import encode
from gdist.pipeline.cache.arrays import ArraySpec
from gdist.pipeline.cache.chunks import Layout
from gdist.pipeline.cache.encode import COMPRESS, compression, digest, encoded, level_of
from gdist.pipeline.cache.encodings import ENCODINGS
from gdist.pipeline.errors import UsageError

DIM, CHUNKS = 768, 6
PARTS = {
    f"{name}-{folder}": part for name, encoding in ENCODINGS.items() for folder, part in encoding.parts(DIM).items()
}
SPECS = {
    name: ArraySpec(
        part.width, part.dtype, part.fill_value, *((1, CHUNKS) if part.per_chunk else (128, CHUNKS * 128))
    )
    for name, part in PARTS.items()
} | {"waveform": ArraySpec(320, "int16", -32_768, 128, CHUNKS * 128)}
COMPRESSIONS = ["none", "zstd:-5", "zstd:-1", "zstd:1", "zstd:3"]

Rows = np.ndarray[Any, Any]


def full(spec: ArraySpec) -> Rows:
    rng = np.random.default_rng(spec.width)
    if np.dtype(spec.dtype).kind == "f":
        return rng.standard_normal((spec.pack_rows, spec.width)).astype(spec.dtype)
    return rng.integers(0, 200, (spec.pack_rows, spec.width)).astype(spec.dtype)


def padded(spec: ArraySpec) -> Rows:
    """A chunk and a half, one row, one chunk to the last row, and nothing."""
    rows, some = spec.empty_pack(), full(spec)
    for start, stop in ((0, 192), (256, 257), (384, 512)):
        start, stop = start * spec.chunk_rows // 128, -(-stop * spec.chunk_rows // 128)
        rows[start:stop] = some[start:stop]
    return rows


ROWS: dict[str, Callable[[ArraySpec], Rows]] = {
    "full": full,
    "padded": padded,
    "never written": ArraySpec.empty_pack,
    "zeros": lambda spec: np.zeros((spec.pack_rows, spec.width), spec.dtype),
    "not contiguous": lambda spec: np.asfortranarray(full(spec)),
}


def array_of(spec: ArraySpec, compress: str, store: Store) -> zarr.Array[Any]:
    """An array as zarr's documentation says, independently of ArraySpec.create."""
    zstd = [] if compress == "none" else [ZstdCodec(level=int(compress.removeprefix("zstd:")), checksum=False)]
    return zarr.create_array(
        store, shape=(spec.pack_rows, spec.width), shards=(spec.pack_rows, spec.width),
        chunks=(spec.chunk_rows, spec.width), dtype=spec.dtype, fill_value=spec.fill_value,
        compressors=[*zstd, Crc32cCodec()], config={"write_empty_chunks": True},
    )  # fmt: skip


def with_zarr(spec: ArraySpec, compress: str, rows: Rows) -> bytes:
    objects: dict[str, Any] = {}
    array_of(spec, compress, MemoryStore(objects))[:] = rows
    return bytes(objects["c/0/0"].to_bytes())


class TestSameBytesAsZarr:
    @pytest.mark.parametrize("compress", COMPRESSIONS)
    @pytest.mark.parametrize("name", SPECS)
    def test_every_array(self, name: str, compress: str) -> None:
        spec = SPECS[name]
        for kind, make in ROWS.items():
            rows = make(spec)
            with encoded(rows, spec.chunk_rows, compress) as shard:
                assert bytes(shard.data) == with_zarr(spec, compress, rows), kind
                assert shard.record == {"bytes": len(shard.data), "xxh3_128": digest(bytes(shard.data))}

    @given(dtype=st.sampled_from(["float32", "float16", "uint16", "uint8", "int16"]), width=st.integers(1, 40),
           chunk_rows=st.sampled_from([1, 2, 128]), chunks=st.integers(1, 5),
           compress=st.sampled_from(COMPRESSIONS), values=st.integers(1, 250), seed=st.integers(0, 9))  # fmt: skip
    @settings(max_examples=60, deadline=None)
    def test_any_shape(
        self, dtype: str, width: int, chunk_rows: int, chunks: int, compress: str, values: int, seed: int
    ) -> None:
        spec = ArraySpec(width, dtype, 7, chunk_rows, chunk_rows * chunks)
        rows = np.random.default_rng(seed).integers(0, values, (spec.pack_rows, width)).astype(dtype)
        with encoded(rows, chunk_rows, compress) as shard:
            assert bytes(shard.data) == with_zarr(spec, compress, rows)

    @pytest.mark.parametrize("compress", COMPRESSIONS)
    def test_zarr_reads_it_back(self, compress: str) -> None:
        spec = SPECS["fp16-layers"]
        rows = padded(spec)
        objects: dict[str, Any] = {}
        array = array_of(spec, compress, MemoryStore(objects))
        with encoded(rows, spec.chunk_rows, compress) as shard:
            objects["c/0/0"] = default_buffer_prototype().buffer.from_bytes(bytes(shard.data))
        assert np.asarray(array[:]).tobytes() == rows.tobytes()

    def test_in_threads_at_once(self) -> None:
        """Each has memory of its own, and memory of another shard's size is no matter."""
        names = ["fp32-layers", "int8-scales", "fp16-layers", "waveform"] * 5
        expected = {name: with_zarr(SPECS[name], COMPRESS, padded(SPECS[name])) for name in set(names)}

        def same(name: str) -> bool:
            with encoded(padded(SPECS[name]), SPECS[name].chunk_rows, COMPRESS) as shard:
                return bytes(shard.data) == expected[name]

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(same, names))
        assert len(encode._free) <= 16


class TestPlainBlocks:
    """Where zstd compresses nothing, its frame is predicted to the byte: such chunks are read without it."""

    @pytest.mark.parametrize("size", [1, 255, 256, 2**16, 2**16 + 256, 2**17, 2**17 + 1, 98_304, 196_608, 393_216])
    @pytest.mark.parametrize("level", [-5, -1, 1])
    def test_they_are_what_zstd_writes(self, size: int, level: int) -> None:
        rows = np.random.default_rng(0).integers(0, 256, (1, size), np.uint8)
        layout, position, expected = Layout(rows.dtype, size, 1, 1), 0, b""
        for head, length in layout.blocks:
            expected += head + rows[0, position : position + length].tobytes()
            position += length
        with encoded(rows, 1, f"zstd:{level}") as shard:
            assert bytes(shard.data).startswith(expected)
            assert len(shard.data) == layout.plain_bytes + layout.index_bytes

    def test_by_hand(self) -> None:
        layout = Layout(np.dtype("float16"), 768, 128, 128)
        first, second = bytes.fromhex("28b52ffd a0 00000300 000010"), bytes.fromhex("010008")
        assert layout.blocks == [(first, 0x20000), (second, 0x10000)]
        assert Layout(np.dtype("float16"), 768, 128, 128, compressed=False).blocks == [(b"", 0x30000)]


class TestCompression:
    @pytest.mark.parametrize(
        ("text", "recorded", "level"),
        [("zstd", COMPRESS, -1), ("zstd:3", "zstd:3", 3), ("zstd:-05", "zstd:-5", -5), ("none", "none", None)],
    )
    def test_what_is_recorded(self, text: str, recorded: str, level: int | None) -> None:
        assert compression(text) == recorded and level_of(recorded) == level

    @pytest.mark.parametrize(
        "text", ["", "gzip", "zstd:", "zstd:high", "zstd:23", "zstd:-101", "none:1", "3", "ZSTD"]
    )
    def test_what_to_type(self, text: str) -> None:
        with pytest.raises(UsageError, match=f"--compress {text}: ") as error:
            compression(text)
        assert error.value.hint and "--compress zstd:3" in error.value.hint


def test_the_digest() -> None:
    assert digest(b"gdist") == digest(memoryview(b"gdist")) == xxhash.xxh3_128_hexdigest(b"gdist")
    assert len(digest(b"")) == 32 and digest(b"a") != hashlib.sha256(b"a").hexdigest()
