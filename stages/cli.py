"""`gdist` and its commands, in the order of use. A folder's commands are in its own ``command.py``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gdist.stages.caches.command import caches_command
from gdist.stages.commandline import (
    LOG_JSON,
    METRICS,
    InOrder,
    LocalPath,
    Program,
    TableOption,
    command,
    json_option,
    local_options,
    observed,
    use_option,
)
from gdist.stages.copy.command import copy_command
from gdist.stages.doctor.command import doctor_command
from gdist.stages.estimate.command import plan_command
from gdist.stages.evaluate.command import eval_command
from gdist.stages.export.command import export_command
from gdist.stages.extract.command import extract_command, inspect_command, verify_command
from gdist.stages.features.command import export_features_command
from gdist.stages.report.command import report_command
from gdist.stages.sweep.command import best_command, sweep_command
from gdist.stages.train.command import train_command

if TYPE_CHECKING:
    from gdist.pipeline.local.folder import LocalFolder


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="gdist", prog_name="gdist")
@click.option("--log-json", is_flag=True, envvar=LOG_JSON, help="Messages and progress as lines of JSON.")
@click.option(
    "--metrics",
    metavar="[HOST:]PORT",
    envvar=METRICS,
    help="Serve numbers for Prometheus while the command runs; of this machine only, if no host is named.",
)
@click.pass_context
def main(context: click.Context, log_json: bool, metrics: str | None) -> None:
    """Distil speech models offline: run the teacher once, train students from its cache.

    \b
    gdist demo                                            the whole pipeline on bundled speech, in minutes
    gdist doctor  s3://bucket/libri                       the machine, and the place that will be used
    gdist manifest build LibriSpeech --out libri.parquet
    gdist plan    --teacher microsoft/wavlm-base-plus --manifest libri.parquet
    gdist extract --teacher microsoft/wavlm-base-plus --manifest libri.parquet --cache s3://bucket/libri
    gdist train   --cache s3://bucket/libri --out runs/first
    gdist eval    runs/first
    gdist report  runs/first --out report.html
    gdist export  runs/first --format hf --out exports/first

    Exit codes: 0 done, 1 failed, 2 usage or config error, 3 finished with quarantined utterances, 130 interrupted.
    """
    # On a CPU, oneDNN keeps what it prepared for each length of batch, up to 1,024 times: gigabytes, in a training on
    # utterances. A step needs some dozens. This is read when torch is first used, by all processes of a command.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    if log_json or metrics:
        context.with_resource(observed(log_json, metrics))


@command("demo", kept="what is finished is kept", short_help="The whole pipeline on bundled speech, in minutes.")
@click.option("--out", default="gdist-demo", show_default=True, type=LocalPath(), help="The folder for all results.")
@json_option
def demo_command(out: Path, as_json: bool) -> int:
    """Extract the bundled speech with the bundled teacher, train two students, evaluate them and write report.html.

    \b
    Example:  gdist demo --out gdist-demo
    """
    from gdist.stages import demo

    return demo.demo(out, as_json)


@click.group(cls=InOrder)
def manifest() -> None:
    """Build, check and export the table of utterances that extraction reads."""


@command("build", short_help="Make a manifest from a folder or from another tool's manifest.")
@click.argument("src")
@click.option("--out", required=True, metavar="M.parquet", help="The manifest to write; a path or a URI.")
@click.option(
    "--kind",
    cls=TableOption,
    table="gdist.pipeline.manifest.sources:SOURCES",
    default="auto",
    show_default=True,
    metavar="KIND|FILE.py:NAME",
    help="What SRC is: {rows}, or your own kind.",
)
@click.option("--split-seconds", type=float, help="Cut longer recordings into segments of at most this many seconds.")
@click.option(
    "--thorough", is_flag=True, help="Read every file to its end: several recordings in one file all count."
)
@click.option(
    "--gain",
    type=click.Choice(["auto"]),
    help="Decode every file; where it is too quiet for 16 bits, or beyond full scale, fill the column gain_bits.",
)
@click.option("--root", help="The folder of the audio, where SRC leaves it open: $data_root of SpeechBrain, clips/.")
@click.option(
    "--allow-commands",
    is_flag=True,
    help="Run the commands that a wav.scp names (sph2pipe … |). Only for files whose every command you trust.",
)
@json_option
def manifest_build(src: str, out: str, kind: str, gain: str | None, as_json: bool, **options: Any) -> int:
    """Make a manifest from SRC: a folder of audio, a CSV, or what another toolkit has. What SRC is, is recognized
    from its content and printed.

    SRC and the manifest may be in a bucket (s3://…). Of audio there, only the headers are downloaded, and the files
    whose headers cannot be believed: MP3s without a Xing header, M4A, WebM. Audio inside an archive stays there where
    it can; otherwise it is written to a folder next to the manifest, and that is said.

    \b
    Example:  gdist manifest build LibriSpeech/train-clean-100 --out train.parquet
              gdist manifest build data/train/wav.scp --out train.parquet
              gdist manifest build cv-corpus/fr/validated.tsv --out fr.parquet
    """
    from gdist.stages import manifests

    return manifests.build_command(src, out, kind, as_json, gain=gain is not None, **options)


@command("check", short_help="Find what extraction would quarantine.")
@click.argument("path", metavar="M.parquet")
@click.option("--audio", is_flag=True, help="Decode every utterance, not only the headers, and show their levels.")
@click.option("--report", metavar="FILE", help="Write one row per utterance to this .parquet or .csv.")
@json_option
def manifest_check(path: str, audio: bool, report: str | None, as_json: bool) -> int:
    """Read the header (with --audio, every sample) of every utterance and list those that cannot be
    used. The exit code is 1 if there is any.

    \b
    Example:  gdist manifest check train.parquet --audio
              gdist manifest check train.parquet --audio --report audio.csv
    """
    from gdist.stages import manifests

    return manifests.check_command(path, audio, report, as_json)


@command("export", short_help="Write a manifest as another toolkit's.")
@click.argument("path", metavar="M.parquet")
@click.option(
    "--to",
    cls=TableOption,
    table="gdist.pipeline.manifest.targets:TARGETS",
    required=True,
    metavar="FORM",
    help="{rows}.",
)
@click.option("--out", required=True, type=LocalPath(), help="The folder to write; it must not exist or be empty.")
@json_option
def manifest_export(path: str, to: str, out: Path, as_json: bool) -> int:
    """Write a manifest in another toolkit's form, and say what that form has no place for. What would change the
    audio is refused. `gdist manifest build` reads each form back to the same samples.

    \b
    Example:  gdist manifest export train.parquet --to lhotse --out train-lhotse
    """
    from gdist.stages import manifests

    return manifests.export_command(path, to, out, as_json)


@command("recipes", short_help="The recipes and sweeps that ship.")
@click.argument("name", required=False)
@json_option
def recipes_command(name: str | None, as_json: bool) -> int:
    """List what `gdist train --recipe` and `gdist sweep` take by name. With NAME, print that one, to copy and change.

    \b
    Example:  gdist recipes
              gdist recipes gendistiller-wavlm-960h > mine.toml
    """
    from gdist.stages import catalogue

    return catalogue.recipes_command(name, as_json)


@command("students", short_help="The available students, with their sizes.")
@click.option("--teacher", help="Compute the sizes for this teacher. [default: WavLM Base]")
@use_option
@json_option
def students_command(teacher: str | None, uses: tuple[str, ...], as_json: bool) -> int:
    """List the students, how much smaller than the teacher they are, and the fields that `--set student.…` takes.

    \b
    Example:  gdist students --teacher microsoft/wavlm-base-plus
    """
    from gdist.stages import catalogue

    return catalogue.students_command(teacher, uses, as_json)


@command("teachers", short_help="The teacher families that can be extracted.")
@use_option
@json_option
def teachers_command(uses: tuple[str, ...], as_json: bool) -> int:
    """List the families of teachers. Any checkpoint of a family works: a Hugging Face id, a folder, or a FILE.pt.

    \b
    Example:  gdist teachers --json
    """
    from gdist.stages import catalogue

    return catalogue.teachers_command(uses, as_json)


@command("encodings", short_help="The ways hidden states can be stored.")
@use_option
@json_option
def encodings_command(uses: tuple[str, ...], as_json: bool) -> int:
    """List the encodings that `gdist extract --encoding` takes, with their sizes and errors.

    \b
    Example:  gdist encodings
    """
    from gdist.stages import catalogue

    return catalogue.encodings_command(uses, as_json)


@command("local", short_help="What the local folder has of which caches.")
@local_options
@click.option("--clear", multiple=True, metavar="URI", help="Delete what is kept of this cache; repeatable.")
@click.option("--clear-all", is_flag=True, help="Delete all that is kept.")
@json_option
def local_command(local: "LocalFolder | None", clear: tuple[str, ...], clear_all: bool, as_json: bool) -> int:
    """List what `--local` has kept: of which caches, how much, and who used it last. Runs that read what is cleared
    fetch it again.

    \b
    Example:  gdist local --local /nvme
              gdist local --local /nvme --clear s3://bucket/libri
    """
    from gdist.stages import kept

    return kept.local_command(local, clear, clear_all, as_json)


manifest.add_command(manifest_build)
manifest.add_command(manifest_check)
manifest.add_command(manifest_export)
for _command in (
    demo_command,
    doctor_command,
    manifest,
    plan_command,
    extract_command,
    caches_command,
    inspect_command,
    verify_command,
    copy_command,
    local_command,
    train_command,
    sweep_command,
    best_command,
    eval_command,
    report_command,
    export_command,
    export_features_command,
    recipes_command,
    students_command,
    teachers_command,
    encodings_command,
):
    main.add_command(_command)
