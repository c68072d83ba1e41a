"""`gdist sweep` on the command line."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gdist.stages.commandline import LocalPath, command, json_option, local_options, use_option

if TYPE_CHECKING:
    from gdist.pipeline.local.folder import LocalFolder


class Duration(click.ParamType[float]):
    """A time: ``90s``, ``45m``, ``2h``, ``1d``."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([smhd])\s*", str(value))
        if not found:
            self.fail(f"{value!r} is not a time; type a number and s, m, h or d, such as 2h", param, ctx)
        return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[found[2]]


@command("sweep", kept="what is trained is kept", short_help="Many students from one file, each trained once.")
@click.argument("file", type=LocalPath(), metavar="SWEEP.toml|NAME")
@click.option(
    "--cache",
    "caches",
    multiple=True,
    required=True,
    metavar="[NAME=]URI",
    help="What `gdist extract` wrote. Repeatable: a file's `cache` chooses one by its NAME.",
)
@click.option("--out", required=True, metavar="DIR", type=LocalPath(), help="The sweep's folder.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes at a time. [default: one for each GPU, or 1]")
@click.option(
    "--together",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Students that each process trains from one stream of batches, at most.",
)
@click.option("--cluster", metavar="local:N|tcp://…", help="Run on N processes here, or on a Dask cluster.")
@click.option("--only", metavar="REGEX", help="Only the points whose name matches.")
@click.option("--first", is_flag=True, help="Only the first point.")
@click.option("--retry-failed", is_flag=True, help="Begin failed points again; they are otherwise left alone.")
@click.option("--fail-fast", is_flag=True, help="Begin nothing more once a point has failed.")
@click.option("--dry-run", is_flag=True, help="Print the points, what is done and what is left; run nothing.")
@click.option(
    "--budget",
    type=Duration(),
    metavar="TIME",
    help="Begin nothing that would end later than so long from now: 90s, 45m, 2h.",
)
@local_options
@use_option
@json_option
def sweep_command(
    file: Path,
    caches: tuple[str, ...],
    out: Path,
    jobs: int | None,
    together: int,
    cluster: str | None,
    only: str | None,
    first: bool,
    retry_failed: bool,
    fail_fast: bool,
    dry_run: bool,
    budget: float | None,
    local: "LocalFolder | None",
    uses: tuple[str, ...],
    as_json: bool,
) -> int:
    """Train every point of a sweep that is missing or changed, and nothing else.

    The file has what all points share, what varies, and the seeds. A point is known by its resolved config, so it may
    be renamed or moved. Interrupted? Run the same command again.

    With --cluster, each worker does one point at a time: N processes here (one per GPU, if there are any), or
    the workers of a Dask scheduler (tcp://HOST:PORT, tls://HOST:PORT, or its scheduler file). DIR must then be in a
    folder that all of them mount at the same path.

    \b
    Example:  gdist sweep ablation.toml --cache s3://bucket/libri --out sweeps/ablation --jobs 2
              gdist sweep ablation.toml --cache s3://bucket/libri --out sweeps/ablation --dry-run
    """
    from gdist.pipeline import console
    from gdist.pipeline.cache.encodings import ENCODINGS
    from gdist.pipeline.errors import EXIT_FAILURE, EXIT_OK
    from gdist.pipeline.extensions import use
    from gdist.stages.students import STUDENTS
    from gdist.stages.sweep.options import SweepConfig, named_caches
    from gdist.stages.sweep.sweep import sweep
    from gdist.stages.sweep.table import show
    from gdist.stages.sweep.training import gpus
    from gdist.stages.train.losses import LOSSES
    from gdist.stages.train.recipes import sweep_path

    if uses:
        from gdist.stages.evaluate.probes import PROBES  # takes seconds, and most sweeps need none

        use(uses, STUDENTS, ENCODINGS, LOSSES, PROBES)
    file = sweep_path(file)
    passed = [part for name in uses for part in ("--use", name)]
    if local is not None:
        passed += ["--local", str(local.path), *(["--local-limit", str(local.limit)] if local.limit else [])]
    config = SweepConfig(
        file,
        out,
        named_caches(caches),
        jobs or (1 if cluster else max(len(gpus()), 1)),
        only,
        first,
        retry_failed,
        fail_fast,
        dry_run,
        budget,
        passed,
        together,
        cluster,
    )
    found = sweep(config, show_progress=not as_json)
    if as_json:
        console.emit(found)
    else:
        show(found, file, out)
    return EXIT_FAILURE if found["failed"] else EXIT_OK


@command("best", short_help="Which run of a sweep to take, and by how much it is ahead.")
@click.argument("folder", type=LocalPath(), metavar="DIR")
@click.option(
    "--metric",
    help="cosine or loss of the last validation in training; or, of `gdist eval`, mean_cosine or a probe's name. "
    "By default, what the sweep's file judges by.",
)
@click.option(
    "--split", type=click.Choice(["valid", "test"]), help="Of `gdist eval`; by default, the one of the sweep's file."
)
@json_option
def best_command(folder: Path, metric: str | None, split: str | None, as_json: bool) -> int:
    """Print the best point of a sweep, its margin over the second, and the command that exports its best run.

    Seeds of one point are averaged. The margin is clear where it is at least twice its standard error over seeds.

    \b
    Example:  gdist best sweeps/ablation --metric cosine
    """
    from gdist.pipeline import console
    from gdist.stages.sweep import best

    answer = best.best(folder, metric, split)
    if as_json:
        console.emit(answer)
    else:
        best.show(answer)
    return 0
