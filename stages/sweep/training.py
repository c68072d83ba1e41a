"""Trains the points of a sweep that are not finished, as jobs; each of them trains one point, or several."""

import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from gdist.pipeline import console
from gdist.pipeline.run import Run
from gdist.stages.standings.record import error_in
from gdist.stages.sweep.folder import Standing, SweepFolder
from gdist.stages.sweep.jobs import Job
from gdist.stages.sweep.options import SweepConfig, Tally
from gdist.stages.sweep.points import Point
from gdist.stages.sweep.rates import Rates
from gdist.stages.sweep.together import arguments_of, failures, job_together
from gdist.stages.train.stream import stream_key

Advance = Callable[..., None]  # of the progress display: (points, note)


@dataclass(frozen=True)
class Work:
    """What one process does.

    Attributes:
        points: those that it trains.
        until: signature → the step after which a point pauses; others are trained to the end.
    """

    points: tuple[Point, ...]
    until: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return " + ".join(point.label for point in self.points)

    def job(self, folder: SweepFolder, passed: Sequence[str]) -> Job:
        if len(self.points) > 1:
            return job_together(folder, self.name, self.points, self.until, passed)
        (point,) = self.points
        return Job(self.name, [*arguments_of(folder, point, self.until), *passed], folder.log(point))

    def failures(self, folder: SweepFolder, code: int) -> dict[str, int]:
        """Those of its points that have failed: signature → exit code.

        Args:
            code: that of its process; 0 while it runs.
        """
        crashed = 0 if stopped_by_hand(code) else code
        if len(self.points) > 1:
            return failures(folder, self.points, crashed)
        return {self.points[0].signature: crashed} if crashed else {}


def train_points(
    folder: SweepFolder,
    points: Sequence[Point],
    config: SweepConfig,
    tally: Tally,
    advance: Advance,
    until: Mapping[str, int] | None = None,
) -> None:
    """Train every point that is new or begun; failed ones are left alone.

    Args:
        until: signature → the step after which this point pauses; without it, to the end.

    Raises:
        KeyboardInterrupt: it was asked to stop; the processes have stopped, with their checkpoints.
    """
    until = until or {}
    standings = {point.signature: folder.standing(point) for point in points}
    left = [point for point in points if _is_left(point, standings[point.signature], until)]
    advance(len(points) - len(left))
    works = {work.name: work for work in grouped(left, until, config.together, config.jobs)}
    counted: set[str] = set()
    began = time.monotonic()

    def jobs() -> Iterator[Job]:
        begun = False
        for work in works.values():
            if config.budget is not None:
                rates = Rates(folder, points)
                seconds = [
                    rates.seconds(point, standings[point.signature].step, until.get(point.signature)) or 0
                    for point in work.points
                ]
                unknown = not rates.own and not begun  # where no step was ever measured, the first point shows one
                if time.monotonic() - began + sum(seconds) > config.budget and not unknown:
                    continue
            begun = True
            yield work.job(folder, config.passed)

    def count(work: Work, code: int | None = None) -> None:
        """Count the points that are at their end; all of them once the process has ended, with this code."""
        failed = work.failures(folder, code or 0)
        for point in work.points:
            if point.signature in counted:
                continue
            if folder.standing(point).state in ("done", "trained"):
                tally.ran.add(point.signature)
            elif (number := failed.get(point.signature)) is not None:
                tally.failed_now.add(point.signature)
                folder.fail(point, number)
                console.say(f"{point.label} failed with exit code {number}: {last_line(folder, point)}", style="red")
            elif code is None:
                continue
            counted.add(point.signature)
            advance(1)

    def ended(job: Job, code: int) -> bool:
        count(works[job.name], code)
        return code == 0 or not config.fail_fast

    def watch(running: Sequence[Job]) -> None:
        for job in running:
            if len(works[job.name].points) > 1:
                count(works[job.name])
        shown = [point for job in running for point in works[job.name].points if point.signature not in counted]
        notes = [_progress(folder, point) for point in shown[:3]]
        failed = f"; {len(tally.failed_now)} failed" if tally.failed_now else ""
        advance(0, "; ".join(notes) + failed)

    if config.run(jobs(), config.jobs, threads_each(config.jobs), gpus(), ended, watch):
        raise KeyboardInterrupt


def _is_left(point: Point, standing: Standing, until: Mapping[str, int]) -> bool:
    """Whether there is something to do. One that was cut off after its last step has its student left to write."""
    end = until.get(point.signature, point.config.train.steps)
    return standing.state in ("new", "begun") and (standing.step < end or end >= point.config.train.steps)


def grouped(points: Sequence[Point], until: Mapping[str, int], together: int, jobs: int) -> list[Work]:
    """Which points are trained by one process: at most ``together``, of those that can share a stream of batches.

    There are as many groups as there are processes, if there are points enough for that.
    """
    sharing: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        sharing.setdefault((point.cache, stream_key(point.config)), []).append(point)
    groups = [part for some in sharing.values() for part in _parts(some, math.ceil(len(some) / together))]
    while len(groups) < min(jobs, len(points)):
        place = groups.index(max(groups, key=len))
        groups[place : place + 1] = _parts(groups[place], 2)
    return [Work(tuple(group), until) for group in groups]


def _parts(points: Sequence[Point], count: int) -> list[Sequence[Point]]:
    """The points in ``count`` parts, whose sizes differ by one at most."""
    edges = [len(points) * place // count for place in range(count + 1)]
    return [points[first:last] for first, last in itertools.pairwise(edges)]


def stopped_by_hand(code: int) -> bool:
    """Whether a process ended because it was asked to, which is no failure of the point."""
    return code in (130, 143, -2, -15)


def _progress(folder: SweepFolder, point: Point) -> str:
    rows = Run(folder.run(point)).read_metrics()
    if not rows or not rows[-1]["step"]:
        return f"{point.label}: begins"
    step, steps = rows[-1]["step"], point.config.train.steps
    left = console.duration((steps - step) * rows[-1]["seconds"] / step)
    return f"{point.label}: {step}/{steps}, loss {rows[-1]['loss']:.3f}, {left} left"


def last_line(folder: SweepFolder, point: Point) -> str:
    """The last line of a failed point's log, which names the error."""
    failure = folder.standing(point).failure or {}
    return error_in(failure.get("log", []), "it printed nothing")


def threads_each(jobs: int) -> int:
    """Threads for each of so many processes."""
    here = int(os.environ.get("OMP_NUM_THREADS", 0)) or len(os.sched_getaffinity(0))
    return max(here // jobs, 1)


def gpus() -> list[int]:
    """The numbers of this machine's GPUs."""
    return list(range(torch.cuda.device_count()))
