"""A sweep's folder, and where each point in it stands.

    DIR/
      sweep.json               the sweep's name and its points, as of the last call
      runs/NAME-SIGNATURE/     the runs, each as `gdist train` writes it
      logs/NAME-SIGNATURE.log  what their processes printed
      failed/SIGNATURE.json    points that failed: how, and the last lines of their log

A point is found by its signature, so a run keeps its folder when its point is renamed or moved in the file.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gdist.pipeline.errors import RunError
from gdist.pipeline.folder import OwnFolder
from gdist.pipeline.run import EVALUATIONS, Run
from gdist.stages.sweep.points import Point
from gdist.stages.sweep.spec import Judge

State = Literal["done", "trained", "begun", "failed", "new"]
LOG_LINES = 8


@dataclass(frozen=True)
class Standing:
    """Where a point stands.

    Attributes:
        state: ``trained`` is finished, but not evaluated as the file asks for; ``begun`` has perhaps a checkpoint.
        step: the last step that is kept.
        value: what the point is judged by, once it is known.
        failure: what is recorded where it failed.
    """

    state: State
    step: int = 0
    value: float | None = None
    failure: dict[str, Any] | None = None


class SweepFolder(OwnFolder):
    """The folder of one sweep."""

    def __init__(self, folder: Path, name: str, judge: Judge) -> None:
        super().__init__(folder)
        self.sweep, self.judge = name, judge
        self.runs, self.logs, self.failures = folder / "runs", folder / "logs", folder / "failed"
        self._known = {path.name.rpartition("-")[2]: path for path in self._run_folders()}

    def _run_folders(self) -> list[Path]:
        return sorted(self.runs.iterdir()) if self.runs.is_dir() else []

    def require_place(self) -> None:
        """Raise RunError where the folder contains another sweep, or something else."""
        if not self.folder.exists():
            return
        try:
            names = {path.name for path in self.folder.iterdir()}
            known = json.loads((self.folder / "sweep.json").read_text()) if "sweep.json" in names else {}
        except (OSError, ValueError) as error:
            raise RunError(
                f"{self.folder} cannot be read as a sweep's folder: {error}", "choose another --out"
            ) from error
        if "sweep.json" not in names and names - {"training.json"}:
            raise RunError(f"{self.folder} is not empty and contains no sweep", "choose another --out")
        if known and known.get("name") != self.sweep:
            raise RunError(
                f"{self.folder} contains the sweep {known.get('name')!r}, and this one is called {self.sweep!r}",
                f"choose another --out, or set name = {json.dumps(known.get('name'))} in the file if it is the same",
            )
        for part in (self.runs, self.logs, self.failures, self.folder / "sweep.json"):
            self.own(part)

    def begin(self, points: Sequence[Point]) -> None:
        """Record what the sweep consists of now."""
        for part in (self.runs, self.logs, self.failures):
            part.mkdir(exist_ok=True)
        record = {
            "name": self.sweep,
            "points": [
                {
                    "name": p.name,
                    "seed": p.seed,
                    "signature": p.signature,
                    "run": self.run(p).name,
                    "varied": p.varied,
                    "recipe": p.recipe,
                    "settings": p.settings,
                }
                for p in points
            ],
        }
        self.write("sweep.json", json.dumps(record, indent=2))

    def run(self, point: Point) -> Path:
        """The folder of a point's run, whether it exists or not."""
        return self._known.get(point.signature, self.runs / point.folder)

    def log(self, point: Point) -> Path:
        return self.logs / f"{self.run(point).name}.log"

    def standing(self, point: Point) -> Standing:
        """Where a point stands."""
        run = Run(self.run(point))
        if (run.student / "model.safetensors").exists():
            value = self.value(point)
            return Standing("trained" if value is None else "done", point.config.train.steps, value)
        steps = run.steps()
        failure = self.failures / f"{point.signature}.json"
        if failure.exists():
            return Standing("failed", steps[-1] if steps else 0, failure=json.loads(failure.read_text()))
        begun = (run.folder / "config.toml").exists()
        return Standing("begun" if begun else "new", steps[-1] if steps else 0)

    def value(self, point: Point) -> float | None:
        """What the point is judged by; None as long as it is not known."""
        run, judge = Run(self.run(point)), self.judge
        if not judge.evaluates:
            rows = [row for row in run.read_metrics() if row["kind"] == "valid"]
            return float(rows[-1][judge.metric]) if rows else None
        path = run.folder / EVALUATIONS[judge.split]
        if not path.exists():
            return None
        found = json.loads(path.read_text())
        if found.get("minutes", 0.0) != judge.minutes:
            return None
        if judge.metric in found["probes"]:
            return float(found["probes"][judge.metric]["value"])
        return float(found[judge.metric]) if isinstance(found.get(judge.metric), float) else None

    def fail(self, point: Point, exit_code: int) -> None:
        """Record that a point failed."""
        lines = self.log(point).read_text(errors="replace").strip().splitlines() if self.log(point).exists() else []
        record = {"name": point.label, "exit_code": exit_code, "log": lines[-LOG_LINES:]}
        self.write(f"failed/{point.signature}.json", json.dumps(record, indent=2))

    def forgive(self, point: Point) -> None:
        """Forget that a point failed."""
        self.own(self.failures / f"{point.signature}.json").unlink(missing_ok=True)
