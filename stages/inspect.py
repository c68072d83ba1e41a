"""`gdist inspect` and `gdist verify`."""

from typing import Any

from gdist.pipeline import console, framing
from gdist.pipeline.cache import Cache
from gdist.pipeline.errors import EXIT_FAILURE, EXIT_OK, CacheDamagedError
from gdist.pipeline.plan import INDEX, ROOT, receipt_key
from gdist.pipeline.verify import verify


def describe(cache: Cache) -> dict[str, Any]:
    """What a cache holds, from its root, its index and its receipts; no layer is read."""
    receipts = cache.receipts()
    quarantine = {name: reason for receipt in receipts for name, reason in receipt["quarantine"].items()}
    stored = [entry for entry in cache.entries if entry.id not in quarantine and entry.num_frames]
    objects = cache.storage.objects()
    frames = sum(receipt["statistics"]["frames"] for receipt in receipts)
    layers = []
    for layer in cache.layers:
        name = f"{layer:02d}"
        squares = sum(r["statistics"]["layers"][name]["rms"] ** 2 * r["statistics"]["frames"] for r in receipts)
        layers.append(
            {
                "layer": layer,
                "bytes": sum(int(meta["size"]) for key, meta in objects.items() if key.startswith(f"layers/{name}/")),
                "rms": (squares / max(frames, 1)) ** 0.5,
                "max_abs": max((r["statistics"]["layers"][name]["max_abs"] for r in receipts), default=0.0),
            }
        )
    return {
        "uri": cache.uri,
        "format": cache.gdist["format"],
        "identity": cache.identity,
        "about": cache.gdist["about"],
        "utterances": len(stored),
        "frames": frames,
        "audio_seconds": sum(entry.num_samples for entry in stored) / framing.SAMPLE_RATE,
        "bytes": sum(int(meta["size"]) for meta in objects.values()),
        "objects": len(objects),
        "packs": cache.packs,
        "packs_done": len(receipts),
        "layers": layers,
        "quarantine": quarantine,
    }


def inspect_command(uri: str, as_json: bool) -> int:
    """Print what a cache holds."""
    found = describe(Cache.open(uri))
    if as_json:
        console.emit(found)
        return EXIT_OK
    identity, about = found["identity"], found["about"]
    teacher = identity["teacher"]
    title = f"{uri}: {found['utterances']} utterances, {console.duration(found['audio_seconds'])} of audio"
    rows = [
        ["teacher", f"{about['teacher']} ({teacher['family']}, {teacher['num_params'] / 1e6:.2f} M parameters)"],
        ["layers", f"{len(identity['layers'])} of {identity['dim']} values, stored in {identity['encoding']}"],
        ["computed in", identity["precision"]],
        ["packs", f"{found['packs_done']} of {found['packs']} done"],
        ["size", f"{console.size(found['bytes'])} in {found['objects']} objects"],
        ["quarantined", str(len(found["quarantine"]))],
    ]
    console.print_table(title, ["", "value"], rows)
    layers = [
        [str(v["layer"]), console.size(v["bytes"]), f"{v['rms']:.3f}", f"{v['max_abs']:.2f}"] for v in found["layers"]
    ]
    console.print_table("layers", ["layer", "stored", "rms", "largest |x|"], layers)
    for name, reason in sorted(found["quarantine"].items()):
        console.say(f"quarantined {name}: {reason}", style="yellow")
    if found["packs_done"] < found["packs"]:
        console.say("unfinished: run the same `gdist extract` again", style="yellow")
    return EXIT_OK


def verify_command(uri: str, as_json: bool) -> int:
    """Check every byte. Damage to the documents that make a cache readable at all is reported like any other."""
    try:
        cache = Cache.open(uri)
    except CacheDamagedError as error:
        if not as_json:
            raise
        key = next((key for key in (ROOT, INDEX) if f"/{key}" in error.message), ROOT)
        bad = {"object": key, "reason": error.message, "message": error.message}
        console.emit({"ok": False, "packs": 0, "packs_missing": [], "bad": [bad]})
        return EXIT_FAILURE
    with console.progress("verify", cache.packs, "packs", enabled=not as_json) as advance:
        result = verify(cache, advance)
    if as_json:
        console.emit(result)
    else:
        for damage in result["bad"]:
            console.say(f"damaged: {damage['message']}", style="red")
        if packs := sorted({damage["pack"] for damage in result["bad"] if damage.get("pack") is not None}):
            receipts = ", ".join(receipt_key(pack) for pack in packs)
            console.say(f"to mend it: delete {receipts}, then run the same `gdist extract` again", style="yellow")
        if result["packs_missing"]:
            console.say(f"missing packs: {result['packs_missing']} (run the same `gdist extract` again)", style="red")
        verdict = "ok" if result["ok"] else "NOT ok"
        console.say(f"{uri}: {verdict}, {result['packs']} packs, {len(result['bad'])} damaged objects")
    return EXIT_OK if result["ok"] else EXIT_FAILURE
