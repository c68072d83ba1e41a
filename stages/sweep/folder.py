"""A sweep's folder, and where each point in it stands.

    DIR/
      sweep.json               the sweep's name, its points and judge, as of the last call, and the time of every call
      runs/NAME-SIGNATURE/     the runs, each as `gdist train` writes it
      logs/NAME-SIGNATURE.log  what their processes printed
      failed/SIGNATURE.json    points that failed: how, and the last lines of their log
      search/journal.log       trials of a search, in Optuna's journal
      equal.json, measured/    what steps cost, where the file has [equal]

A point is found by its signature, so a run keeps its folder when its point is renamed or moved in the file.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gdist.pipeline.console import say
from gdist.pipeline.errors import AGAIN, RunError
from gdist.pipeline.folder import OwnFolder
from gdist.pipeline.run import Run
from gdist.pipeline.run.documents import text_of
from gdist.pipeline.run.evaluations import Evaluations, Speech
from gdist.stages.standings.ranking import metrics_of
from gdist.stages.standings.record import is_sweep, read_failure, sweep_record
from gdist.stages.standings.schema import Failure, SweepRecord
from gdist.stages.sweep.judge import Judge
from gdist.stages.sweep.points import Point
from gdist.stages.sweep.rungs import Progress, Stopped

State = Literal["done", "trained", "stopped", "begun", "failed", "new"]
LOG_LINES, LINE = 8, 4_096  # that are recorded of a log, and the characters of each
PARTS = {"runs", "logs", "failed", "search", "measured"}  # its folders
BEGUN = re.compile(r"training\.json|\.sweep\.json\.\d+\.tmp")  # of a process that was killed before sweep.json


@dataclass(frozen=True)
class Standing:
    """Where a point stands.

    Attributes:
        state: ``trained`` is finished, but not evaluated as the file asks for; ``begun`` has perhaps a checkpoint.
        step: the last step that is kept.
        value: what the point is judged by, once it is known.
        failure: what is recorded where it failed.
        stopped: why it was stopped early.
    """

    state: State
    step: int = 0
    value: float | None = None
    failure: dict[str, Any] | None = None
    stopped: Stopped | None = None


class SweepFolder(OwnFolder):
    """The folder of one sweep."""

    def __init__(self, folder: Path, name: str, judge: Judge) -> None:
        super().__init__(folder)
        self.sweep, self.judge = name, judge
        self.runs, self.logs, self.failures = folder / "runs", folder / "logs", folder / "failed"
        self.stopped: dict[str, Stopped] = {}  # as decided by the rungs, by signature
        self.trouble: OSError | None = None  # the first thing that could not be recorded
        self._whole: dict[str, tuple[int, int]] = {}  # run → when its student was written that was found whole
        self._said: set[str] = set()  # runs whose damaged students were reported
        self._known = {path.name.rpartition("-")[2]: path for path in self._run_folders()}

    def _run_folders(self) -> list[Path]:
        return sorted(self.runs.iterdir()) if self.own(self.runs).is_dir() else []

    def require_place(self) -> None:
        """Raise RunError where the folder contains another sweep, or something else."""
        if not self.folder.exists():
            return
        try:
            names = {path.name for path in self.folder.iterdir()}
        except OSError as error:
            raise RunError(
                f"{self.folder} cannot be read as a sweep's folder: {error}", "choose another --out"
            ) from error
        known = sweep_record(self.folder) if "sweep.json" in names else {}
        is_one = "sweep.json" in names or names >= PARTS  # which begin() makes, all of them
        if not is_one and any(not BEGUN.fullmatch(name) for name in names):
            raise RunError(f"{self.folder} is not empty and contains no sweep", "choose another --out")
        if known and known.get("name") != self.sweep:
            raise RunError(
                f"{self.folder} contains the sweep {known.get('name')!r}, and this one is called {self.sweep!r}",
                f"choose another --out, or set name = {json.dumps(known.get('name'))} in the file if it is the same",
            )
        for part in (*PARTS, "sweep.json", "equal.json"):
            self.own(self.folder / part)

    def begin(self) -> None:
        """Make the folders."""
        try:
            for part in PARTS:
                (self.folder / part).mkdir(exist_ok=True)
        except OSError as error:
            raise self.unwritable(error) from error

    def record(self, points: Sequence[Point], wall: Sequence[dict[str, Any]]) -> None:
        """Record what the sweep consists of now.

        Args:
            wall: when each call began, and its seconds so far.
        """
        judge = {name: getattr(self.judge, name) for name in ("metric", "split", "probes", "minutes")}
        judge |= {} if self.judge.cache is None else {"cache": self.judge.cache}
        record = {"name": self.sweep, "judge": judge, "wall": wall, "points": [self._record(p) for p in points]}
        try:
            self.write("sweep.json", text_of("sweep.json", record, SweepRecord))
        except OSError as error:
            self.trouble = self.trouble or error

    def _record(self, point: Point) -> dict[str, Any]:
        found = {
            "name": point.name,
            "seed": point.seed,
            "signature": point.signature,
            "run": self.run(point).name,
            "varied": point.varied,
            "recipe": point.recipe,
            "settings": point.settings,
        }
        if point.alternative:
            found["alternative"] = point.alternative
        if point.trial is not None:
            found["trial"] = point.trial
        if why := self.standing(point).stopped:
            found["stopped"] = {"rung": why.rung, "step": why.step, "reason": why.reason}
        return found

    def calls(self) -> list[dict[str, Any]]:
        """The wall time of the calls so far."""
        return sweep_record(self.folder).get("wall") or [] if is_sweep(self.folder) else []

    def run(self, point: Point) -> Path:
        """The folder of a point's run, whether it exists or not."""
        return self.own(self._known.get(point.signature, self.runs / point.folder))

    def log(self, point: Point) -> Path:
        return self.own(self.logs / f"{self.run(point).name}.log")

    def standing(self, point: Point) -> Standing:
        """Where a point stands."""
        run = Run(self.run(point))
        if run.is_finished and self._is_whole(run):
            value = self.value(point)
            return Standing("trained" if value is None else "done", point.config.train.steps, value)
        steps = run.steps()
        if (failure := read_failure(self.folder, point.signature)) is not None:
            return Standing("failed", steps[-1] if steps else 0, failure=failure)
        if (why := self.stopped.get(point.signature)) is not None:
            return Standing("stopped", steps[-1] if steps else 0, self.validations(point).get(why.step), stopped=why)
        begun = (run.folder / "config.toml").exists()
        return Standing("begun" if begun else "new", steps[-1] if steps else 0)

    def _is_whole(self, run: Run) -> bool:
        """Whether its student is the one that was saved. A damaged one counts as missing: it is saved again."""
        found = (run.student / "model.safetensors").stat()
        state = (found.st_mtime_ns, found.st_size)
        if self._whole.get(run.name) == state:
            return True
        try:
            run.require_student()
        except RunError as error:
            if run.name not in self._said:
                self._said.add(run.name)
                say(error.message, style="yellow")
            return False
        self._whole[run.name] = state
        return True

    def validations(self, point: Point) -> dict[int, float]:
        """Step → what a validation in training measured there: the judge's metric, if it is one of training's."""
        metric = self.judge.metric
        rows = [row for row in Run(self.run(point)).read_metrics() if row["kind"] == "valid" and metric in row]
        return {row["step"]: float(row[metric]) for row in rows}

    def progress(self, point: Point) -> Progress:
        """How far the point is, for deciding about rungs."""
        standing = self.standing(point)
        return Progress(self.validations(point), standing.step, standing.state == "failed")

    def value(self, point: Point) -> float | None:
        """What the point is judged by; None as long as it is not known."""
        run, judge = Run(self.run(point)), self.judge
        speech = Speech(judge.minutes, judge.cache)
        if judge.evaluates and Evaluations(run).on(judge.split, speech) is None:
            return None
        value, _ = metrics_of(run, judge.split, speech).get(judge.metric, (None, True))
        return value

    def fail(self, point: Point, exit_code: int) -> None:
        """Record that a point failed. Where that cannot be written (a full disk), the next call tries it again."""
        lines = self.log(point).read_text(errors="replace").strip().splitlines() if self.log(point).exists() else []
        record = {"name": point.label, "exit_code": exit_code, "log": [line[:LINE] for line in lines[-LOG_LINES:]]}
        try:
            self.write(f"failed/{point.signature}.json", text_of("a failure", record, Failure))
        except OSError as error:
            self.trouble = self.trouble or error

    def keep(self, name: str, content: str) -> None:
        """Write a document whole; RunError where that is not possible."""
        try:
            self.write(name, content)
        except OSError as error:
            raise self.unwritable(error) from error

    def require_written(self) -> None:
        """Raise RunError where something could not be recorded since this was last asked."""
        if self.trouble is not None:
            raise self.unwritable(self.trouble)

    def unwritable(self, error: OSError) -> RunError:
        reason = f"cannot write the sweep {self.folder}: {error.strerror or error}"
        return RunError(reason, f"free some space, or fix its permissions, and {AGAIN}; what is trained is kept")

    def forgive(self, point: Point) -> None:
        """Forget that a point failed."""
        self.own(self.failures / f"{point.signature}.json").unlink(missing_ok=True)
