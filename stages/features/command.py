"""`gdist export-features` on the command line."""

from pathlib import Path
from typing import Any

import click

from gdist.stages.commandline import LocalPath, Size, command, json_option, use_option
from gdist.stages.features.formats import FORMATS


@command(
    "export-features", kept="finished pieces are kept", short_help="Hidden states of a cache, for a tool of your own."
)
@click.argument("cache")
@click.option("--out", required=True, metavar="DIR", type=LocalPath(), help="The folder to write.")
@click.option("--layers", default="all", show_default=True, help="For example 9, or 0,4,8-12.")
@click.option("--average", is_flag=True, help="The mean of these layers, instead of each.")
@click.option(
    "--weights",
    metavar="W,W,…|FILE",
    help="A weighted sum of these layers, instead of each: a number per layer, in ascending order; a JSON list in a "
    "file; or what a probe learned for the teacher, RUN/eval.json:PROBE.",
)
@click.option(
    "--to",
    type=click.Choice(list(FORMATS)),
    help="; ".join(f"{name}: {what}" for name, what in FORMATS.items()) + ".",
)
@click.option(
    "--kmeans",
    "clusters",
    type=int,
    metavar="K",
    help="Instead of --to: fit K clusters, and write HuBERT's token files (.km, .tsv, dict.km.txt).",
)
@click.option(
    "--centroids",
    type=click.Path(path_type=Path),
    metavar="FILE.npy",
    help="Instead of --to: the same with centroids that were fitted before.",
)
@click.option("--sample-frames", default=200_000, show_default=True, help="How many frames --kmeans is fitted on.")
@click.option("--seed", default=0, show_default=True, help="Of --kmeans: its sample and its first centroids.")
@click.option(
    "--where",
    multiple=True,
    metavar="COLUMN=VALUE",
    help="Only utterances with this label; VALUE may be a pattern. Repeatable: values of a column are alternatives.",
)
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True)
@click.option(
    "--shard-size",
    "piece_bytes",
    type=Size(),
    default="256MB",
    show_default=True,
    help="Of hidden states in a piece, about: a shard, an archive, or a folder of files.",
)
@use_option
@json_option
def export_features_command(cache: str, uses: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Write the hidden states of CACHE in the format of another tool, or their k-means tokens.

    What a cache stores is decoded, whatever its encoding. Memory does not grow with the cache. If it is interrupted,
    run the same command again: it goes on, to the same bytes.

    \b
    Example:  gdist export-features s3://bucket/libri --layers 9 --to kaldi --out feats
    Example:  gdist export-features libri --average --to hf --where 'split=train*' --dtype float16 --out feats-hf
    Example:  gdist export-features libri --layers 9 --kmeans 500 --out tokens
    """
    from gdist.pipeline import console
    from gdist.pipeline.cache.encodings import ENCODINGS
    from gdist.pipeline.extensions import use
    from gdist.stages.features.exporting import FeaturesConfig, export_features, show

    use(uses, ENCODINGS)
    result = export_features(FeaturesConfig(cache, **options), show_progress=not as_json)
    if as_json:
        console.emit(result)
    else:
        show(result)
    return 0
