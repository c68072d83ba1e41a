"""What `gdist eval` prints: fidelity by layer, the probes, and in words what is kept beside what was run."""

import json
from typing import Any

from gdist.pipeline import console
from gdist.pipeline.cache.needs import layers_command
from gdist.pipeline.loading.joined import Joined
from gdist.pipeline.run import EVALUATIONS
from gdist.pipeline.run.evaluation import Evaluation
from gdist.pipeline.run.evaluations import Evaluations
from gdist.pipeline.run.snapshot import Snapshot
from gdist.pipeline.storage.locations import in_shell
from gdist.stages.evaluate.bench import absent_layers
from gdist.stages.evaluate.layers import answered_alike, layer_read, ranges

MAX_COLUMNS = 4  # with more runs than this, columns are headed by numbers instead of names


def show(results: list[dict[str, Any]]) -> None:
    """Print the fidelity by layer, one column per run; then the probes, one row per run.

    Runs that were measured on different speech, such as those of different teachers, have tables of their own.
    """
    alike: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        read = [result.get(name) for name in ("cache_checksum", "data", "split", "minutes")]
        alike.setdefault(json.dumps(read), []).append(result)
    for some in alike.values():
        _show(some, "the teacher" if len(alike) == 1 else some[0]["teacher"]["name"])


def _show(results: list[dict[str, Any]], teacher: str) -> None:
    """Print what was found on one cache."""
    names = [name_of(result) for result in results]
    first = results[0]
    heads = names if len(names) <= MAX_COLUMNS else [str(number + 1) for number in range(len(names))]
    columns = ["layer", *heads, "copy of h_0", "mean frame"]
    rows = [
        [str(layer["layer"])]
        + [f"{result['layers'][place]['cosine']:.3f}" for result in results]
        + [f"{first['references'][name][place]['cosine']:.3f}" for name in ("copy_h0", "mean_frame")]
        for place, layer in enumerate(first["layers"])
    ]
    rows.append(["mean", *(f"{result['mean_cosine']:.3f}" for result in results)])
    title = f"cosine to {teacher} on {first['utterances']} {first['split']} utterances"
    if absent := [layer for layer in first.get("absent_layers", ()) if layer > 0]:
        title += f", at the layers in the cache: it lacks {ranges(absent)}"
    if heads != names:
        title += "".join(f"\n  {head}: {name}" for head, name in zip(heads, names, strict=True))
    for name, result in zip(names, results, strict=True):
        if not result.get("finished", True):
            title += f"\n  {name} is unfinished: step {result['step']} of {result['steps']}"
    console.print_table(title, columns, rows)
    _show_teachers(results)
    if first["probes"]:
        _show_probes(names, results)


def name_of(result: Evaluation) -> str:
    """What a student is called in tables: after its run, with its step if it is unfinished."""
    return str(result["run"]) if result.get("finished", True) else f"{result['run']}@{result['step']}"


def _show_teachers(results: list[dict[str, Any]]) -> None:
    """Print the fidelity to each teacher of the students that have several: one row per teacher of a run."""
    rows = [
        [name_of(result), name, f"{found['mean_cosine']:.3f}", str(len(found["layers"]))]
        for result in results
        for name, found in result.get("teachers", {}).items()
    ]
    if rows:
        title = "students of several teachers: mean cosine to each (above, and in the probes, the first one)"
        console.print_table(title, ["run", "teacher", "mean cosine", "layers"], rows)


def _show_probes(names: list[str], results: list[dict[str, Any]]) -> None:
    """Print each system's scores with their intervals below; then the scores of guessing and the numbers of items.

    Where a probe chose one layer, it is next to the score. Scores from the teacher's layer 0 are one result that is
    shown several times: they have no intervals, because there is nothing to compare.
    """
    first = results[0]
    probes = first["teacher"]["probes"]
    runs = list(zip(names, results, strict=True))
    systems = [("teacher", first["teacher"]), *runs, ("log-mel", first["log_mel"])]
    # By number, since runs in different folders may share a name.
    places = {str(place): [result] for place, result in enumerate(results)}
    alike = {probe: answered_alike(probe, places) for probe in probes}
    columns = ["", *(f"{name} {'↑' if info['higher_is_better'] else '↓'}" for name, info in probes.items())]
    rows = []
    for at, (system, result) in enumerate(systems):
        found = [result["probes"][name] for name in probes]
        same = [one.teacher if at == 0 else str(at - 1) in one for one in alike.values()]
        rows.append([system, *(_score(r, compared=not is_same) for r, is_same in zip(found, same, strict=True))])
        if any(r["shuffled"] is not None for r in found):
            rows.append(["  … labels shuffled", *(f"{r['shuffled']:.3f}" for r in found)])
    rows.append(["chance", *(f"{info['chance']:.3f}" for info in probes.values())])
    rows.append(["test items", *(str(info["test_items"]) for info in probes.values())])
    legend = "probes, with 95 % intervals"
    for probe, info in probes.items():
        note = alike[probe].renamed(dict(zip(places, names, strict=True))).note
        legend += f"\n  {probe}: {info['title']}, {info['metric']}{_use_of_layers(info)}{note and f'; {note}'}"
    console.print_table(legend, columns, rows)


def _score(found: dict[str, Any], compared: bool) -> str:
    layer = layer_read(found)
    value = f"{found['value']:.3f}" + ("" if layer is None else f" (layer {layer})")
    return f"{value}\n{found['low']:.3f}–{found['high']:.3f}" if compared else value


def _use_of_layers(found: dict[str, Any]) -> str:
    if layer_read(found) is not None:
        return ", from one layer"
    return ", from a learned sum of layers" if len(found.get("layer_weights") or []) > 1 else ""


def say_absent(at: Snapshot, caches: Joined, given: str) -> None:
    """Say which layers of the caches are judged, where some are lacking, and what to type to judge them all.

    Args:
        given: the options that name the caches.
    """
    for taught in filter(absent_layers, caches.teachers):
        cache = taught.cache
        of = "" if len(caches.teachers) == 1 else f" of {taught.name}"
        console.say(
            f"layers{of} that are judged and probed: {ranges(taught.layers)}, those in the cache; it lacks "
            f"{ranges(absent_layers(taught))}",
            style="yellow",
        )
        again = f"gdist eval {at.typed}{at.run.use_options}"
        if command := layers_command(cache.uri, cache.gdist):
            console.say(f"  to add them: {command}\n  then: {again}{given}")
        elif len(caches.parts) == 1:
            source = in_shell(cache.gdist["about"].get("copied_from", "URI"))
            console.say(f"  what it was copied from may have them: {again} --cache {source}")


def say_kept(at: Snapshot, split: str, result: Evaluation, kept: Evaluation) -> None:
    """Say which probes were run before, and on what else the student was evaluated.

    Args:
        split: that was asked for.
        result: what was run now.
        kept: the same with what is kept of earlier calls.
    """
    if before := [name for name in kept["probes"] if name not in result["probes"]]:
        console.say(f"{at.name}: kept from before, on the same speech: {', '.join(before)}")
    for place, other in enumerate(Evaluations(at.run, at.evaluated_as).every(split)):
        if other != kept:
            stays = place == 0 and at.is_finished
            what = f"{EVALUATIONS[split]} stays" if stays else "kept beside it:"
            console.say(f"{at.name}: {what} what was found {_where(other)}")


def _where(found: Evaluation) -> str:
    minutes = found.get("minutes")
    speech = f"{minutes:g} minutes of each voice" if minutes else f"{found.get('utterances', 'some')} utterances"
    return f"on {found.get('cache', 'another cache')}, {speech} (mean cosine {found['mean_cosine']:.3f})"
