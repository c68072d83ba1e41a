"""The figures on a model card: what was found about exactly these weights, next to their own teachers."""

from collections.abc import Mapping
from typing import Any

from gdist.pipeline.run.evaluations import Evaluations
from gdist.pipeline.run.snapshot import Snapshot
from gdist.stages.evaluate.layers import answered_alike, ranges


def figures(at: Snapshot, provenance: Mapping[str, Any]) -> list[str]:
    """What was found about these very weights, on caches of their own teachers; the run's own cache comes first."""
    found = [each for each in Evaluations(at.run, at.evaluated_as).every() if _is_of_teachers(each, provenance)]
    if not found:
        return [f"It has not been evaluated. Run `gdist eval {at.typed}`, then export again."]
    lines = _fidelity(found[0], provenance)
    if found[0]["probes"]:
        lines += ["", *_probes(found[0])]
    if found[1:]:
        lines += ["", "Also evaluated:", ""]
        lines += [f"- {_speech(each)}: mean cosine {each['mean_cosine']:.3f}" for each in found[1:]]
    return lines


def _is_of_teachers(found: Mapping[str, Any], provenance: Mapping[str, Any]) -> bool:
    """Whether it says of which weights it is, and is on caches of the teachers that the student learned from.

    It may not say so where an earlier version made it.
    """
    own = provenance.get("teachers", {"": provenance["teacher"]}).values()
    judged = found.get("teachers", {"": found.get("teacher") or {}}).values()
    known = [each["fingerprint"] for each in own] == [each.get("fingerprint") for each in judged]
    return known and "weights" in found


def _fidelity(found: Mapping[str, Any], provenance: Mapping[str, Any]) -> list[str]:
    whose = provenance["teacher"]["name"] if "teachers" in found else "the teacher"
    lines = [
        f"{_speech(found)}, generating freely. Cosine to the hidden states of {whose}, mean "
        f"{found['mean_cosine']:.3f}:",
        "",
        "| layer | cosine | relative error |",
        "|---|---|---|",
        *(f"| {row['layer']} | {row['cosine']:.3f} | {row['relative_error']:.3f} |" for row in found["layers"]),
    ]
    if absent := [layer for layer in found["absent_layers"] if layer > 0]:
        lines += ["", f"Not judged, because they are not in the cache: layers {ranges(absent)}."]
    if "teachers" in found:
        lines += ["", "| teacher | mean cosine | layers |", "|---|---|---|"]
        lines += [
            f"| {each['name']} | {each['mean_cosine']:.3f} | {ranges([row['layer'] for row in each['layers']])} |"
            for each in found["teachers"].values()
        ]
    return lines


def _speech(found: Mapping[str, Any]) -> str:
    """What it was evaluated on; paths of this machine are not published."""
    amount = f", {found['minutes']:g} minutes of each voice" if found["minutes"] else ""
    name = str(found["cache"]).rstrip("/").rpartition("/")[2]
    return f"On {found['utterances']} utterances of the split {found['split']} of the cache `{name}`{amount}"


def _probes(found: dict[str, Any]) -> list[str]:
    of_teacher = found["teacher"]["probes"]
    lines = ["| probe | metric | student | teacher |", "|---|---|---|---|"]
    for name, probe in found["probes"].items():
        lines.append(f"| {name} | {probe['metric']} | {_value(probe)} | {_value(of_teacher.get(name))} |")
    notes = [f"{name}: {note}." for name in found["probes"] if (note := _not_compared(found, name))]
    return [*lines, "", *notes] if notes else lines


def _not_compared(found: dict[str, Any], probe: str) -> str:
    return answered_alike(probe, {"the student": [found]}).note


def _value(probe: dict[str, Any] | None) -> str:
    if probe is None:
        return "–"
    return f"{probe['value']:.3f} ({probe['low']:.3f}–{probe['high']:.3f})"
