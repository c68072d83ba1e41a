"""The report's sentences. They are generated from the numbers, so they always name the actual winners."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from markupsafe import Markup

from gdist.pipeline import console
from gdist.stages.evaluate.layers import ranges
from gdist.stages.report.runs import Configuration, RunSummary

TIE = 0.002  # cosines that differ by less than this count as equal
MAX_NAMED = 4  # systems that a sentence names before it counts the rest
Rows = Sequence[Mapping[str, float]]


def short_name(name: str) -> str:
    """A teacher's short name: the last two parts of a path or of a Hugging Face id."""
    return "/".join(part for part in PurePath(name).parts[-2:] if part not in ("/", "..", "."))


def duration(seconds: float) -> str:
    """Format a duration with no-break spaces, so that numbers stay on one line with their units."""
    return console.duration(seconds).replace(" ", "\N{NO-BREAK SPACE}")


def size(num_bytes: float) -> str:
    """Format a number of bytes like :func:`duration`."""
    return console.size(num_bytes).replace(" ", "\N{NO-BREAK SPACE}")


def millions(count: float) -> str:
    """Format a number of parameters: ``1.07 M``."""
    return f"{count / 1e6:.2f}\N{NO-BREAK SPACE}M"


def reduction(params: float, teacher_params: float | None) -> str:
    """How much smaller a student is than the teacher, as a percentage; empty if that is not known."""
    return f"{1 - params / teacher_params:.0%}" if teacher_params else ""


def story(groups: Sequence[Configuration], teacher: Mapping[str, Any], extras: Mapping[str, Any]) -> list[Markup]:
    """Sum up the extraction, the training and the best result in one sentence each. ``groups`` come best first."""
    return [_stage_one(teacher, extras), _stage_two(groups, extras), _outcome(groups, teacher)]


def _stage_one(teacher: Mapping[str, Any], extras: Mapping[str, Any]) -> Markup:
    extract = extras.get("extract") or {}
    text = Markup("The teacher <b>{}</b>").format(short_name(str(teacher.get("name", "of these runs"))))
    if teacher.get("params"):
        text += f" ({millions(teacher['params'])} parameters)"
    text += " ran once"
    if "audio_seconds" in extract:
        text += f" over {duration(extract['audio_seconds'])} of speech"
    if extract.get("seconds"):
        text += f", in {duration(extract['seconds'])},"
    of_size = f" of {size(extract['bytes'])}" if "bytes" in extract else ""
    return text + f" and wrote a cache{of_size}."


def _stage_two(groups: Sequence[Configuration], extras: Mapping[str, Any]) -> Markup:
    passes = extras.get("teacher_passes") or {}
    count = sum(len(group.runs) for group in groups)
    text = Markup("<b>{} student{}</b>").format(count, "s" * (count > 1))
    if count > len(groups):
        text += f" ({len(groups)} configuration{'s' * (len(groups) > 1)}, some with several seeds)"
    caches = len({run.provenance.get("cache_checksum") for group in groups for run in group.runs})
    where = "on this cache" if caches == 1 else f"on {caches} caches of this teacher"
    text += f" {'were' if count > 1 else 'was'} trained {where}"
    if "steps" in passes:
        text += f" for {passes['steps']:,} steps without the teacher"
    if "audio_seconds_trained" in passes:
        text += f", on {duration(passes['audio_seconds_trained'])} of speech in total"
    if "teacher_seconds_saved" in passes:
        text += f", which saved {duration(passes['teacher_seconds_saved'])} of teacher time"
    return text + "."


def _outcome(groups: Sequence[Configuration], teacher: Mapping[str, Any]) -> Markup:
    best, result = groups[0], groups[0].first.eval
    smaller = reduction(result["params"], teacher.get("params"))
    text = Markup("<b>{}</b> {} a mean cosine of <b>{}</b>{} with {} parameters{}").format(
        best.label,
        "is closest to the teacher and has" if len(groups) > 1 else "has",
        best.cosine.text("{:.3f}".format),
        "" if len(groups) > 1 else " to the teacher",
        millions(result["params"]),
        f" ({smaller} fewer)" if smaller else "",
    )
    if len(groups) > 1:
        text += Markup(", against {} for <b>{}</b>").format(groups[1].cosine.text("{:.3f}".format), groups[1].label)
    return text + f", on {result['utterances']:,} {'' if result.get('also_trained_on') else 'unseen '}utterances."


def verdict(groups: Sequence[Configuration], references: Mapping[str, Rows]) -> list[Markup]:
    """Which student is closest to the teacher at which layers, and where a trivial prediction is just as good.

    Students are compared at the layers at which all were judged.
    """
    sentences = []
    by_layer = {group.name: {row["layer"]: row["cosine"] for row in group.layers} for group in groups}
    layers = sorted(set.intersection(*(set(rows) for rows in by_layer.values())))
    cosines = {name: [rows[layer] for layer in layers] for name, rows in by_layer.items()}
    if len(groups) > 1:
        if any(len(rows) > len(layers) for rows in by_layer.values()):
            common = f"They are compared at {_layers(layers)}, where all were judged."
            sentences.append(Markup("{}").format(common if layers else "There is no layer at which all were judged."))
        tied = [
            layer
            for place, layer in enumerate(layers)
            if _lead(sorted((values[place] for values in cosines.values()), reverse=True)) < TIE
        ]
        for name, values in cosines.items():
            leads = {
                layer: values[place] - max(other[place] for key, other in cosines.items() if key != name)
                for place, layer in enumerate(layers)
                if layer not in tied
            }
            won = [layer for layer, lead in leads.items() if lead > 0]
            if won:
                margins = [leads[layer] for layer in won]
                sentences.append(
                    Markup("<b>{}</b> is closest to the teacher at {}, by {}.").format(
                        name, _layers(won), _span(margins)
                    )
                )
        if tied:
            sentences.append(Markup("Too close to call (less than {:g} apart) at {}.").format(TIE, _layers(tied)))
    beaten = False
    for reference, rows in references.items():
        lost = {
            name: [row["layer"] for row in rows if found.get(row["layer"], 1.0) <= row["cosine"]]
            for name, found in by_layer.items()
        }
        places = [Markup("<b>{}</b> at {}").format(name, _layers(at)) for name, at in lost.items() if at]
        if places:
            beaten = True
            more = f" and {len(places) - MAX_NAMED} more" if len(places) > MAX_NAMED else ""
            sentences.append(
                Markup("No better than “{}”: {}{}.").format(reference, Markup(", ").join(places[:MAX_NAMED]), more)
            )
    if references and not beaten:
        which = "Every student beats" if len(groups) > 1 else "The student beats"
        judged = " that was judged" if any(map(absent_from, groups)) else ""
        sentences.append(Markup("{} both trivial predictions at every layer{}.").format(which, judged))
    return sentences


def caveats(groups: Sequence[Configuration]) -> list[Markup]:
    """What readers must know before they compare two columns of this report."""
    sentences = []
    runs = [run for group in groups for run in group.runs]
    elsewhere = {run.name: _other_cache(run) for run in runs if _other_cache(run)}
    if elsewhere:
        text = "Not evaluated on the cache that it was trained from: {}."
        sentences.append(Markup(text).format(listed(list(elsewhere), [f"on {uri}" for uri in elsewhere.values()])))
    if len({tuple(map(_read_from(run).get, ("split", "utterances", "minutes", "cache"))) for run in runs}) > 1:
        sentences.append(Markup("These runs were evaluated on different speech or caches: compare them with care."))
    sentences += _not_judged(groups)
    if len({run.training().get("steps") for run in runs}) > 1:
        sentences.append(Markup("These runs were trained for different numbers of steps."))
    if unfinished := [run for run in runs if not run.eval.get("finished", True)]:
        steps = [f"step {run.eval['step']} of {run.eval['steps']}" for run in unfinished]
        names = listed([run.name for run in unfinished], steps)
        sentences.append(Markup("Unfinished students, taken from checkpoints: {}.").format(names))
    remembered = [
        run.name
        for run in runs
        if run.eval.get("also_trained_on") or (run.provenance.get("also_trained_on") or {}).get("valid")
    ]
    if remembered:
        text = "Some of the speech that these were validated or evaluated on, they have trained on, too: {}."
        sentences.append(Markup(text).format(listed(remembered)))
    frozen = [
        group
        for group in groups
        if group.first.config.get("student", {}).get("frontend") == "frozen"
        and all(run.eval["layer_0"] == "teacher" for run in group.runs)  # and never thawed
    ]
    if frozen:
        whom = "All students" if len(frozen) == len(groups) else listed([group.name for group in frozen])
        sentences.append(
            Markup(
                "{} trained with a frozen front-end, from the teacher's cached layer 0, so that h₀ is the teacher's."
            ).format(whom)
        )
    partial = [group for group in groups if 0 < len(_predicted_layers(group)) < _depth(group)]
    if partial:
        names = listed([group.name for group in partial], [ranges(_predicted_layers(group)) for group in partial])
        sentences.append(
            Markup(
                "Some students predict only some of the layers: {}. For every other layer, the nearest predicted "
                "layer is used (hollow markers). Their training curves are means over the predicted layers, so read "
                "these curves for their shape, and do not compare them with those of other students."
            ).format(names)
        )
    return sentences


def listed(names: Sequence[str], remarks: Sequence[str] = ()) -> Markup:
    """List the first few names, each with its remark if there are remarks, and the number of further names."""
    shown = [Markup("<b>{}</b>").format(name) for name in names[:MAX_NAMED]]
    for place, remark in enumerate(remarks[:MAX_NAMED]):
        shown[place] += f" ({remark})"
    return Markup(", ").join(shown) + (f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else "")


def _other_cache(run: RunSummary) -> str:
    """The cache that a run was evaluated on, if that is not the one that it was trained from."""
    known, own = run.eval.get("cache_checksum"), run.provenance.get("cache_checksum")
    return str(run.eval["cache"]) if known and own and known != own else ""


def _read_from(run: RunSummary) -> dict[str, object]:
    """What an evaluation read; older ones do not say from which cache, and took the run's own."""
    return run.eval | {"cache": run.eval.get("cache_checksum", run.provenance.get("cache"))}


def absent_from(group: Configuration) -> list[float]:
    """The layers after layer 0 that the cache lacks, so that a configuration was not judged there."""
    return [layer for layer in group.first.eval.get("absent_layers") or [] if layer > 0]


def _not_judged(groups: Sequence[Configuration]) -> list[Markup]:
    """At which layers students were not judged, if there are any."""
    absent = {group.name: _layers(absent_from(group)) for group in groups if absent_from(group)}
    if not absent:
        return []
    if len(absent) == len(groups) and len(set(absent.values())) == 1:
        return [Markup("Not in the cache, and so not judged: {}.").format(next(iter(absent.values())))]
    which = listed(list(absent), list(absent.values()))
    text = "Not in the cache of these, and so not judged: {}. A mean is over the layers that were judged."
    return [Markup(text).format(which)]


def _predicted_layers(group: Configuration) -> Sequence[float]:
    return group.first.eval.get("predicted_layers") or []


def _depth(group: Configuration) -> int:
    return len(group.layers) + len(absent_from(group))


def _lead(ranked: Sequence[float]) -> float:
    return ranked[0] - ranked[1]


def _layers(layers: Sequence[float]) -> str:
    return f"layer{'s' * (len(layers) > 1)}\N{NO-BREAK SPACE}{ranges(layers)}"


def _span(margins: Sequence[float]) -> str:
    low, high = f"{min(margins):.3f}", f"{max(margins):.3f}"
    return low if low == high else f"{low} to {high}"
