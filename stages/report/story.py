"""The report's sentences. They are made from the numbers, so that they say who wins where, whoever that is."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import PurePath
from typing import Any

from markupsafe import Markup

from gdist.pipeline import console
from gdist.stages.report.runs import Configuration

TIE = 0.002  # cosines nearer than this are called equal
NAMED = 4  # systems that a sentence names before it counts the rest
Rows = Sequence[Mapping[str, float]]


def short_name(name: str) -> str:
    """A teacher's name as people say it: the last two parts of a path or of a Hugging Face id."""
    return "/".join(part for part in PurePath(name).parts[-2:] if part not in ("/", "..", "."))


def duration(seconds: float) -> str:
    """Numbers stay on one line with their units."""
    return console.duration(seconds).replace(" ", "\N{NO-BREAK SPACE}")


def size(num_bytes: float) -> str:
    """As :func:`duration`."""
    return console.size(num_bytes).replace(" ", "\N{NO-BREAK SPACE}")


def millions(count: float) -> str:
    """A number of parameters: ``1.07 M``."""
    return f"{count / 1e6:.2f}\N{NO-BREAK SPACE}M"


def ranges(layers: Sequence[float]) -> str:
    """
    >>> ranges([1, 2, 3, 7, 9, 10])
    '1–3, 7, 9–10'
    """
    runs = [[layer for _, layer in group] for _, group in groupby(enumerate(layers), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]:g}–{run[-1]:g}" if len(run) > 1 else f"{run[0]:g}" for run in runs)


def reduction(params: float, teacher_params: float | None) -> str:
    """How much smaller than the teacher, for people; empty where that is not known."""
    return f"{1 - params / teacher_params:.0%}" if teacher_params else ""


def story(groups: Sequence[Configuration], teacher: Mapping[str, Any], extras: Mapping[str, Any]) -> list[Markup]:
    """What happened, what came of it, and what it cost, in three sentences. ``groups`` come best first."""
    return [_stage_one(teacher, extras), _stage_two(groups, extras), _outcome(groups, teacher)]


def _stage_one(teacher: Mapping[str, Any], extras: Mapping[str, Any]) -> Markup:
    extract = extras.get("extract") or {}
    said = Markup("The teacher <b>{}</b>").format(short_name(str(teacher.get("name", "of these runs"))))
    if teacher.get("params"):
        said += f" ({millions(teacher['params'])} parameters)"
    said += " ran once"
    if "audio_seconds" in extract:
        said += f" over {duration(extract['audio_seconds'])} of speech"
    if extract.get("seconds"):
        said += f", in {duration(extract['seconds'])},"
    return said + (f" and left a cache of {size(extract['bytes'])}." if "bytes" in extract else " and left a cache.")


def _stage_two(groups: Sequence[Configuration], extras: Mapping[str, Any]) -> Markup:
    passes = extras.get("teacher_passes") or {}
    count = sum(len(group.runs) for group in groups)
    said = Markup("<b>{} student{}</b> learned from it").format(count, "s" * (count > 1))
    if count > len(groups):
        said += f" ({len(groups)} configuration{'s' * (len(groups) > 1)}, some with several seeds)"
    if "audio_seconds_trained" in passes:
        said += f", hearing {duration(passes['audio_seconds_trained'])} of speech in all"
    if "steps" in passes:
        said += f", {passes['steps']:,} steps without the teacher"
    if "teacher_seconds_saved" in passes:
        said += f", which spared it {duration(passes['teacher_seconds_saved'])} of work"
    return said + "."


def _outcome(groups: Sequence[Configuration], teacher: Mapping[str, Any]) -> Markup:
    best, judged = groups[0], groups[0].first.eval
    smaller = reduction(judged["params"], teacher.get("params"))
    said = Markup("<b>{}</b>{} with {} parameters{} and a mean cosine of <b>{}</b>").format(
        best.label,
        " comes nearest" if len(groups) > 1 else " comes near",
        millions(judged["params"]),
        f" ({smaller} fewer)" if smaller else "",
        best.cosine.text("{:.3f}".format),
    )
    if len(groups) > 1:
        said += Markup(", against {} for <b>{}</b>").format(groups[1].cosine.text("{:.3f}".format), groups[1].label)
    return said + f", on {judged['utterances']:,} utterances it never heard."


def verdict(groups: Sequence[Configuration], references: Mapping[str, Rows]) -> list[Markup]:
    """Who is nearest to the teacher at which layers, and whether a trivial answer would have done as well."""
    said = []
    layers = [row["layer"] for row in groups[0].layers]
    cosines = {group.name: [row["cosine"] for row in group.layers] for group in groups}
    if len(groups) > 1:
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
                said.append(
                    Markup("<b>{}</b> is nearest to the teacher at {}, by {}.").format(
                        name, _layers(won), _span(margins)
                    )
                )
        if tied:
            said.append(Markup("Too near to call (less than {:g} apart) at {}.").format(TIE, _layers(tied)))
    beaten = False
    for reference, rows in references.items():
        lost = {
            name: [row["layer"] for row, value in zip(rows, values, strict=False) if value <= row["cosine"]]
            for name, values in cosines.items()
        }
        places = [Markup("<b>{}</b> at {}").format(name, _layers(at)) for name, at in lost.items() if at]
        if places:
            beaten = True
            more = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
            said.append(
                Markup("No better than “{}”: {}{}.").format(reference, Markup(", ").join(places[:NAMED]), more)
            )
    if references and not beaten:
        which = "Every student beats" if len(groups) > 1 else "The student beats"
        said.append(Markup("{} both trivial answers at every layer.").format(which))
    return said


def caveats(groups: Sequence[Configuration]) -> list[Markup]:
    """What must be known before two columns of this report are compared."""
    said = []
    runs = [run for group in groups for run in group.runs]
    if len({(run.eval.get("split"), run.eval.get("utterances"), run.provenance.get("cache")) for run in runs}) > 1:
        said.append(Markup("These runs were judged on different speech or caches: compare them with care."))
    if len({run.training().get("steps") for run in runs}) > 1:
        said.append(Markup("These runs took different numbers of steps."))
    frozen = [group for group in groups if group.first.config.get("student", {}).get("frontend") == "frozen"]
    if frozen:
        whom = "All" if len(frozen) == len(groups) else listed([group.name for group in frozen])
        said.append(
            Markup(
                "Trained on a frozen front-end, from the teacher's cached layer 0: {}. Their h₀ is the teacher's own."
            ).format(whom)
        )
    partial = [group for group in groups if 0 < len(_answered(group)) < len(group.layers)]
    if partial:
        names = listed([group.name for group in partial], [ranges(_answered(group)) for group in partial])
        said.append(
            Markup(
                "Some students answer for a few layers only: {}. Elsewhere the nearest of these answers for them "
                "(hollow markers), and their training curves are means over their own layers, so read those curves "
                "for their shape and not against another student's."
            ).format(names)
        )
    return said


def listed(names: Sequence[str], remarks: Sequence[str] = ()) -> Markup:
    """A few names, each with a remark if there are any, and how many more there are."""
    shown = [Markup("<b>{}</b>").format(name) for name in names[:NAMED]]
    for place, remark in enumerate(remarks[:NAMED]):
        shown[place] += f" ({remark})"
    return Markup(", ").join(shown) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _answered(group: Configuration) -> Sequence[float]:
    return group.first.eval.get("predicted_layers") or []


def _lead(ranked: Sequence[float]) -> float:
    return ranked[0] - ranked[1]


def _layers(layers: Sequence[float]) -> str:
    return f"layer{'s' * (len(layers) > 1)}\N{NO-BREAK SPACE}{ranges(layers)}"


def _span(margins: Sequence[float]) -> str:
    low, high = f"{min(margins):.3f}", f"{max(margins):.3f}"
    return low if low == high else f"{low} to {high}"
