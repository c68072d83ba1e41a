"""The students of a run: the finished one, and those after other steps, ``RUN@STEP``.

A run that is going on, or was interrupted, has one for each checkpoint that is kept; so has a finished one. One that
was finished and then went on to more steps also keeps the student that it had then.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from gdist.pipeline.console import say
from gdist.pipeline.errors import RunError
from gdist.pipeline.files import sha256_of
from gdist.pipeline.run import Run
from gdist.pipeline.run.checkpoints import load_tensors
from gdist.pipeline.run.documents import read_document
from gdist.pipeline.run.schema import TENSOR_BYTES, Digests
from gdist.pipeline.storage.locations import in_shell

AT = re.compile(r"(.+)@(\d{1,18})", re.DOTALL)


@dataclass(frozen=True)
class Snapshot:
    """A student of a run, as it was after a step.

    Attributes:
        step: the last one that it learned from.
        total: of how many, when the run is finished.
        folder: where it is: a student in Hugging Face's format, or a checkpoint.
    """

    run: Run
    step: int
    total: int
    folder: Path

    @property
    def is_finished(self) -> bool:
        return self.step == self.total

    @property
    def is_checkpoint(self) -> bool:
        return self.folder.parent == self.run.checkpoints

    @property
    def name(self) -> str:
        """What it is called in tables: the run's name, with the step of an unfinished one."""
        return self.run.name if self.is_finished else f"{self.run.name}@{self.step}"

    @property
    def typed(self) -> str:
        """What people type to name it in a command."""
        return in_shell(self.run.folder if self.is_finished else f"{self.run.folder}@{self.step}")

    @property
    def evaluated_as(self) -> int | None:
        """The step by which its evaluations are known; None where they stand for the run."""
        return None if self.is_finished else self.step

    @property
    def weights_file(self) -> Path:
        average = self.folder / "average.safetensors"
        return average if average.exists() else self.folder / "model.safetensors"

    @property
    def progress(self) -> dict[str, Any]:
        """What results say of it."""
        return {"step": self.step, "steps": self.total, "finished": self.is_finished}

    def say_unfinished(self) -> None:
        """Say so, where it is not the finished student of its run."""
        if not self.is_finished:
            say(f"{self.typed} is unfinished: step {self.step} of {self.total}", style="yellow")

    def weights(self, largest: int = TENSOR_BYTES) -> dict[str, Tensor]:
        """The weights of a checkpoint as a student has them: the averaged ones, where they are kept.

        Args:
            largest: bytes that they may have.

        Raises:
            RunError: they cannot be read.
        """
        path = self.run.own(self.weights_file)
        state = self.run.own(self.folder / "state.json")
        try:
            found = load_tensors(path, largest)
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise RunError(f"cannot read {path}: {error}", self._others) from error
        known = read_document(state, Digests, self._others).get("sha256", {}).get(path.name)
        if known is not None and sha256_of(path) != known:
            raise RunError(f"{path} is damaged: its bytes are not those that were saved", self._others)
        if path.stem == "model":
            return found
        return {name.removeprefix("module."): value for name, value in found.items() if name != "n_averaged"}

    @property
    def _others(self) -> str:
        """What to type instead of a damaged checkpoint."""
        others = [step for step in self.run.steps() if step != self.step]
        return in_shell(f"{self.run.folder}@{others[-1]}") if others else self.run.training


def run_and_step(location: str | Path) -> tuple[Path, int | None]:
    """``RUN@STEP`` → the run's folder and the step; no step where something exists under the whole name."""
    path = Path(location)
    found = AT.fullmatch(str(location))
    if found and not path.exists() and (Path(found[1]) / "config.toml").exists():
        return Path(found[1]), int(found[2])
    return path, None


def snapshot(location: str | Path, unfinished: bool = True) -> Snapshot:
    """The student that ``RUN`` or ``RUN@STEP`` means: of a run alone, the finished one.

    Args:
        unfinished: whether a run without a finished student means its newest checkpoint.

    Raises:
        RunError: there is none; with the command to type.
    """
    folder, step = run_and_step(location)
    run = Run.open(folder)
    if step is None and not run.has_student:
        newest = run.steps()[-1:]
        if not (newest and unfinished):
            raise unfinished_error(run)
        step = newest[0]
    return at_step(run, run.total if step is None else step)


def at_step(run: Run, step: int) -> Snapshot:
    """The student of a run after a step; RunError where it is not kept."""
    total, steps = run.total, run.steps()
    # A student that lacks its weights is damaged, not unfinished; loading it says so.
    if step == total and run.has_student:
        return Snapshot(run, step, total, run.student)
    if (run.student_at(step) / "config.json").exists():
        return Snapshot(run, step, total, run.student_at(step))
    if step not in steps:
        kept = sorted({*steps, *run.students_aside(), *([total] if run.has_student else [])})
        there = f"it has {', '.join(map(str, kept))}" if kept else "it has none yet"
        near = min(kept, key=lambda other: abs(other - step), default=None)
        hint = "" if near is None else f"{in_shell(f'{run.folder}@{near}')}; "
        raise RunError(
            f"{run.folder} has kept nothing of step {step}: {there}",
            f"{hint}a run keeps more with --set train.keep_every=…, or train.keep_checkpoints=…",
        )
    return Snapshot(run, step, total, run.checkpoint(step))


def snapshots(locations: Sequence[Path]) -> list[Snapshot]:
    """The students that several locations mean. Those of unfinished runs without a step are left out, with a message,
    unless there are no others.

    Raises:
        RunError: as :func:`snapshot`.
    """
    asked = [(location, *run_and_step(location)) for location in locations]
    ready = [location for location, folder, step in asked if step is not None or Run.open(folder).has_student]
    kept = ready or [location for location, folder, _ in asked if Run.open(folder).steps()] or list(locations)
    for location, folder, _ in asked:
        if location not in kept:
            newest = Run.open(folder).steps()[-1:]
            there = "".join(f"; {in_shell(f'{folder}@{step}')} is its newest checkpoint" for step in newest)
            say(f"left out: {folder} has no finished student{there}", style="yellow")
    return [snapshot(location) for location in kept]


def only_ready(locations: Sequence[Path], ready: Callable[[Path], bool], why: str) -> list[Path]:
    """Of several students, those that are ready; it is said which are left out, and ``why``. If none is, all of them.

    Raises:
        RunError: a location is none of a run.
    """
    for location in locations:
        Run.open(run_and_step(location)[0])
    kept = [location for location in locations if ready(location)]
    for location in locations:
        if kept and location not in kept:
            say(f"left out: {location} {why}", style="yellow")
    return kept or list(locations)


def unfinished_error(run: Run) -> RunError:
    """What to raise where a run has no finished student: with the command that finishes it."""
    done = (run.steps() or [0])[-1]
    return RunError(f"{run.folder} has no finished student (step {done} of {run.total})", run.training)
