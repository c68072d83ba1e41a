"""`gdist eval` on the command line."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from gdist.stages.commandline import LocalPath, TableOption, command, json_option, local_options, use_option

if TYPE_CHECKING:
    from gdist.pipeline.local.folder import LocalFolder


@command("eval", short_help="Fidelity by layer and probes of trained students.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN[@STEP]…", type=LocalPath())
@click.option(
    "--cache",
    "caches",
    multiple=True,
    metavar="[NAME=]URI",
    help="Evaluate on this cache of the runs' teacher; of a student of several teachers, one of each. What was found "
    "on other caches is kept. [default: those of each run]",
)
@click.option(
    "--probes",
    cls=TableOption,
    table="gdist.stages.evaluate.probes:PROBES",
    default="all",
    show_default=True,
    help="Comma-separated: {rows}, label:COLUMN for the classes of any label, or FILE.py:NAME for your own probe; "
    "or all (that the labels allow), or none.",
)
@click.option(
    "--split",
    type=click.Choice(["test", "valid"]),
    default="test",
    show_default=True,
    help="Measure on this split. While you try things out, valid: the test split is then not read, and the result is "
    "RUN/eval-valid.json.",
)
@click.option(
    "--minutes",
    type=float,
    default=0.0,
    show_default="all",
    help="Read at most this much speech of each voice in each split, always the same. What was found on all is kept.",
)
@click.option("--control", is_flag=True, help="Also run every probe with shuffled labels: it should score at chance.")
@click.option(
    "--device", default="auto", show_default=True, help="Where students generate: auto, cpu, cuda, cuda:1, …"
)
@local_options
@use_option
@json_option
def eval_command(
    runs: tuple[Path, ...],
    caches: tuple[str, ...],
    probes: str,
    split: Literal["test", "valid"],
    minutes: float,
    control: bool,
    device: str,
    local: "LocalFolder | None",
    uses: tuple[str, ...],
    as_json: bool,
) -> int:
    """Evaluate students on held-out speech, generating freely: fidelity to each of the teacher's layers, and
    SUPERB-style probes of the students, the teacher (from the cache) and log-mel.

    Nothing is overwritten: RUN/eval.json is what was found on the run's own cache, with every probe that was run, and
    RUN/evaluations has the rest. Of a cache that lacks layers, those that it has are judged.

    RUN@STEP is the student of a checkpoint that is kept; so is a single run that is not finished: that of its newest
    one. The result says that it is unfinished, and never takes the place of the finished student's.

    \b
    Example:  gdist eval runs/first runs/second
              gdist eval runs/first@4000
              gdist eval runs/first --probes ks,asv --control
              gdist eval runs/* --split valid --minutes 5
    """
    from gdist.pipeline.cache.encodings import ENCODINGS
    from gdist.pipeline.extensions import use
    from gdist.stages.evaluate import evaluate
    from gdist.stages.evaluate.probes import PROBES
    from gdist.stages.students import STUDENTS

    use(uses, STUDENTS, ENCODINGS, PROBES)
    return evaluate.eval_command(list(runs), caches, probes, control, as_json, device, local, split, minutes)
