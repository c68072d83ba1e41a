"""How the chunks of an array are stored in its shards: the layouts that gdist reads without zarr.

A shard is its chunks one after another, and an index at the end (see encode.py). A chunk is zstd, or its plain bytes,
and then the crc32c of that.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

CRC_BYTES = 4
INDEX_ENTRY_BYTES = 16
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
BLOCK_BYTES = 1 << 17  # the largest block of a zstd frame
ONE_SEGMENT = 1 << 5  # a flag of a zstd frame


@dataclass(frozen=True)
class Layout:
    """The layout of an array whose shards can be read without zarr.

    Attributes:
        compressed: whether chunks are zstd's frames.
    """

    dtype: np.dtype[Any]
    width: int
    chunk_rows: int
    pack_rows: int
    compressed: bool = True

    @cached_property
    def chunk_bytes(self) -> int:
        """Size of a decompressed chunk."""
        return self.chunk_rows * self.width * self.dtype.itemsize

    @property
    def index_bytes(self) -> int:
        return self.pack_rows // self.chunk_rows * INDEX_ENTRY_BYTES + CRC_BYTES

    @cached_property
    def blocks(self) -> list[tuple[bytes, int]]:
        """How a chunk is stored where nothing in it could be compressed: some bytes of zstd's, then so many of the
        chunk's own, and so on. By hand, for 0x30000 bytes:

            28 b5 2f fd  a0  00 00 03 00    the magic number, one segment with 4 bytes of size, the size
            00 00 10     0x20000 bytes      a block as it is (its size · 8), more follow
            01 00 08     0x10000 bytes      a block as it is, the last one
        """
        size = self.chunk_bytes
        if not self.compressed:
            return [(b"", size)]
        flag, base, length = (0, 0, 1) if size < 256 else (1, 256, 2) if size < 256 + 2**16 else (2, 0, 4)
        head = ZSTD_MAGIC + bytes([flag << 6 | ONE_SEGMENT]) + (size - base).to_bytes(length, "little")
        blocks = []
        for start in range(0, size, BLOCK_BYTES):
            block = min(BLOCK_BYTES, size - start)
            last = start + block == size
            blocks.append((head + (block << 3 | last).to_bytes(3, "little"), block))
            head = b""
        return blocks

    @cached_property
    def plain_heads(self) -> bytes:
        """What is around these blocks, one after another."""
        return b"".join(head for head, _ in self.blocks)

    @property
    def plain_bytes(self) -> int:
        """Length of a chunk that is stored in these blocks, and of its checksum."""
        return len(self.plain_heads) + self.chunk_bytes + CRC_BYTES


def layout_of(document: Mapping[str, Any]) -> Layout | None:
    """Return the layout that an array's ``zarr.json`` describes; None where only zarr itself can read it."""
    try:
        (sharding,) = document["codecs"]
        inner = sharding["configuration"]
        rows, width = document["shape"]
        pack_rows, pack_width = document["chunk_grid"]["configuration"]["chunk_shape"]
        chunk_rows, chunk_width = inner["chunk_shape"]
        compressed = _names(inner["codecs"]) == ["bytes", "zstd", "crc32c"]
        known = (
            sys.byteorder == "little"
            and document["zarr_format"] == 3
            and document["chunk_grid"]["name"] == "regular"
            and document["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
            and not document.get("storage_transformers")
            and sharding["name"] == "sharding_indexed"
            and inner["index_location"] == "end"
            and (compressed or _names(inner["codecs"]) == ["bytes", "crc32c"])
            and _names(inner["index_codecs"]) == ["bytes", "crc32c"]
            and width == pack_width == chunk_width
            and rows % pack_rows == 0
            and pack_rows % chunk_rows == 0
        )
        dtype = np.dtype(document["data_type"])
        return Layout(dtype, width, chunk_rows, pack_rows, compressed) if known else None
    except (
        ArithmeticError,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
    ):  # the metadata of some other kind of array
        return None


def _names(codecs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the codecs' names in order, without big-endian codecs, which are not supported here."""
    endians = [codec.get("configuration", {}).get("endian", "little") for codec in codecs]
    return [codec["name"] for codec, endian in zip(codecs, endians, strict=True) if endian == "little"]


def content_size(head: bytes) -> int:
    """Return the content size that a zstd frame states (RFC 8878, section 3.1.1.1); −1 if none, or not a frame.

    By hand: 28 b5 2f fd | a0 (4 bytes of size, one segment) | 00 00 03 00 is a frame of 0x30000 bytes.
    """
    if len(head) < 6 or head[:4] != ZSTD_MAGIC:
        return -1
    flags = head[4]
    one_segment = flags >> 5 & 1
    length = (one_segment, 2, 4, 8)[flags >> 6]
    start = 5 + (1 - one_segment) + (0, 1, 2, 4)[flags & 3]
    if not length or len(head) < start + length:
        return -1
    return int.from_bytes(head[start : start + length], "little") + (256 if length == 2 else 0)
