"""The commands: thin click wrappers. Everything heavy is imported inside a command: `gdist --help` loads no torch."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gdist.pipeline.errors import EXIT_INTERRUPTED, EXIT_QUARANTINED, GdistError

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


def command(group: click.Group, name: str, **settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """A command whose GdistErrors become a message on stderr and their exit code, and whose Ctrl-C exits with 130."""

    def wrap(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            try:
                code = function(*args, **kwargs)
            except GdistError as error:
                click.secho(f"error: {error.message}", fg="red", err=True)
                if error.hint:
                    click.echo(f"  try: {error.hint}", err=True)
                code = error.exit_code
            except KeyboardInterrupt:
                click.echo("\ninterrupted; run the same command again to go on from here", err=True)
                code = EXIT_INTERRUPTED
            except BrokenPipeError:
                sys.stderr.close()  # the reader of our stdout has gone (`| head`): nothing left to say
                code = 0
            sys.exit(code or 0)

        return group.command(name, **settings)(guarded)

    return wrap


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="gdist", prog_name="gdist")
def main() -> None:
    """Distil speech models offline: run the teacher once, train students from its cache.

    \b
    gdist demo                                            the whole story on bundled speech, in minutes
    gdist manifest build LibriSpeech --out libri.parquet
    gdist extract --teacher microsoft/wavlm-base-plus --manifest libri.parquet --cache s3://bucket/libri
    gdist train   --cache s3://bucket/libri --out runs/first
    gdist eval    runs/first
    gdist report  runs/first --out report.html

    Exit codes: 0 done, 1 failed, 2 usage or config, 3 finished with quarantined utterances, 130 interrupted.
    """


@main.group()
def manifest() -> None:
    """Build and check the table of utterances that extraction reads."""


@command(manifest, "build", short_help="Make a manifest from a folder or another tool's.")
@click.argument("src", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The manifest to write, M.parquet.")
@click.option(
    "--kind",
    type=click.Choice(["auto", "folder", "librispeech", "fairseq", "lhotse", "csv"]),
    default="auto",
    show_default=True,
    help="What SRC is.",
)
@click.option("--split-seconds", type=float, help="Cut longer recordings into segments of at most this.")
@json_option
def manifest_build(src: Path, out: Path, kind: str, split_seconds: float | None, as_json: bool) -> int:
    """Make a manifest from SRC: a folder of audio, LibriSpeech's tree, a fairseq .tsv, lhotse JSONL(.gz), a CSV.

    \b
    Example:  gdist manifest build LibriSpeech/train-clean-100 --out train.parquet
    """
    from gdist.stages import manifests

    return manifests.build_command(src, out, kind, split_seconds, as_json)


@command(manifest, "check", short_help="Find what extraction would quarantine.")
@click.argument("path", metavar="M.parquet", type=click.Path(path_type=Path))
@click.option("--audio", is_flag=True, help="Decode every utterance, not only the headers.")
@json_option
def manifest_check(path: Path, audio: bool, as_json: bool) -> int:
    """Read the header (with --audio, every sample) of every utterance and list what cannot be used; exit 1 if any.

    \b
    Example:  gdist manifest check train.parquet --audio
    """
    from gdist.stages import manifests

    return manifests.check_command(path, audio, as_json)


@command(main, "extract", short_help="Stage one: teacher → cache, once.")
@click.option("--teacher", required=True, help="A Hugging Face id or a local folder.")
@click.option("--manifest", required=True, type=click.Path(), help="The utterances, M.parquet.")
@click.option("--cache", required=True, metavar="URI", help="A folder, s3://…, gs://… or az://…")
@click.option(
    "--layers", default="all", show_default=True, help="For example 0,4,8-12; 0 is the first layer's input."
)
@click.option("--encoding", default="fp16", show_default=True, help="How hidden states are stored (gdist encodings).")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--final-norm", is_flag=True, help="Large models: store the last layer after the final LayerNorm.")
@click.option("--max-seconds", type=float, default=60.0, show_default=True, help="Longer utterances are quarantined.")
@click.option(
    "--batch-seconds", type=float, help="Audio a batch, padding included. [default: 32 on CPU, 320 on CUDA]"
)
@click.option("--pack-frames", type=int, default=16384, show_default=True, help="Frames a pack: the unit of work.")
@click.option("--restart", is_flag=True, help="Delete the cache that is there and start over.")
@click.option("--dry-run", is_flag=True, help="Say what would be extracted and how large it is; write nothing.")
@json_option
def extract_command(as_json: bool, **options: Any) -> int:
    """Run the teacher once over the manifest and write every hidden layer, the audio and the front-end to the cache.

    Interrupted? Run the same command again: finished packs are kept. Utterances that cannot be used are quarantined
    with their reason, and the exit code is then 3.

    \b
    Example:  gdist extract --teacher microsoft/wavlm-base-plus --manifest libri.parquet --cache s3://bucket/libri
    """
    from gdist.pipeline import console
    from gdist.stages import extract
    from gdist.stages.extract_plan import ExtractConfig

    result = extract.extract(ExtractConfig(**options))
    if as_json:
        console.emit(result)
    else:
        extract.show(result, dry_run=options["dry_run"])
    return EXIT_QUARANTINED if result["quarantined"] else 0


@command(main, "inspect", short_help="What a cache holds.")
@click.argument("uri")
@json_option
def inspect_command(uri: str, as_json: bool) -> int:
    """Show what a cache was made from, what it holds, and what was quarantined.

    \b
    Example:  gdist inspect s3://bucket/libri
    """
    from gdist.stages import inspect

    return inspect.inspect_command(uri, as_json)


@command(main, "verify", short_help="Read every byte of a cache against its checksums.")
@click.argument("uri")
@json_option
def verify_command(uri: str, as_json: bool) -> int:
    """Read every byte of a cache and compare it with its receipts; exit 1 and say which utterance and layer if not.

    \b
    Example:  gdist verify s3://bucket/libri
    """
    from gdist.stages import inspect

    return inspect.verify_command(uri, as_json)


@command(main, "encodings", short_help="The ways hidden states can be stored.")
@json_option
def encodings_command(as_json: bool) -> int:
    """List the encodings that `gdist extract --encoding` takes, with their sizes and errors."""
    from gdist.stages import inspect

    return inspect.encodings_command(as_json)
