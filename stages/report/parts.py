"""The parts of the page: everything that it shows about the students of one teacher, for the template."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from gdist.stages.report import figures
from gdist.stages.report import probes as report_probes
from gdist.stages.report.elsewhere import elsewhere
from gdist.stages.report.heat import heatmap, strips
from gdist.stages.report.probes import Task
from gdist.stages.report.runs import Configuration, RunSummary, configurations
from gdist.stages.report.story import caveats, millions, reduction, short_name, story, verdict
from gdist.stages.report.sweeps.answer import Tile
from gdist.stages.report.sweeps.section import Section
from gdist.stages.report.tables import by_configuration, costs, ranking
from gdist.stages.report.teachers import by_teacher
from gdist.stages.standings.teachers import teacher_of, told_apart

Extras = Mapping[str, Any]
About = Callable[[Sequence[RunSummary]], Extras]
"""What is known about the cache of some runs."""


def parts(
    runs: Sequence[RunSummary], about: About, sweeps: Sequence[tuple[str, Section]] = ()
) -> list[dict[str, Any]]:
    """One part for each teacher, in the order of the runs: what the template shows.

    Args:
        sweeps: teacher → its students, if they are a sweep; then ``runs`` are not used.
    """
    found: list[dict[str, Any]] = []
    names = [name for name, _ in sweeps]
    for _, sweep in sweeps:
        groups = sweep.board.configurations(evaluated=True)
        told = {"sweep": sweep, "everything": sweep.board.runs}
        told |= {"progress": figures.progress(sweep.board.configurations(evaluated=False)), "probes": []}
        own = sweep.board.evaluated
        evaluated = _evaluated(own, groups, about(own)) if own else {"teacher": sweep.board.teacher}
        found.append(evaluated | told | {"groups": groups, "runs": own})
        if own:
            found[-1]["probes"] = evaluated["probes"]
    if not sweeps:
        teachers = told_apart(teacher_of(run.provenance) for run in runs)
        names = list(teachers.values())
        for teacher in teachers:
            own = [run for run in runs if teacher_of(run.provenance) == teacher]
            groups = configurations(own)
            found.append(_evaluated(own, groups, about(own)) | {"sweep": None, "groups": groups, "runs": own})
    every = [group for part in found for group in part["groups"]]
    for place, (part, name) in enumerate(zip(found, names, strict=True), start=1):
        part["whose"], part["mark"] = (short_name(name), f"-{place}") if len(found) > 1 else ("", "")
        part["teachers"] = by_teacher(part["groups"], every) if part["groups"] else None
    return found


def _evaluated(runs: Sequence[RunSummary], groups: Sequence[Configuration], extras: Extras) -> dict[str, Any]:
    """What the template shows about evaluated runs."""
    extras = {"extract": {}, "verify": {}, "cache": _cache_of(runs)} | dict(extras)
    extras["teacher_passes"] = _teacher_passes(runs, extras)
    teacher = _teacher(runs)
    tasks = report_probes.tasks(runs)
    references = _references(runs)
    return {
        "everything": runs,
        "teacher": teacher,
        "extras": extras,
        "story": [*story(groups, teacher, extras), *report_probes.remarks(tasks, groups)],
        "verdict": verdict(groups, references),
        "caveats": caveats(groups),
        "seeds": by_configuration(groups, teacher, tasks),
        "ranking": ranking(groups, teacher, tasks),
        "heatmap": heatmap(groups, references),
        "elsewhere": elsewhere(groups),
        "costs": costs(groups, teacher),
        "worst": min(row["cosine"] for run in runs for row in run.eval["layers"]),
        "top": max(row["cosine"] for run in runs for row in run.eval["layers"]),
        "probes": [_probe(task, groups, runs) for task in tasks],
        "alike": any(report_probes.alike(task, groups) for task in tasks),
        "fidelity": figures.fidelity(groups, references),
        "quality": figures.quality(groups, teacher, tasks),
        "spent": figures.spent(groups),
        "progress": figures.progress(groups),
    }


def overview(found: Sequence[Mapping[str, Any]]) -> tuple[Markup, list[Tile]]:
    """Of several parts: what they are, and the best student of each."""
    names = [part["whose"] for part in found]
    sizes = [f"{millions(p)} parameters" if (p := part["teacher"]["params"]) else "of unknown size" for part in found]
    text = Markup(
        "These are students of {} teachers: {}. A cosine to one teacher says nothing beside a cosine to another, so "
        "each teacher has a part of this page, with its own ranking, charts and costs."
    ).format(len(found), _all(names, sizes))
    return text, [_tile(part) for part in found]


def _all(names: Sequence[str], remarks: Sequence[str]) -> Markup:
    told = [Markup("<b>{}</b> ({})").format(name, remark) for name, remark in zip(names, remarks, strict=True)]
    return Markup(", ").join(told[:-1]) + " and " + told[-1]


def _tile(part: Mapping[str, Any]) -> Tile:
    """The best student of a teacher."""
    if part["sweep"] is not None:
        best: Tile = part["sweep"].tiles[0]
        return replace(best, more=(f"{part['sweep'].board.metric}, student of {part['whose']}", *best.more))
    group = part["groups"][0]
    params, teacher = group.first.eval["params"], part["teacher"]["params"]
    smaller = reduction(params, teacher)
    size = f"{millions(params)} parameters{f', {smaller} fewer' if smaller else ''}"
    return Tile(group.label, group.style, f"{group.cosine.mean:.3f}", (f"mean cosine to {part['whose']}", size))


def _probe(task: Task, groups: Sequence[Configuration], runs: Sequence[RunSummary]) -> dict[str, Any]:
    """Everything that the page shows about one probe."""
    singles = [replace(group, name=run.name, runs=(run,)) for group in groups for run in group.runs]
    same = report_probes.alike(task, singles)
    systems = [("teacher", "ref", report_probes.reference(task, runs, "teacher"), same.teacher)]
    systems += [(one.name, one.style, report_probes.result(task, one.runs), one.name in same) for one in singles]
    systems += [("log-mel", "ref", report_probes.reference(task, runs, "log_mel"), False)]
    return {
        "task": task,
        "verdict": report_probes.verdict(task, groups, runs),
        "drawing": figures.probe(task, groups, runs),
        "strips": strips(task, groups, runs),
        "rows": [(name, style, found, is_alike) for name, style, found, is_alike in systems if found],
    }


def _cache_of(runs: Sequence[RunSummary]) -> dict[str, Any]:
    about = runs[0].provenance
    teacher = about.get("teacher") or {}
    known = {"uri": about.get("cache"), "encoding": about.get("encoding"), "dim": teacher.get("dim")}
    return {key: value for key, value in known.items() if value is not None}


def _teacher_passes(runs: Sequence[RunSummary], extras: Extras) -> dict[str, Any]:
    """The work of a teacher that would run at every training step: as given, or from the curves."""
    trainings = [run.training() for run in runs]
    found: dict[str, Any] = {}
    if all("steps" in training for training in trainings):
        found["steps"] = sum(training["steps"] for training in trainings)
    if all("audio_seconds" in training for training in trainings):
        found["audio_seconds_trained"] = sum(training["audio_seconds"] for training in trainings)
        speed = (extras.get("extract") or {}).get("realtime_factor")
        if speed:
            found["teacher_seconds_saved"] = found["audio_seconds_trained"] / speed
    return found | dict(extras.get("teacher_passes") or {})


def _teacher(runs: Sequence[RunSummary]) -> dict[str, Any]:
    known = runs[0].eval.get("teacher") or runs[0].provenance.get("teacher") or {}
    return {"name": "the teacher", "params": None} | known


def _references(runs: Sequence[RunSummary]) -> dict[str, list[dict[str, float]]]:
    """The two trivial predictions. Each run has its own copy of h₀; the best of these copies is shown."""
    found = [run.eval.get("references") or {} for run in runs]
    shown = {}
    for key, name in (("copy_h0", "h₀ copied"), ("mean_frame", "mean frame")):
        rows = [references[key] for references in found if references.get(key)]
        if rows:
            shown[name] = max(rows, key=lambda layers: sum(row["cosine"] for row in layers))
    return shown
