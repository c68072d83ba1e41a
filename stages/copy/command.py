"""`gdist copy` on the command line."""

from pathlib import Path
from typing import Any

import click

from gdist.pipeline.errors import EXIT_OK, EXIT_QUARANTINED
from gdist.stages.commandline import command, json_option, use_option


@command("copy", kept="what was copied is kept", short_help="Copy a cache, or a part of it, to another place.")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.option("--layers", default="all", show_default=True, help="Only these, for example 4,8,12 or 0,4,8-12.")
@click.option("--encoding", help="Store hidden states in a coarser encoding; see `gdist encodings`.")
@click.option(
    "--where",
    multiple=True,
    metavar="COLUMN=VALUE",
    help="Only utterances with this label; VALUE may be a pattern. Repeatable: values of a column are alternatives.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be sent and what that costs; write nothing.")
@click.option("--prices", type=click.Path(path_type=Path), help="A TOML file that overrides the shipped prices.")
@use_option
@json_option
def copy_command(prices: Path | None, uses: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Copy the cache SRC to DST: folders and buckets, in any direction.

    A plain copy is the same cache, byte for byte. With --layers, --encoding or --where, the copy is a smaller cache
    of its own. No teacher and no audio files are needed. Everything is read back and compared with the receipts. If
    it is interrupted, run the same command again: what is there and right is not sent again.

    \b
    Example:  gdist copy s3://bucket/libri /scratch/libri
    Example:  gdist copy s3://bucket/libri /scratch/small --layers 4,8,12 --encoding int8 --where 'split=train*'
    """
    from gdist.pipeline import console
    from gdist.pipeline.cache.encodings import ENCODINGS
    from gdist.pipeline.extensions import use
    from gdist.stages.copy import copying
    from gdist.stages.estimate.prices import load_prices

    use(uses, ENCODINGS)
    if options["encoding"]:
        options["encoding"] = ENCODINGS.use(options["encoding"])
    table = load_prices(prices)
    result = copying.copy(copying.CopyConfig(**options), table, show_progress=not as_json)
    if as_json:
        console.emit(result)
    elif options["dry_run"]:
        copying.show_estimate(result, table)
    else:
        copying.show(result)
    return EXIT_QUARANTINED if result.get("newly_quarantined") else EXIT_OK
