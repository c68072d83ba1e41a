"""`gdist sweep`: trains what is missing or changed, evaluates it where the file says so, and shows the table."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gdist.pipeline import console
from gdist.pipeline.storage.locations import lasting
from gdist.stages.sweep.display import Display, settled
from gdist.stages.sweep.evaluating import evaluate_points
from gdist.stages.sweep.folder import SweepFolder
from gdist.stages.sweep.judge import Judge
from gdist.stages.sweep.options import SweepConfig, Tally
from gdist.stages.sweep.plan import Plan
from gdist.stages.sweep.points import cache_uri
from gdist.stages.sweep.spec import read_spec
from gdist.stages.sweep.table import result
from gdist.stages.sweep.training import train_points


def sweep(config: SweepConfig, show_progress: bool = True) -> dict[str, Any]:
    """Do what is left of a sweep.

    Returns:
        the fields of ``gdist sweep --json`` (see docs/reference/json.md).

    Raises:
        ConfigError: the file or a point in it is impossible; nothing has run then.
        CacheError: a cache cannot be read, or lacks a layer that a point needs.
        RunError: the folder contains something else or cannot be written, or another process is at work there.
        ClusterError: the workers cannot be used, or were lost.
        KeyboardInterrupt: it was asked to stop; the processes have stopped, with their checkpoints.
    """
    config = config.placed()
    spec = read_spec(config.file)
    folder = SweepFolder(config.out, spec.name, _with_cache(spec.judge, config.caches))
    folder.require_place()
    plan = Plan(spec, config, folder)
    plan.decide()
    plan.open(writes=False)
    plan.decide()
    chosen = plan.chosen()
    if config.dry_run:
        return result(folder, plan, chosen, Tally())
    with (
        folder.owned(),
        _workers(config, folder) as plan.config,
        _recorded(plan, folder, show_progress) as advance,
    ):
        plan.measure()
        plan.open(writes=True)
        if config.retry_failed:
            for point in plan.chosen():
                folder.forgive(point)
        tally = Tally()
        _work(plan, folder, tally, advance)
    folder.require_written()
    return result(folder, plan, plan.chosen(), tally)


def _with_cache(judge: Judge, caches: Mapping[str, str]) -> Judge:
    """The same, with the URI of the cache that it names."""
    return judge if judge.cache is None else dataclasses.replace(judge, cache=lasting(cache_uri(judge.cache, caches)))


def _work(plan: Plan, folder: SweepFolder, tally: Tally, advance: Display) -> None:
    """Train to the next rung, or to the end; decide; evaluate; and propose further trials, until nothing is left that
    this call may do."""
    left = _budget(plan.config)
    while True:
        reached = None
        while (until := plan.decide(), dict(folder.stopped)) != reached:
            reached = until, dict(folder.stopped)
            train_points(folder, plan.chosen(), left(), tally, advance, until)
            folder.require_written()
            if plan.config.fail_fast and tally.failed_now:
                return
        advance.record()
        if not _over(left()):
            evaluate_points(folder, plan.chosen(), left(), tally, advance)
        if not plan.extend():
            return


def _budget(config: SweepConfig) -> Callable[[], SweepConfig]:
    """The config with what is left of its budget: one budget for all rungs and batches."""
    began = time.monotonic()

    def left() -> SweepConfig:
        if config.budget is None:
            return config
        return dataclasses.replace(config, budget=config.budget - (time.monotonic() - began))

    return left


def _over(config: SweepConfig) -> bool:
    return config.budget is not None and config.budget <= 0


@contextlib.contextmanager
def _recorded(plan: Plan, folder: SweepFolder, show_progress: bool) -> Iterator[Display]:
    """Show the progress, and record the points and the time at the begin, now and then, and at the end."""
    total, ended = len(plan.chosen()) + plan.runs_to_come, settled(folder, plan.chosen())
    with console.progress(f"sweep {plan.spec.name}", total, "points", ended, show_progress) as bar:
        display = Display(plan, folder, bar, ended)
        display.record()
        folder.require_written()
        folder.begin()
        try:
            yield display
        finally:
            display.record()


@contextlib.contextmanager
def _workers(config: SweepConfig, folder: SweepFolder) -> Iterator[SweepConfig]:
    """The config, with the workers of ``--cluster`` to run its jobs; or as it is, for processes of this machine."""
    if config.cluster is None:
        yield config
        return
    from gdist.stages.sweep.cluster import workers_of  # Dask takes a second to import

    with workers_of(config, folder) as connected:
        yield connected
