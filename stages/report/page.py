"""`gdist report`: one self-contained page about one or more runs. It reads the runs' files, and loads no model."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import jinja2

from gdist.pipeline import console
from gdist.pipeline.config import to_toml
from gdist.pipeline.errors import EXIT_OK, GdistError, UsageError
from gdist.pipeline.files import write_atomically
from gdist.pipeline.run import Run, only_ready
from gdist.pipeline.run.evaluations import Evaluations
from gdist.stages.report import figures as report_figures
from gdist.stages.report import probes as report_probes
from gdist.stages.report.heat import heatmap, strips
from gdist.stages.report.probes import Task
from gdist.stages.report.runs import Configuration, RunSummary, configurations, told_apart
from gdist.stages.report.story import caveats, duration, millions, reduction, short_name, size, story, verdict
from gdist.stages.report.sweeps.board import Board, sweep_of
from gdist.stages.report.sweeps.markdown import write_page
from gdist.stages.report.sweeps.section import Section
from gdist.stages.report.sweeps.spending import Spending, read_pass
from gdist.stages.report.tables import by_configuration, costs, ranking
from gdist.stages.report.teachers import by_teacher
from gdist.stages.standings.record import is_sweep, read_sweep

__all__ = ["RunSummary", "report_command", "write_report"]


def write_report(
    runs: Sequence[RunSummary], out: Path, extras: Mapping[str, Any] | None = None, sweep: Section | None = None
) -> None:
    """Write the page about ``runs``, in their order. The same inputs give the same bytes.

    Args:
        runs: evaluated ones; those of a sweep are in its board.
        extras: what the runs' files do not contain, each entry optional: ``extract`` and ``verify`` (as the commands
            print them), ``cache`` (uri, encoding, dim, layers) and ``teacher_passes`` (steps, audio_seconds_trained,
            teacher_seconds_saved).
        sweep: what the page says about the sweep as a whole; then ``runs`` may be empty.

    Raises:
        UsageError: there are no runs, or their teachers have different numbers of layers.
    """
    if not runs and sweep is None:
        raise UsageError("there is no run to report on", "gdist report RUN… --out report.html")
    runs = _distinct(runs)
    context: dict[str, Any] = {"sweep": sweep, "groups": [], "runs": runs}
    if sweep is not None:
        all_groups = sweep.board.configurations(evaluated=False)
        context |= {"everything": sweep.board.runs, "progress": report_figures.progress(all_groups), "probes": []}
    if runs:
        groups = configurations(runs) if sweep is None else sweep.board.configurations(evaluated=True)
        context = _evaluated(runs, groups, dict(extras or {})) | context | {"groups": groups}
    page = _environment().get_template("page.html.j2").render(**context)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page)


def _evaluated(runs: Sequence[RunSummary], groups: Sequence[Configuration], extras: dict[str, Any]) -> dict[str, Any]:
    """What the template shows about evaluated runs."""
    extras = {"extract": {}, "verify": {}, "cache": _cache_of(runs)} | extras
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
        "teachers": by_teacher(groups),
        "costs": costs(groups, teacher),
        "worst": min(row["cosine"] for run in runs for row in run.eval["layers"]),
        "top": max(row["cosine"] for run in runs for row in run.eval["layers"]),
        "probes": [_probe(task, groups, runs) for task in tasks],
        "alike": any(report_probes.alike(task, groups) for task in tasks),
        "fidelity": report_figures.fidelity(groups, references),
        "quality": report_figures.quality(groups, teacher, tasks),
        "spent": report_figures.spent(groups),
        "progress": report_figures.progress(groups),
    }


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


def report_command(
    paths: list[Path],
    out: Path | None = None,
    form: Literal["html", "md"] = "html",
    metric: str | None = None,
    split: str | None = None,
    extraction: Path | None = None,
    title: str | None = None,
) -> int:
    """Report on runs, on the runs inside the folders of sweeps, or on one sweep as a whole.

    Several runs of which none has been evaluated are reported like a sweep, by what training measured.
    """
    out = out or Path(f"report.{form}")
    is_whole = len(paths) == 1 and is_sweep(paths[0])
    folders = [] if is_whole else list(dict.fromkeys(folder for path in paths for folder in _runs_in(path)))
    only_trained = len(folders) > 1 and not any(_is_evaluated(Run(folder)) for folder in folders)
    like_a_sweep = is_whole or only_trained or form == "md"
    _require_use({"--metric": metric, "--split": split, "--extraction": extraction}, like_a_sweep, "a sweep's folder")
    _require_use({"--title": title}, form == "md", "--format md")
    try:
        if like_a_sweep:
            board = Board.read(read_sweep(paths[0]) if is_whole else sweep_of(folders), metric, split)
            section = Section(board, Spending.of(board, read_pass(extraction) if extraction else None))
            count = len(board.sweep.entries)
            if form == "md":
                write_page(section, out, title)
            else:
                evaluated = _of_one_depth(board.evaluated)
                write_report(evaluated, out, _about_cache(evaluated) if evaluated else {}, section)
        else:
            why = "has not been evaluated, or its student has changed since (gdist eval)"
            ready = only_ready(folders, _is_evaluated, why)
            evaluated = [RunSummary.read(folder) for folder in ready]
            count = len(evaluated)
            write_report(evaluated, out, _about_cache(evaluated))
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}", "choose another --out") from error
    console.say(f"{out}: {count} run{'s' * (count > 1)}", style="green")
    return EXIT_OK


def _is_evaluated(run: Run) -> bool:
    """Whether there is an evaluation of its student as it is now."""
    return Evaluations(run).first() is not None


def _require_use(options: Mapping[str, object], is_used: bool, where: str) -> None:
    """Raise UsageError where an option was given that would do nothing."""
    given = [name for name, value in options.items() if value is not None]
    if given and not is_used:
        raise UsageError(f"{given[0]} is for {where}, and would do nothing here", "leave it out")


def _of_one_depth(runs: list[RunSummary]) -> list[RunSummary]:
    """The runs, or none of them where their teachers' layers do not fit one table."""
    if len({len(run.eval["layers"]) for run in runs}) <= 1:
        return runs
    console.say("the report leaves out fidelity by layer: the teachers have different numbers of layers", "yellow")
    return []


def _runs_in(path: Path) -> list[Path]:
    """The folder itself if it is a run, else the runs inside it; of a sweep, those that its file lists."""
    if is_sweep(path):
        return [entry.folder for entry in read_sweep(path).entries if entry.state == "finished"]
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
