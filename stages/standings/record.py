"""A sweep's folder as it is read afterwards: `sweep.json`, and what the folder of each run in it shows.

Runs that are in the folder and not in `sweep.json` are no part of the sweep any more.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from gdist.pipeline.errors import RunError
from gdist.pipeline.folder import OwnFolder
from gdist.pipeline.run import EVALUATIONS
from gdist.pipeline.run.documents import read_document
from gdist.pipeline.run.evaluations import Speech
from gdist.pipeline.storage.locations import in_shell
from gdist.stages.standings.schema import SWEEP_BYTES, Failure, SweepRecord

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
    return os.path.lexists(folder / "sweep.json")


def read_sweep(folder: Path) -> Sweep:
    """Read a sweep's folder.

    Raises:
        RunError: it contains no sweep, or one that cannot be read.
    """
    if not is_sweep(folder):
        raise RunError(f"{folder} contains no sweep: it has no sweep.json", "give the --out of `gdist sweep`")
    record = sweep_record(folder)
    entries = tuple(_entry(folder, point) for point in record["points"])
    wall = tuple(float(call["seconds"]) for call in record.get("wall") or [])
    return Sweep(folder, record.get("name", folder.name), entries, dict(record.get("judge") or {}), wall)


def sweep_record(folder: Path) -> dict[str, Any]:
    """Read the sweep.json of a folder; RunError where it is damaged."""
    path = OwnFolder(folder).own(folder / "sweep.json")
    hint = f"rm -f {in_shell(path)}; then the same `gdist sweep` writes it anew"
    return read_document(path, SweepRecord, hint, largest=SWEEP_BYTES)


def read_failure(folder: Path, signature: str) -> dict[str, Any] | None:
    """Read what is recorded of a run that failed; None where it has not, RunError where that is damaged."""
    path = OwnFolder(folder).own(folder / "failed" / f"{signature}.json")
    hint = f"rm -f {in_shell(path)}; then the same `gdist sweep` tries that run again"
    return read_document(path, Failure, hint) if os.path.lexists(path) else None


def _entry(folder: Path, point: Mapping[str, Any]) -> Entry:
    signature: str = point["signature"]
    return Entry(
        name=point["name"],
        seed=point["seed"],
        signature=signature,
        folder=OwnFolder(folder).own(folder / "runs" / point["run"]),
        varied=dict(point.get("varied") or {}),
        alternative=point.get("alternative") or "",
        trial=point.get("trial"),
        stopped=point.get("stopped"),
        failure=read_failure(folder, signature),
        recipe=point.get("recipe"),
        settings=tuple(point.get("settings") or ()),
    )
