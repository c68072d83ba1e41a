"""What is planned in a cache and what is done: tasks, and the receipts that show that their shards are written.

commit  → one task: its shards, whole, then its receipt, create-only
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Lock
from typing import Any

import numpy as np

from gdist.pipeline.cache import arrays, plan, summary
from gdist.pipeline.cache.arrays import shard_key
from gdist.pipeline.cache.coherence import require_receipt
from gdist.pipeline.cache.encode import encoded
from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.cache.index import read
from gdist.pipeline.cache.needs import Needs, repair_command
from gdist.pipeline.cache.plan import WAVEFORM, Task, Tasks, encoding_of, framing_of
from gdist.pipeline.cache.schema import RECEIPT_BYTES
from gdist.pipeline.cache.standing import Look, Standing, quarantined, read_all
from gdist.pipeline.errors import CacheDamagedError, CacheError
from gdist.pipeline.machine import cores
from gdist.pipeline.schema import SchemaError
from gdist.pipeline.storage.durable import make_durable
from gdist.pipeline.storage.locations import in_shell
from gdist.pipeline.storage.objects import Storage, seal, unseal

# Shards encoded and written at a time. On a disk one for each core, since that is work, and a few on a small machine
# too, for when the disk has to catch up. A connection to a bucket moves some 90 MB/s, a GPU makes ten times that.
WRITERS, BUCKET_WRITERS = min(max(cores(), 4), 16), 16


class Ledger:
    """The plan of a cache and its receipts.

    Attributes:
        gdist: the root document's description (format, identity, about, packs, objects, …).
        framing: how the frames of its teacher lie on the samples.
        entries: one per utterance, in the order they were planned.
        tasks: the units of work, each with a receipt once it is done.
        guard: called before anything is committed; it raises when this process may no longer write.
    """

    def __init__(self, storage: Storage, gdist: dict[str, Any], index: bytes) -> None:
        self.storage, self.gdist = storage, gdist
        self.identity: dict[str, Any] = gdist["identity"]
        self.framing = framing_of(self.identity, storage.uri)
        try:
            self.entries = read(index, gdist, self.framing)
        except SchemaError as error:
            why = f"{storage.uri}/{plan.INDEX} does not describe the cache's utterances: {error}"
            raise CacheDamagedError(why, repair_command(storage.uri, gdist, Needs(manifest=True))) from error
        self.encoding = encoding_of(self.identity, storage.uri)
        self.specs = plan.array_specs(self.identity)
        self.tasks = Tasks(gdist)
        self.guard: Callable[[], None] = lambda: None
        self._seen, self._seeing = self._look(), Lock()

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
        return self.entries.of_pack(pack)

    def arrays_of(self, task: Task) -> list[str]:
        """Return the arrays whose shards a task writes."""
        return self._arrays(task.layers, task.waveform)

    def _arrays(self, layers: Sequence[int], waveform: bool) -> list[str]:
        return plan.layer_arrays(self.identity, layers) + [WAVEFORM] * waveform

    def standing(self, listed: bool | None = None) -> Standing:
        """Return what is done at this moment. Reads use what it finds out, instead of asking again.

        Args:
            listed: whether to list the receipts even where a summary says that all are there; None for only where
                there are few.
        """
        self._seen = self._look(listed)
        return Standing(self._seen, self._receipt, self.checked)

    def _look(self, listed: bool | None = None) -> Look:
        names = [self._arrays(addition["layers"], addition["waveform"]) for addition in self.tasks.additions]
        return Look(self.storage, self.tasks, names, listed)

    def todo(self, listed: bool | None = None) -> list[Task]:
        """Return the tasks without a receipt. This needs some summaries or a listing, and reads no receipt."""
        return self.standing(listed).todo()

    def done(self) -> set[int]:
        """Return the packs that are complete: each of their tasks has its receipt."""
        return set(range(self.packs)) - {task.pack for task in self.todo()}

    def size(self, now: Standing) -> tuple[int, int]:
        """Return the number and the bytes of the objects that a listing shows, or, where there are too many, of
        those that the cache consists of."""
        if now.lists_all:
            return len(now.sizes), sum(now.sizes.values())
        shards = now.stored()
        receipts = [found.head["receipt_bytes"] for found in now.summaries.values()]
        metadata = arrays.metadata(self.specs, self.packs, {})
        documents = [len(data) for key, data in metadata.items() if key != plan.ROOT]  # a root contains more
        documents += [self.storage.size(key) for key in (plan.ROOT, plan.INDEX)]
        if self.storage.read_only:
            planned = [key for key in self.gdist["objects"] if key.startswith("teacher/")]
            for generation in range(self.gdist["generation"] + 1):
                planned += [plan.plan_key(generation), plan.index_key(generation)]
            documents += [self.storage.size(key) for key in planned] + [*self.summary_sizes().values()]
        else:
            for folder in ("plans", "teacher", "summaries"):
                documents += [int(meta["size"]) for meta in self.storage.objects(folder).values()]
        objects = sum(found.head["packs"] * (len(found.head["bytes"]) + 1) for found in now.summaries.values())
        return objects + len(documents), sum(shards.values()) + sum(receipts) + sum(documents)

    def undone(self, name: str, packs: Iterable[int]) -> set[int]:
        """Return those of ``packs`` whose shard of array ``name`` has no receipt."""
        needed = {pack: plan.receipt_of(self.gdist, pack, name) for pack in packs}
        with self._seeing:  # many threads begin to read at once, and one of them asks for all
            if all(self._seen.has(*receipt) for receipt in needed.values()):
                return set()
            self._seen = self._look()  # it may have been written since
            return {pack for pack, receipt in needed.items() if not self._seen.has(*receipt)}

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
        make_durable(self.storage, () if written else objects)  # no power cut leaves a receipt without its shards
        self.guard()
        receipt = self.new_receipt(task, objects, quarantine, statistics)
        sealed = seal(receipt, receipt)  # which adds the checksum to the receipt, too
        if written is None and not self.storage.put_new(task.receipt, sealed):
            written = self.receipt(task)
        make_durable(self.storage, [task.receipt])
        if written is not None and written != receipt:
            raise CacheError(
                f"pack {task.pack} of {self.uri} was written by another process with different bytes",
                f"stop the other process, then: gdist verify {in_shell(self.uri)}",
            )
        return receipt

    def new_receipt(
        self, task: Task, objects: Mapping[str, Any], quarantine: Mapping[str, str], statistics: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return a receipt without its checksum. It has no times: the same inputs give the same bytes."""
        return {
            "pack": task.pack,
            "utterances": len(self.pack_entries(task.pack)),
            "objects": dict(objects),
            "quarantine": dict(sorted(quarantine.items())),
            "statistics": dict(statistics),
        }

    def receipt(self, task: Task) -> dict[str, Any] | None:
        """Return what was committed for ``task``; None when it is not done."""
        found = self._receipt(task)
        return None if found is None else found[0]

    def _receipt(self, task: Task) -> tuple[dict[str, Any], int] | None:
        """Return a receipt and its size in bytes."""
        try:
            data = self.storage.get(task.receipt, RECEIPT_BYTES)
        except FileNotFoundError:
            return None
        try:
            return self.checked(task, unseal(data)), len(data)
        except (SchemaError, CacheDamagedError) as error:
            raise self.damaged(task.receipt, getattr(error, "message", str(error))) from error

    def checked(self, task: Task, receipt: Any) -> dict[str, Any]:
        """Return what was read as the receipt of a task; SchemaError where it cannot be that."""
        limits = {shard_key(name, task.pack): self.specs[name].shard_bytes for name in self.arrays_of(task)}
        return require_receipt(receipt, task.pack, self.entries.count_of(task.pack), task.layers, limits)

    def shard(self, name: str, pack: int) -> bytes:
        """Read a whole shard; FileNotFoundError where there is none, CacheDamagedError where it is no shard."""
        return self.storage.get(shard_key(name, pack), self.specs[name].shard_bytes)

    def receipts(self) -> Iterator[dict[str, Any]]:
        """Yield the receipts of all tasks that are done."""
        return self.standing().receipts()

    def receipts_seen(self) -> Iterator[dict[str, Any]]:
        """Yield the receipts of all tasks that were done when somebody last looked."""
        return Standing(self._seen, self._receipt, self.checked).receipts()

    def broken_packs(self, names: Sequence[str]) -> dict[int, str]:
        """Return pack → reason for the committed packs of which an object is missing or has another size than its
        receipt says. This lists all objects, and reads no data: damage that keeps the size is not found. Where the
        objects are too many to be listed, nothing is found.

        Args:
            names: arrays to look at, such as :func:`plan.layer_arrays` of some layers.
        """
        return self.standing().broken(names)

    def quarantine(self, pack: int | None = None) -> dict[str, str]:
        """Return utterance id → why it cannot be used, for all tasks that are done (or those of one pack)."""
        if pack is None:
            return self.standing().quarantine()
        return quarantined(r for r in map(self.receipt, self.tasks.of_pack(pack)) if r is not None)

    # --- summaries ----------------------------------------------------------------------------------------------

    def summary_sizes(self) -> dict[str, int]:
        """Return key → bytes of the objects of the summaries."""
        if not self.storage.read_only:
            return {key: int(meta["size"]) for key, meta in self.storage.objects("summaries").items()}
        found = {}
        for number in range(len(self.tasks.additions)):
            for key in (summary.head_key(number), summary.table_key(number)):
                with suppress(FileNotFoundError):
                    found[key] = self.storage.size(key)
        return found

    def summarize(self) -> list[str]:
        """Write the summaries that are missing, of additions whose tasks are all done. Returns the keys written.

        Raises:
            CacheDamagedError: a receipt is damaged.
            CacheError: the store cannot be written.
        """
        now, written = self.standing(listed=True), []
        for number, addition in enumerate(self.tasks.additions):
            if number in now.summaries or now.absent(number):
                continue
            names = self._arrays(addition["layers"], addition["waveform"])
            receipts = read_all(self._receipt, self.tasks.of_addition(number))
            table, head = summary.encode(addition, names, receipts)
            self.guard()
            written += summary.write(self.storage, number, table, head)
        return written

    def withdraw_summaries(self, additions: Iterable[int]) -> None:
        """Delete the summaries of additions, by number: always before one of their receipts changes."""
        for number in sorted(set(additions)):
            self.guard()
            summary.withdraw(self.storage, number)

    def faulty_summaries(self, now: Standing) -> list[tuple[str, str]]:
        """Return key and reason of every object of a summary that is damaged, or does not match the receipts, as far
        as these are all there and undamaged."""
        faults = []
        for number, addition in enumerate(self.tasks.additions):
            receipts = None if now.absent(number) else read_all(self._receipt, self.tasks.of_addition(number))
            names = self._arrays(addition["layers"], addition["waveform"])
            faults.append(summary.fault(self.storage, number, addition, names, receipts))
        return [fault for fault in faults if fault is not None]

    def tasks_of(self, pack: int) -> list[Task]:
        """Return the tasks of one pack: the first, and one for each time that layers were added."""
        return self.tasks.of_pack(pack)

    def damaged(self, what: str, why: str) -> CacheDamagedError:
        """Return the error to raise where a part of the cache cannot be read."""
        needs = Needs(teacher=what != WAVEFORM, manifest=what == WAVEFORM)
        return CacheDamagedError(
            f"cannot read {what} of the cache {self.uri}: {why}", repair_command(self.uri, self.gdist, needs)
        )
