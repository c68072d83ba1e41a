"""The runs as the report sees them: the files of each run, and which runs differ only in their seed."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from gdist.pipeline.config import TomlTables
from gdist.pipeline.errors import RunError
from gdist.pipeline.run import EVALUATIONS, Run
from gdist.pipeline.run.evaluated import Shown
from gdist.pipeline.run.evaluations import Evaluations, Speech, evaluated_steps
from gdist.pipeline.run.schema import About
from gdist.pipeline.run.snapshot import run_and_step
from gdist.pipeline.schema import SchemaError, conform
from gdist.pipeline.storage.locations import in_shell
from gdist.stages.evaluate.layers import whose_layer_0

COLORS = 6  # configurations with their own color: the best ones; the others are drawn in gray
SEEDS = {("train", "seed"), ("data", "seed")}  # the second is not in the config of a run where they are equal


@dataclass(frozen=True)
class RunSummary:
    """The files of a run: its resolved config, provenance, curves and the result of ``gdist eval``.

    Attributes:
        others: what ``gdist eval`` found on other caches, or on another amount of speech.
    """

    folder: str
    name: str
    config: TomlTables
    provenance: dict[str, Any]
    metrics: list[dict[str, Any]]
    eval: dict[str, Any]
    others: tuple[dict[str, Any], ...] = ()

    @classmethod
    def read(
        cls, location: Path, split: str = "test", evaluated: bool = True, speech: Speech | None = None
    ) -> "RunSummary":
        """Read a run, or what there was of it at ``RUN@STEP``. An unfinished one is read at the last step that was
        evaluated, if any.

        Args:
            split, speech: whose evaluation to read; by default, the one that stands for the student.
            evaluated: whether it must have one; without, ``eval`` may be empty.

        Raises:
            RunError: it has not been evaluated, or its files cannot be read; with the command to type.
        """
        folder, _ = run_and_step(location)
        run = Run.open(folder)
        path, again = folder / EVALUATIONS[split], f"gdist eval {in_shell(location)}"
        try:
            tables, provenance = run.tables(), run.provenance(About)
            found = Evaluations(run, evaluated_at(location, split))
            result = found.on(split, speech)
            if result is None and evaluated:
                why = "its student has changed since" if path.exists() else f"it has no {path.name}"
                raise RunError(f"{location} has not been evaluated: {why}", again)
            if result is not None:
                conform(result, Shown)
            others = tuple(other for other in found.every(split) if result and other != result)
            result = result and result | {"layer_0": whose_layer_0(result, tables)}
            name, rows = run.name, run.read_metrics()
            if found.step is not None:
                name, rows = f"{name}@{found.step}", [row for row in rows if row["step"] <= found.step]
                result = result and result | {"steps": run.total, "finished": False}
            elif run.is_finished:
                run.say_lost(rows, tables["train"]["steps"])
            else:
                run.say_lost_student(provenance)
            return cls(str(folder), name, tables, provenance, rows, result or {}, others)
        except FileNotFoundError as error:
            raise RunError(f"{folder} lacks {Path(str(error.filename)).name}", "train it again") from error
        except SchemaError as error:
            raise RunError(f"{path} cannot be reported: {error}", again) from error
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read the files in {folder}: {error}", again) from error

    @property
    def cosine(self) -> float:
        """The mean cosine over layers, which ranks the runs; of its last validation if it has not been evaluated."""
        if self.eval:
            return float(self.eval["mean_cosine"])
        curve = self.curve("valid", "step", "cosine")
        return curve[-1][1] if curve else math.nan

    @property
    def has_diverged(self) -> bool:
        """Whether its student has no mean cosine: it can be neither ranked nor drawn."""
        return not math.isfinite(self.cosine)

    @property
    def student(self) -> str:
        return str(self.eval.get("student") or self.config.get("student", {}).get("name", ""))

    @property
    def params(self) -> int | None:
        """The student's parameters, without heads; None where that is not recorded."""
        return self.eval.get("params", self.provenance.get("params"))

    @property
    def params_with_heads(self) -> int | None:
        return self.eval.get("params_with_heads", self.provenance.get("params_with_heads", self.params))

    def curve(self, kind: str, x: str, y: str) -> list[tuple[float, float]]:
        """The points (x, y) from one kind of row in metrics.jsonl, as far as they are numbers."""
        rows = [row for row in self.metrics if row.get("kind") == kind and x in row and y in row]
        return [(row[x], row[y]) for row in rows if math.isfinite(row[y])]

    def training(self) -> dict[str, Any]:
        """Steps, loss, seconds, CPU seconds of the steps, seconds of audio, speed, time spent waiting for data, and
        where the data came from.

        What was not recorded is absent.
        """
        rows = [row for row in self.metrics if row.get("kind") == "train"]
        found: dict[str, Any] = {"steps": rows[-1]["step"], "loss": rows[-1].get("loss")} if rows else {}
        if rows and "seconds" in rows[-1]:
            found["seconds"] = rows[-1]["seconds"]
        if rows and all("step_cpu_seconds" in row and "steps" in row for row in rows):
            found["cpu_seconds"] = sum(row["step_cpu_seconds"] * row["steps"] for row in rows)
        for key in ("audio_seconds_per_second", "data_wait_fraction"):
            values = [row[key] for row in rows if key in row]
            if values:
                found[key] = sum(values) / len(values)
        for key in ("bytes_fetched", "bytes_local"):
            if sizes := [row[key] for row in self.metrics if row.get(key)]:  # validation reads, too
                found[key] = sum(sizes)
        audio_seconds = [row["audio_seconds"] for row in rows if "audio_seconds" in row]
        if audio_seconds:
            found["audio_seconds"] = sum(audio_seconds)
        return found


@dataclass(frozen=True)
class Spread:
    """A number over seeds: its mean, its standard deviation (0 for one seed), and the number of seeds."""

    mean: float
    sd: float
    count: int

    @classmethod
    def over(cls, values: Iterable[float]) -> "Spread":
        """The spread of some values.

        >>> Spread.over([0.90, 0.92, 0.94])
        Spread(mean=0.92, sd=0.02, count=3)
        """
        found = list(values)
        sd = round(stdev(found), 12) if len(found) > 1 else 0.0
        return cls(round(fmean(found), 12), sd, len(found))

    def text(self, show: Callable[[float], str]) -> str:
        """Format the mean, and the standard deviation if there are several seeds.

        >>> Spread(0.92, 0.02, 3).text("{:.1%}".format)
        '92.0\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}2.0%'
        """
        if self.count == 1:
            return show(self.mean)
        return f"{show(self.mean).removesuffix('%')}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{show(self.sd)}"


@dataclass(frozen=True)
class Configuration:
    """The runs of one resolved config on one cache, which differ only in their seeds.

    Attributes:
        style: the CSS class that colors its runs: ``c1`` … ``c6`` for the best configurations, ``rest`` for others.
    """

    name: str
    runs: tuple[RunSummary, ...]
    style: str

    @cached_property
    def cosine(self) -> Spread:
        return Spread.over(run.cosine for run in self.runs)

    @cached_property
    def layers(self) -> list[dict[str, float]]:
        """Fidelity by layer as in eval.json, averaged over the seeds."""
        return [
            {key: fmean(row[key] for row in rows) for key in ("layer", "cosine", "relative_error")}
            for rows in zip(*(run.eval["layers"] for run in self.runs), strict=True)
        ]

    @property
    def first(self) -> RunSummary:
        return self.runs[0]

    @property
    def label(self) -> str:
        """The name, with the number of seeds if there are several."""
        return self.name if len(self.runs) == 1 else f"{self.name} ({len(self.runs)} seeds)"


def evaluated_at(location: Path, split: str = "test") -> int | None:
    """The step of the unfinished student that is meant; None for the finished one."""
    folder, step = run_and_step(location)
    run = Run(folder)
    if step is None and not run.is_finished and Evaluations(run).first(split) is None:
        return max(evaluated_steps(run, split), default=None)
    return None if step == run.total else step


def configurations(runs: Sequence[RunSummary]) -> list[Configuration]:
    """Group runs that differ only in their seed. The best configurations come first.

    A config that was run twice with one seed is a repetition, which says nothing about the effect of seeds, so these
    runs are not grouped.
    """
    by_identity: dict[str, list[RunSummary]] = {}
    for run in runs:
        by_identity.setdefault(_identity(run), []).append(run)
    groups: list[list[RunSummary]] = []
    for members in by_identity.values():
        seeds = {run.config.get("train", {}).get("seed") for run in members}
        groups += [members] if len(seeds) == len(members) else [[run] for run in members]
    groups.sort(key=lambda members: -fmean(run.cosine for run in members))
    names = [_common_name([run.name for run in members]) for members in groups]
    return [
        Configuration(
            name if names.count(name) == 1 else members[0].name,
            tuple(members),
            f"c{place + 1}" if place < COLORS else "rest",
        )
        for place, (name, members) in enumerate(zip(names, groups, strict=True))
    ]


def told_apart(runs: Sequence[RunSummary]) -> list[RunSummary]:
    """The same runs. Those that share a name get the name of their parent folder as a prefix."""
    count = Counter(run.name for run in runs)
    return [
        replace(run, name=f"{Path(run.folder).resolve().parent.name}/{run.name}") if count[run.name] > 1 else run
        for run in runs
    ]


def varied(groups: Sequence[Configuration]) -> list[str]:
    """For each configuration, the fields whose values differ from the most common ones."""
    flat = [
        {(table, key): value for table, fields in group.first.config.items() for key, value in fields.items()}
        for group in groups
    ]
    fields = dict.fromkeys(field for config in flat for field in config if field not in SEEDS)
    usual = {field: Counter(repr(config.get(field)) for config in flat).most_common(1)[0][0] for field in fields}
    return [
        ", ".join(
            f"{field[1]} {_plain(config[field])}"
            for field in fields
            if field in config and repr(config[field]) != usual[field]
        )
        for config in flat
    ]


def _identity(run: RunSummary) -> str:
    tables = {
        table: {key: value for key, value in fields.items() if (table, key) not in SEEDS}
        for table, fields in run.config.items()
    }
    about = [run.provenance.get(key) for key in ("cache", "cache_checksum")]
    about += [(run.provenance.get("start") or {}).get("sha256")]
    about += [] if run.eval.get("finished", True) else [run.eval["step"]]
    return json.dumps([tables, about], sort_keys=True, default=str)


def _common_name(names: Sequence[str]) -> str:
    """The runs' common name without their seeds, or the first name if there is no common one.

    >>> _common_name(["thin-seed0", "thin-seed1"]), _common_name(["a/seed=0", "a/seed=1"]), _common_name(["x", "y"])
    ('thin', 'a', 'x')
    """
    if len(names) == 1:
        return names[0]
    shared = {re.sub(r"([-_./ ]+(seed|s)?|seed)[-_.= ]*\d+$", "", name) for name in names}
    return shared.pop() if len(shared) == 1 else names[0]


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
