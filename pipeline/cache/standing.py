"""What of a cache is done, at one moment: from sealed summaries where there are any, and from receipts elsewhere.

A listing shows at once what was deleted or cut short. It takes a request per thousand objects, so it is made only
where they are few: up to ``LISTED`` in a folder, ``BUCKET_LISTED`` in a bucket. In larger caches a summary is
believed, and damage shows when it is read.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from itertools import batched
from typing import Any

from gdist.pipeline.cache import summary
from gdist.pipeline.cache.arrays import shard_key
from gdist.pipeline.cache.plan import Task, Tasks
from gdist.pipeline.cache.summary import Receipt, Summary, name_of
from gdist.pipeline.errors import CacheDamagedError
from gdist.pipeline.schema import SchemaError
from gdist.pipeline.storage.hub import require_lists
from gdist.pipeline.storage.objects import Storage

LISTED, BUCKET_LISTED = 200_000, 5_000
READERS, AHEAD = 16, 1024  # receipts read at a time, and requested ahead of their use

ReadReceipt = Callable[[Task], tuple[Receipt, int] | None]
"""Reads a task's receipt, and its size in bytes; None where there is none."""


class Look:
    """Which summaries and receipts are there. Each is requested once, when it is asked for.

    Args:
        names: of each addition, the arrays that its shards belong to.
        listed: whether to list shards and receipts; None where their number decides.

    Attributes:
        receipts: number of an addition → those that were read, where they are few and a request each.
    """

    def __init__(
        self, storage: Storage, tasks: Tasks, names: Sequence[Sequence[str]], listed: bool | None = None
    ) -> None:
        self.storage, self.tasks, self.names = storage, tasks, names
        objects = sum(len(tasks.packs[number]) * (len(own) + 1) for number, own in enumerate(names))
        few = objects <= (BUCKET_LISTED if storage.folder is None else LISTED) and not storage.read_only
        self.listed = (few if listed is None else listed) and not storage.read_only
        self._few_in_bucket = few and storage.folder is None
        self.receipts: dict[int, list[Receipt]] | None = {} if self._few_in_bucket else None

    @cached_property
    def keys(self) -> frozenset[str]:
        """The receipts that a listing shows.

        Raises:
            CacheError: nothing can be listed there.
        """
        require_lists(
            self.storage.uri,
            "of an unfinished cache, only a listing shows what is done (the summary of a finished one may also be "
            "missing or damaged)",
        )
        if self._few_in_bucket:  # the sizes are wanted too, in most cases
            return frozenset(key for key in self.sizes if key.startswith("receipts/"))
        return frozenset(self.storage.objects("receipts"))

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Key → bytes of every object, from a listing."""
        return {key: int(meta["size"]) for key, meta in self.storage.objects().items()}

    @cached_property
    def summaries(self) -> dict[int, Summary]:
        """Number of an addition → its summary, where it can be trusted: not if one of its receipts is gone."""
        found = {}
        for number, addition in enumerate(self.tasks.additions):
            trusted = summary.read(self.storage, number, addition, self.names[number])
            if trusted and not (self.listed and self.absent(number)):
                found[number] = trusted
        return found

    def absent(self, number: int) -> list[Task]:
        """Return the tasks of an addition whose receipts a listing does not show."""
        return [task for task in self.tasks.of_addition(number) if task.receipt not in self.keys]

    def has(self, number: int, receipt: str) -> bool:
        """Whether a receipt of an addition is there."""
        return number in self.summaries or receipt in self.keys


class Standing:
    """What is known of a cache's tasks without reading a shard.

    Args:
        look: what is there. It may be kept for longer than this object, and the receipts that are read with it.
        check: returns what was read from a summary as the receipt of a task; SchemaError where it cannot be that.
    """

    def __init__(self, look: Look, read: ReadReceipt, check: Callable[[Task, Any], Receipt]) -> None:
        self.look, self.storage, self.tasks, self.read, self.check = look, look.storage, look.tasks, read, check
        self.absent = look.absent
        self._receipts = {} if look.receipts is None else look.receipts

    @property
    def summaries(self) -> dict[int, Summary]:
        """Number of an addition → its summary, where it can be trusted."""
        return self.look.summaries

    @property
    def sizes(self) -> dict[str, int]:
        """Key → bytes of every object, from a listing."""
        return self.look.sizes

    def todo(self) -> list[Task]:
        """Return the tasks without a receipt."""
        unknown = [number for number in range(len(self.tasks.additions)) if number not in self.summaries]
        return [task for number in unknown for task in self.absent(number)]

    def receipts(self) -> Iterator[Receipt]:
        """Yield the receipts of all tasks that are done."""
        for number in range(len(self.tasks.additions)):
            yield from self._receipts_of(number)

    def quarantine(self) -> dict[str, str]:
        """Return utterance id → why it cannot be used."""
        found: dict[str, str] = {}
        for number in range(len(self.tasks.additions)):
            if number in self.summaries:
                found |= self.summaries[number].head["quarantine"]
            else:
                found |= quarantined(self._receipts_of(number))
        return found

    def broken(self, names: Sequence[str]) -> dict[int, str]:
        """Return pack → reason for the done packs of which a shard is missing or has another size than its receipt
        says; none where nothing is listed.

        Args:
            names: arrays to look at.
        """
        if not self.look.listed:
            return {}
        broken: dict[int, str] = {}
        sizes = self._sizes_of(names)
        for pack, name, size in self._written(set(names)):
            key = shard_key(name, pack)
            if sizes.get(key) != size:
                has = f"has {sizes[key]:,} bytes, not {size:,}" if key in sizes else "is missing"
                broken.setdefault(pack, f"{key} {has}")
        return dict(sorted(broken.items()))

    def _sizes_of(self, names: Sequence[str]) -> dict[str, int]:
        """Return key → bytes of some arrays' shards at least, from a listing."""
        if self.storage.folder is None:
            return self.sizes  # few pages, and a request for each array would be more
        with ThreadPoolExecutor(READERS) as pool:
            listings = list(pool.map(lambda name: self.storage.objects(f"{name}/c"), names))
        return {key: int(meta["size"]) for listing in listings for key, meta in listing.items()}

    def _written(self, names: set[str]) -> Iterator[tuple[int, str, int]]:
        """Yield pack, array and bytes of the shards that were written."""
        for number in range(len(self.tasks.additions)):
            if number in self.summaries:
                with suppress(CacheDamagedError):
                    columns = self.summaries[number].sizes(names)
                    packs = columns.pop("pack").tolist()
                    for name, sizes in columns.items():
                        yield from ((pack, name, size) for pack, size in zip(packs, sizes.tolist(), strict=True))
                    continue
            for receipt in self._receipts_of(number):
                for key, written in receipt["objects"].items():
                    if name_of(key) in names:
                        yield receipt["pack"], name_of(key), written["bytes"]

    @property
    def lists_all(self) -> bool:
        """Whether sizes come from a listing, because there are few objects or not all is summarized."""
        return self.look.listed or len(self.summaries) < len(self.tasks.additions)

    def stored(self) -> dict[str, int]:
        """Return array → bytes of its shards."""
        if self.lists_all:
            shards = [(name_of(key), size) for key, size in self.sizes.items() if "/c/" in key]
        else:
            shards = [item for found in self.summaries.values() for item in found.head["bytes"].items()]
        stored: dict[str, int] = {}
        for name, size in shards:
            stored[name] = stored.get(name, 0) + size
        return stored

    def _receipts_of(self, number: int) -> Iterable[Receipt]:
        if number in self.summaries:
            with suppress(CacheDamagedError):
                return self._checked(number, self.summaries[number].receipts())
        if number not in self._receipts:
            done = (task for task in self.tasks.of_addition(number) if task.receipt in self.look.keys)
            self._receipts[number] = [receipt for receipt, _ in read_all(self.read, done)]
        return self._receipts[number]

    def _checked(self, number: int, receipts: Iterable[Any]) -> Iterator[Receipt]:
        for task, receipt in zip(self.tasks.of_addition(number), receipts, strict=True):
            try:
                yield self.check(task, receipt)
            except SchemaError as error:
                key = summary.table_key(number)
                raise CacheDamagedError(f"{self.storage.uri}/{key}, receipt of pack {task.pack}: {error}") from error


def read_all(read: ReadReceipt, tasks: Iterable[Task]) -> Iterator[tuple[Receipt, int]]:
    """Yield receipts and their sizes in bytes in order, read in parallel; tasks without one are left out."""
    with ThreadPoolExecutor(READERS) as pool:
        for some in batched(tasks, AHEAD):
            yield from (found for found in pool.map(read, some) if found is not None)


def quarantined(receipts: Iterable[Receipt]) -> dict[str, str]:
    """Return utterance id → why it cannot be used, for everything that these receipts cover."""
    return {name: reason for receipt in receipts for name, reason in receipt["quarantine"].items()}
