"""Read every byte of a cache and compare it with its seals: the plan's documents, the receipts, every shard.

A shard's digest shows whether it is damaged; the checksum of each inner chunk, which has one owner, shows whose data
is affected.
"""

from collections.abc import Collection, Container
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from gdist.pipeline.cache import arrays
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.encode import digest
from gdist.pipeline.cache.plan import ROOT, Task, plan_key
from gdist.pipeline.cache.planning import read_document, read_root
from gdist.pipeline.console import Advance
from gdist.pipeline.errors import CacheDamagedError

THREADS = 4


@dataclass(frozen=True)
class Damage:
    """One damaged or missing object.

    Attributes:
        pack, array: (3, ``layers/05``) for a shard, (3, None) for a receipt, (None, ``layers/05``) for an array's
            metadata, which serves every utterance, and (None, None) for the other documents.
        utterances: the utterances of the pack whose data is affected; empty when only rows without an owner are.
    """

    object: str
    reason: str
    pack: int | None = None
    array: str | None = None
    utterances: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.array is None and self.pack is None:
            return f"{self.object}: {self.reason}"
        what = self.array or "every layer"
        if "/" in what:
            what = f"layer {int(what.rpartition('/')[2])}"
        if self.pack is None:
            return f"{self.object}: {self.reason}; {what}, every utterance"
        names = ", ".join(self.utterances[:5]) or "rows that belong to no utterance"
        more = f" and {len(self.utterances) - 5} more" if len(self.utterances) > 5 else ""
        return f"{self.object}: {self.reason}; {what}, utterance {names}{more}"


def verify(cache: Cache, advance: Advance, tasks: Collection[Task] | None = None) -> dict[str, Any]:
    """Return the fields of ``gdist verify --json``: ok, packs, packs_missing, bad.

    Args:
        advance: called after every task.
        tasks: the tasks whose shards are read, where the others are known to be undamaged; None for all.
    """
    bad: list[Damage] = []
    for key in cache.gdist["objects"]:
        try:
            read_document(cache.storage, cache.gdist, key)
        except CacheDamagedError as error:
            array = key.removesuffix(f"/{ROOT}")
            reason = error.message.removeprefix(f"{cache.uri}/{key} ")
            bad.append(Damage(key, reason, array=array if array in cache.specs else None))
    for generation in range(cache.gdist["generation"] + 1):
        key = plan_key(generation)
        try:
            if read_root(cache.storage, key) is None:
                bad.append(Damage(key, "is missing"))
        except CacheDamagedError as error:
            bad.append(Damage(key, error.message.split(": ", 1)[-1]))
    now = cache.standing(listed=True)
    bad += [Damage(key, reason) for key, reason in cache.faulty_summaries(now)]
    todo = set(now.todo())
    finished = [task for task in (cache.tasks if tasks is None else tasks) if task not in todo]
    with ThreadPoolExecutor(THREADS) as pool:
        for damages in pool.map(lambda task: _verify_task(cache, task), finished):
            bad += damages
            advance(1)
    missing = sorted({task.pack for task in todo})
    return {
        "ok": not bad and not missing,
        "packs": cache.packs,
        "packs_missing": missing,
        "bad": [asdict(damage) | {"message": str(damage)} for damage in bad],
    }


def _verify_task(cache: Cache, task: Task) -> list[Damage]:
    pack = task.pack
    try:
        receipt = cache.receipt(task)
    except CacheDamagedError as error:
        return [Damage(task.receipt, error.message.split(": ", 1)[-1], pack, None, _stored(cache, pack, {}))]
    if receipt is None:  # it was there when the packs were listed
        return [Damage(task.receipt, "it is missing", pack, None, _stored(cache, pack, {}))]
    bad = []
    for name in cache.arrays_of(task):
        key = arrays.shard_key(name, pack)
        try:
            shard = cache.storage.get(key)
        except FileNotFoundError:
            bad.append(Damage(key, "it is missing", pack, name, _stored(cache, pack, receipt["quarantine"])))
            continue
        if digest(shard) != receipt["objects"][key]["xxh3_128"]:
            reason = "its bytes do not match its receipt"
            bad.append(Damage(key, reason, pack, name, _torn(cache, pack, name, shard, receipt["quarantine"])))
    return bad


def _stored(cache: Cache, pack: int, quarantine: Container[str]) -> tuple[str, ...]:
    """Return the utterances of a pack that have data."""
    return tuple(e.id for e in cache.pack_entries(pack) if e.num_frames and e.id not in quarantine)


def _torn(cache: Cache, pack: int, name: str, shard: bytes, quarantine: Container[str]) -> tuple[str, ...]:
    """Return the utterances whose chunks in a damaged shard no longer decode."""
    spec = cache.specs[name]
    base, frames = pack * cache.identity["pack_frames"], cache.identity["pack_frames"] // spec.pack_rows  # per row
    entries = [entry for entry in cache.pack_entries(pack) if entry.num_frames and entry.id not in quarantine]
    held = [(e.start_frame - base, e.start_frame - base + max(e.num_frames, e.num_rows)) for e in entries]
    ranges = [(start // frames, -(-stop // frames)) for start, stop in held]
    return tuple(entries[position].id for position in arrays.damaged_rows(spec, shard, ranges))
