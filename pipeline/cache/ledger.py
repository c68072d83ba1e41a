"""What is planned in a cache and what is done: tasks, and the receipts that show that their shards are written.

commit  → one task: its shards, whole, then its receipt, create-only
"""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from gdist.pipeline.cache import layout, plan
from gdist.pipeline.cache.arrays import shard_key
from gdist.pipeline.cache.encode import encoded
from gdist.pipeline.cache.layout import Entry
from gdist.pipeline.cache.plan import WAVEFORM, Task, encoding_of
from gdist.pipeline.errors import CacheDamagedError, CacheError
from gdist.pipeline.machine import cores
from gdist.pipeline.storage.locations import in_shell
from gdist.pipeline.storage.objects import Storage, seal, unseal

# Shards encoded and written at a time. On a disk one for each core, since encoding and the kernel's copy are work,
# and a few on a small machine too, for when the disk has to catch up. A connection to a bucket transfers some
# 90 MB/s, a GPU produces ten times that.
WRITERS, BUCKET_WRITERS = min(max(cores(), 4), 16), 16


class Ledger:
    """The plan of a cache and its receipts.

    Attributes:
        gdist: the root document's description (format, identity, about, packs, objects, …).
        entries: one per utterance, in the order they were planned.
        tasks: the units of work, each with a receipt once it is done.
        guard: called before anything is committed; it raises when this process may no longer write.
    """

    def __init__(self, storage: Storage, gdist: dict[str, Any], index: bytes) -> None:
        self.storage, self.gdist, self.index_bytes = storage, gdist, index
        self.identity: dict[str, Any] = gdist["identity"]
        self.entries = layout.from_table(pq.read_table(io.BytesIO(index)))
        self.encoding = encoding_of(self.identity, storage.uri)
        self.specs = plan.array_specs(self.identity)
        self.tasks = plan.tasks(gdist)
        self.guard: Callable[[], None] = lambda: None
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
        """The stored layers, ascending."""
        return list(self.identity["layers"])

    @property
    def packs(self) -> int:
        return int(self.gdist["packs"])

    def pack_entries(self, pack: int) -> list[Entry]:
        """Return the utterances of one pack."""
        return self._by_pack.get(pack, [])

    def arrays_of(self, task: Task) -> list[str]:
        """Return the arrays whose shards a task writes."""
        return plan.layer_arrays(self.identity, task.layers) + [WAVEFORM] * task.waveform

    def todo(self) -> list[Task]:
        """Return the tasks without a receipt. This needs one listing and reads no object."""
        keys = self.storage.objects("receipts")
        return [task for task in self.tasks if task.receipt not in keys]

    def done(self) -> set[int]:
        """Return the packs that are complete: each of their tasks has its receipt."""
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
            rows: array name → the pack's rows, encoded; emptied as they are written, to save memory.
            quarantine: utterance id → why it cannot be used.
            statistics: what ``gdist inspect`` shows about the pack; free-form, JSON-serializable and deterministic.

        Raises:
            CacheError: the task is already done with other bytes, or the store cannot be written.
        """
        names = self.arrays_of(task)
        assert set(rows) == set(names), "a pack is written whole"
        written = self.receipt(task)  # a task that is done is compared, never written again
        self.guard()

        def write(name: str) -> tuple[str, dict[str, Any]]:
            key, spec = shard_key(name, task.pack), self.specs[name]
            with encoded(rows.pop(name), spec.chunk_rows, spec.compress) as shard:
                if written is None:
                    self.storage.put(key, shard.data)
                return key, shard.record

        with ThreadPoolExecutor(WRITERS if self.storage.folder else BUCKET_WRITERS) as pool:
            objects = dict(pool.map(write, names))
        self.guard()
        # A receipt contains no times: the same inputs give the same receipt, byte for byte.
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
        """Return what was committed for ``task``; None when it is not done."""
        try:
            data = self.storage.get(task.receipt)
        except FileNotFoundError:
            return None
        try:
            receipt = unseal(data)
        except CacheDamagedError as error:
            raise self.damaged(task.receipt, error.message) from error
        if receipt.get("pack") != task.pack:
            raise self.damaged(task.receipt, f"it is the receipt of pack {receipt.get('pack')}")
        return receipt

    def receipts(self) -> list[dict[str, Any]]:
        """Return the receipts of all tasks that are done, read in parallel."""
        todo = set(self.todo())
        with ThreadPoolExecutor(16) as pool:
            found = pool.map(self.receipt, [task for task in self.tasks if task not in todo])
            return [receipt for receipt in found if receipt is not None]

    def broken_packs(
        self, names: Sequence[str], receipts: Iterable[Mapping[str, Any]] | None = None
    ) -> dict[int, str]:
        """Return pack → reason for the committed packs of which an object is missing or has another size than its
        receipt says. This needs one listing per array and reads no data: damage that keeps the size is not found.

        Args:
            names: arrays to look at, such as :func:`plan.layer_arrays` of some layers.
            receipts: the result of :meth:`receipts`, if it was called before.
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
        """Return utterance id → why it cannot be used, for all tasks that are done (or those of one pack)."""
        if pack is None:
            receipts = self.receipts()
        else:
            receipts = [r for r in map(self.receipt, self.tasks_of(pack)) if r is not None]
        return quarantined(receipts)

    def tasks_of(self, pack: int) -> list[Task]:
        """Return the tasks of one pack: the first, and one for each time that layers were added."""
        return self._tasks_by_pack[pack]

    def damaged(self, what: str, why: str) -> CacheDamagedError:
        """Return the error to raise where a part of the cache cannot be read."""
        return CacheDamagedError(
            f"cannot read {what} of the cache {self.uri}: {why}", f"gdist verify {in_shell(self.uri)} --repair"
        )


def quarantined(receipts: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return utterance id → why it cannot be used, for everything that these receipts cover."""
    return {name: reason for receipt in receipts for name, reason in receipt["quarantine"].items()}
