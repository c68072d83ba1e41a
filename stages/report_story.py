"""The report's sentences. They are made from the numbers, so that they say who wins where, whoever that is."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from gdist.pipeline import console

if TYPE_CHECKING:
    from gdist.stages.report import RunSummary

TIE = 0.002  # cosines nearer than this are called equal
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


def interval(share: float, items: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an accuracy over so many items.

    >>> [round(bound, 3) for bound in interval(0.9, 240)]
    [0.856, 0.932]
    """
    z = 1.96
    centre = (share + z * z / (2 * items)) / (1 + z * z / items)
    half = z / (1 + z * z / items) * math.sqrt(share * (1 - share) / items + z * z / (4 * items * items))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def story(runs: Sequence["RunSummary"], extras: Mapping[str, Any]) -> list[Markup]:
    """What happened, what came of it, and what it cost, in three sentences."""
    best = max(runs, key=lambda run: run.eval["mean_cosine"])
    teacher = best.eval.get("teacher") or best.provenance.get("teacher") or {}
    return [_stage_one(teacher, extras), _stage_two(runs, extras), _outcome(runs, best, teacher)]


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


def _stage_two(runs: Sequence["RunSummary"], extras: Mapping[str, Any]) -> Markup:
    passes = extras.get("teacher_passes") or {}
    said = Markup("<b>{} student{}</b> learned from it").format(len(runs), "s" * (len(runs) > 1))
    if "audio_seconds_trained" in passes:
        said += f", hearing {duration(passes['audio_seconds_trained'])} of speech in all"
    if "steps" in passes:
        said += f", {passes['steps']:,} steps without the teacher"
    if "teacher_seconds_saved" in passes:
        said += f", which spared it {duration(passes['teacher_seconds_saved'])} of work"
    return said + "."


def _outcome(runs: Sequence["RunSummary"], best: "RunSummary", teacher: Mapping[str, Any]) -> Markup:
    judged = best.eval
    smaller = reduction(judged["params"], teacher.get("params"))
    said = Markup("<b>{}</b>{} with {} parameters{} and a mean cosine of <b>{:.3f}</b>").format(
        best.name,
        " comes nearest" if len(runs) > 1 else " comes near",
        millions(judged["params"]),
        f" ({smaller} fewer)" if smaller else "",
        judged["mean_cosine"],
    )
    others = [run for run in runs if run is not best]
    if others:
        next_best = max(others, key=lambda run: run.eval["mean_cosine"])
        said += Markup(", against {:.3f} for <b>{}</b>").format(next_best.eval["mean_cosine"], next_best.name)
    return said + f", on {judged['utterances']:,} utterances it never heard."


def verdict(runs: Sequence["RunSummary"], references: Mapping[str, Rows]) -> list[Markup]:
    """Who is nearest to the teacher at which layers, and whether a trivial answer would have done as well."""
    said = []
    layers = [row["layer"] for row in runs[0].eval["layers"]]
    cosines = {run.name: [row["cosine"] for row in run.eval["layers"]] for run in runs}
    if len(runs) > 1:
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
            said.append(Markup("No better than “{}”: {}.").format(reference, Markup(", ").join(places)))
    if references and not beaten:
        which = "Every student beats" if len(runs) > 1 else "The student beats"
        said.append(Markup("{} both trivial answers at every layer.").format(which))
    return said


def probe_verdict(runs: Sequence["RunSummary"]) -> list[Markup]:
    """Which differences between systems the number of test items can carry."""
    said = []
    for task in sorted({name for run in runs for name in run.eval.get("probes") or {}}):
        systems = {run.name: run.eval["probes"][task] for run in runs if task in (run.eval.get("probes") or {})}
        best = max(systems, key=lambda name: systems[name]["value"])
        sentence = Markup("On {} the best student is <b>{}</b> ({:.1%})").format(task, best, systems[best]["value"])
        for key, label in (("teacher", "the teacher"), ("log_mel", "log-mel")):
            other = ((runs[0].eval.get(key) or {}).get("probes") or {}).get(task)
            if other:
                sentence += f", {label} has {other['value']:.1%}"
        low, high = interval(systems[best]["value"], systems[best]["test_items"])
        said.append(
            sentence + f"; with {systems[best]['test_items']} test items a value is known to about "
            f"±{(high - low) / 2:.1%}, and smaller differences say little."
        )
    return said


def caveats(runs: Sequence["RunSummary"]) -> list[Markup]:
    """What must be known before two columns of this report are compared."""
    said = []
    if len({(run.eval.get("split"), run.eval.get("utterances"), run.provenance.get("cache")) for run in runs}) > 1:
        said.append(Markup("These runs were judged on different speech or caches: compare them with care."))
    if len({run.training().get("steps") for run in runs}) > 1:
        said.append(Markup("These runs took different numbers of steps."))
    frozen = [run for run in runs if run.config.get("student", {}).get("frontend") == "frozen"]
    if frozen:
        whom = (
            "All"
            if len(frozen) == len(runs)
            else Markup(", ").join(Markup("<b>{}</b>").format(r.name) for r in frozen)
        )
        said.append(
            Markup(
                "Trained on a frozen front-end, from the teacher's cached layer 0: {}. Their h₀ is the teacher's own."
            ).format(whom)
        )
    partial = [run for run in runs if 0 < len(run.eval.get("predicted_layers") or []) < len(run.eval["layers"])]
    if partial:
        names = Markup(", ").join(
            Markup("<b>{}</b> ({})").format(run.name, ranges(run.eval["predicted_layers"])) for run in partial
        )
        said.append(
            Markup(
                "Some students answer for a few layers only: {}. Elsewhere the nearest of these answers for them "
                "(hollow markers), and their training curves are means over their own layers, so read those curves "
                "for their shape and not against another student's."
            ).format(names)
        )
    return said


def _lead(ranked: Sequence[float]) -> float:
    return ranked[0] - ranked[1]


def _layers(layers: Sequence[float]) -> str:
    return f"layer{'s' * (len(layers) > 1)}\N{NO-BREAK SPACE}{ranges(layers)}"


def _span(margins: Sequence[float]) -> str:
    low, high = f"{min(margins):.3f}", f"{max(margins):.3f}"
    return low if low == high else f"{low} to {high}"
