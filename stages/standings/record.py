"""A sweep's folder as it is read afterwards: `sweep.json`, and what the folder of each run in it shows.

Runs that are in the folder and not in `sweep.json` are no part of the sweep any more.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from gdist.pipeline.errors import RunError
from gdist.pipeline.run import EVALUATIONS
from gdist.pipeline.run.evaluations import Speech

State = Literal["finished", "stopped", "failed", "begun", "new"]


@dataclass(frozen=True)
class Entry:
    """One run of a sweep.

    Attributes:
        name: of its point; seeds of one point share it.
        folder: the run's, whether it exists or not.
        varied: field → value, as the sweep's file sets it for this point.
        alternative: the name of the `[[points]]` table that it belongs to; "" where there is none.
        trial: its number in a search.
        stopped: at which ``rung``, after which ``step`` and for what ``reason`` it was stopped early.
        failure: its ``exit_code`` and the last lines of its ``log``.
        recipe, settings: as typed after ``gdist train --recipe … --set …``; None and empty where that is not known.
    """

    name: str
    seed: int
    signature: str
    folder: Path
    varied: Mapping[str, Any] = field(default_factory=dict)
    alternative: str = ""
    trial: int | None = None
    stopped: Mapping[str, Any] | None = None
    failure: Mapping[str, Any] | None = None
    recipe: str | None = None
    settings: tuple[str, ...] = ()

    @cached_property
    def state(self) -> State:
        """Where it stands. A student that is there, or has been evaluated, counts, whatever else is recorded."""
        signs = ("student/model.safetensors", *EVALUATIONS.values())
        if any((self.folder / sign).exists() for sign in signs):
            return "finished"
        if self.stopped is not None:
            return "stopped"
        if self.failure is not None:
            return "failed"
        return "begun" if (self.folder / "config.toml").exists() else "new"

    @property
    def reason(self) -> str:
        """Why it is not finished, in a few words; "" where it is, or where it has not been tried."""
        if self.state == "stopped" and self.stopped is not None:
            where = [f"{word} {self.stopped[word]}" for word in ("rung", "step") if word in self.stopped]
            why = str(self.stopped.get("reason", ""))
            return f"stopped at {', '.join(where)}{f': {why}' if why else ''}" if where else why or "stopped early"
        if self.state == "failed" and self.failure is not None:
            nothing = f"exit code {self.failure.get('exit_code', 'unknown')}"
            return error_in([str(line) for line in self.failure.get("log") or []], nothing)
        return ""


@dataclass(frozen=True)
class Sweep:
    """A sweep: its runs in the order of the file, what they are judged by, and how long its calls took.

    Attributes:
        judge: ``metric``, ``split``, ``probes``, ``minutes`` and ``cache``, as far as they are recorded.
        wall: seconds of each call of ``gdist sweep``; empty where that is not recorded.
    """

    folder: Path
    name: str
    entries: tuple[Entry, ...]
    judge: Mapping[str, Any] = field(default_factory=dict)
    wall: tuple[float, ...] = ()

    @property
    def metric(self) -> str:
        return str(self.judge.get("metric", "cosine"))

    @property
    def split(self) -> str:
        return str(self.judge.get("split", "valid"))

    @property
    def speech(self) -> Speech:
        """What the sweep evaluates its points on."""
        cache = self.judge.get("cache")
        return Speech(float(self.judge.get("minutes") or 0.0), None if cache is None else str(cache))

    @cached_property
    def points(self) -> dict[str, tuple[Entry, ...]]:
        """Name → its runs, in the order of the file."""
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.name, []).append(entry)
        return {name: tuple(entries) for name, entries in found.items()}


def error_in(log: Sequence[str], nothing: str) -> str:
    """The last line of a log that names an error, or its last one; ``nothing`` where it has none."""
    errors = [line.removeprefix("error: ") for line in log if line.startswith("error: ")]
    return [nothing, *log, *errors][-1]


def is_sweep(folder: Path) -> bool:
    """Whether a folder looks like one of ``gdist sweep``."""
    return (folder / "sweep.json").is_file()


def read_sweep(folder: Path) -> Sweep:
    """Read a sweep's folder.

    Raises:
        RunError: it contains no sweep, or one that cannot be read.
    """
    path = folder / "sweep.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        entries = tuple(_entry(folder, point) for point in record["points"])
        wall = tuple(float(call["seconds"]) for call in record.get("wall") or [])
        return Sweep(folder, str(record.get("name", folder.name)), entries, dict(record.get("judge") or {}), wall)
    except FileNotFoundError as error:
        raise RunError(
            f"{folder} contains no sweep: it has no sweep.json", "give the --out of `gdist sweep`"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"cannot read {path}: {error!r}", "run `gdist sweep` again; it rewrites this file") from error


def _entry(folder: Path, point: Mapping[str, Any]) -> Entry:
    run, signature = str(point["run"]), str(point["signature"])
    if Path(run).name != run or Path(signature).name != signature:
        raise ValueError(f"{run!r} is not the name of a folder in runs/")
    failed = folder / "failed" / f"{signature}.json"
    trial, stopped = point.get("trial"), point.get("stopped")
    return Entry(
        name=str(point["name"]),
        seed=int(point["seed"]),
        signature=signature,
        folder=folder / "runs" / run,
        varied=dict(point.get("varied") or {}),
        alternative=str(point.get("alternative") or ""),
        trial=None if trial is None else int(trial),
        stopped=None if stopped is None else dict(stopped),
        failure=json.loads(failed.read_text(encoding="utf-8")) if failed.exists() else None,
        recipe=point.get("recipe"),
        settings=tuple(map(str, point.get("settings") or ())),
    )
