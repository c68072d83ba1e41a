"""The commands: thin click wrappers. Everything heavy is imported inside a command: `gdist --help` loads no torch."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gdist.pipeline.errors import EXIT_INTERRUPTED, EXIT_QUARANTINED, GdistError
from gdist.stages.export.formats import FORMATS

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


class InOrder(click.Group):
    """Lists its commands as they are used, one after another, not by the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


class LocalPath(click.Path):
    """A path on this machine. Where a bucket is given for a run, it says so, and makes no folder called ``s3:``."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if "://" in str(value):
            self.fail(f"{value} is in a bucket, and runs and reports are local folders; give a path", param, ctx)
        return super().convert(value, param, ctx)


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="gdist", prog_name="gdist")
def main() -> None:
    """Distil speech models offline: run the teacher once, train students from its cache.

    \b
    gdist demo                                            the whole story on bundled speech, in minutes
    gdist manifest build LibriSpeech --out libri.parquet
    gdist plan    --teacher microsoft/wavlm-base-plus --manifest libri.parquet
    gdist extract --teacher microsoft/wavlm-base-plus --manifest libri.parquet --cache s3://bucket/libri
    gdist train   --cache s3://bucket/libri --out runs/first
    gdist eval    runs/first
    gdist report  runs/first --out report.html
    gdist export  runs/first --format hf --out exports/first

    Exit codes: 0 done, 1 failed, 2 usage or config, 3 finished with quarantined utterances, 130 interrupted.
    """


@command(main, "demo", short_help="The whole story on bundled speech, in minutes.")
@click.option("--out", default="gdist-demo", show_default=True, type=LocalPath(), help="A folder.")
@json_option
def demo_command(out: Path, as_json: bool) -> int:
    """Extract the bundled speech with the bundled teacher, train two students, judge them and write report.html.

    \b
    Example:  gdist demo --out gdist-demo
    """
    from gdist.stages import demo

    return demo.demo(out, as_json)


@main.group()
def manifest() -> None:
    """Build and check the table of utterances that extraction reads."""


@command(manifest, "build", short_help="Make a manifest from a folder or another tool's.")
@click.argument("src")
@click.option("--out", required=True, metavar="M.parquet", help="The manifest to write; a path or a URI.")
@click.option(
    "--kind",
    type=click.Choice(["auto", "folder", "librispeech", "fairseq", "lhotse", "csv"]),
    default="auto",
    show_default=True,
    help="What SRC is.",
)
@click.option("--split-seconds", type=float, help="Cut longer recordings into segments of at most this.")
@json_option
def manifest_build(src: str, out: str, kind: str, split_seconds: float | None, as_json: bool) -> int:
    """Make a manifest from SRC: a folder of audio, LibriSpeech's tree, a fairseq .tsv, lhotse JSONL(.gz), a CSV.

    SRC and the manifest may lie in a bucket (s3://…): of audio there, only the headers are fetched.

    \b
    Example:  gdist manifest build LibriSpeech/train-clean-100 --out train.parquet
    """
    from gdist.stages import manifests

    return manifests.build_command(src, out, kind, split_seconds, as_json)


@command(manifest, "check", short_help="Find what extraction would quarantine.")
@click.argument("path", metavar="M.parquet")
@click.option("--audio", is_flag=True, help="Decode every utterance, not only the headers.")
@json_option
def manifest_check(path: str, audio: bool, as_json: bool) -> int:
    """Read the header (with --audio, every sample) of every utterance and list what cannot be used; exit 1 if any.

    \b
    Example:  gdist manifest check train.parquet --audio
    """
    from gdist.stages import manifests

    return manifests.check_command(path, audio, as_json)


def show_prices(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Answers before anything else is asked for, as --version does."""
    if wanted:
        from gdist.stages.estimate.prices import shipped

        click.echo(shipped().read_text(encoding="utf-8"), nl=False)
        context.exit()


@command(main, "plan", short_help="What a cache would take and cost, and when it pays.")
@click.option("--teacher", required=True, help="A Hugging Face id or a local folder; the weights only to --measure.")
@click.option("--manifest", type=click.Path(), help="The utterances, M.parquet.")
@click.option("--hours", type=float, help="So much audio, where there is no manifest yet.")
@click.option("--utterance-seconds", type=float, default=12.0, show_default=True, help="With --hours: a mean.")
@click.option("--layers", default="all", show_default=True, help="For example 0,4,8-12.")
@click.option("--max-seconds", type=float, default=60.0, show_default=True, help="Longer utterances are quarantined.")
@click.option("--pack-frames", type=int, default=16384, show_default=True, help="Frames a pack: the unit of work.")
@click.option(
    "--measure/--no-measure",
    default=None,
    help="Load and time the teacher, for some seconds. [default: where there is a GPU]",
)
@click.option("--speed", type=float, help="The teacher's speed, × real time. [default: measured, or 1000 assumed]")
@click.option("--precision", type=click.Choice(["fp32", "tf32", "bf16", "fp16"]), default="fp32", show_default=True)
@click.option("--device", default="auto", show_default=True, help="Where to measure: auto, cpu, cuda, cuda:1, …")
@click.option("--run-hours", type=float, help="Audio a student run hears. [default: `gdist train`'s schedule]")
@click.option("--prices", type=click.Path(path_type=Path), help="A TOML file over the shipped prices.")
@click.option(
    "--show-prices",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=show_prices,
    help="Print the shipped prices, to copy and edit.",
)
@json_option
def plan_command(prices: Path | None, as_json: bool, **options: Any) -> int:
    """Tell before anything is extracted: the cache's size in each encoding, its objects and requests, the teacher's
    time, what all of it costs, and after how many student runs it has paid for itself.

    \b
    Example:  gdist plan --teacher microsoft/wavlm-base-plus --hours 960
    Example:  gdist plan --teacher microsoft/wavlm-base-plus --manifest libri.parquet --measure --prices mine.toml
    """
    from gdist.stages.estimate.estimate import EstimateConfig, plan_command

    return plan_command(EstimateConfig(**options), prices, as_json)


@command(main, "extract", short_help="Stage one: teacher → cache, once.")
@click.option("--teacher", required=True, help="A Hugging Face id or a local folder.")
@click.option("--manifest", required=True, help="The utterances, M.parquet: a path or a URI.")
@click.option("--cache", required=True, metavar="URI", help="A folder, s3://…, gs://… or az://…")
@click.option(
    "--layers", default="all", show_default=True, help="For example 0,4,8-12; 0 is the first layer's input."
)
@click.option("--encoding", default="fp16", show_default=True, help="How hidden states are stored (gdist encodings).")
@click.option("--precision", type=click.Choice(["fp32", "tf32", "bf16", "fp16"]), default="fp32", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--final-norm", is_flag=True, help="Large models: store the last layer after the final LayerNorm.")
@click.option("--max-seconds", type=float, default=60.0, show_default=True, help="Longer utterances are quarantined.")
@click.option(
    "--batch-seconds", type=float, help="Audio a batch, padding included. [default: 32 on CPU, 320 on CUDA]"
)
@click.option("--pack-frames", type=int, default=16384, show_default=True, help="Frames a pack: the unit of work.")
@click.option("--cluster", metavar="local:N|tcp://…", help="Work on N processes here, or on a Dask cluster.")
@click.option("--restart", is_flag=True, help="Delete the cache that is there and start over.")
@click.option("--dry-run", is_flag=True, help="Say what would be extracted and how large it is; write nothing.")
@json_option
def extract_command(as_json: bool, **options: Any) -> int:
    """Run the teacher once over the manifest and write every hidden layer, the audio and the front-end to the cache.

    Interrupted? Run the same command again: finished packs are kept. Utterances that cannot be used are quarantined
    with their reason, and the exit code is then 3.

    With --cluster the same bytes are written by N processes of this machine, one a GPU where there are any, or by the
    workers of a Dask scheduler (tcp://HOST:PORT, tls://HOST:PORT, or its scheduler file). They read the audio and
    write the cache themselves: both must lie in a bucket, or under the same path on every machine.

    \b
    Example:  gdist extract --teacher microsoft/wavlm-base-plus --manifest libri.parquet --cache s3://bucket/libri
    """
    from gdist.pipeline import console
    from gdist.stages.extract import extract
    from gdist.stages.extract.plan import ExtractConfig

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
    from gdist.stages.extract import inspection

    return inspection.inspect_command(uri, as_json)


@command(main, "verify", short_help="Read every byte of a cache against its checksums; mend it.")
@click.argument("uri")
@click.option("--repair", is_flag=True, help="Make again what is missing or damaged, and nothing else.")
@click.option("--teacher", help="For --repair: the cache's teacher, where it was a folder.")
@click.option("--manifest", help="For --repair: the utterances, where their audio is what was lost.")
@click.option("--device", default="auto", show_default=True, help="For --repair: where the teacher runs.")
@json_option
def verify_command(
    uri: str, repair: bool, teacher: str | None, manifest: str | None, device: str, as_json: bool
) -> int:
    """Read every byte of a cache and compare it with its receipts; exit 1 and say which utterance and layer if not.

    With --repair, the teacher runs over the packs that are damaged, on the audio that the cache holds; the manifest
    is needed only for packs whose audio is lost or that were never finished.

    \b
    Example:  gdist verify s3://bucket/libri --repair
    """
    from gdist.stages.extract import inspection
    from gdist.stages.extract.repair import Sources

    return inspection.verify_command(uri, as_json, Sources(teacher, manifest, device) if repair else None)


@command(main, "train", short_help="Stage two: cache → student.")
@click.option("--cache", required=True, metavar="URI", help="What `gdist extract` wrote.")
@click.option("--out", required=True, metavar="RUN", type=LocalPath(), help="The run's folder.")
@click.option("--recipe", metavar="NAME|FILE", help="A shipped recipe or a TOML file.")
@click.option("--student", help="Which student (gdist students).")
@click.option("--set", "settings", multiple=True, metavar="TABLE.FIELD=VALUE", help="Set one field; repeatable.")
@json_option
def train_command(
    cache: str, out: Path, recipe: str | None, student: str | None, settings: tuple[str, ...], as_json: bool
) -> int:
    """Train a student from the cache alone: no teacher, no audio files.

    Interrupted? Run the same command again: it goes on from the last checkpoint, to the same bits. On several GPUs,
    torchrun starts one process for each; a run may be resumed on another number of them.

    \b
    Example:  gdist train --cache s3://bucket/libri --out runs/first --set train.steps=50000
              torchrun --nproc-per-node 4 --no-python gdist train --cache s3://bucket/libri --out runs/first
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # DDP warns each rank that parameters may be used by every step, which is so for some students and not others.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from gdist.pipeline import console
    from gdist.stages.train import train
    from gdist.stages.train.config import load_config

    result = train.train(cache, out, load_config(recipe, student, settings))
    if result is not None and as_json:
        console.emit(result)
    elif result is not None:
        train.show(out, result)
    return 0


@command(main, "eval", short_help="Fidelity by layer and probes of trained students.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN…", type=LocalPath())
@click.option("--cache", metavar="URI", help="Judge on this cache. [default: the one each run was trained from]")
@click.option(
    "--probes",
    default="all",
    show_default=True,
    help="Comma-separated: ks, qbe, pr, sid, asv, lid; all that the labels allow, or none.",
)
@click.option("--control", is_flag=True, help="Also run every probe with shuffled labels: it should score at chance.")
@json_option
def eval_command(runs: tuple[Path, ...], cache: str | None, probes: str, control: bool, as_json: bool) -> int:
    """Judge students on held-out speech, generating freely: fidelity to each of the teacher's layers, and
    SUPERB-style probes of students, teacher (from the cache) and log-mel.

    \b
    Example:  gdist eval runs/first runs/second
              gdist eval runs/first --probes ks,asv --control
    """
    from gdist.stages.evaluate import evaluate

    return evaluate.eval_command(list(runs), cache, probes, control, as_json)


@command(main, "report", short_help="One page that puts runs side by side.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN…", type=LocalPath())
@click.option("--out", default="report.html", show_default=True, type=LocalPath(), help="The page.")
def report_command(runs: tuple[Path, ...], out: Path) -> int:
    """Write one self-contained HTML page: fidelity by layer, curves, probes, sizes and costs of evaluated runs.

    \b
    Example:  gdist report runs/first runs/second --out report.html
    """
    from gdist.stages.report import page

    return page.report_command(list(runs), out)


@command(main, "export", short_help="A finished student in another tool's format.")
@click.argument("run", type=LocalPath())
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
@json_option
def export_command(run: Path, name: str, out: Path, as_json: bool, **options: Any) -> int:
    """Write the finished student of RUN in another tool's format, load it back and compare every hidden state.

    What is written needs no gdist. An earlier export at DIR is replaced, whole or not at all.

    \b
    Example:  gdist export runs/first --format hf --out exports/first
    """
    from gdist.stages.export import export

    return export.export_command(run, name, out, options, as_json)


@command(main, "students", short_help="The students there are, with their sizes.")
@click.option("--teacher", help="Size them for this teacher. [default: WavLM Base]")
@json_option
def students_command(teacher: str | None, as_json: bool) -> int:
    """List the students and how much smaller than the teacher they are; `--set student.FIELD` takes their fields.

    \b
    Example:  gdist students --teacher microsoft/wavlm-base-plus
    """
    from gdist.stages import catalogue

    return catalogue.students_command(teacher, as_json)


@command(main, "teachers", short_help="The teacher families that can be extracted.")
@json_option
def teachers_command(as_json: bool) -> int:
    """List the families of teachers: any checkpoint of theirs works, by Hugging Face id or from a local folder.

    \b
    Example:  gdist teachers --json
    """
    from gdist.stages import catalogue

    return catalogue.teachers_command(as_json)


@command(main, "encodings", short_help="The ways hidden states can be stored.")
@json_option
def encodings_command(as_json: bool) -> int:
    """List the encodings that `gdist extract --encoding` takes, with their sizes and errors.

    \b
    Example:  gdist encodings
    """
    from gdist.stages import catalogue

    return catalogue.encodings_command(as_json)
