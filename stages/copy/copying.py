"""`gdist copy`, read top to bottom: look at both places → own the target → send what is missing → say what it is."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gdist.pipeline import console
from gdist.pipeline.cache import planning
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.duplicate import bring_layers, bring_whole, records_of, require_place
from gdist.pipeline.cache.encodings import encoding
from gdist.pipeline.cache.lock import Lock, require_token
from gdist.pipeline.cache.plan import ROOT, WAVEFORM, Plan, layer_arrays, plan_key
from gdist.pipeline.cache.transfer import Amount, Transfer
from gdist.pipeline.errors import CacheDamagedError, CacheMismatchError, UsageError
from gdist.pipeline.storage.between import overlap
from gdist.pipeline.storage.objects import Storage, sha256
from gdist.stages.copy.cost import estimate
from gdist.stages.copy.part import Chosen, plan_of
from gdist.stages.copy.reencode import Origin, reencode, withdraw_unsound
from gdist.stages.estimate.prices import Prices
from gdist.stages.extract import layer_statistics
from gdist.stages.extract.extract import audio_seconds, summarize

MB = 1e6


@dataclass(frozen=True)
class CopyConfig:
    """What to copy, and to where.

    Attributes:
        layers: ``all``, or layers such as ``0,4,8-12``.
        encoding: None for the source's own.
        where: ``COLUMN=VALUE`` each; see :func:`gdist.stages.copy.part.rows_of`.
    """

    source: str
    target: str
    layers: str = "all"
    encoding: str | None = None
    where: tuple[str, ...] = ()
    dry_run: bool = False

    def __post_init__(self) -> None:
        if overlap(self.source, self.target):
            raise UsageError(
                f"cannot copy {self.source} to {self.target}: they are the same place, or one is inside the other",
                "choose a DST next to SRC, or elsewhere",
            )


@dataclass
class Outcome:
    """What a copy did.

    Attributes:
        sent, kept: objects that were sent, and that were there and right.
        options: what makes it a cache of its own, as it is typed; empty for the same cache.
        refused: utterances that the source has, and the copy's encoding cannot store.
    """

    sent: Amount
    kept: Amount
    by_store: bool = False
    options: str = ""
    refused: frozenset[str] = frozenset()


def copy(config: CopyConfig, prices: Prices, show_progress: bool = True) -> dict[str, Any]:
    """Copy a cache, or continue to.

    Returns:
        the fields of ``gdist copy --json`` (see docs/reference/json.md).

    Raises:
        UsageError: the options ask for what the source does not have, or the places overlap.
        CacheMismatchError: the target is another cache.
        CacheLockedError: another process is writing to the target.
        CacheDamagedError: the source is damaged.
        CacheError: the target contains something else, or a place cannot be read or written.
    """
    began = time.monotonic()
    source = Cache.open(config.source)
    chosen = Chosen.of(source, config.layers, config.encoding, config.where)
    whole = chosen.is_whole(source)
    if config.dry_run:
        plan = None if whole else plan_of(source, chosen)
        return estimate(source, chosen, plan, config.target, prices) | {"currency": prices.currency}
    target = Storage(config.target, create=True)
    require_place(target)
    with Lock(target, work="copy") as lock:
        target.sweep_staged(planning.is_ours)
        run = _whole if whole else _part
        outcome = run(source, chosen, target, lambda: require_token(target, lock.token), show_progress)
    outcome.options = chosen.options
    return _result(Cache.open(config.target), config, outcome, time.monotonic() - began)


def _whole(source: Cache, chosen: Chosen, target: Storage, guard: Callable[[], None], show_progress: bool) -> Outcome:
    largest = max(spec.pack_bytes for spec in source.specs.values())
    while True:
        with _sending(source, chosen, show_progress) as advance:
            transfer = Transfer(source.storage, target, guard, advance, largest)
            bring_whole(source, transfer)
        newest = planning.read_root(source.storage)
        if newest is None or newest["checksum"] == source.gdist["checksum"]:
            return Outcome(transfer.sent, transfer.kept, transfer.by_store)
        console.say(f"{source.uri} has grown while it was copied: copying what was added")
        source = Cache.open(source.uri)


def _part(source: Cache, chosen: Chosen, target: Storage, guard: Callable[[], None], show_progress: bool) -> Outcome:
    origin = Origin.of(source, chosen.layers)
    learns = chosen.encoding != source.identity["encoding"] and encoding(chosen.encoding).calibrated
    plan = plan_of(source, chosen)
    if learns and planning.read_root(target) is None:
        plan = plan_of(source, chosen, origin.learn_tables(plan))
    try:
        cache = Cache.create(target.uri, plan)
    except CacheMismatchError as error:
        raise CacheMismatchError(error.message, "choose another DST, or copy with the options that it has") from error
    cache.guard = guard
    _restore_documents(cache, lambda: plan_of(source, chosen, origin.learn_tables(plan)) if learns else plan)
    cache.withdraw_summaries(task.addition for task in cache.todo(listed=True))
    if chosen.keeps_bytes(source):
        largest = max(spec.pack_bytes for spec in cache.specs.values())
        with _sending(source, chosen, show_progress) as advance:
            transfer = Transfer(source.storage, target, guard, advance, largest)
            bring_layers(source, cache, transfer)
        outcome = Outcome(transfer.sent, transfer.kept, transfer.by_store)
    else:
        kept = [cache.receipt(task) for task in withdraw_unsound(cache)]
        todo = [task for task in cache.todo(listed=True) if origin.has(cache.pack_entries(task.pack))]
        with console.progress("copy", audio_seconds(cache, todo), "s of audio", enabled=show_progress) as advance:
            reencode(cache, origin, todo, advance)
        refused = frozenset(cache.quarantine()) - frozenset(origin.quarantine)
        outcome = Outcome(_amount(cache.receipt(task) for task in todo), _amount(kept), refused=refused)
    cache.summarize()
    return outcome


def _amount(receipts: Iterable[Mapping[str, Any] | None]) -> Amount:
    sizes = [written["bytes"] for receipt in receipts if receipt for written in receipt["objects"].values()]
    return Amount(len(sizes), sum(sizes))


def _restore_documents(cache: Cache, planned: Callable[[], Plan]) -> None:
    """Write the documents of a copy again that were lost or damaged since it was planned."""
    lost = [key for key in cache.gdist["objects"] if not _is_there(cache, key)]
    documents = planned().documents() if lost else {}
    newest = plan_key(cache.gdist["generation"])
    root = cache.storage.get(ROOT)
    for key in lost:
        if sha256(documents.get(key, b"")) != cache.gdist["objects"][key]:
            raise CacheDamagedError(
                f"{cache.uri}/{key} is damaged, and the source does not give the same bytes any more",
                "copy to another DST",
            )
        cache.guard()
        cache.storage.put(key, documents[key])
    if planning.read_root(cache.storage, newest) is None:
        cache.storage.put(newest, root)


def _is_there(cache: Cache, key: str) -> bool:
    try:
        planning.read_document(cache.storage, cache.gdist, key)
    except CacheDamagedError:
        return False
    return True


@contextmanager
def _sending(source: Cache, chosen: Chosen, show_progress: bool) -> Iterator[Callable[[float], None]]:
    """Show how many bytes are there and right, and how fast."""
    names = [*layer_arrays(source.identity, chosen.layers), WAVEFORM]
    total = sum(size for _, size in records_of(source, names)) if show_progress else 1
    began, done, counting = time.monotonic(), 0.0, threading.Lock()
    with console.progress("copy", total / MB, "MB", enabled=show_progress) as show:

        def advance(size: float) -> None:
            nonlocal done
            with counting:
                done += size
                show(size / MB, f"{console.size(done / (time.monotonic() - began))} per second")

        yield advance


# --- results --------------------------------------------------------------------------------------------------------


def _result(cache: Cache, config: CopyConfig, outcome: Outcome, seconds: float) -> dict[str, Any]:
    found = summarize(cache, 0, 0.0, seconds)
    missing = sorted({task.pack for task in cache.todo()})
    kept = ("utterances", "frames", "audio_seconds", "bytes", "packs", "quarantined", "quarantine", "layers")
    return {
        "source": config.source,
        "cache": config.target,
        "options": outcome.options,
        **{name: found[name] for name in kept},
        "packs_missing": missing,
        "objects_sent": outcome.sent.objects,
        "bytes_sent": outcome.sent.bytes,
        "objects_kept": outcome.kept.objects,
        "bytes_kept": outcome.kept.bytes,
        "by_store": outcome.by_store,
        "newly_quarantined": sorted(outcome.refused),
        "seconds": seconds,
    }


def show(result: dict[str, Any]) -> None:
    """Print the result of a copy for people."""
    if result["options"]:
        rows = [[str(row["layer"]), *layer_statistics.cells(row)] for row in result["layers"]]
        console.print_table("what is stored", ["layer", *layer_statistics.COLUMNS], rows)
    way = " by the store itself" if result["by_store"] else ""
    sent, kept = (
        f"{result[f'objects_{what}']:,} objects, {console.size(result[f'bytes_{what}'])}" for what in ("sent", "kept")
    )
    console.say(f"{result['cache']}: {result['utterances']} utterances in {console.size(result['bytes'])}", "green")
    console.say(f"sent {sent}{way} in {console.duration(result['seconds'])}; {kept} were there and right")
    for name in result["newly_quarantined"]:
        console.say(f"quarantined {name}: {result['quarantine'][name]}", style="yellow")
    if result["packs_missing"]:
        console.say(
            f"{result['source']} is unfinished, and so is its copy: {len(result['packs_missing'])} of "
            f"{result['packs']} packs are missing; once they are there, run the same command again",
            style="yellow",
        )


def show_estimate(result: dict[str, Any], prices: Prices) -> None:
    """Print the result of a dry run for people."""
    way = ", by the store itself" if result["by_store"] else ""
    console.say(f"would send {result['objects']:,} objects, at most {console.size(result['bytes'])}{way}")
    console.say(f"{result['objects_kept']:,} objects, {console.size(result['bytes_kept'])}, are there already")
    if not result["gets"] and not result["puts"]:
        return
    requests = f"{result['gets']:,} gets and {result['puts']:,} puts"
    leaving = f"{console.size(result['egress_bytes'])} leave a bucket for this machine"
    console.say(f"requests: {requests}; {leaving}: {prices.money(result['cost'])} (gdist plan --show-prices)")
