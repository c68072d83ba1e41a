"""Sealed summaries: copies of an addition's receipts in two objects, so that a finished cache opens in few requests.

    summaries/00000.parquet   one row per pack: its receipt, and the sizes of its shards as columns
    summaries/00000.json      sealed, written last: totals, every quarantined utterance, and the table's digest

A pack is done when its receipt is there; a summary only says so faster. Whoever changes a receipt deletes the summary
first. What does not match its seal is not a summary, and the receipts are read instead.
"""

import hashlib
import io
import json
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gdist.pipeline.cache.coherence import require_head
from gdist.pipeline.cache.entries import Numbers
from gdist.pipeline.cache.schema import RECEIPT_BYTES, TABLE_BYTES
from gdist.pipeline.cache.tables import Bounded
from gdist.pipeline.errors import CacheDamagedError
from gdist.pipeline.schema import SchemaError, parse
from gdist.pipeline.storage.objects import Storage, canonical, seal, sha256, unseal

ROWS = 1024  # per row group: what is in memory as Python objects at a time
SMALL = 1 << 20  # bytes of a table that is kept in memory

Receipt = dict[str, Any]


def head_key(number: int) -> str:
    """Return the key of the sealed document of an addition's summary."""
    return f"summaries/{number:05d}.json"


def table_key(number: int) -> str:
    """Return the key of the table of an addition's summary."""
    return f"summaries/{number:05d}.parquet"


@dataclass
class Summary:
    """The summary of one addition, whose receipts may be read from its table."""

    storage: Storage
    number: int
    head: dict[str, Any]
    _small: bytes | None = None  # the table, once it was read: for what is small, a request is what costs

    def table(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield the columns of the table, some packs at a time.

        Raises:
            CacheDamagedError: the table is missing, or is not the one that the summary was sealed with.
        """
        try:
            return self._batches(self._bounded(self._small or self._read()), columns)
        except SchemaError as error:
            raise self._damaged(error) from error

    def _bounded(self, data: bytes) -> Bounded:
        kinds = {name: pa.int64() for name in self.head["bytes"]}
        return Bounded(data, self.head["packs"], {"pack": pa.int32(), **kinds, "receipt": pa.string()})

    def _batches(self, table: Bounded, columns: list[str]) -> Iterator[pa.RecordBatch]:
        pack = self.head["addition"]["packs"][0]
        try:
            for batch in table.batches(ROWS, columns):
                if any(column.null_count for column in batch.columns):
                    raise SchemaError(f"it has a row without a value, of pack {pack} or a later one")
                if "pack" in columns and batch["pack"].to_pylist() != [*range(pack, pack + len(batch))]:
                    raise SchemaError(f"its rows are not those of the packs from {pack} on")
                pack += len(batch)
                yield batch
        except SchemaError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: SchemaError) -> CacheDamagedError:
        return CacheDamagedError(f"{self.storage.uri}/{table_key(self.number)} is no table of receipts: {error}")

    def _read(self) -> bytes:
        key = table_key(self.number)
        try:
            data = self.storage.get(key, TABLE_BYTES)
        except FileNotFoundError as error:
            raise CacheDamagedError(f"{self.storage.uri}/{key} is missing") from error
        if {"bytes": len(data), "sha256": sha256(data)} != self.head["table"]:
            raise CacheDamagedError(f"{self.storage.uri}/{key} does not match its checksum")
        self._small = data if len(data) <= SMALL else None
        return data

    def receipts(self) -> Iterator[Receipt]:
        """Return the receipts in the order of the packs; raises as :meth:`table` does, at once."""
        batches = self.table(["pack", "receipt"])
        return (self._parsed(text) for batch in batches for text in batch["receipt"].to_pylist())

    def _parsed(self, text: str) -> Receipt:
        try:
            found: Receipt = parse(text.encode())
        except SchemaError as error:
            raise self._damaged(error) from error
        return found

    def sizes(self, names: Iterable[str]) -> dict[str, Numbers]:
        """Return array → bytes of each pack's shard, for those of ``names`` that the addition has, and ``pack``;
        raises as :meth:`table` does."""
        columns = ["pack", *(name for name in names if name in self.head["bytes"])]
        batches = list(self.table(columns))
        return {name: np.concatenate([batch[name].to_numpy() for batch in batches]) for name in columns}


@dataclass
class Totals:
    """What a summary says of its receipts, added up one receipt at a time.

    Attributes:
        bytes: of the shards of each array; of all receipts in ``receipt_bytes``.
        digest: of the receipts in order, whatever wrote the table.
    """

    packs: int = 0
    receipt_bytes: int = 0
    bytes: dict[str, int] = field(default_factory=dict)
    quarantine: dict[str, str] = field(default_factory=dict)
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, receipt: Mapping[str, Any], size: int) -> dict[str, Any]:
        """Count one receipt, which is stored in ``size`` bytes. Returns its row of the table."""
        text = self.count(receipt)
        sizes = {name_of(key): int(written["bytes"]) for key, written in receipt["objects"].items()}
        for name, of_shard in sizes.items():
            self.bytes[name] = self.bytes.get(name, 0) + of_shard
        self.quarantine |= receipt["quarantine"]
        self.packs += 1
        self.receipt_bytes += size
        return {"pack": receipt["pack"], **sizes, "receipt": text}

    def count(self, receipt: Any) -> str:
        """Count a receipt in the digest alone. Returns its text."""
        text = json.dumps(receipt, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        self.digest.update(text.encode() + b"\n")
        return text

    def head(self, addition: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of the sealed document, without the table's."""
        return {
            "addition": dict(addition),
            "packs": self.packs,
            "bytes": self.bytes,
            "receipt_bytes": self.receipt_bytes,
            "receipts_sha256": self.digest.hexdigest(),
            "quarantine": self.quarantine,
        }


def name_of(shard: str) -> str:
    """Return the array of a shard's key."""
    return shard.rsplit("/", 3)[0]


def encode(
    addition: Mapping[str, Any], names: Iterable[str], receipts: Iterable[tuple[Receipt, int]]
) -> tuple[bytes, bytes]:
    """Return the table and the sealed document of an addition. The same receipts give the same bytes.

    Args:
        names: the arrays that the addition's shards belong to.
        receipts: all of its receipts and their sizes in bytes, in the order of its packs.
    """
    schema = pa.schema([("pack", pa.int32()), *((name, pa.int64()) for name in names), ("receipt", pa.string())])
    totals, buffer = Totals(), io.BytesIO()
    rows: list[dict[str, Any]] = []
    # Receipts hardly repeat themselves, so a dictionary of them only takes memory.
    with pq.ParquetWriter(buffer, schema, compression="zstd", use_dictionary=False) as writer:
        for receipt, size in receipts:
            rows.append(totals.add(receipt, size))
            if len(rows) == ROWS:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows.clear()
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema))
    table = buffer.getvalue()
    head = totals.head(addition) | {"table": {"bytes": len(table), "sha256": sha256(table)}}
    return table, seal(head, head)


def read(
    storage: Storage, number: int, addition: Mapping[str, Any], names: Collection[str] | None = None
) -> Summary | None:
    """Return the summary of an addition, in one request; None where there is none that can be trusted.

    Args:
        names: the arrays of the addition, where they are known.
    """
    with suppress(FileNotFoundError, CacheDamagedError):
        return _opened(storage, number, addition, names)
    return None


def salvaged(storage: Storage, number: int, rows: int, packs: Container[int]) -> Iterator[tuple[int, bytes]]:
    """Yield pack and text of the receipts of ``packs`` in a summary's table, also where its sealed document is
    damaged or missing: each receipt has a checksum of its own, which the caller has to check."""
    with suppress(FileNotFoundError, CacheDamagedError, SchemaError, RecursionError):
        data = storage.get(table_key(number), TABLE_BYTES)
        with suppress(FileNotFoundError, CacheDamagedError):
            head = unseal(storage.get(head_key(number), RECEIPT_BYTES))
            if head.get("table") != {"bytes": len(data), "sha256": sha256(data)}:
                return
        table = Bounded(data, rows, {"pack": pa.int32(), "receipt": pa.string()})
        for batch in table.batches(ROWS, ["pack", "receipt"]):
            for pack, text in zip(batch["pack"].to_pylist(), batch["receipt"].to_pylist(), strict=True):
                if pack in packs and text is not None:
                    yield pack, canonical(parse(text.encode()))


def _opened(
    storage: Storage, number: int, addition: Mapping[str, Any], names: Collection[str] | None = None
) -> Summary:
    head = unseal(storage.get(head_key(number), RECEIPT_BYTES))
    try:
        return Summary(storage, number, require_head(head, addition, names))
    except SchemaError as error:
        raise CacheDamagedError(str(error)) from error


def write(storage: Storage, number: int, table: bytes, head: bytes) -> list[str]:
    """Write a summary, the sealed document last. Returns the keys written."""
    storage.put(table_key(number), table)
    storage.put(head_key(number), head)
    return [head_key(number), table_key(number)]


def withdraw(storage: Storage, number: int) -> None:
    """Delete a summary, before a receipt changes; the sealed document first."""
    storage.delete([head_key(number), table_key(number)])


def fault(
    storage: Storage,
    number: int,
    addition: Mapping[str, Any],
    names: Collection[str],
    receipts: Iterable[tuple[Receipt, int]] | None,
) -> tuple[str, str] | None:
    """Compare a summary with the receipts. Returns the key and what is wrong with it; None where nothing is, or where
    there is no summary.

    Args:
        names: the arrays of the addition.
        receipts: of the addition's tasks, and their sizes in bytes, in order; None where not all are there. What is
            damaged in itself is found without them, and where reading them raises CacheDamagedError.
    """
    try:
        found = _opened(storage, number, addition, names)
    except FileNotFoundError:
        return None
    except CacheDamagedError as error:
        return head_key(number), error.message
    try:
        copies = Totals()
        for copy in found.receipts():
            copies.count(copy)
    except CacheDamagedError as error:
        return table_key(number), error.message.removeprefix(f"{storage.uri}/{table_key(number)} ")
    if receipts is None:
        return None
    totals = Totals()
    try:
        for receipt, size in receipts:
            totals.add(receipt, size)
    except CacheDamagedError:
        return None
    expected = totals.head(addition)
    if {name: found.head.get(name) for name in expected} != expected:
        return head_key(number), "it does not match the receipts"
    if copies.digest.digest() != totals.digest.digest():
        return table_key(number), "it does not match the receipts"
    return None
