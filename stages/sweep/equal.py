"""Equal compute: a point gets as many steps as cost what another point costs, in seconds measured on this machine.

    [equal]
    "baseline, as long" = "ours"          # the alternative on the left trains for as long as the one on the right
    "thin, as long" = "ours lr=0.001"     # … or as that point of its grid

Both take some steps in turns, in folders of their own, so that both are measured under the same conditions. What is
recorded is the ratio of their costs per step. It is measured once, so a rerun finds the same steps.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gdist.pipeline import console
from gdist.pipeline.config import did_you_mean, signature, to_tables
from gdist.pipeline.errors import ConfigError, RunError
from gdist.pipeline.folder import OwnFolder
from gdist.pipeline.run import Run
from gdist.pipeline.run.documents import read_document
from gdist.pipeline.run.identity import identifying
from gdist.stages.standings.schema import Ratios
from gdist.stages.sweep.fields import Settings
from gdist.stages.sweep.jobs import Job
from gdist.stages.sweep.options import SweepConfig
from gdist.stages.sweep.points import Points, Resolved, typed
from gdist.stages.sweep.spec import Alternative
from gdist.stages.sweep.training import gpus, threads_each

TURNS = 4  # of each of the two
STEPS = 10  # of a turn
WARM_UP = 3  # the first steps of a turn, which do not count: a process has just begun
RECORD = "equal.json"
UNMEASURED = {
    "steps",
    "warmup_steps",
    "validate_every",
    "validate_seconds",
    "seed",
}  # do not change what a step costs


@dataclass(frozen=True)
class Pair:
    """A combination, and the one whose cost its steps are to match."""

    left: Resolved
    right: Resolved
    names: tuple[str, str]

    @property
    def key(self) -> str:
        return f"{_identity(self.left)}/{_identity(self.right)}"


class Equal:
    """The pairs of a file's ``[equal]``, and what is measured of them in the sweep's folder."""

    def __init__(self, points: Points, folder: Path) -> None:
        self.points, self.folder = points, folder
        self.known: dict[str, Any] = {}
        if (folder / RECORD).exists():
            self.known = read_document(OwnFolder(folder).own(folder / RECORD), Ratios, "delete it to measure again")

    def pair(self, alternative: Alternative, chosen: Settings) -> Pair | None:
        """The pair whose left side this combination is.

        Raises:
            ConfigError: the point on the right is several, and none of them has the same choice of the grid; or what
                a step costs changes during the training.
        """
        name = self.points.spec.equal.get(alternative.name)
        if name is None:
            return None
        right, on_the_right = self._reference(name, chosen)
        sides = self.points.resolve(alternative, chosen), self.points.resolve(right, on_the_right)
        pair = Pair(*sides, (alternative.name, name))
        for side, of in zip(sides, pair.names, strict=True):
            if side.config.train.thaw_step:
                raise ConfigError(
                    f"[equal]: the cost of a step of {of!r} changes during its training, and some steps do not tell",
                    "set train.steps by hand, or leave out train.thaw_step",
                )
        return pair

    def _reference(self, name: str, chosen: Settings) -> tuple[Alternative, Settings]:
        every = list(self.points.combinations())
        found = [(one, values) for one, values in every if name in (one.name, self.points.name(one, values))]
        same = [(one, values) for one, values in found if values == chosen]
        if not found:
            names = [self.points.name(one, values) for one, values in every]
            raise ConfigError(f"[equal]: no point is called {name!r}", did_you_mean(name, names))
        if len(found) != 1 and not same:
            raise ConfigError(
                f"[equal]: {name!r} is {len(found)} points, which cost different times",
                f"name one of them: {self.points.name(*found[0])!r}",
            )
        return (same or found)[0]

    def steps(self, alternative: Alternative, chosen: Settings) -> Settings | None:
        """The fields that make the combination cost as much as its reference; None as long as it is not measured."""
        pair = self.pair(alternative, chosen)
        if pair is None:
            return {}
        further = self.steps(*self._reference(pair.names[1], chosen))
        if further is None or pair.key not in self.known:
            return None
        steps = further.get("train.steps", pair.right.config.train.steps)
        equal = max(round(steps * float(self.known[pair.key]["ratio"])), 1)
        optim = pair.left.config.train
        following = [each for each in ("validate_every", "checkpoint_every") if getattr(optim, each) == optim.steps]
        return {f"train.{each}": equal for each in ("steps", *following)}

    def missing(self, alternative: Alternative, chosen: Settings) -> list[Pair]:
        """The pairs that must be measured before the combination's steps are known."""
        pair = self.pair(alternative, chosen)
        if pair is None:
            return []
        return self.missing(*self._reference(pair.names[1], chosen)) + [pair] * (pair.key not in self.known)

    def measure(self, pair: Pair, config: SweepConfig) -> dict[str, Any]:
        """Let both sides take steps in turns.

        Returns:
            what is to be recorded under the pair's key.

        Raises:
            RunError: one of them cannot be trained; the message has the last line of its log.
            KeyboardInterrupt: it was asked to stop.
        """
        console.say(f"measuring what a step of {pair.names[0]!r} and of {pair.names[1]!r} costs")
        sides = (pair.left, pair.right)
        runs = [Run(self.folder / "measured" / f"{pair.key.replace('/', '-')}-{of}") for of in ("left", "right")]
        failed: list[tuple[Job, int]] = []

        def ended(job: Job, code: int) -> bool:
            if code:
                failed.append((job, code))
            return not code

        jobs = [
            Job(f"{name} {turn}", _arguments(side, run.folder, turn, config.passed), run.folder.with_suffix(".log"))
            for turn in range(1, TURNS + 1)
            for side, run, name in zip(sides, runs, pair.names, strict=True)
        ]
        for job in jobs:  # one after the other, also where there are several workers
            if config.run([job], 1, threads_each(config.jobs), gpus()[:1], ended, lambda running: None):
                raise KeyboardInterrupt
            if failed:
                break
        if failed:
            job, code = failed[0]
            lines = job.log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
            raise RunError(f"measuring {job.name!r} failed with exit code {code}: {lines[-1]}", f"see {job.log}")
        unit = "step_seconds" if torch.cuda.is_available() else "step_cpu_seconds"
        left, right = (turns_of(run.read_metrics(), unit) for run in runs)
        return {
            "points": list(pair.names),
            "ratio": statistics.median(there / here for here, there in zip(left, right, strict=True)),
            "step_seconds": [statistics.fmean(left), statistics.fmean(right)],
            "of": "the wall" if unit == "step_seconds" else "the process",
        }


def turns_of(rows: Sequence[Mapping[str, Any]], unit: str) -> list[float]:
    """The mean seconds per step of each turn, without its first steps."""
    found: dict[int, list[float]] = {}
    for row in rows:
        turn, place = divmod(row["step"] - 1, STEPS)
        if row["kind"] == "train" and place >= WARM_UP:
            found.setdefault(turn, []).append(max(float(row[unit]), 1e-9))
    return [statistics.fmean(found[turn]) for turn in sorted(found)]


def _arguments(side: Resolved, out: Path, turn: int, passed: Sequence[str]) -> list[str]:
    optim = side.config.train
    short: dict[str, Any] = {
        "train.steps": max(optim.steps, TURNS * STEPS + 1),
        "train.log_every": 1,
        "train.validate_every": 10**9,
        "train.validate_seconds": 1e-3,  # one utterance, at each pause
        "train.keep_checkpoints": 1,
        "train.keep_every": 0,
        "train.checkpoint_every": 10**9,
    }
    sets = [*side.settings, *(f"{name}={typed(value)}" for name, value in short.items())]
    recipe = ["--recipe", side.recipe] if side.recipe else []
    until = ["--until", str(turn * STEPS)]
    options = [part for each in sets for part in ("--set", each)]
    return ["train", "--cache", side.uri, "--out", str(out), *recipe, *options, *until, *passed]


def _identity(side: Resolved) -> str:
    """A signature of all that changes what a step costs."""
    tables = identifying(to_tables(side.config))
    tables["train"] = {name: value for name, value in tables["train"].items() if name not in UNMEASURED}
    return signature({"config": tables, "cache": side.cache.gdist["checksum"]})
