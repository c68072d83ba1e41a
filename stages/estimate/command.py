"""`gdist plan` on the command line."""

from pathlib import Path
from typing import Any

import click

from gdist.stages.commandline import command, json_option, use_option, window_option


def show_prices(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print the prices and exit, without requiring any other option, as --version does."""
    if wanted:
        from gdist.stages.estimate.prices import shipped

        click.echo(shipped().read_text(encoding="utf-8"), nl=False)
        context.exit()


@command("plan", short_help="Estimate a cache's size and cost, and when it pays off.")
@click.option(
    "--teacher",
    required=True,
    help="A Hugging Face id (or id@revision), a local folder, or fairseq's FILE.pt. Only --measure reads weights.",
)
@click.option("--manifest", type=click.Path(), help="The manifest of utterances (M.parquet).")
@click.option("--hours", type=float, help="Hours of audio, if there is no manifest yet.")
@click.option(
    "--utterance-seconds", type=float, default=12.0, show_default=True, help="With --hours: the mean length."
)
@click.option("--layers", default="all", show_default=True, help="For example 0,4,8-12.")
@click.option(
    "--compress", metavar="zstd:LEVEL|none", default="zstd:-1", show_default=True, help="As `gdist extract` takes it."
)
@window_option
@click.option("--max-seconds", type=float, default=60.0, show_default=True, help="Longer utterances are quarantined.")
@click.option("--pack-frames", type=int, default=16384, show_default=True, help="Frames per pack, the unit of work.")
@click.option(
    "--measure/--no-measure",
    default=None,
    help="Load the teacher and time it for a few seconds. [default: if there is a GPU]",
)
@click.option("--speed", type=float, help="The teacher's speed, × real time. [default: measured, or 1000 assumed]")
@click.option("--precision", type=click.Choice(["fp32", "tf32", "bf16", "fp16"]), default="fp32", show_default=True)
@click.option("--device", default="auto", show_default=True, help="Where to measure: auto, cpu, cuda, cuda:1, …")
@click.option("--run-hours", type=float, help="Hours of audio per student run. [default: `gdist train`'s schedule]")
@click.option("--prices", type=click.Path(path_type=Path), help="A TOML file that overrides the shipped prices.")
@click.option(
    "--show-prices",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=show_prices,
    help="Print the shipped prices, to copy and edit.",
)
@use_option
@json_option
def plan_command(prices: Path | None, uses: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Estimate, before anything is extracted, what a cache would need and cost.

    For each encoding, this reports the cache's size, objects and requests, the teacher's time, the total cost, and
    the number of student runs after which the cache has paid for itself.

    \b
    Example:  gdist plan --teacher microsoft/wavlm-base-plus --hours 960
    Example:  gdist plan --teacher microsoft/wavlm-base-plus --manifest libri.parquet --measure --prices mine.toml
    """
    from gdist.pipeline.cache.encodings import ENCODINGS
    from gdist.pipeline.extensions import use
    from gdist.stages.estimate.estimate import EstimateConfig, plan_command
    from gdist.stages.teachers import FAMILIES

    use(uses, ENCODINGS, FAMILIES)
    return plan_command(EstimateConfig(**options), prices, as_json)
