"""`gdist report`: one self-contained page about one run or many. It reads what the runs left, and loads no model."""

import json
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from gdist.pipeline import console
from gdist.pipeline.config import Tables, to_toml
from gdist.pipeline.errors import EXIT_OK, GdistError, RunError, UsageError
from gdist.pipeline.run import Run, write_atomically
from gdist.stages.report_charts import Line, chart
from gdist.stages.report_story import (
    caveats,
    duration,
    interval,
    millions,
    probe_verdict,
    reduction,
    short_name,
    size,
    story,
    verdict,
)

COLOURS = 6  # runs with a colour of their own; further ones are drawn grey, the best keep theirs
PROGRESS = (("Training loss", "loss", "train"), ("Held-out cosine", "cosine", "valid"))
HOURS_FROM = 7200.0  # seconds of training from which its axis counts hours


@dataclass(frozen=True)
class RunSummary:
    """What a run's folder says: its resolved config, provenance, curves and ``gdist eval``'s judgement."""

    folder: str
    name: str
    config: Tables
    provenance: dict[str, Any]
    metrics: list[dict[str, Any]]
    eval: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "RunSummary":
        """Read a run that has been evaluated. RunError, with the command to type, where it has not."""
        run = Run.open(folder)
        path = folder / "eval.json"
        try:
            judged = json.loads(path.read_text(encoding="utf-8"))
            return cls(str(folder), run.name, run.tables(), run.provenance(), run.read_metrics(), judged)
        except FileNotFoundError as error:
            if path.exists():
                raise RunError(f"{folder} lacks {Path(str(error.filename)).name}", "train it again") from error
            raise RunError(f"{folder} has not been evaluated: it has no eval.json", f"gdist eval {folder}") from error
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read what {folder} holds: {error}", f"gdist eval {folder}") from error

    def curve(self, kind: str, x: str, y: str) -> list[tuple[float, float]]:
        """Points (x, y) of one kind of row in metrics.jsonl."""
        return [(row[x], row[y]) for row in self.metrics if row.get("kind") == kind and x in row and y in row]

    def training(self) -> dict[str, Any]:
        """Steps, seconds, audio heard and time lost, from the curves; what was not recorded is absent."""
        rows = [row for row in self.metrics if row.get("kind") == "train"]
        found: dict[str, Any] = {"steps": rows[-1]["step"], "loss": rows[-1].get("loss")} if rows else {}
        if rows and "seconds" in rows[-1]:
            found["seconds"] = rows[-1]["seconds"]
        for key in ("audio_seconds_per_second", "data_wait_fraction"):
            values = [row[key] for row in rows if key in row]
            if values:
                found[key] = sum(values) / len(values)
        heard = [row["audio_seconds"] for row in rows if "audio_seconds" in row]
        if heard:
            found["audio_seconds"] = sum(heard)
        return found


def write_report(runs: Sequence[RunSummary], out: Path, extras: Mapping[str, Any] | None = None) -> None:
    """Write the page about ``runs``, in their order. The same inputs give the same bytes.

    Args:
        extras: what the runs cannot know, each optional: ``extract`` and ``verify`` (as the commands print them),
            ``cache`` (uri, encoding, dim, layers) and ``teacher_passes`` (steps, audio_seconds_trained,
            teacher_seconds_saved).
    """
    runs = _distinct(runs)
    extras = {"extract": {}, "verify": {}, "cache": _cache_of(runs)} | dict(extras or {})
    extras["teacher_passes"] = _teacher_passes(runs, extras)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    filters: dict[str, Callable[..., str]] = {
        "size": size,
        "duration": duration,
        "millions": millions,
        "heat": _heat,
        "toml": to_toml,
        "quoted": shlex.quote,
        "short": short_name,
    }
    environment.filters |= filters
    teacher = runs[0].eval.get("teacher") or runs[0].provenance.get("teacher") or {}
    template = files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        runs=runs,
        styles=_styles(runs),
        teacher={"name": "the teacher", "params": None, "probes": {}} | teacher,
        references=_references(runs),
        leaders=sorted(runs, key=lambda run: -run.eval["mean_cosine"])[:4],
        best_by_layer=_best_by_layer(runs),
        extras=extras,
        story=story(runs, extras),
        verdict=verdict(runs, _references(runs)),
        probe_verdict=probe_verdict(runs),
        caveats=caveats(runs),
        reduction=reduction,
        interval=interval,
        probes=sorted({name for run in runs for name in run.eval.get("probes") or {}}),
        fidelity=_fidelity_charts(runs),
        progress=_progress_charts(runs),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page)


def report_command(paths: list[Path], out: Path) -> int:
    """Report on runs, and on the runs inside sweeps' folders."""
    folders = dict.fromkeys(folder for path in paths for folder in _runs_in(path))
    runs = [RunSummary.read(folder) for folder in folders]
    try:
        write_report(runs, out, _about_cache(runs))
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}", "choose another --out") from error
    console.say(f"{out}: {len(runs)} run{'s' * (len(runs) > 1)}", style="green")
    return EXIT_OK


def _runs_in(path: Path) -> list[Path]:
    """The folder itself when it is a run; else the runs inside it."""
    inside = sorted(child.parent for child in path.glob("*/config.toml"))
    return [path] if (path / "config.toml").exists() or not inside else inside


def _about_cache(runs: Sequence[RunSummary]) -> dict[str, Any]:
    """What the runs' cache holds, where it can still be read; a report outlives its cache."""
    from gdist.pipeline.cache import Cache
    from gdist.stages.inspect import describe

    uris = {run.provenance.get("cache") for run in runs}
    uri = uris.pop() if len(uris) == 1 else None
    if not uri:
        return {}
    try:
        held = describe(Cache.open(uri))
    except GdistError as error:
        console.say(f"the report goes without the cache's size: {error.message}", style="yellow")
        return {}
    extract = {key: held[key] for key in ("utterances", "frames", "audio_seconds", "bytes", "packs")}
    return {"extract": extract | {"quarantined": len(held["quarantine"])}}


def _distinct(runs: Sequence[RunSummary]) -> list[RunSummary]:
    """Runs that fit one table; those of one name are told apart by the folder they lie in."""
    if not runs:
        raise UsageError("there is no run to report on", "gdist report RUN… --out report.html")
    depths = sorted({len(run.eval["layers"]) for run in runs})
    if len(depths) > 1:
        said = " and ".join(map(str, depths))
        raise UsageError(
            f"these runs' teachers have {said} layers: there is no table for both", "report on them apart"
        )
    count = Counter(run.name for run in runs)
    return [
        replace(run, name=f"{Path(run.folder).resolve().parent.name}/{run.name}") if count[run.name] > 1 else run
        for run in runs
    ]


def _cache_of(runs: Sequence[RunSummary]) -> dict[str, Any]:
    about = runs[0].provenance
    teacher = about.get("teacher") or {}
    known = {"uri": about.get("cache"), "encoding": about.get("encoding"), "dim": teacher.get("dim")}
    return {key: value for key, value in known.items() if value is not None}


def _teacher_passes(runs: Sequence[RunSummary], extras: Mapping[str, Any]) -> dict[str, Any]:
    """What training would have asked of a teacher that runs at every step: given, or told by the curves."""
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


def _styles(runs: Sequence[RunSummary]) -> list[str]:
    """A CSS class a run: a colour for the best ``COLOURS``, grey for the rest."""
    ranked = sorted(range(len(runs)), key=lambda i: -runs[i].eval["mean_cosine"])
    coloured = sorted(ranked[:COLOURS])
    return [f"c{coloured.index(i) + 1}" if i in coloured else "rest" for i in range(len(runs))]


def _references(runs: Sequence[RunSummary]) -> dict[str, list[dict[str, float]]]:
    """The two trivial answers. Each run copies its own h₀; the best of these copies is shown."""
    found = [run.eval.get("references") or {} for run in runs]
    shown = {}
    for key, name in (("copy_h0", "h₀ copied"), ("mean_frame", "mean frame")):
        rows = [references[key] for references in found if references.get(key)]
        if rows:
            shown[name] = max(rows, key=lambda layers: sum(row["cosine"] for row in layers))
    return shown


def _heat(cosine: float) -> str:
    """How dark a cell is, 0 to 1. Squared, because runs differ at the top of the scale."""
    return f"{max(cosine, 0.0) ** 2:.3f}"


def _best_by_layer(runs: Sequence[RunSummary]) -> list[float]:
    return [max(row["cosine"] for row in rows) for rows in zip(*(run.eval["layers"] for run in runs), strict=False)]


def _fidelity_charts(runs: Sequence[RunSummary]) -> list[tuple[str, Markup]]:
    charts = []
    for key, title, label in (
        ("cosine", "Cosine to the teacher by layer", "mean cosine"),
        ("relative_error", "Relative error by layer", "relative error"),
    ):
        lines = [
            Line(name, [(row["layer"], row[key]) for row in rows], "ref") for name, rows in _references(runs).items()
        ]
        for run, style in zip(runs, _styles(runs), strict=True):
            points = [(row["layer"], row[key]) for row in run.eval["layers"]]
            own = frozenset(float(layer) for layer in run.eval.get("predicted_layers") or [x for x, _ in points])
            lines.append(Line(run.name, points, style, strong=own if style != "rest" else None))
        charts.append((title, chart(title, "teacher layer", label, lines, integers=True)))
    return charts


def _progress_charts(runs: Sequence[RunSummary]) -> list[tuple[str, Markup]]:
    longest = max((row.get("seconds", 0.0) for run in runs for row in run.metrics), default=0.0)
    unit, seconds = ("hours", 3600.0) if longest >= HOURS_FROM else ("minutes", 60.0)
    charts = []
    for title, y, kind in PROGRESS:
        for x, by, label, scale in (
            ("step", "step", "step", 1.0),
            ("seconds", "time", f"{unit} of training", seconds),
        ):
            lines = [
                Line(
                    run.name,
                    [(at / scale, value) for at, value in run.curve(kind, x, y)],
                    style,
                    strong=frozenset() if kind == "valid" and style != "rest" else None,
                )
                for run, style in zip(runs, _styles(runs), strict=True)
            ]
            charts.append((f"{title} by {by}", chart(f"{title} by {by}", label, y, lines)))
    return [(title, drawing) for title, drawing in charts if drawing]
