"""`gdist inspect` and `gdist verify`."""

from typing import Any

import numpy as np

from gdist.pipeline import console
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.entries import named
from gdist.pipeline.cache.lock import Lock, require_token
from gdist.pipeline.cache.needs import MANIFEST, teacher_of
from gdist.pipeline.cache.plan import layer_name
from gdist.pipeline.cache.survey import caches_below
from gdist.pipeline.cache.verify import Findings, examine
from gdist.pipeline.errors import EXIT_FAILURE, EXIT_OK, CacheDamagedError, CacheError
from gdist.pipeline.framing import SAMPLE_RATE, Framing
from gdist.pipeline.storage.hub import is_read_only
from gdist.pipeline.storage.locations import in_shell, scheme_of
from gdist.stages.extract import layer_statistics
from gdist.stages.extract.sources import Sources


def describe(cache: Cache) -> dict[str, Any]:
    """Describe what a cache contains, from its root, its index and its receipts. No layer is read."""
    now = cache.standing()
    quarantine, missing = now.quarantine(), {task.pack for task in now.todo()}
    entries = cache.entries
    stored = entries.take(np.flatnonzero(~named(entries, quarantine) & (entries.numbers("num_frames") > 0)))
    whole = ~np.isin(stored.numbers("pack"), list(missing))
    arrays = now.stored()
    parts = cache.encoding.parts(cache.identity["dim"])
    sizes = {layer: sum(arrays.get(layer_name(layer, part), 0) for part in parts) for layer in cache.layers}
    measured = {row["layer"]: row for row in layer_statistics.combined(now.receipts())}
    objects, size = cache.size(now)
    layers = [{"layer": layer, "bytes": sizes[layer]} | measured.get(layer, {}) for layer in cache.layers]
    return {
        "uri": cache.uri,
        "format": cache.gdist["format"],
        "identity": cache.identity,
        "about": cache.gdist["about"],
        "utterances": len(stored),
        "frames": int(stored.numbers("num_frames")[whole].sum(dtype=np.int64)),
        "audio_seconds": int(stored.numbers("num_samples").sum()) / SAMPLE_RATE,
        "bytes": size,
        "objects": objects,
        "packs": cache.packs,
        "packs_done": cache.packs - len(missing),
        "layers": layers,
        "quarantine": quarantine,
    }


def open_cache(uri: str) -> Cache:
    """Open a cache; CacheError also where there are only caches below, which the message says."""
    if cache := Cache.find(uri):
        return cache
    if not is_read_only(scheme_of(uri)) and (below := caches_below(uri)):
        caches = "a cache is" if below == 1 else f"{below} caches are"
        raise CacheError(f"no cache at {uri}, but {caches} in its folders", f"gdist caches {in_shell(uri)}")
    return Cache.open(uri)


def inspect_command(uri: str, as_json: bool) -> int:
    """Print what a cache contains."""
    found = describe(open_cache(uri))
    if as_json:
        console.emit(found)
        return EXIT_OK
    identity, about = found["identity"], found["about"]
    teacher, framing = identity["teacher"], Framing.from_dict(identity["framing"])
    title = f"{uri}: {found['utterances']} utterances, {console.duration(found['audio_seconds'])} of audio"
    rows = [
        ["teacher", f"{about['teacher']} ({teacher['family']}, {teacher['num_params'] / 1e6:.2f} M parameters)"],
        ["layers", f"{len(identity['layers'])} of {identity['dim']} values, stored in {identity['encoding']}"],
        ["frames", f"{framing.frames_per_second:g} per second, each of {framing.window} samples at 16 kHz"],
        ["computed in", identity["precision"]],
        ["packs", f"{found['packs_done']} of {found['packs']} done"],
        ["size", f"{console.size(found['bytes'])} in {found['objects']} objects"],
        ["quarantined", str(len(found["quarantine"]))],
    ]
    if "copied_from" in about:
        rows.append(["copied from", f"{about['copied_from']} {about.get('copied_options', '')}"])
    console.print_table(title, ["", "value"], rows)
    layers = [[str(v["layer"]), console.size(v["bytes"]), *layer_statistics.cells(v)] for v in found["layers"]]
    console.print_table("layers", ["layer", "stored", *layer_statistics.COLUMNS], layers)
    for name, reason in sorted(found["quarantine"].items()):
        console.say(f"quarantined {name}: {reason}", style="yellow")
    if found["packs_done"] < found["packs"]:
        console.say("unfinished: run the same `gdist extract` again", style="yellow")
    return EXIT_OK


def _summarize(cache: Cache) -> None:
    """Write the summaries that are missing: a cache that was extracted before there were any opens faster then."""
    if len(cache.standing().summaries) == len(cache.tasks.additions):
        return
    try:
        with Lock(cache.storage) as lock:
            cache.guard = lambda: require_token(cache.storage, lock.token)
            cache.summarize()
    except CacheError as error:  # one may verify what one may not write
        console.say(f"the cache is sound, but its summary was not written: {error.message}", style="yellow")


def verify_command(
    uri: str,
    as_json: bool,
    repairing: bool = False,
    sources: Sources = Sources(),  # noqa: B008 — it is frozen
) -> int:
    """Check every byte of a cache, after repairing what is damaged if that is wished."""
    repaired: list[str] = []
    try:
        if repairing:
            from gdist.stages.extract.repair import repair  # and with it transformers

            found, repaired = repair(uri, sources, show_progress=not as_json)
        else:
            cache = open_cache(uri)
            with console.progress("verify", len(cache.tasks), "packs", enabled=not as_json) as advance:
                found = examine(cache, advance)
            if found.ok:
                _summarize(cache)
    except CacheDamagedError as error:
        # Damage to a document without which the cache cannot be opened is reported like any other damage.
        if not as_json:
            raise
        key = error.message.split(" ", 1)[0].removeprefix(f"{uri}/")
        bad = {"object": key, "reason": error.message, "message": error.message}
        console.emit({"ok": False, "packs": 0, "packs_missing": [], "bad": [bad], "repaired": []})
        return EXIT_FAILURE
    if as_json:
        console.emit(found.document() | {"repaired": repaired})
    else:
        _show(uri, found, repaired, sources)
    return EXIT_OK if found.ok else EXIT_FAILURE


def _show(uri: str, found: Findings, repaired: list[str], sources: Sources) -> None:
    """Print what was repaired, what is damaged, and the command that repairs all of it."""
    for key in repaired:
        console.say(f"repaired: {key}")
    for damage in found.bad:
        console.say(f"damaged: {damage}", style="red")
    if packs := found.document()["packs_missing"]:
        console.say(f"missing packs: {packs} (run the same `gdist extract` again)", style="red")
    if any(not damage.is_final for damage in found.bad):
        command, (teacher, is_folder) = sources.command(found), teacher_of(found.cache.gdist)
        console.say(f"to repair it: {command}", style="yellow")
        names = [f"{teacher} is the teacher's folder"] * (is_folder and found.needs.teacher and not sources.teacher)
        names += [f"{MANIFEST} is the manifest"] * (found.needs.manifest and not sources.manifest)
        if names:
            console.say(f"  ({' and '.join(names)}: give the path, which a cache does not record)")
    verdict = "ok" if found.ok else "NOT ok"
    console.say(f"{uri}: {verdict}, {found.cache.packs} packs, {len(found.bad)} damaged objects")
