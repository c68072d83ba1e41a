"""A cache at another place: all of it, byte for byte; or some of its layers, whose shards are the same bytes.

whole   shards, then their receipts, summaries, documents, and the root document last: a copy that was killed is
        no cache yet, and the same command completes it. A copy that is there follows its source as that grows.
layers  a cache of its own, planned first: a copy that was killed is an unfinished cache
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gdist.pipeline import console
from gdist.pipeline.cache import planning, summary
from gdist.pipeline.cache.arrays import shard_key
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.plan import INDEX, ROOT, Task, index_key, plan_key, receipt_of
from gdist.pipeline.cache.schema import ROOT_BYTES, TABLE_BYTES
from gdist.pipeline.cache.summary import Totals, head_key, name_of, table_key
from gdist.pipeline.cache.transfer import Pack, Transfer
from gdist.pipeline.config import differences
from gdist.pipeline.errors import CacheDamagedError, CacheError, CacheMismatchError
from gdist.pipeline.storage.locations import in_shell
from gdist.pipeline.storage.objects import Storage, seal, sha256

NEVER = {ROOT, planning.PLANNING, planning.LOCK}  # what no root document may list


def require_place(target: Storage) -> None:
    """Raise CacheError where the place contains something that is neither a cache nor the beginning of one."""
    try:
        planning.require_place(target)
    except CacheError as error:
        hint = "choose another DST" if error.hint and "--cache" in error.hint else error.hint
        raise CacheError(error.message, hint) from error


def records_of(source: Cache, names: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Yield the key and the bytes of every shard of these arrays whose pack is done."""
    wanted = set(names)
    for receipt in source.standing().receipts():
        for key, written in receipt["objects"].items():
            if name_of(key) in wanted:
                yield key, int(written["bytes"])


# --- all of it ------------------------------------------------------------------------------------------------------


def bring_whole(source: Cache, transfer: Transfer) -> None:
    """Bring everything that gdist wrote, as of the root document that ``source`` was opened with.

    Raises:
        CacheMismatchError: another cache is there.
        CacheDamagedError: the source is damaged.
        CacheError: a place contains something else, or cannot be read or written.
    """
    target, documents = transfer.target, documents_of(source)
    present = planning.read_root(target)
    if present is None:
        require_place(target)
    else:
        _require_earlier(source, target, present)
    leftovers = list(transfer.sizes) if present is None else []
    if present is None or present["checksum"] != source.gdist["checksum"]:
        transfer.guard()
        planning.mark(target)
    done: set[str] = set()
    for number, addition in enumerate(source.tasks.additions):
        totals = Totals()
        for pack in transfer.packs(source.tasks.of_addition(number), lambda task: _as_it_is(source, task)):
            totals.add(pack.receipt, len(pack.data))
            done.add(pack.key)
        _bring_summary(source, transfer, number, totals.head(addition))
    transfer.guard()
    target.delete([key for key in leftovers if planning.is_ours(key) and not _belongs(source, key, documents, done)])
    # Readers of an earlier plan use the index's copy, and the arrays' metadata in the root: see planning.extend.
    late = [key for key in documents if present and (key.endswith(f"/{ROOT}") or key == INDEX)]
    for key in [*(key for key in documents if key not in (ROOT, *late)), ROOT, *late]:
        transfer.write(key, documents[key])
    planning.unmark(target)


def documents_of(source: Cache) -> dict[str, bytes]:
    """Return key → bytes of everything that was planned, also of earlier plans; what was changed by a later plan is
    taken from where this one has a copy.

    Raises:
        CacheDamagedError: a document is missing or damaged, or has a name that no document of a cache has.
    """
    storage, gdist = source.storage, source.gdist
    documents: dict[str, bytes] = {}
    for generation in range(gdist["generation"] + 1):
        key = plan_key(generation)
        root = planning.read_root(storage, key)
        if root is None or (generation == gdist["generation"] and root["checksum"] != gdist["checksum"]):
            raise source.damaged(key, "it is missing" if root is None else "it is not the root document's copy")
        documents[index_key(generation)] = planning.read_document(storage, root, index_key(generation))
        documents[key] = storage.get(key, ROOT_BYTES)
    made_again = planning.restorable(storage, gdist)
    for key, checksum in gdist["objects"].items():
        if not planning.is_ours(key) or key in NEVER:
            raise source.damaged(ROOT, f"it lists {key!r}, which is no document of a cache")
        try:
            documents[key] = planning.read_document(storage, gdist, key)
        except CacheDamagedError:
            if sha256(made_again.get(key, b"")) != checksum:
                raise
            documents[key] = made_again[key]
    return documents | {ROOT: documents[plan_key(gdist["generation"])]}


def _require_earlier(source: Cache, target: Storage, present: Mapping[str, Any]) -> None:
    """Raise CacheMismatchError unless the source is the cache that is there, or one that grew from it."""
    checksum = source.gdist["checksum"]
    if present["checksum"] in _checksums(source.storage, source.gdist["generation"]):
        return
    if checksum in _checksums(target, present["generation"]):
        raise CacheMismatchError(
            f"the copy at {target.uri} has grown beyond {source.uri}",
            f"to copy it back: gdist copy {in_shell(target.uri)} {in_shell(source.uri)}",
        )
    changed = [f"  {line}" for line in differences(present["identity"], source.identity)]
    lines = "\n".join(changed or ["  the same inputs, extracted another time"])
    raise CacheMismatchError(f"{target.uri} contains another cache than {source.uri}:\n{lines}", "choose another DST")


def _checksums(storage: Storage, generation: int) -> set[str]:
    roots = (planning.read_root(storage, plan_key(number)) for number in range(generation + 1))
    return {root["checksum"] for root in roots if root}


def _as_it_is(source: Cache, task: Task) -> Pack | None:
    receipt = source.receipt(task)
    return None if receipt is None else Pack(task.receipt, task.addition, receipt, _shards(source, task, receipt))


def _shards(source: Cache, task: Task, receipt: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the records of a task's shards: those that were planned, whatever else a receipt lists."""
    keys = [shard_key(name, task.pack) for name in source.arrays_of(task)]
    if missing := [key for key in keys if key not in receipt["objects"]]:
        raise source.damaged(task.receipt, f"it says nothing about {missing[0]}")
    return {key: receipt["objects"][key] for key in keys}


def _bring_summary(source: Cache, transfer: Transfer, number: int, expected: Mapping[str, Any]) -> None:
    """Bring the summary of an addition, where there is one that says what the receipts say."""
    storage = source.storage
    found = summary.read(storage, number, source.tasks.additions[number])
    if found is None:
        return
    try:
        found.table([])
    except CacheDamagedError:
        found.head.clear()
    if {name: found.head.get(name) for name in expected} != expected:
        console.say(f"{storage.uri}/{head_key(number)} does not match the receipts, and is not copied", "yellow")
        summary.withdraw(transfer.target, number)
        return
    transfer.write(table_key(number), storage.get(table_key(number), TABLE_BYTES))
    transfer.write(head_key(number), seal(found.head, found.head))


def _belongs(source: Cache, key: str, documents: Mapping[str, bytes], done: set[str]) -> bool:
    """Whether something found at the target is a part of the copy, rather than left by another one."""
    if key in documents or key in done or key in NEVER:
        return True
    name, _, rest = key.partition("/c/")
    if rest:
        pack = int(rest.partition("/")[0])
        planned = name in source.specs and pack < source.packs and key == shard_key(name, pack)
        return planned and receipt_of(source.gdist, pack, name)[1] in done
    numbers = range(len(source.tasks.additions))
    return any(key in (head_key(number), table_key(number)) for number in numbers)


# --- some of its layers ---------------------------------------------------------------------------------------------


def bring_layers(source: Cache, copied: Cache, transfer: Transfer) -> int:
    """Bring the layers of ``copied``, which is planned with the source's rows. Returns how many packs it has now.

    Raises as :func:`bring_whole` does.
    """
    packs = transfer.packs(copied.tasks, lambda task: _with_layers(source, copied, task))
    return sum(1 for _ in packs)


def _with_layers(source: Cache, copied: Cache, task: Task) -> Pack | None:
    """Return a pack with one receipt, made of those that the source has for it, as extraction would write it."""
    objects: dict[str, Any] = {}
    layers: dict[str, Any] = {}
    quarantine: dict[str, str] = {}
    frames = 0
    for part in source.tasks.of_pack(task.pack):
        if not part.waveform and not set(part.layers) & set(task.layers):
            continue
        receipt = source.receipt(part)
        if receipt is None:
            return None
        objects |= _shards(source, part, receipt)
        quarantine |= receipt["quarantine"]
        layers |= receipt["statistics"]["layers"]
        frames = receipt["statistics"]["frames"] if part.waveform else frames
    shards = {key: objects[key] for key in (shard_key(name, task.pack) for name in copied.arrays_of(task))}
    statistics = {"frames": frames, "layers": {f"{n:02d}": layers[f"{n:02d}"] for n in task.layers}}
    receipt = copied.new_receipt(task, shards, quarantine, statistics)
    seal(receipt, receipt)
    return Pack(task.receipt, task.addition, receipt, shards)
