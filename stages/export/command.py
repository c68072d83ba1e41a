"""`gdist export` on the command line."""

from pathlib import Path
from typing import Any

import click

from gdist.stages.commandline import LocalPath, command, json_option, use_option
from gdist.stages.export.formats import FORMATS


@command("export", short_help="A student in another tool's format.")
@click.argument("run", type=LocalPath(), metavar="RUN[@STEP]")
@click.option(
    "--format",
    "name",
    required=True,
    type=click.Choice(list(FORMATS)),
    help="; ".join(f"{name}: {what}" for name, what in FORMATS.items()) + ".",
)
@click.option("--out", required=True, metavar="DIR", type=LocalPath(), help="The folder to write.")
@click.option(
    "--quantize", type=click.Choice(["none", "int8"]), help="onnx: int8 weights and products. [default: none]"
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    help="onnx: what weights are stored and multiplied in; inputs and outputs stay fp32. [default: fp32]",
)
@click.option(
    "--opset",
    type=int,
    metavar="N",
    help="onnx: the version of ONNX's operators, from 17 on, for other runtimes. [default: the exporter's own]",
)
@use_option
@json_option
def export_command(run: Path, name: str, out: Path, uses: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Write the student of RUN in another tool's format, load it back and compare every hidden state.

    RUN@STEP is the student of a checkpoint that is kept; so is RUN alone where it is not finished: that of the newest
    one. The export then says that it is unfinished.

    The export does not need gdist. An earlier export at DIR is replaced, either completely or not at all.

    \b
    Example:  gdist export runs/first --format hf --out exports/first
              gdist export runs/first@4000 --format hf --out exports/first-4000
    """
    from gdist.pipeline.cache.encodings import ENCODINGS
    from gdist.pipeline.extensions import use
    from gdist.stages.export import export
    from gdist.stages.students import STUDENTS

    use(uses, STUDENTS, ENCODINGS)
    return export.export_command(run, name, out, options, as_json)
