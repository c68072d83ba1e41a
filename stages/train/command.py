"""`gdist train` on the command line."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gdist.stages.commandline import LocalPath, command, json_option, local_options, use_option

if TYPE_CHECKING:
    from gdist.pipeline.local.folder import LocalFolder


@command("train", kept="its checkpoints are kept", short_help="Stage two: cache → student.")
@click.option(
    "--cache",
    "caches",
    required=True,
    multiple=True,
    metavar="[NAME=]URI",
    help="What `gdist extract` wrote. Repeatable: of several teachers, or of one whose layers were extracted apart.",
)
@click.option("--out", required=True, metavar="RUN", type=LocalPath(), help="The run's folder.")
@click.option("--recipe", metavar="NAME|FILE", help="A shipped recipe or a TOML file.")
@click.option(
    "--student",
    metavar="NAME|FILE.py:CLASS",
    help="Which student: a name that `gdist students` lists, or a class in your own file.",
)
@click.option("--set", "settings", multiple=True, metavar="TABLE.FIELD=VALUE", help="Set one field; repeatable.")
@click.option(
    "--until",
    type=click.IntRange(min=1),
    metavar="STEP",
    help="Pause after this step, with a validation and a checkpoint.",
)
@click.option(
    "--start-from",
    metavar="RUN[@STEP]|DIR",
    type=LocalPath(),
    help="Begin with the weights of this student, of the same shape: a run's, that of a checkpoint, or an export for "
    "hf or s3prl. The optimizer and the schedule begin anew.",
)
@local_options
@use_option
@json_option
def train_command(
    caches: tuple[str, ...],
    out: Path,
    recipe: str | None,
    student: str | None,
    settings: tuple[str, ...],
    until: int | None,
    start_from: Path | None,
    local: "LocalFolder | None",
    uses: tuple[str, ...],
    as_json: bool,
) -> int:
    """Train a student from the cache alone: no teacher, no audio files.

    Interrupted? Run the same command again: it continues from the last checkpoint, and the result is the same to the
    last bit. With another train.steps (or train.schedule) it goes on where no step that it has taken would have had
    another rate: always with train.schedule=constant. For several GPUs, torchrun starts one process per GPU; a run
    may be resumed on another number of GPUs.

    Several caches over the same utterances are trained from together. A student of two teachers has a chain, or
    heads, for each of them; its front-end is that of the first cache's teacher.

    \b
    Example:  gdist train --cache s3://bucket/libri --out runs/first --set train.steps=50000
              gdist train --cache s3://bucket/libri --out runs/more --start-from runs/first@40000
              gdist train --cache s3://bucket/libri --out runs/first --local /nvme --local-limit 500GB
              gdist train --cache wavlm=s3://bucket/a --cache hubert=s3://bucket/b --out runs/two
              torchrun --nproc-per-node 4 --no-python gdist train --cache s3://bucket/libri --out runs/first
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # DDP warns on each rank that every step may use all parameters; this is true of some students only.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from gdist.pipeline import console
    from gdist.pipeline.cache.encodings import ENCODINGS
    from gdist.pipeline.extensions import use
    from gdist.stages.students import STUDENTS
    from gdist.stages.train import train
    from gdist.stages.train.config import load_config
    from gdist.stages.train.losses import LOSSES

    use(uses, STUDENTS, ENCODINGS, LOSSES)
    config = load_config(recipe, student, settings)
    result = train.train(caches, out, config, local=local, until=until, start_from=start_from)
    if result is not None and as_json:
        console.emit(result)
    elif result is not None:
        train.show(out, result)
    return 0
