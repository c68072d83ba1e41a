"""`gdist sweep`: trains what is missing or changed, evaluates it where the file says so, and shows the table."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gdist.pipeline import console
from gdist.pipeline.errors import UsageError
from gdist.pipeline.run import Run
from gdist.stages.sweep.folder import SweepFolder
from gdist.stages.sweep.jobs import Job, run_jobs
from gdist.stages.sweep.points import Point, check_names, points_of
from gdist.stages.sweep.spec import read_spec
from gdist.stages.sweep.table import result, seconds_left


@dataclass(frozen=True)
class SweepConfig:
    """What one call of ``gdist sweep`` is asked to do.

    Attributes:
        caches: name → URI; the default one has the name "".
        jobs: processes at a time.
        only: a regular expression; other points are left out.
        first: only the first point, in this process.
        retry_failed: begin failed points again.
        fail_fast: begin nothing more once a point has failed.
        budget: seconds; nothing begins that would end later.
        passed: options that are passed to every command, such as ``--use`` and ``--local``.
    """

    file: Path
    out: Path
    caches: dict[str, str]
    jobs: int = 1
    only: str | None = None
    first: bool = False
    retry_failed: bool = False
    fail_fast: bool = False
    dry_run: bool = False
    budget: float | None = None
    passed: list[str] = field(default_factory=list)


@dataclass
class Tally:
    """What this call did. ``ran``: trained or resumed, to the end."""

    ran: set[str] = field(default_factory=set)
    failed_now: set[str] = field(default_factory=set)


def sweep(config: SweepConfig, show_progress: bool = True) -> dict[str, Any]:
    """Do what is left of a sweep.

    Returns:
        the fields of ``gdist sweep --json`` (see docs/commands.md).

    Raises:
        ConfigError: the file or a point in it is impossible; nothing has run then.
        CacheError: a cache cannot be read, or lacks a layer that a point needs.
        RunError: the folder contains something else, or another process is at work there.
        KeyboardInterrupt: it was asked to stop; the processes have stopped, with their checkpoints.
    """
    spec = read_spec(config.file)
    points = points_of(spec, config.caches, config.file.parent)
    chosen = check_names(points, config.only) if config.only else points
    chosen = chosen[:1] if config.first else chosen
    folder = SweepFolder(config.out, spec.name, spec.judge)
    folder.require_place()
    if config.dry_run:
        return result(folder, points, chosen, set(), set(), config.jobs)
    with folder.owned():
        folder.begin(points)
        if config.retry_failed:
            for point in chosen:
                folder.forgive(point)
        tally = Tally()
        with console.progress(f"sweep {spec.name}", len(chosen), "points", enabled=show_progress) as advance:
            _train(folder, chosen, config, tally, advance)
            _evaluate(folder, chosen, config, tally, advance)
    return result(folder, points, chosen, tally.ran, tally.failed_now, config.jobs)


def _train(
    folder: SweepFolder, points: Sequence[Point], config: SweepConfig, tally: Tally, advance: Callable[..., None]
) -> None:
    """Train every point that is not finished."""
    by_name = {point.label: point for point in points}
    standings = {point.label: folder.standing(point) for point in points}
    left = [point for point in points if standings[point.label].state in ("new", "begun")]
    advance(len(points) - len(left))
    began = time.monotonic()

    def jobs() -> Any:
        for point in left:
            seconds = seconds_left(folder, points, point, standings[point.label].step)
            if config.budget is not None and time.monotonic() - began + (seconds or 0) > config.budget:
                continue
            yield Job(point.label, [*point.arguments(folder.run(point)), *config.passed], folder.log(point))

    def ended(job: Job, code: int) -> bool:
        point = by_name[job.name]
        if code == 0:
            tally.ran.add(point.signature)
        elif not stopped_by_hand(code):
            tally.failed_now.add(point.signature)
            folder.fail(point, code)
            console.say(f"{point.label} failed with exit code {code}: {last_line(folder, point)}", style="red")
        advance(1)
        return code == 0 or not config.fail_fast

    def watch(running: Sequence[Job]) -> None:
        notes = [_progress(folder, by_name[job.name]) for job in running[:3]]
        failed = f"; {len(tally.failed_now)} failed" if tally.failed_now else ""
        advance(0, "; ".join(notes) + failed)

    if run_jobs(jobs(), config.jobs, threads_each(config.jobs), gpus(), ended, watch):
        raise KeyboardInterrupt


def stopped_by_hand(code: int) -> bool:
    """Whether a process ended because it was asked to, which is no failure of the point."""
    return code in (130, 143, -2, -15)


def _evaluate(
    folder: SweepFolder, points: Sequence[Point], config: SweepConfig, tally: Tally, advance: Callable[..., None]
) -> None:
    """Evaluate what is trained, in as many processes: each shares what its runs have in common."""
    judge = folder.judge
    todo = [point for point in points if folder.standing(point).state == "trained"] if judge.evaluates else []
    shares: dict[str, list[Point]] = {}
    by_cache: dict[str, list[Point]] = {}
    for point in todo:
        by_cache.setdefault(point.cache, []).append(point)
    for found in by_cache.values():
        for share in range(min(config.jobs, len(found))):
            shares[f"evaluation {len(shares) + 1}"] = found[share :: config.jobs]
    options = ["--split", judge.split, "--probes", judge.probes, "--minutes", str(judge.minutes)]
    jobs = [
        Job(
            name,
            ["eval", *(str(folder.run(p)) for p in share), *options, *config.passed],
            folder.logs / f"{name}.log",
        )
        for name, share in shares.items()
    ]

    def ended(job: Job, code: int) -> bool:
        for point in shares[job.name]:
            if code and not stopped_by_hand(code) and folder.standing(point).state == "trained":
                tally.failed_now.add(point.signature)
        if code and not stopped_by_hand(code):
            console.say(f"{job.name} failed with exit code {code}; see {job.log}", style="red")
        return True

    def watch(running: Sequence[Job]) -> None:
        left = sum(folder.standing(point).state == "trained" for point in todo)
        advance(0, f"evaluating: {left} of {len(todo)} runs left")

    if jobs and run_jobs(jobs, config.jobs, threads_each(config.jobs), gpus(), ended, watch):
        raise KeyboardInterrupt


def _progress(folder: SweepFolder, point: Point) -> str:
    rows = Run(folder.run(point)).read_metrics()
    done = f"{rows[-1]['step']}/{point.config.train.steps}, loss {rows[-1]['loss']:.3f}" if rows else "begins"
    return f"{point.label}: {done}"


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


def named_caches(given: Sequence[str]) -> dict[str, str]:
    """``[NAME=]URI`` … → name → URI; the first one without a name is the default, and so is a single one.

    Raises:
        UsageError: two have the same name.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, uri = text.partition("=")
        named = bool(equals) and name.isidentifier()
        key = name if named else ""
        if key in found:
            raise UsageError(
                f"--cache {text}: there is already one {f'called {name}' if named else 'without a name'}"
            )
        found[key] = uri if named else text
    if len(found) == 1:
        found[""] = next(iter(found.values()))
    return found
