"""What the report knows of the runs: each one's files, and which differ in nothing but their seed."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from gdist.pipeline.config import TomlTables
from gdist.pipeline.errors import RunError
from gdist.pipeline.run import Run

COLOURS = 6  # configurations with a colour of their own; further ones are drawn grey, the best keep theirs


@dataclass(frozen=True)
class RunSummary:
    """What a run's folder says: its resolved config, provenance, curves and ``gdist eval``'s judgement."""

    folder: str
    name: str
    config: TomlTables
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

    @property
    def cosine(self) -> float:
        """The mean over layers: what runs are ranked by."""
        return float(self.eval["mean_cosine"])

    @property
    def student(self) -> str:
        return str(self.eval.get("student") or self.config.get("student", {}).get("name", ""))

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


@dataclass(frozen=True)
class Spread:
    """A number over seeds: its mean, its standard deviation (0 for one seed), and how many."""

    mean: float
    sd: float
    count: int

    @classmethod
    def over(cls, values: Iterable[float]) -> "Spread":
        """
        >>> Spread.over([0.90, 0.92, 0.94])
        Spread(mean=0.92, sd=0.02, count=3)
        """
        found = list(values)
        sd = round(stdev(found), 12) if len(found) > 1 else 0.0
        return cls(round(fmean(found), 12), sd, len(found))

    def text(self, show: Callable[[float], str]) -> str:
        """
        >>> Spread(0.92, 0.02, 3).text("{:.1%}".format)
        '92.0\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}2.0%'
        """
        if self.count == 1:
            return show(self.mean)
        return f"{show(self.mean).removesuffix('%')}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{show(self.sd)}"


@dataclass(frozen=True)
class Configuration:
    """The runs of one resolved config on one cache, which differ in ``train.seed`` alone.

    Attributes:
        style: the CSS class that colours its runs: ``c1`` … ``c6`` for the best, ``rest``.
    """

    name: str
    runs: tuple[RunSummary, ...]
    style: str

    @cached_property
    def cosine(self) -> Spread:
        return Spread.over(run.cosine for run in self.runs)

    @cached_property
    def layers(self) -> list[dict[str, float]]:
        """Fidelity by layer, as in eval.json, its means over the seeds."""
        return [
            {key: fmean(row[key] for row in rows) for key in ("layer", "cosine", "relative_error")}
            for rows in zip(*(run.eval["layers"] for run in self.runs), strict=True)
        ]

    @property
    def first(self) -> RunSummary:
        return self.runs[0]

    @property
    def label(self) -> str:
        """Its name, and over how many seeds it was taken."""
        return self.name if len(self.runs) == 1 else f"{self.name} ({len(self.runs)} seeds)"


def configurations(runs: Sequence[RunSummary]) -> list[Configuration]:
    """Group runs by everything but their seed; the best come first.

    A config that was run twice with one seed is a repetition, which says nothing about seeds: its runs stay apart.
    """
    alike: dict[str, list[RunSummary]] = {}
    for run in runs:
        alike.setdefault(_identity(run), []).append(run)
    groups: list[list[RunSummary]] = []
    for members in alike.values():
        seeds = {run.config.get("train", {}).get("seed") for run in members}
        groups += [members] if len(seeds) == len(members) else [[run] for run in members]
    groups.sort(key=lambda members: -fmean(run.cosine for run in members))
    names = [_common_name([run.name for run in members]) for members in groups]
    return [
        Configuration(
            name if names.count(name) == 1 else members[0].name,
            tuple(members),
            f"c{place + 1}" if place < COLOURS else "rest",
        )
        for place, (name, members) in enumerate(zip(names, groups, strict=True))
    ]


def varied(groups: Sequence[Configuration]) -> list[str]:
    """For each configuration, what tells it from the others: its fields that are not as in most of them."""
    flat = [
        {(table, key): value for table, fields in group.first.config.items() for key, value in fields.items()}
        for group in groups
    ]
    fields = dict.fromkeys(field for config in flat for field in config if field != ("train", "seed"))
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
        table: {key: value for key, value in fields.items() if (table, key) != ("train", "seed")}
        for table, fields in run.config.items()
    }
    about = [run.provenance.get(key) for key in ("cache", "cache_checksum")]
    return json.dumps([tables, about], sort_keys=True, default=str)


def _common_name(names: Sequence[str]) -> str:
    """The names of a configuration's runs less their seeds; the first name where that is not one name.

    >>> _common_name(["thin-seed0", "thin-seed1"]), _common_name(["a/seed=0", "a/seed=1"]), _common_name(["x", "y"])
    ('thin', 'a', 'x')
    """
    if len(names) == 1:
        return names[0]
    shared = {re.sub(r"([-_./ ]+(seed|s)?|seed)[-_.= ]*\d+$", "", name) for name in names}
    return shared.pop() if len(shared) == 1 else names[0]


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
