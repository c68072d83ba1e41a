"""`gdist sweep`: trains what is missing or changed, evaluates it where the file says so, and shows the table."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gdist.pipeline import console
from gdist.stages.sweep.evaluating import evaluate_points
from gdist.stages.sweep.folder import SweepFolder
from gdist.stages.sweep.options import SweepConfig, Tally
from gdist.stages.sweep.points import check_names, points_of
from gdist.stages.sweep.spec import read_spec
from gdist.stages.sweep.table import result
from gdist.stages.sweep.training import train_points


def sweep(config: SweepConfig, show_progress: bool = True) -> dict[str, Any]:
    """Do what is left of a sweep.

    Returns:
        the fields of ``gdist sweep --json`` (see docs/commands.md).

    Raises:
        ConfigError: the file or a point in it is impossible; nothing has run then.
        CacheError: a cache cannot be read, or lacks a layer that a point needs.
        RunError: the folder contains something else, or another process is at work there.
        ClusterError: the workers cannot be used, or were lost.
        KeyboardInterrupt: it was asked to stop; the processes have stopped, with their checkpoints.
    """
    config = config.placed()
    spec = read_spec(config.file)
    points = points_of(spec, config.caches, config.file.parent)
    chosen = check_names(points, config.only) if config.only else points
    chosen = chosen[:1] if config.first else chosen
    folder = SweepFolder(config.out, spec.name, spec.judge)
    folder.require_place()
    if config.dry_run:
        return result(folder, points, chosen, set(), set(), config.jobs)
    with folder.owned(), _workers(config, folder) as config:
        folder.begin(points)
        if config.retry_failed:
            for point in chosen:
                folder.forgive(point)
        tally = Tally()
        with console.progress(f"sweep {spec.name}", len(chosen), "points", enabled=show_progress) as advance:
            train_points(folder, chosen, config, tally, advance)
            evaluate_points(folder, chosen, config, tally, advance)
    return result(folder, points, chosen, tally.ran, tally.failed_now, config.jobs)


@contextmanager
def _workers(config: SweepConfig, folder: SweepFolder) -> Iterator[SweepConfig]:
    """The config, with the workers of ``--cluster`` to run its jobs; or as it is, for processes of this machine."""
    if config.cluster is None:
        yield config
        return
    from gdist.stages.sweep.cluster import workers_of  # Dask takes a second to import

    with workers_of(config, folder) as connected:
        yield connected
