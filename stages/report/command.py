"""`gdist report` on the command line."""

from pathlib import Path
from typing import Literal

import click

from gdist.stages.commandline import LocalPath, command


@command("report", short_help="Write one page that compares runs, or says what a sweep found.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN…|DIR", type=LocalPath())
@click.option(
    "--out", type=LocalPath(), help="Where to write the page; by default report.html or report.md, in this folder."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["html", "md"]),
    default="html",
    show_default=True,
    help="md is Markdown for a folder of docs, with its figures next to it; notes in an earlier page are kept.",
)
@click.option("--metric", help="What a sweep's points are ranked by; by default, what its file judges by.")
@click.option("--split", type=click.Choice(["valid", "test"]), help="Of `gdist eval`, for a sweep.")
@click.option(
    "--extraction",
    metavar="FILE",
    type=LocalPath(),
    help="What `gdist extract --json` printed, to compare a sweep with one whose teacher is online.",
)
@click.option("--title", help="Of the Markdown page.")
def report_command(
    runs: tuple[Path, ...],
    out: Path | None,
    form: Literal["html", "md"],
    metric: str | None,
    split: str | None,
    extraction: Path | None,
    title: str | None,
) -> int:
    """Write a self-contained HTML page about evaluated runs: fidelity by layer, curves, probes, sizes and costs.

    For the folder of a sweep, it says first which student to take and why; its runs need not be evaluated.

    \b
    Example:  gdist report runs/first runs/second --out report.html
              gdist report sweeps/ablation --out report.html
              gdist report sweeps/ablation --format md --out docs/ablation.md
    """
    from gdist.stages.report import page

    return page.report_command(list(runs), out, form, metric, split, extraction, title)
