"""One progress display for a whole sweep; and its wall time, which is recorded as it passes."""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from gdist.pipeline import console
from gdist.stages.sweep.folder import SweepFolder
from gdist.stages.sweep.plan import Plan
from gdist.stages.sweep.points import Point
from gdist.stages.sweep.rates import Rates

LOOK_SECONDS = 10.0  # how often the time left is estimated
LOOK_SHARE = 20  # between two looks passes so many times what one takes, however many points there are
SETTLED = ("done", "stopped", "failed")


def settled(folder: SweepFolder, points: Sequence[Point]) -> int:
    """How many of ``points`` have nothing left to do."""
    return sum(folder.standing(point).state in SETTLED for point in points)


class Display:
    """Called as the progress of training and evaluating: (points that have ended, note).

    Args:
        bar: of the points of this call.
        shown: the points that it counts already.
    """

    def __init__(self, plan: Plan, folder: SweepFolder, bar: console.Advance, shown: int = 0) -> None:
        self.plan, self.folder, self.bar = plan, folder, bar
        self.earlier = folder.calls()
        self.began, self.since = datetime.now().astimezone(), time.monotonic()
        self.shown, self.left, self.looked, self.took, self.new = shown, "", -LOOK_SECONDS, 0.0, False

    @property
    def wall(self) -> list[dict[str, Any]]:
        """When each call began, and its seconds."""
        began = self.began.isoformat(timespec="seconds")
        return [*self.earlier, {"began": began, "seconds": round(time.monotonic() - self.since, 1)}]

    def record(self) -> None:
        """Write down what the sweep consists of now, and how long this call has taken."""
        self.folder.record([point for point in self.plan.points if not point.pending], self.wall)

    def __call__(self, n: float = 1, note: str = "") -> None:
        ended, self.new = self.shown, self.new or n > 0
        began = time.monotonic()
        if began - self.looked >= max(0.0 if self.new else LOOK_SECONDS, LOOK_SHARE * self.took):
            ended, self.new = self._look(), False
            self.record()
            self.looked = time.monotonic()
            self.took = self.looked - began
        self.bar(ended - self.shown, note + self.left if note else "")
        self.shown = ended

    def _look(self) -> int:
        """Estimate the time left; return how many points have nothing left to do."""
        points = self.plan.chosen()
        standings = [self.folder.standing(point) for point in points]
        rates = Rates(self.folder, points)
        seconds = [
            rates.seconds(point, standing.step)
            for point, standing in zip(points, standings, strict=True)
            if standing.state in ("new", "begun")
        ]
        known = [each for each in seconds if each is not None]
        whole = known and len(known) == len(seconds)
        jobs = self.plan.config.jobs
        those = "those proposed so far" if self.plan.runs_to_come else "all"
        self.left = f"; about {console.duration(sum(known) / jobs)} left for {those}" if whole else ""
        return sum(standing.state in SETTLED for standing in standings)
