"""Several points of a sweep in one process, which learn from one stream of batches.

What the process is asked to do is in a file beside its log, and so is what became of it:

    {"members": [{"arguments": […], "log": "…"}, …]}    the arguments of `gdist train` for each point
    "exit_code" of a member                             added when it fails; what it would have printed is in its log
    "ended": true                                       added at the end; without it, the process was cut off
"""

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gdist.pipeline.config import signature
from gdist.pipeline.errors import EXIT_FAILURE, EXIT_OK, GdistError
from gdist.pipeline.run.documents import read_document, text_of
from gdist.pipeline.staging import write_atomically
from gdist.stages.commandline import LocalPath, command, local_options, use_option
from gdist.stages.standings.schema import Together
from gdist.stages.sweep.folder import SweepFolder
from gdist.stages.sweep.jobs import Job
from gdist.stages.sweep.points import Point

if TYPE_CHECKING:
    from gdist.pipeline.local.folder import LocalFolder
    from gdist.stages.train.member import Request


def job_together(
    folder: SweepFolder, name: str, points: Sequence[Point], until: Mapping[str, int], passed: Sequence[str]
) -> Job:
    """A job that trains these points; its file is written."""
    members = [
        {"arguments": arguments_of(folder, point, until), "log": str(folder.log(point).absolute())}
        for point in points
    ]
    path = _path(folder, points)
    folder.write(str(path.relative_to(folder.folder)), text_of(path.name, {"members": members}, Together))
    return Job(name, ["together", str(path), *passed], path.with_suffix(".log"))


def arguments_of(folder: SweepFolder, point: Point, until: Mapping[str, int]) -> list[str]:
    """What comes after ``gdist`` to train one point."""
    pause = ["--until", str(until[point.signature])] if point.signature in until else []
    return [*point.arguments(folder.run(point)), *pause]


def failures(folder: SweepFolder, points: Sequence[Point], crashed: int) -> dict[str, int]:
    """Which of these points have failed so far: signature → exit code.

    Args:
        crashed: the exit code of a process that ended by itself; 0 while it runs, or if it was asked to stop. Where
            it did not say how the points ended, all have failed, with the last lines of its log.
    """
    path = _path(folder, points)
    record = read_document(folder.own(path), Together)
    if crashed and not record.get("ended"):
        log = path.with_suffix(".log")
        text = log.read_text(errors="replace") if log.exists() else ""
        for point in points:
            with folder.own(folder.log(point)).open("a") as file:
                file.write(text)
        return {point.signature: crashed for point in points}
    codes = zip(points, record["members"], strict=True)
    return {point.signature: member["exit_code"] for point, member in codes if "exit_code" in member}


def _path(folder: SweepFolder, points: Sequence[Point]) -> Path:
    return folder.logs / f"together-{signature({'points': [point.signature for point in points]})}.json"


@command("together", kept="their checkpoints are kept")
@click.argument("file", type=LocalPath())
@local_options
@use_option
def together_command(file: Path, local: "LocalFolder | None", uses: tuple[str, ...]) -> int:
    """What a job of several points does; it is not for people."""
    from gdist.pipeline.cache.encodings import ENCODINGS
    from gdist.pipeline.extensions import use
    from gdist.stages.students import STUDENTS
    from gdist.stages.train.command import train_command
    from gdist.stages.train.config import load_config
    from gdist.stages.train.losses import LOSSES
    from gdist.stages.train.member import Request
    from gdist.stages.train.together import train_together

    use(uses, STUDENTS, ENCODINGS, LOSSES)
    record = read_document(file, Together)
    requests, by_folder, caches = [], {}, ("",)
    for member in record["members"]:
        given = train_command.make_context("train", member["arguments"][1:]).params
        config = load_config(given["recipe"], given["student"], given["settings"])
        caches = given["caches"]  # the same for all
        requests.append(Request(given["out"], config, given["until"], given["start_from"]))
        by_folder[given["out"]] = member

    def failed(request: "Request", error: Exception) -> None:
        member = by_folder[request.out]
        if isinstance(error, GdistError):
            text = f"error: {error.message}\n" + (f"  try: {error.hint}\n" if error.hint else "")
        else:
            text = "".join(traceback.format_exception(error))
        with Path(member["log"]).open("a") as log:
            log.write(text)
        member["exit_code"] = error.exit_code if isinstance(error, GdistError) else EXIT_FAILURE
        write_atomically(file, text_of(file.name, record, Together))

    train_together(caches, requests, local=local, failed=failed)
    record["ended"] = True
    write_atomically(file, text_of(file.name, record, Together))
    return EXIT_FAILURE if any("exit_code" in member for member in record["members"]) else EXIT_OK
