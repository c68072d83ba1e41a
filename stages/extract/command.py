"""`gdist extract`, `inspect` and `verify` on the command line."""

from typing import Any

import click

from gdist.pipeline.errors import EXIT_QUARANTINED
from gdist.stages.commandline import command, json_option, use_option, window_option


@command("extract", kept="finished packs are kept", short_help="Stage one: teacher → cache, once.")
@click.option(
    "--teacher", required=True, help="A Hugging Face id (or id@revision), a local folder, or fairseq's FILE.pt."
)
@click.option("--manifest", required=True, help="The manifest of utterances (M.parquet): a path or a URI.")
@click.option("--cache", required=True, metavar="URI", help="A folder, s3://…, gs://… or az://…")
@click.option(
    "--layers", default="all", show_default=True, help="For example 0,4,8-12; 0 is the input of the first layer."
)
@click.option(
    "--encoding", default="fp16", show_default=True, help="How to store hidden states; see `gdist encodings`."
)
@click.option(
    "--compress",
    metavar="zstd:LEVEL|none",
    default="zstd:-1",
    show_default=True,
    help="How to compress what is stored: zstd:3 is smaller and slow, none keeps the padding too.",
)
@click.option("--precision", type=click.Choice(["fp32", "tf32", "bf16", "fp16"]), default="fp32", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--final-norm", is_flag=True, help="Large models: store the last layer after the final LayerNorm.")
@window_option
@click.option("--max-seconds", type=float, default=60.0, show_default=True, help="Longer utterances are quarantined.")
@click.option(
    "--batch-seconds",
    type=float,
    help="Seconds of audio per batch, padding included. [default: 32 on CPU, 320 on CUDA]",
)
@click.option("--pack-frames", type=int, default=16384, show_default=True, help="Frames per pack, the unit of work.")
@click.option("--cluster", metavar="local:N|tcp://…", help="Run on N processes here, or on a Dask cluster.")
@click.option("--restart", is_flag=True, help="Delete the existing cache and start over.")
@click.option("--dry-run", is_flag=True, help="Print what would be extracted and how large it is; write nothing.")
@use_option
@json_option
def extract_command(as_json: bool, uses: tuple[str, ...], **options: Any) -> int:
    """Run the teacher once over the manifest and write every hidden layer, the audio and the front-end to the cache.

    If it is interrupted, run the same command again: finished packs are kept. Utterances that cannot be used are
    quarantined with the reason, and the exit code is then 3.

    With --cluster, the same bytes are written by N processes of this machine (one per GPU, if there are any), or by
    the workers of a Dask scheduler (tcp://HOST:PORT, tls://HOST:PORT, or its scheduler file). The workers read the
    audio and write the cache, so both must be in a bucket, or at the same path on every machine.

    \b
    Example:  gdist extract --teacher microsoft/wavlm-base-plus --manifest libri.parquet --cache s3://bucket/libri
    """
    from gdist.pipeline import console
    from gdist.pipeline.cache.encodings import ENCODINGS
    from gdist.pipeline.extensions import use
    from gdist.stages.extract import extract
    from gdist.stages.extract.plan import ExtractConfig
    from gdist.stages.teachers import FAMILIES

    use(uses, ENCODINGS, FAMILIES)
    options["encoding"] = ENCODINGS.use(options["encoding"])
    result = extract.extract(ExtractConfig(**options))
    if as_json:
        console.emit(result)
    else:
        extract.show(result, dry_run=options["dry_run"])
    return EXIT_QUARANTINED if result["quarantined"] else 0


@command("inspect", short_help="Show what a cache contains.")
@click.argument("uri")
@use_option
@json_option
def inspect_command(uri: str, uses: tuple[str, ...], as_json: bool) -> int:
    """Show what a cache was made from, what it contains, and which utterances were quarantined.

    \b
    Example:  gdist inspect s3://bucket/libri
    """
    from gdist.pipeline.cache.encodings import ENCODINGS
    from gdist.pipeline.extensions import use
    from gdist.stages.extract import inspection

    use(uses, ENCODINGS)
    return inspection.inspect_command(uri, as_json)


@command("verify", short_help="Check every byte of a cache against its checksums, and repair it.")
@click.argument("uri")
@click.option("--repair", is_flag=True, help="Write again what is missing or damaged, and nothing else.")
@click.option("--teacher", help="For --repair: the cache's teacher, if it was a local folder.")
@click.option("--manifest", help="For --repair: the manifest, if the audio in the cache was lost.")
@click.option("--device", default="auto", show_default=True, help="For --repair: where the teacher runs.")
@use_option
@json_option
def verify_command(
    uri: str,
    repair: bool,
    teacher: str | None,
    manifest: str | None,
    device: str,
    uses: tuple[str, ...],
    as_json: bool,
) -> int:
    """Read every byte of a cache and compare it with the receipts.

    If anything differs, the exit code is 1, and the damaged utterances and layers are printed. With --repair, the
    teacher runs over the damaged packs, on the audio in the cache. The manifest is needed only for packs whose audio
    was lost, or that were never finished.

    \b
    Example:  gdist verify s3://bucket/libri --repair
    """
    from gdist.pipeline.cache.encodings import ENCODINGS
    from gdist.pipeline.extensions import use
    from gdist.stages.extract import inspection
    from gdist.stages.extract.sources import Sources

    if uses:  # else transformers, half of a start's time, is loaded only where a teacher runs
        from gdist.stages.teachers import FAMILIES

        use(uses, ENCODINGS, FAMILIES)
    return inspection.verify_command(uri, as_json, repair, Sources(teacher, manifest, device, uses))
