"""`gdist report` on the command line."""

from pathlib import Path

import click

from gdist.stages.commandline import LocalPath, command


@command("report", short_help="Write one page that compares runs.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN…", type=LocalPath())
@click.option("--out", default="report.html", show_default=True, type=LocalPath(), help="Where to write the page.")
def report_command(runs: tuple[Path, ...], out: Path) -> int:
    """Write a self-contained HTML page about evaluated runs: fidelity by layer, curves, probes, sizes and costs.

    \b
    Example:  gdist report runs/first runs/second --out report.html
    """
    from gdist.stages.report import page

    return page.report_command(list(runs), out)
