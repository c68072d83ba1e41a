"""The documents of a cache, with checksums that are right again."""

import io
import shutil
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fuzzing import artefacts
from fuzzing.mutations import hostile, other_table, text_of, torn
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.lock import Lock, require_token
from gdist.pipeline.cache.plan import HOLDER, ROOT
from gdist.pipeline.cache.survey import caches_below
from gdist.pipeline.cache.verify import verify
from gdist.pipeline.errors import GdistError
from gdist.pipeline.loading.batch import Selection
from gdist.pipeline.loading.loader import Loader
from gdist.pipeline.machine import myself
from gdist.pipeline.storage.objects import Storage, seal, sha256, unseal
from gdist.stages.extract.inspection import describe


def resealed(document: Any, path_to_holder: tuple[str, ...] = ()) -> bytes:
    """Return a document's bytes with the right checksum, if there is still a place for one."""
    holder = document
    try:
        for key in path_to_holder:
            holder = holder[key]
        return seal(document, holder)
    except (TypeError, KeyError, IndexError, ValueError):  # ValueError: halves of characters cannot be sealed
        return text_of(document)


class RootDocument:
    """A cache whose root document says something else. It is opened, read and verified."""

    def __init__(self, folder: Path) -> None:
        self.cache = shutil.copytree(artefacts.cache(), folder / "cache")
        self.good = (self.cache / ROOT).read_bytes()

    def make(self, random: Random) -> bytes:
        return resealed(hostile(unseal(self.good, HOLDER), random), HOLDER)

    def read(self, data: bytes) -> None:
        (self.cache / ROOT).write_bytes(data)
        use(self.cache)


class Receipts:
    """A cache without summaries, one of whose receipts says something else."""

    def __init__(self, folder: Path) -> None:
        self.cache = shutil.copytree(artefacts.cache(), folder / "cache")
        shutil.rmtree(self.cache / "summaries")
        self.good = (self.cache / "receipts/00000.json").read_bytes()

    def make(self, random: Random) -> bytes:
        return resealed(hostile(unseal(self.good), random))

    def read(self, data: bytes) -> None:
        (self.cache / "receipts/00000.json").write_bytes(data)
        use(self.cache)


class Summaries:
    """A cache whose summary's document says something else, or whose table has other contents."""

    def __init__(self, folder: Path) -> None:
        self.cache = shutil.copytree(artefacts.cache(), folder / "cache")
        self.head = (self.cache / "summaries/00000.json").read_bytes()
        self.table = (self.cache / "summaries/00000.parquet").read_bytes()

    def make(self, random: Random) -> bytes:
        if random.random() < 0.5:
            return resealed(hostile(unseal(self.head), random)) + self.table
        table = self.table
        if random.random() < 0.5:
            table = torn(table, random)
        else:
            out = io.BytesIO()
            pq.write_table(other_table(pq.read_table(pa.BufferReader(table)), random), out, compression="zstd")
            table = out.getvalue()
        head = unseal(self.head)
        head["table"] = {"bytes": len(table), "sha256": sha256(table)}
        return seal(head, head) + table

    def read(self, data: bytes) -> None:
        head, mark, table = data.partition(b"PAR1")
        (self.cache / "summaries/00000.json").write_bytes(head)
        (self.cache / "summaries/00000.parquet").write_bytes(mark + table)
        use(self.cache)


class LockDocument:
    """A lock that says something else, which another process finds."""

    def __init__(self, folder: Path) -> None:
        self.storage = Storage(str(folder), create=True)
        self.good = {"token": "0" * 32, "beat": 3, "work": "extraction", **myself()} | {"pid": 2**22 + 1}

    def make(self, random: Random) -> bytes:
        document = hostile(self.good, random)
        return text_of(document) if random.random() < 0.7 else torn(text_of(document), random)

    def read(self, data: bytes) -> None:
        self.storage.put("extracting.json", data)
        with suppress(GdistError):
            require_token(self.storage, "0" * 32)
        with Lock(self.storage, beat_seconds=0.005):
            pass


def use(folder: Path) -> None:
    """Do with a cache what training, `gdist inspect`, `gdist caches` and `gdist verify` do."""
    caches_below(str(folder.parent))
    cache = Cache.open(str(folder))
    entries = [entry for entry in cache.entries[:4] if entry.num_frames]
    for act in (
        lambda: cache.hidden(cache.layers[0], [(entry, 0, entry.num_frames) for entry in entries]),
        lambda: cache.waveform([(entry, 0, entry.num_frames) for entry in entries]),
        lambda: Loader(cache, cache.entries, Selection((cache.layers[0],)), 32.0).epoch_batches(0)[:2],
        lambda: describe(cache),
        lambda: cache.broken_packs([*cache.specs]),
        lambda: verify(cache, lambda *_: None),
    ):
        try:
            act()
        except GdistError:  # one of them may still be refused by the others
            continue
