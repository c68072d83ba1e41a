"""`gdist report`: one self-contained page about one or more runs. It reads the runs' files, and loads no model."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from gdist.pipeline import console
from gdist.pipeline.config import to_toml
from gdist.pipeline.errors import EXIT_OK, GdistError, UsageError
from gdist.pipeline.files import write_atomically
from gdist.stages.report import figures as report_figures
from gdist.stages.report import probes as report_probes
from gdist.stages.report.heat import heatmap, strips
from gdist.stages.report.probes import Task
from gdist.stages.report.runs import Configuration, RunSummary, configurations, told_apart
from gdist.stages.report.story import caveats, duration, millions, reduction, short_name, size, story, verdict
from gdist.stages.report.tables import by_configuration, costs, ranking

__all__ = ["RunSummary", "report_command", "write_report"]


def write_report(runs: Sequence[RunSummary], out: Path, extras: Mapping[str, Any] | None = None) -> None:
    """Write the page about ``runs``, in their order. The same inputs give the same bytes.

    Args:
        extras: what the runs' files do not contain, each entry optional: ``extract`` and ``verify`` (as the commands
            print them), ``cache`` (uri, encoding, dim, layers) and ``teacher_passes`` (steps, audio_seconds_trained,
            teacher_seconds_saved).

    Raises:
        UsageError: there are no runs, or their teachers have different numbers of layers.
    """
    runs = _distinct(runs)
    extras = {"extract": {}, "verify": {}, "cache": _cache_of(runs)} | dict(extras or {})
    extras["teacher_passes"] = _teacher_passes(runs, extras)
    groups = configurations(runs)
    teacher = _teacher(runs)
    tasks = report_probes.tasks(runs)
    references = _references(runs)
    template = _environment().get_template("page.html.j2")
    page = template.render(
        runs=runs,
        groups=groups,
        styles={run.folder: group.style for group in groups for run in group.runs},
        teacher=teacher,
        extras=extras,
        story=[*story(groups, teacher, extras), *report_probes.remarks(tasks, groups)],
        verdict=verdict(groups, references),
        caveats=caveats(groups),
        seeds=by_configuration(groups, teacher, tasks),
        ranking=ranking(groups, teacher, tasks),
        heatmap=heatmap(groups, references),
        costs=costs(groups, teacher),
        worst=min(row["cosine"] for run in runs for row in run.eval["layers"]),
        top=max(row["cosine"] for run in runs for row in run.eval["layers"]),
        probes=[_probe(task, groups, runs) for task in tasks],
        alike=any(report_probes.alike(task, groups) for task in tasks),
        fidelity=report_figures.fidelity(groups, references),
        quality=report_figures.quality(groups, teacher, tasks),
        spent=report_figures.spent(groups),
        progress=report_figures.progress(groups),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page)


def _environment() -> jinja2.Environment:
    """The Jinja environment. The stylesheet and the script are next to the templates, and are included unchanged."""
    here = files(__package__) / "templates"
    loader = jinja2.FunctionLoader(lambda name: here.joinpath(name).read_text(encoding="utf-8"))
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    filters: dict[str, Callable[..., str]] = {
        "size": size,
        "duration": duration,
        "millions": millions,
        "toml": to_toml,
        "quoted": shlex.quote,
        "short": short_name,
    }
    environment.filters |= filters
    environment.globals["reduction"] = reduction
    return environment


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
        "drawing": report_figures.probe(task, groups, runs),
        "strips": strips(task, groups, runs),
        "rows": [(name, style, found, is_alike) for name, style, found, is_alike in systems if found],
    }


def report_command(paths: list[Path], out: Path) -> int:
    """Report on runs, and on the runs inside the folders of sweeps."""
    folders = dict.fromkeys(folder for path in paths for folder in _runs_in(path))
    runs = [RunSummary.read(folder) for folder in folders]
    try:
        write_report(runs, out, _about_cache(runs))
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}", "choose another --out") from error
    console.say(f"{out}: {len(runs)} run{'s' * (len(runs) > 1)}", style="green")
    return EXIT_OK


def _runs_in(path: Path) -> list[Path]:
    """The folder itself if it is a run, else the runs inside it."""
    inside = sorted(child.parent for child in path.glob("*/config.toml"))
    return [path] if (path / "config.toml").exists() or not inside else inside


def _about_cache(runs: Sequence[RunSummary]) -> dict[str, Any]:
    """Describe the runs' cache, if it still exists: runs may outlive their cache."""
    from gdist.pipeline.cache.cache import Cache
    from gdist.stages.extract.inspection import describe

    uris = {run.provenance.get("cache") for run in runs}
    uri = uris.pop() if len(uris) == 1 else None
    if not uri:
        return {}
    try:
        description = describe(Cache.open(uri))
    except GdistError as error:
        console.say(f"the report leaves out the cache's size: {error.message}", style="yellow")
        return {}
    extract = {key: description[key] for key in ("utterances", "frames", "audio_seconds", "bytes", "packs")}
    return {"extract": extract | {"quarantined": len(description["quarantine"])}}


def _distinct(runs: Sequence[RunSummary]) -> list[RunSummary]:
    """The runs, checked to fit one table. Runs that share a name get the name of their parent folder as a prefix."""
    if not runs:
        raise UsageError("there is no run to report on", "gdist report RUN… --out report.html")
    depths = sorted({len(run.eval["layers"]) for run in runs})
    if len(depths) > 1:
        raise UsageError(
            f"these runs' teachers have {' and '.join(map(str, depths))} layers, which do not fit one table",
            "report on them separately",
        )
    return told_apart(runs)


def _cache_of(runs: Sequence[RunSummary]) -> dict[str, Any]:
    about = runs[0].provenance
    teacher = about.get("teacher") or {}
    known = {"uri": about.get("cache"), "encoding": about.get("encoding"), "dim": teacher.get("dim")}
    return {key: value for key, value in known.items() if value is not None}


def _teacher_passes(runs: Sequence[RunSummary], extras: Mapping[str, Any]) -> dict[str, Any]:
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
