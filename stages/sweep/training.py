"""Trains the points of a sweep that are not finished, as jobs; each of them trains one point, or several."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from gdist.pipeline import console
from gdist.pipeline.run import Run
from gdist.stages.sweep.folder import SweepFolder
from gdist.stages.sweep.jobs import Job, run_jobs
from gdist.stages.sweep.options import SweepConfig, Tally
from gdist.stages.sweep.points import Point
from gdist.stages.sweep.rates import Rates

Advance = Callable[..., None]  # of the progress display: (points, note)


@dataclass(frozen=True)
class Work:
    """What one process does.

    Attributes:
        points: those that it trains.
        until: pause after this step; None trains to the end.
    """

    points: tuple[Point, ...]
    until: int | None = None

    @property
    def name(self) -> str:
        return " + ".join(point.label for point in self.points)

    def job(self, folder: SweepFolder, passed: Sequence[str]) -> Job:
        (point,) = self.points
        pause = [] if self.until is None else ["--until", str(self.until)]
        return Job(self.name, [*point.arguments(folder.run(point)), *pause, *passed], folder.log(point))


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
    left = [
        point
        for point in points
        if standings[point.signature].state in ("new", "begun")
        and standings[point.signature].step < until.get(point.signature, point.config.train.steps)
    ]
    advance(len(points) - len(left))
    works = {work.name: work for work in grouped(left, until)}
    began = time.monotonic()

    def jobs() -> Iterator[Job]:
        begun = False
        for work in works.values():
            if config.budget is not None:
                rates = Rates(folder, points)
                seconds = [rates.seconds(p, standings[p.signature].step, work.until) or 0 for p in work.points]
                unknown = not rates.own and not begun  # where no step was ever measured, the first point shows one
                if time.monotonic() - began + sum(seconds) > config.budget and not unknown:
                    continue
            begun = True
            yield work.job(folder, config.passed)

    def ended(job: Job, code: int) -> bool:
        for point in works[job.name].points:
            standing = folder.standing(point)
            if standing.state in ("done", "trained"):
                tally.ran.add(point.signature)
            elif code and not stopped_by_hand(code):
                tally.failed_now.add(point.signature)
                folder.fail(point, code)
                console.say(f"{point.label} failed with exit code {code}: {last_line(folder, point)}", style="red")
            advance(1)
        return code == 0 or not config.fail_fast

    def watch(running: Sequence[Job]) -> None:
        notes = [_progress(folder, works[job.name].points[0]) for job in running[:3]]
        failed = f"; {len(tally.failed_now)} failed" if tally.failed_now else ""
        advance(0, "; ".join(notes) + failed)

    if run_jobs(jobs(), config.jobs, threads_each(config.jobs), gpus(), ended, watch):
        raise KeyboardInterrupt


def grouped(points: Sequence[Point], until: Mapping[str, int]) -> list[Work]:
    """Which points are trained by one process."""
    return [Work((point,), until.get(point.signature)) for point in points]


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
    lines: list[str] = failure.get("log", [])
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it printed nothing"])[-1]


def threads_each(jobs: int) -> int:
    """Threads for each of so many processes."""
    here = int(os.environ.get("OMP_NUM_THREADS", 0)) or len(os.sched_getaffinity(0))
    return max(here // jobs, 1)


def gpus() -> list[int]:
    """The numbers of this machine's GPUs."""
    return list(range(torch.cuda.device_count()))
