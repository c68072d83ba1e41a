"""Read every byte of a cache and compare it with its seals: the plan's documents, the receipts, every shard.

A shard's digest shows whether it is damaged; the checksum of each inner chunk, which has one owner, shows whose data
is affected.
"""

from collections.abc import Collection, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from gdist.pipeline.cache import arrays
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.coherence import require_array
from gdist.pipeline.cache.encode import digest
from gdist.pipeline.cache.needs import Needs
from gdist.pipeline.cache.plan import INDEX, ROOT, WAVEFORM, Task, plan_key
from gdist.pipeline.cache.planning import read_document, read_root
from gdist.pipeline.cache.remains import Remains, kept_receipts, remains
from gdist.pipeline.console import Advance
from gdist.pipeline.errors import CacheDamagedError, GdistError
from gdist.pipeline.schema import SchemaError, parse
from gdist.pipeline.storage.hub import require_lists

THREADS = 4
OLD_PLAN = "; only runs that began before the cache grew need it, and it cannot be made again"


@dataclass(frozen=True)
class Damage:
    """One damaged or missing object.

    Attributes:
        pack, array: (3, ``layers/05``) for a shard, (3, None) for a receipt, which has no data of its own,
            (None, ``layers/05``) for an array's metadata, which serves every utterance, and (None, None) for the
            other documents.
        utterances: the utterances of the pack whose data is affected; empty when only rows without an owner are.
    """

    object: str
    reason: str
    pack: int | None = None
    array: str | None = None
    utterances: tuple[str, ...] = ()

    @property
    def is_final(self) -> bool:
        """Whether it cannot be made again from anything."""
        return self.reason.endswith(OLD_PLAN)

    def __str__(self) -> str:
        if self.array is None:
            return f"{self.object}: {self.reason}"
        what = self.array
        if "/" in what:
            what = f"layer {int(what.rpartition('/')[2])}"
        if self.pack is None:
            return f"{self.object}: {self.reason}; {what}, every utterance"
        names = ", ".join(self.utterances[:5]) or "rows that belong to no utterance"
        more = f" and {len(self.utterances) - 5} more" if len(self.utterances) > 5 else ""
        return f"{self.object}: {self.reason}; {what}, utterance {names}{more}"


@dataclass
class Findings:
    """What :func:`examine` found.

    Attributes:
        missing: the tasks that were never done, or of which too little is left.
        remains: of every task without a receipt, what is left.
    """

    cache: Cache
    bad: list[Damage] = field(default_factory=list)
    missing: list[Task] = field(default_factory=list)
    remains: dict[Task, Remains] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.bad and not self.missing

    @property
    def needs(self) -> Needs:
        """What it takes to repair all of it."""
        arrays = {damage.array for damage in self.bad if damage.pack is not None} - {None}
        documents = any(damage.object.startswith("teacher/") for damage in self.bad)
        needs = Needs(teacher=documents or bool(arrays - {WAVEFORM}), manifest=WAVEFORM in arrays)
        for task in self.missing:
            needs |= Needs(teacher=True, manifest=task.waveform and task not in self.remains)
        for left in self.remains.values():
            needs |= left.needs
        return needs

    def document(self) -> dict[str, Any]:
        """Return the fields of ``gdist verify --json``: ok, packs, packs_missing, bad."""
        return {
            "ok": self.ok,
            "packs": self.cache.packs,
            "packs_missing": sorted({task.pack for task in self.missing}),
            "bad": [asdict(damage) | {"message": str(damage)} for damage in self.bad],
        }


def verify(cache: Cache, advance: Advance, tasks: Collection[Task] | None = None) -> dict[str, Any]:
    """Return the document of :func:`examine`'s findings."""
    return examine(cache, advance, tasks).document()


def examine(cache: Cache, advance: Advance, tasks: Collection[Task] | None = None) -> Findings:
    """Read every byte and find what is damaged or missing, and what it takes to have it again.

    Args:
        advance: called after every task.
        tasks: the tasks whose shards are read, where the others are known to be undamaged; None for all.
    """
    require_lists(cache.uri, "to verify a cache, what is there is compared with what should be")
    found = Findings(cache, [*_documents(cache)])
    found.bad += _contents(cache, {damage.object for damage in found.bad})
    now = cache.standing(listed=True)
    found.bad += [Damage(key, reason) for key, reason in cache.faulty_summaries(now)]
    todo = dict.fromkeys(now.todo(), "it is missing")
    finished = [task for task in (cache.tasks if tasks is None else tasks) if task not in todo]
    lost: dict[Task, str] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for task, damages in zip(finished, pool.map(partial(_verify_task, cache), finished), strict=True):
            if isinstance(damages, str):
                lost[task] = damages
            else:
                found.bad += damages
            advance(1)
        lost |= todo
        kept = kept_receipts(cache, lost)
        begun = [task for task in lost if task not in todo or task in kept or _is_complete(cache, task, now.sizes)]
        found.remains = dict(
            zip(begun, pool.map(lambda task: remains(cache, task, kept.get(task)), begun), strict=True)
        )
    for task, reason in lost.items():
        left = found.remains.get(task)
        if left is None or (task in todo and left.kept is None):
            found.missing.append(task)
        else:
            found.bad += _without_receipt(cache, left, reason)
    return found


def _documents(cache: Cache) -> Iterator[Damage]:
    for key in cache.gdist["objects"]:
        array = key.removesuffix(f"/{ROOT}")
        try:
            data = read_document(cache.storage, cache.gdist, key)
            if array in cache.specs:
                require_array(array, cache.specs[array], cache.packs, parse(data))
        except CacheDamagedError as error:
            reason = error.message.removeprefix(f"{cache.uri}/{key} ")
            yield Damage(key, reason, array=array if array in cache.specs else None)
        except SchemaError as error:
            yield Damage(key, str(error), array=array)
    newest = cache.gdist["generation"]
    for generation in range(newest + 1):
        key, reason = plan_key(generation), ""
        try:
            if read_root(cache.storage, key) is None:
                reason = "is missing"
        except CacheDamagedError as error:
            reason = error.message.split(": ", 1)[-1]
        if reason:
            yield Damage(key, reason + (OLD_PLAN if generation < newest else ""))


def _contents(cache: Cache, damaged: Collection[str]) -> Iterator[Damage]:
    """Yield what is found when documents are used, not when the cache is opened.

    Args:
        damaged: the documents that have other bytes than were planned.
    """
    try:
        _ = cache.entries.by_id.rows
    except GdistError as error:
        yield Damage(INDEX, error.message)
    tables = [key for key in cache.gdist["objects"] if key.startswith("teacher/tables")]
    if not tables or set(tables) & set(damaged):
        return
    try:
        _ = cache.tables
    except CacheDamagedError as error:
        yield Damage(tables[0], error.message.removeprefix(f"cannot read {tables[0]} of the cache {cache.uri}: "))


def _is_complete(cache: Cache, task: Task, sizes: Container[str]) -> bool:
    """Whether a listing shows all shards of a task."""
    return all(arrays.shard_key(name, task.pack) in sizes for name in cache.arrays_of(task))


def _without_receipt(cache: Cache, left: Remains, reason: str) -> Iterator[Damage]:
    """Yield the damage to a receipt, and that to its shards."""
    pack, known = left.task.pack, left.kept["quarantine"] if left.kept else left.reasons
    intact = "" if left.bad else f"; no data of pack {pack} is lost"
    yield Damage(left.task.receipt, reason + intact, pack)
    for name, why in left.bad.items():
        yield Damage(arrays.shard_key(name, pack), why, pack, name, _affected(cache, pack, name, known))


def _verify_task(cache: Cache, task: Task) -> list[Damage] | str:
    """Return the damage to a task's shards; or what is wrong with its receipt."""
    pack = task.pack
    try:
        receipt = cache.receipt(task)
    except CacheDamagedError as error:
        return error.message.split(": ", 1)[-1]
    if receipt is None:  # it was there when the packs were listed
        return "it is missing"
    bad = []
    for name in cache.arrays_of(task):
        key = arrays.shard_key(name, pack)
        try:
            shard = cache.shard(name, pack)
        except FileNotFoundError:
            bad.append(Damage(key, "it is missing", pack, name, _stored(cache, pack, receipt["quarantine"])))
            continue
        except CacheDamagedError as error:  # it is no file, or larger than a shard can be
            why = error.message.removeprefix(f"{cache.uri}/{key} ")
            bad.append(Damage(key, f"it {why}", pack, name, _stored(cache, pack, receipt["quarantine"])))
            continue
        if digest(shard) != receipt["objects"][key]["xxh3_128"]:
            reason = "its bytes do not match its receipt"
            bad.append(Damage(key, reason, pack, name, _torn(cache, pack, name, shard, receipt["quarantine"])))
    return bad


def _affected(cache: Cache, pack: int, name: str, quarantine: Container[str]) -> tuple[str, ...]:
    """Return the utterances whose data in a damaged or missing shard is affected."""
    try:
        shard = cache.shard(name, pack)
    except (FileNotFoundError, CacheDamagedError):
        return _stored(cache, pack, quarantine)
    return _torn(cache, pack, name, shard, quarantine)


def _stored(cache: Cache, pack: int, quarantine: Container[str]) -> tuple[str, ...]:
    """Return the utterances of a pack that have data."""
    return tuple(e.id for e in cache.pack_entries(pack) if e.num_frames and e.id not in quarantine)


def _torn(cache: Cache, pack: int, name: str, shard: bytes, quarantine: Container[str]) -> tuple[str, ...]:
    """Return the utterances whose chunks in a damaged shard no longer decode."""
    spec = cache.specs[name]
    base, frames = pack * cache.identity["pack_frames"], cache.identity["pack_frames"] // spec.pack_rows  # per row
    entries = [entry for entry in cache.pack_entries(pack) if entry.num_frames and entry.id not in quarantine]
    starts = [entry.start_frame - base for entry in entries]
    held = [(start, start + entry.num_rows(cache.framing)) for start, entry in zip(starts, entries, strict=True)]
    ranges = [(start // frames, -(-stop // frames)) for start, stop in held]
    return tuple(entries[position].id for position in arrays.damaged_rows(spec, shard, ranges))
