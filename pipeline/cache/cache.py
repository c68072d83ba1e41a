"""The cache, format 1: everything stage two needs, in one store. See docs/cache-format.md.

    plan    → every offset, shape and metadata document, written before the teacher runs; the root document last
    commit  → one task: its shards, whole, then its receipt, create-only
    read    → ranges of rows of a few layers; what is missing or torn is an error, never zeros

Axes: T frames (rows), C chunks, D features, S samples, W numbers stored a row.
"""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import safetensors.torch
import torch
from torch import Tensor

from gdist.pipeline import framing
from gdist.pipeline.cache import arrays, layout, plan
from gdist.pipeline.cache.arrays import Empty, shard_key
from gdist.pipeline.cache.encodings import Tables
from gdist.pipeline.cache.layout import Entry
from gdist.pipeline.cache.plan import NO_SAMPLE, ROOT, WAVEFORM, Plan, Task, encoding_of, layer_name, plan_key
from gdist.pipeline.cache.shards import Rows
from gdist.pipeline.config import differences
from gdist.pipeline.errors import CacheDamagedError, CacheError, CacheMismatchError
from gdist.pipeline.storage.buckets import first_line
from gdist.pipeline.storage.locations import folder_of, in_shell, scheme_of
from gdist.pipeline.storage.objects import Storage, seal, sha256, unseal

Span = tuple[Entry, int, int]
"""(utterance, first frame within it, number of frames)"""

# Shards encoded and written at a time. A disk is fed by few; each of a bucket's connections carries some 90 MB/s, and
# a GPU makes ten times that.
WRITERS, BUCKET_WRITERS = 4, 16


class Cache:
    """An open cache. Made by :meth:`open` or :meth:`create`.

    Attributes:
        gdist: the root document's description (format, identity, about, packs, objects, …).
        entries: one an utterance, in the order they were planned.
        tasks: the units of work, each with a receipt once it is done.
        guard: called before anything is committed; raises when this process may no longer write.
    """

    def __init__(self, storage: Storage, gdist: dict[str, Any], index: bytes) -> None:
        self.storage, self.gdist, self.index_bytes = storage, gdist, index
        self.identity: dict[str, Any] = gdist["identity"]
        self.entries = layout.from_table(pq.read_table(io.BytesIO(index)))
        self.encoding = encoding_of(self.identity, storage.uri)
        self.specs = plan.array_specs(self.identity)
        self.tasks = plan.tasks(gdist)
        self.guard: Callable[[], None] = lambda: None
        self._reader: arrays.Reader | None = None
        self._receipts_seen: set[str] = set()
        self._tables: dict[tuple[int, str], Tables] = {}
        self._tasks_by_pack: dict[int, list[Task]] = {}
        for task in self.tasks:
            self._tasks_by_pack.setdefault(task.pack, []).append(task)
        self._by_pack: dict[int, list[Entry]] = {}
        for entry in self.entries:
            self._by_pack.setdefault(entry.pack, []).append(entry)

    @property
    def uri(self) -> str:
        return self.storage.uri

    @property
    def layers(self) -> list[int]:
        """Layers stored, ascending."""
        return list(self.identity["layers"])

    @property
    def packs(self) -> int:
        return int(self.gdist["packs"])

    @classmethod
    def open(cls, uri: str, checksum: str | None = None) -> "Cache":
        """Open for reading.

        Args:
            checksum: of the root document as it was at some time; a cache that grew since is opened as it was then.

        Raises:
            CacheError: there is none, or it never had that root.
            CacheDamagedError: what describes it is damaged.
        """
        storage = Storage(uri)
        gdist = plan.read_root(storage)
        if gdist is None:
            raise CacheError(
                f"no cache at {uri}: it has no {ROOT}",
                f"gdist extract --teacher T --manifest M --cache {in_shell(uri)}",
            )
        if checksum is not None and gdist["checksum"] != checksum:
            older = (plan.read_root(storage, plan_key(generation)) for generation in range(gdist["generation"]))
            gdist = next((root for root in older if root and root["checksum"] == checksum), None)
            if gdist is None:
                raise CacheError(f"the cache at {uri} is not the one that was asked for, nor did it grow from it")
        return cls(storage, gdist, plan.read_index(storage, gdist))

    @classmethod
    def find(cls, uri: str) -> "Cache | None":
        """:meth:`open`, or None where no cache is yet."""
        if scheme_of(uri) == "file" and not folder_of(uri).is_dir():
            return None
        storage = Storage(uri)
        gdist = plan.read_root(storage)
        return None if gdist is None else cls(storage, gdist, plan.read_index(storage, gdist))

    @classmethod
    def create(cls, uri: str, planned: Plan) -> "Cache":
        """Write the plan, add to the cache that is there, or open the one that the same plan made before (resume).

        Raises:
            CacheMismatchError: a cache is there and was made from other inputs; the differences are printed.
            CacheError: the place holds something else, or cannot be written.
        """
        storage = Storage(uri, create=True)
        gdist = plan.read_root(storage)
        if gdist is None:
            plan.begin(storage, planned)
            return cls.open(uri)
        plan.settle(storage, gdist)
        storage.sweep_staged(plan.is_ours)
        if planned.before is None:
            require_same(uri, gdist["identity"], planned.identity)
        elif planned.before["checksum"] != gdist["checksum"]:
            raise CacheError(f"the plan of the cache at {uri} changed a moment ago", "run the same command again")
        elif not planned.adds_nothing:
            plan.extend(storage, planned)
        return cls.open(uri)

    # --- tasks and receipts -------------------------------------------------------------------------------------

    def pack_entries(self, pack: int) -> list[Entry]:
        """The utterances of one pack."""
        return self._by_pack.get(pack, [])

    def arrays_of(self, task: Task) -> list[str]:
        """The arrays whose shards a task writes."""
        return plan.layer_arrays(self.identity, task.layers) + [WAVEFORM] * task.waveform

    def todo(self) -> list[Task]:
        """Tasks without a receipt. One listing, no object is read."""
        keys = self.storage.objects("receipts")
        return [task for task in self.tasks if task.receipt not in keys]

    def done(self) -> set[int]:
        """Packs that are complete: each of their tasks has its receipt."""
        return set(range(self.packs)) - {task.pack for task in self.todo()}

    def commit(
        self,
        task: Task,
        rows: dict[str, np.ndarray[Any, Any]],
        quarantine: Mapping[str, str],
        statistics: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Write one task's shards whole, then its receipt. Returns the receipt.

        Args:
            rows: array name → the pack's rows, encoded; emptied as they are written, for the memory's sake.
            quarantine: utterance id → why it cannot be used.
            statistics: what ``gdist inspect`` shows of the pack; free-form, JSON-able and deterministic.
        """
        names = self.arrays_of(task)
        assert set(rows) == set(names), "a pack is written whole"
        written = self.receipt(task)  # what is done is compared, never written again
        self.guard()

        def write(name: str) -> tuple[str, dict[str, Any]]:
            key, shard = shard_key(name, task.pack), arrays.encode_shard(self.specs[name], rows.pop(name))
            if written is None:
                self.storage.put(key, shard)
            return key, {"bytes": len(shard), "sha256": sha256(shard)}

        with ThreadPoolExecutor(WRITERS if self.storage.folder else BUCKET_WRITERS) as pool:
            objects = dict(pool.map(write, names))
        self.guard()
        # No times in here: the same inputs give the same receipt, byte for byte.
        receipt = {
            "pack": task.pack,
            "utterances": len(self.pack_entries(task.pack)),
            "objects": objects,
            "quarantine": dict(sorted(quarantine.items())),
            "statistics": dict(statistics),
        }
        sealed = seal(receipt, receipt)
        if written is None and not self.storage.put_new(task.receipt, sealed):
            written = self.receipt(task)
        if written is not None and written != receipt:
            raise CacheError(
                f"pack {task.pack} of {self.uri} was written by another process with different bytes",
                f"stop the other process, then: gdist verify {in_shell(self.uri)}",
            )
        return receipt

    def receipt(self, task: Task) -> dict[str, Any] | None:
        """What was committed for ``task``; None when it is not done."""
        try:
            data = self.storage.get(task.receipt)
        except FileNotFoundError:
            return None
        try:
            receipt = unseal(data)
        except CacheDamagedError as error:
            raise self._damaged(task.receipt, error.message) from error
        if receipt.get("pack") != task.pack:
            raise self._damaged(task.receipt, f"it is the receipt of pack {receipt.get('pack')}")
        return receipt

    def receipts(self) -> list[dict[str, Any]]:
        """The receipts of all tasks that are done, read in parallel."""
        todo = set(self.todo())
        with ThreadPoolExecutor(16) as pool:
            found = pool.map(self.receipt, [task for task in self.tasks if task not in todo])
            return [receipt for receipt in found if receipt is not None]

    def broken_packs(
        self, names: Sequence[str], receipts: Iterable[Mapping[str, Any]] | None = None
    ) -> dict[int, str]:
        """Packs that were committed, and of which an object is gone or has another size than its receipt says; each
        with the reason. Found from a listing an array, no data is read: what kept its size passes.

        Args:
            names: arrays to look at, such as :func:`plan.layer_arrays` of some layers.
            receipts: what :meth:`receipts` gave, where they were read before.
        """
        with ThreadPoolExecutor(16) as pool:
            listings = list(pool.map(lambda name: self.storage.objects(f"{name}/c"), names))
        sizes = {key: int(meta["size"]) for listing in listings for key, meta in listing.items()}
        wanted = {shard_key(name, pack) for name in names for pack in range(self.packs)}
        broken: dict[int, str] = {}
        for receipt in self.receipts() if receipts is None else receipts:
            for key, written in receipt["objects"].items():
                if key in wanted and sizes.get(key) != written["bytes"]:
                    has = f"has {sizes[key]:,} bytes, not {written['bytes']:,}" if key in sizes else "is missing"
                    broken.setdefault(receipt["pack"], f"{key} {has}")
        return dict(sorted(broken.items()))

    def quarantine(self, pack: int | None = None) -> dict[str, str]:
        """Utterance id → why it cannot be used, of all tasks that are done (of one pack)."""
        if pack is None:
            receipts = self.receipts()
        else:
            receipts = [r for r in map(self.receipt, self.tasks_of(pack)) if r is not None]
        return quarantined(receipts)

    def tasks_of(self, pack: int) -> list[Task]:
        """The tasks of one pack: the first, and one for each time that layers were added."""
        return self._tasks_by_pack[pack]

    def document(self, name: str) -> bytes:
        """A file of ``teacher/``, checked against the root document."""
        return plan.read_document(self.storage, self.gdist, f"teacher/{name}")

    @cached_property
    def tables(self) -> dict[int, Tables]:
        """Layer → what its encoding learnt when the cache was planned; empty for most encodings."""
        tables: dict[int, dict[str, Tensor]] = {layer: {} for layer in self.layers}
        for key in self.gdist["objects"]:
            if key.startswith("teacher/tables"):
                for name, tensor in safetensors.torch.load(self.document(key.removeprefix("teacher/"))).items():
                    layer, _, table = name.partition(".")
                    tables[int(layer)][table] = tensor
        return dict(tables)

    def tables_on(self, layer: int, device: str) -> Tables:
        """One layer's :attr:`tables` on a device, where they stay."""
        if (layer, device) not in self._tables:
            self._tables[layer, device] = {name: table.to(device) for name, table in self.tables[layer].items()}
        return self._tables[layer, device]

    # --- reading ------------------------------------------------------------------------------------------------

    def hidden(
        self, layer: int, spans: Sequence[Span], device: str = "cpu", out: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """Hidden states of one layer.

        Args:
            spans: (utterance, first frame within it, number of frames) each.
            device: where they are decoded; what travels there is as small as what is stored.
            out: one float32 [T, D] a span, on ``device``, to decode into; pieces of a batch, say.

        Returns:
            one float32 [T, D] a span, on ``device``; ``out`` where it was given.

        Raises:
            CacheDamagedError: a span is missing or torn; the message names the utterance and the layer.
        """
        if layer not in self.layers:
            raise CacheError(
                f"{self.uri} does not hold layer {layer} (it holds {self.layers})", "extract that layer too"
            )
        chunk_frames = self.identity["chunk_frames"]
        ranges = [(entry.start_frame + first, entry.start_frame + first + n) for entry, first, n in spans]
        chunks = [(start // chunk_frames, -(-stop // chunk_frames)) for start, stop in ranges]
        stored = {}
        empty = _pinned if torch.device(device).type == "cuda" else np.empty
        for folder, part in self.encoding.parts(self.identity["dim"]).items():
            wanted = chunks if part.per_chunk else ranges
            rows = self._read(layer_name(layer, folder), wanted, spans, empty)
            # A row is written whole or not at all, so its first number tells. Asked here, a GPU is not waited for.
            first_W = rows[:, 0]
            unwritten = np.isnan(first_W) if part.fill_value != part.fill_value else first_W == part.fill_value
            if unwritten.any():
                held = np.repeat(np.arange(len(spans)), [stop - start for start, stop in wanted])
                entry = spans[held[unwritten.argmax()]][0]
                raise self._damaged(layer_name(layer, folder), f"utterance {entry.id} is missing from it")
            stored[folder] = torch.from_numpy(rows).to(device, non_blocking=True)
        chunk_T, before = [], 0
        for (start, stop), (first_chunk, last_chunk) in zip(ranges, chunks, strict=True):
            chunk_T.append(torch.arange(start, stop) // chunk_frames + (before - first_chunk))
            before += last_chunk - first_chunk
        how = (stored, torch.cat(chunk_T).to(device, non_blocking=True), self.tables_on(layer, device))
        if out is None:
            return list(torch.split(self.encoding.decode(*how), [n for _, _, n in spans]))
        self.encoding.decode_into(out, *how)
        return list(out)

    def waveform(self, spans: Sequence[Span]) -> list[np.ndarray[Any, Any]]:
        """The int16 samples at 16 kHz behind the same spans: exactly those that yield the span's frames, and up to
        the utterance's very end when the span reaches its last frame."""
        ranges, cuts = [], []
        for entry, first, frames in spans:
            start, stop = framing.crop_samples(first, frames)
            stop = entry.num_samples if first + frames == entry.num_frames else stop
            ranges.append((entry.start_frame + first, entry.start_frame + framing.num_rows(stop)))
            cuts.append(stop - start)
        rows = self._read(WAVEFORM, ranges, spans)
        pieces, offset = [], 0
        for (start, stop), cut, (entry, _, _) in zip(ranges, cuts, spans, strict=True):
            piece = rows[offset : offset + stop - start].reshape(-1)[:cut]
            offset += stop - start
            if (piece == NO_SAMPLE).any():
                raise self._damaged(WAVEFORM, f"utterance {entry.id} is missing from it")
            pieces.append(piece)
        return pieces

    def _read(
        self, name: str, ranges: list[Rows], spans: Sequence[Span], empty: Empty = np.empty
    ) -> np.ndarray[Any, Any]:
        packs = {entry.pack for entry, _, _ in spans}
        needed = {pack: plan.receipt_of(self.gdist, pack, name) for pack in packs}
        if not self._receipts_seen.issuperset(needed.values()):
            self._receipts_seen = set(self.storage.objects("receipts"))
            for entry, _, _ in spans:
                if needed[entry.pack] not in self._receipts_seen:
                    raise self._damaged(name, f"utterance {entry.id} is missing: pack {entry.pack} has no receipt")
        try:
            if self._reader is None:
                self._reader = arrays.Reader(self.storage)
            return self._reader.read(name, ranges, empty)
        except CacheError:  # the store does not answer, which is no damage
            raise
        # zarr raises ValueError, RuntimeError and codec errors of its own; all mean that these rows cannot be had.
        except Exception as error:
            self.storage.require_reachable(error, name)
            if len(spans) > 1:  # one by one, to find whose they are
                return np.concatenate(
                    [self._read(name, [rows], [span]) for rows, span in zip(ranges, spans, strict=True)]
                )
            raise self._damaged(name, f"utterance {spans[0][0].id} is torn: {first_line(error)}") from error

    def _damaged(self, what: str, why: str) -> CacheDamagedError:
        return CacheDamagedError(
            f"cannot read {what} of the cache {self.uri}: {why}", f"gdist verify {in_shell(self.uri)} --repair"
        )


def _pinned(shape: tuple[int, int], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Page-locked memory, from which a GPU fetches by itself. torch keeps it until that is done."""
    like = torch.from_numpy(np.empty(0, dtype))
    pinned: np.ndarray[Any, Any] = torch.empty(shape, dtype=like.dtype, pin_memory=True).numpy()
    return pinned


def quarantined(receipts: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Utterance id → why it cannot be used, of what these receipts cover."""
    return {name: reason for receipt in receipts for name, reason in receipt["quarantine"].items()}


def require_same(uri: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise CacheMismatchError, with the differences, unless both identities are the same."""
    changed = differences(old, new)
    if changed:
        lines = "\n".join(f"  {line}" for line in changed)
        raise CacheMismatchError(
            f"the cache at {uri} was made from other inputs:\n{lines}",
            "choose another --cache, go back to the old inputs, or start over with --restart (deletes the cache)",
        )
