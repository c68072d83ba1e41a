"""What is left of a task whose receipt is damaged or missing. A receipt only describes data; it is no data itself.

The summary's table has a copy of the whole receipt. Without one, a shard's own structure shows whether it is sound:
its index and every chunk have a checksum, and its rows are written exactly where the plan put utterances.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gdist.pipeline.cache import summary
from gdist.pipeline.cache.arrays import shard_key, unwritten, whole_pack
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.encode import digest
from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.cache.needs import Needs
from gdist.pipeline.cache.plan import WAVEFORM, Task
from gdist.pipeline.cache.summary import Receipt
from gdist.pipeline.errors import CacheDamagedError
from gdist.pipeline.schema import SchemaError
from gdist.pipeline.storage.objects import unseal

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Remains:
    """What is left of one task.

    Attributes:
        kept: its receipt as the summary's table has it; None where there is no such copy.
        bad: array → what is wrong with its shard.
        stored: the utterances that are in the shards, where there is no such copy.
        reasons: id → why the utterance is not stored, as far as that is known without the receipt.
        unexplained: the utterances that are not stored for unknown reasons.
        from_shards: whether everything in the receipt follows from the shards.
    """

    task: Task
    kept: Receipt | None = None
    bad: dict[str, str] = field(default_factory=dict)
    stored: frozenset[str] = frozenset()
    reasons: dict[str, str] = field(default_factory=dict)
    unexplained: tuple[str, ...] = ()
    from_shards: bool = False

    @property
    def has_audio(self) -> bool:
        """Whether the teacher can run on audio that the cache has."""
        return not self.task.waveform or not (WAVEFORM in self.bad or self.unexplained)

    @property
    def needs(self) -> Needs:
        """What it takes to have the receipt and the shards again."""
        layers = any(name != WAVEFORM for name in self.bad)
        if self.kept is not None:
            return Needs(teacher=layers, manifest=WAVEFORM in self.bad)
        if not self.has_audio:
            return Needs(teacher=True, manifest=True)
        return Needs(teacher=not self.from_shards)


def kept_receipts(cache: Cache, tasks: Iterable[Task]) -> dict[Task, Receipt]:
    """Return the receipts of tasks that summaries have copies of: undamaged by their own checksums, and theirs."""
    wanted: dict[int, dict[int, Task]] = {}
    for task in tasks:
        wanted.setdefault(task.addition, {})[task.pack] = task
    found = {}
    for number, by_pack in wanted.items():
        for pack, text in summary.salvaged(cache.storage, number, len(cache.tasks.packs[number]), by_pack):
            task = by_pack[pack]
            with suppress(CacheDamagedError, SchemaError):
                found[task] = cache.checked(task, unseal(text))
    return found


def remains(cache: Cache, task: Task, kept: Receipt | None, known: Mapping[str, str] | None = None) -> Remains:
    """Look at the shards of a task. Each is read once.

    Args:
        known: reasons for quarantine that are known already.

    Raises:
        CacheError: the store does not answer.
    """
    bad: dict[str, str] = {}
    stored: dict[str, frozenset[str]] = {}
    entries = [entry for entry in cache.pack_entries(task.pack) if entry.num_frames]
    for name in cache.arrays_of(task):
        key = shard_key(name, task.pack)
        try:
            shard = cache.shard(name, task.pack)
            if kept is None:
                stored[name] = _stored(cache, name, whole_pack(cache.specs[name], shard), entries)
            elif digest(shard) != kept["objects"][key]["xxh3_128"]:
                bad[name] = "its bytes do not match its receipt"
        except FileNotFoundError:
            bad[name] = "it is missing"
        except CacheDamagedError as error:  # it is no file, or larger than a shard can be
            bad[name] = f"it {error.message.removeprefix(f'{cache.uri}/{key} ')}"
        except ValueError as error:
            bad[name] = str(error)
    if kept is not None:
        return Remains(task, kept, bad)
    return _of_shards(cache, task, entries, bad, stored, known or {})


def _of_shards(
    cache: Cache,
    task: Task,
    entries: Sequence[Entry],
    bad: dict[str, str],
    stored: Mapping[str, frozenset[str]],
    known: Mapping[str, str],
) -> Remains:
    if WAVEFORM in stored or not task.waveform:
        # An utterance is stored in all arrays of a task, or in none.
        there = stored.get(WAVEFORM, frozenset.intersection(*stored.values()) if stored else frozenset())
        bad |= {name: "it has other utterances" for name, found in stored.items() if found != there}
    else:
        there = frozenset[str]()
    if found := summary.read(cache.storage, task.addition, cache.tasks.additions[task.addition]):
        known = {**known, **found.head["quarantine"]}
    absent = [entry.id for entry in entries if entry.id not in there]
    if not task.waveform:
        elsewhere = _quarantined_before(cache, task)
        absent = [name for name in absent if name not in elsewhere]
    reasons = {name: known[name] for name in absent if name in known}
    if task.waveform:
        reasons |= {entry.id: entry.problem for entry in cache.pack_entries(task.pack) if entry.problem}
    unexplained = tuple(name for name in absent if name not in reasons)
    complete = cache.encoding.lossless and not bad and not unexplained
    return Remains(task, None, bad, there, reasons, unexplained, complete)


def _quarantined_before(cache: Cache, task: Task) -> set[str]:
    """The utterances of a pack that earlier tasks put into quarantine, as far as their receipts can be read."""
    names: set[str] = set()
    for other in cache.tasks_of(task.pack):
        if other.addition < task.addition:
            with suppress(CacheDamagedError):
                names |= ((cache.receipt(other) or {}).get("quarantine") or {}).keys()
    return names


def _stored(cache: Cache, name: str, rows: Array, entries: Iterable[Entry]) -> frozenset[str]:
    """Return the utterances whose rows are all written; ValueError where rows are written in other places."""
    spec = cache.specs[name]
    written = ~unwritten(rows, spec.fill_value)
    frames = cache.identity["pack_frames"] // spec.pack_rows  # per row
    found = set()
    for entry in entries:
        start = entry.start_frame % cache.identity["pack_frames"] // frames
        count = entry.num_rows(cache.framing) if name == WAVEFORM else -(-entry.num_frames // frames)
        part = written[start : start + count]
        if part.all():
            found.add(entry.id)
            part[:] = False
    if written.any():
        raise ValueError("its rows are not where they were planned")
    return frozenset(found)
