"""`gdist report`: one self-contained page about one or more runs. It reads the runs' files, and loads no model."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import jinja2
from markupsafe import Markup

from gdist.pipeline import console
from gdist.pipeline.config import to_toml
from gdist.pipeline.errors import EXIT_OK, GdistError, RunError, UsageError
from gdist.pipeline.run import Run
from gdist.pipeline.run.evaluations import Evaluations
from gdist.pipeline.run.identity import began_with
from gdist.pipeline.run.snapshot import only_ready, run_and_step
from gdist.pipeline.staging import write_atomically
from gdist.pipeline.storage.locations import require_no_server
from gdist.stages.report.parts import About, Extras, overview, parts
from gdist.stages.report.runs import RunSummary, evaluated_at, told_apart
from gdist.stages.report.story import duration, millions, reduction, short_name, size
from gdist.stages.report.sweeps.board import Board, sweep_of
from gdist.stages.report.sweeps.markdown import write_page
from gdist.stages.report.sweeps.section import Section
from gdist.stages.report.sweeps.spending import Pass, Spending, read_pass
from gdist.stages.standings.record import Sweep, is_sweep, read_sweep
from gdist.stages.standings.teachers import by_teacher

__all__ = ["RunSummary", "report_command", "write_report"]


def write_report(
    runs: Sequence[RunSummary],
    out: Path,
    extras: Extras | None = None,
    sweeps: Sequence[tuple[str, Section]] = (),
    about: About = lambda runs: {},
) -> None:
    """Write the page about ``runs``, in their order; each teacher has its part. The same inputs give the same bytes.

    Args:
        runs: evaluated ones; those of a sweep are in its board.
        extras: what the runs' files do not contain, each entry optional: ``extract`` and ``verify`` (as the commands
            print them), ``cache`` (uri, encoding, dim, layers) and ``teacher_passes`` (steps, audio_seconds_trained,
            teacher_seconds_saved).
        sweeps: teacher → what the page says about the sweep of its students; then ``runs`` are not used.
        about: gives ``extras`` of the students of one teacher, where the argument does not.

    Raises:
        UsageError: there are no runs.
    """
    if not runs and not sweeps:
        raise UsageError("there is no run to report on", "gdist report RUN… --out report.html")
    found = parts(told_apart(runs), lambda own: about(own) if extras is None else extras, sweeps)
    environment = _environment()
    heading = _heading(found)
    rendered = [environment.get_template("part.html.j2").render(part, heading=heading) for part in found]
    page = environment.get_template("page.html.j2").render(
        heading=heading,
        parts=[Markup(text) for text in rendered],  # the template escapes what is not gdist's own
        overview=overview(found) if len(found) > 1 else None,
        wide=any(len(part["probes"]) > 2 for part in found),
        everything=[run for part in found for run in part["everything"]],
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page)


def _heading(found: Sequence[Mapping[str, Any]]) -> str:
    """The title of the page."""
    of = f"{len(found)} teachers"
    if sweep := found[0]["sweep"]:
        name = f"{sweep.name[:1].upper()}{sweep.name[1:]}"
        return f"{name}: students of {of}" if found[1:] else f"{sweep.name}: take {sweep.board.first.title}"
    names = [run.name for part in found for run in part["runs"]]
    if len(names) < 3:
        return " and ".join(names)
    return f"{len(names)} students of {of if found[1:] else short_name(str(found[0]['teacher']['name']))}"


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
        "began_with": began_with,
        "short": short_name,
    }
    environment.filters |= filters
    environment.globals["reduction"] = reduction
    return environment


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
    only_trained = len(folders) > 1 and not any(map(_is_evaluated, folders))
    like_a_sweep = is_whole or only_trained or form == "md"
    _require_use({"--metric": metric, "--split": split, "--extraction": extraction}, like_a_sweep, "a sweep's folder")
    _require_use({"--title": title}, form == "md", "--format md")
    try:
        if like_a_sweep:
            sweep = read_sweep(paths[0]) if is_whole else sweep_of(folders)
            sections = _sections(sweep, metric, split, read_pass(extraction) if extraction else None)
            count = sum(len(section.board.sweep.entries) for _, section in sections)
            if form == "md":
                write_page(sections, out, title)
            else:
                write_report([], out, sweeps=sections, about=_about_cache)
        else:
            why = "has not been evaluated, or its student has changed since (gdist eval)"
            ready = only_ready(folders, _is_evaluated, why)
            evaluated = _without_diverged([RunSummary.read(folder) for folder in ready])
            count = len(evaluated)
            write_report(evaluated, out, about=_about_cache)
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}", "choose another --out") from error
    console.say(f"{out}: {count} run{'s' * (count > 1)}", style="green")
    return EXIT_OK


def _sections(
    sweep: Sweep, metric: str | None, split: str | None, extraction: Pass | None
) -> list[tuple[str, Section]]:
    """Teacher → what there is to say about the sweep of its students; left out where nothing is known of them."""
    found, failed = [], None
    apart = by_teacher(sweep)
    for name, own in apart:
        try:
            board = Board.read(own, metric, split)
        except (RunError, UsageError) as error:
            if len(apart) > 1:
                console.say(f"left out: the students of {name}: {error.message}", style="yellow")
            failed = failed or error
            continue
        found.append((name, Section(board, Spending.of(board, extraction))))
    if not found and failed is not None:
        raise failed
    return found


def _without_diverged(runs: Sequence[RunSummary]) -> list[RunSummary]:
    """Those that can be ranked and drawn; it is said which are left out.

    Raises:
        RunError: there is none.
    """
    kept = [run for run in runs if not run.has_diverged]
    if not kept:
        raise RunError("training diverged: no student's mean cosine is a number", "train with a lower train.lr")
    for run in runs:
        if run.has_diverged:
            console.say(f"left out: {run.folder} diverged: its mean cosine is not a number", style="yellow")
    return kept


def _is_evaluated(location: Path) -> bool:
    """Whether there is an evaluation of its student as it is now, or of an unfinished one."""
    return Evaluations(Run(run_and_step(location)[0]), evaluated_at(location)).first() is not None


def _require_use(options: Mapping[str, object], is_used: bool, where: str) -> None:
    """Raise UsageError where an option was given that would do nothing."""
    given = [name for name, value in options.items() if value is not None]
    if given and not is_used:
        raise UsageError(f"{given[0]} is for {where}, and would do nothing here", "leave it out")


def _runs_in(path: Path) -> list[Path]:
    """The folder itself if it is a run, else the runs inside it; of a sweep, those that its file lists."""
    if is_sweep(path):
        return [entry.folder for entry in read_sweep(path).entries if entry.state == "finished"]
    if (path / "config.toml").exists():
        return [path]
    return sorted(child.parent for child in path.glob("*/config.toml")) or [path]


def _about_cache(runs: Sequence[RunSummary]) -> dict[str, Any]:
    """Describe the runs' cache, if it still exists: runs may outlive their cache."""
    from gdist.pipeline.cache.cache import Cache
    from gdist.stages.extract.inspection import describe

    uris = {run.provenance.get("cache") for run in runs}
    uri = uris.pop() if len(uris) == 1 else None
    if not uri:
        return {}
    try:
        require_no_server(uri, "run.json")
        description = describe(Cache.open(uri))
    except GdistError as error:
        console.say(f"the report leaves out the cache's size: {error.message}", style="yellow")
        return {}
    extract = {key: description[key] for key in ("utterances", "frames", "audio_seconds", "bytes", "packs")}
    return {"extract": extract | {"quarantined": len(description["quarantine"])}}
