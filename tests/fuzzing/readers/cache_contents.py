"""What a cache's documents describe: its index, the arrays' metadata, shards; with checksums that are right again."""

import io
import json
import shutil
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import resealed
from google_crc32c import value as crc32c

from fuzzing import artefacts
from fuzzing.mutations import hostile, other_table, torn
from fuzzing.readers.cache_documents import use
from gdist.pipeline.cache.encode import record


class _Copy:
    """A cache of its own, whose documents are put back before each input."""

    def __init__(self, folder: Path) -> None:
        self.cache = shutil.copytree(artefacts.cache(), folder / "cache")
        self.root = (self.cache / "zarr.json").read_bytes()

    def restore(self) -> None:
        for name in ("zarr.json", "plans/00000.json"):
            (self.cache / name).write_bytes(self.root)


class IndexBytes(_Copy):
    """An index of other bytes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.good = (self.cache / "index.parquet").read_bytes()

    def make(self, random: Random) -> bytes:
        return torn(self.good, random)

    def read(self, data: bytes) -> None:
        self.restore()
        resealed.planned(self.cache, "index.parquet", data)
        use(self.cache)


class IndexContents(IndexBytes):
    """An index of other columns, types and values."""

    def make(self, random: Random) -> bytes:
        table, out = other_table(pq.read_table(pa.BufferReader(self.good)), random), io.BytesIO()
        try:
            pq.write_table(table, out, compression=random.choice(["zstd", "zstd", "none", "gzip"]))
        except pa.ArrowException:  # a struct without fields
            return torn(self.good, random)
        return out.getvalue()

    def read(self, data: bytes) -> None:
        self.restore()
        try:
            rows = pq.read_table(pa.BufferReader(data))
            frames = sum(rows["num_frames"].to_pylist())
        except (KeyError, TypeError, ValueError, OSError, pa.ArrowException):
            rows, frames = None, None
        resealed.planned(self.cache, "index.parquet", data)
        if rows is not None and isinstance(frames, int) and 0 <= frames < 2**53:  # the root agrees with it
            resealed.root(self.cache, lambda gdist: gdist.update(utterances=rows.num_rows, frames=frames))
        use(self.cache)


class ArrayMetadata(_Copy):
    """Arrays that are described otherwise, in the root and in their own documents."""

    def make(self, random: Random) -> bytes:
        described = json.loads(self.root)["consolidated_metadata"]["metadata"]
        return json.dumps(hostile(described, random)).encode()

    def read(self, data: bytes) -> None:
        self.restore()
        found = json.loads(data)

        def change(described: dict[str, object]) -> None:
            described.clear()
            described.update(found if isinstance(found, dict) else {})

        try:
            resealed.metadata(self.cache, change)
        except (OSError, ValueError):  # names that no file can have, numbers that cannot be sealed
            return
        use(self.cache)


class Shards(_Copy):
    """Shards of other bytes, with the checksums of its index and chunks and the receipt's digest right again."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        shutil.rmtree(self.cache / "summaries")
        self.shard = self.cache / "layers/00/c/0/0"
        self.good = self.shard.read_bytes()
        self.receipt = (self.cache / "receipts/00000.json").read_bytes()

    def make(self, random: Random) -> bytes:
        if random.random() < 0.3:
            return torn(self.good, random)
        size = 2 * 16 + 4  # the index: a pack of 256 rows has two chunks
        index = torn(self.good[-size:-4], random) if random.random() < 0.6 else self.good[-size:-4]
        body = bytearray(torn(self.good[:-size], random) if random.random() < 0.8 else self.good[:-size])
        for place in range(0, len(index) - 15, 16):
            offset, length = (int.from_bytes(index[at : at + 8], "little") for at in (place, place + 8))
            if offset + length <= len(body) and length > 4:
                body[offset + length - 4 : offset + length] = crc(bytes(body[offset : offset + length - 4]))
        return bytes(body) + index + crc(index)

    def read(self, data: bytes) -> None:
        (self.cache / "receipts/00000.json").write_bytes(self.receipt)
        self.shard.write_bytes(data)
        resealed.document(
            self.cache,
            "receipts/00000.json",
            lambda found: found["objects"].update({"layers/00/c/0/0": record(data)}),
        )
        use(self.cache)


def crc(data: bytes) -> bytes:
    return int(crc32c(data)).to_bytes(4, "little")
