"""What the commands share: how errors become messages and exit codes, `--json`, and local paths.

Each command's options are in the ``command.py`` of its folder. Everything heavy is imported inside a command's
function, so that `gdist --help` does not load torch.
"""

import functools
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gdist.pipeline.errors import AGAIN, EXIT_INTERRUPTED, GdistError
from gdist.pipeline.extensions import forget

use_option = click.option(
    "--use",
    "uses",
    multiple=True,
    metavar="FILE.py:NAME",
    help="Run your own file and use the object NAME in it; repeatable.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


def command(name: str, kept: str = "", **settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """A command whose GdistErrors become a message on stderr and their exit code, and whose Ctrl-C exits with 130.

    Args:
        kept: what the same command finds done when it is run again ("finished packs are kept"); empty for commands
            that begin anew. It completes the hints that advise to run the same command again.
    """

    def wrap(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            forget()
            try:
                code = function(*args, **kwargs)
            except GdistError as error:
                click.secho(f"error: {error.message}", fg="red", err=True)
                if error.hint:
                    also = f": {kept}" if kept and error.hint.endswith(AGAIN) else ""
                    click.echo(f"  try: {error.hint}{also}", err=True)
                code = error.exit_code
            except KeyboardInterrupt:
                click.echo(f"\ninterrupted{f'; {AGAIN} to continue from here' if kept else ''}", err=True)
                code = EXIT_INTERRUPTED
            except BrokenPipeError:
                sys.stderr.close()  # the reader of our stdout has closed it (`| head`)
                code = 0
            sys.exit(code or 0)

        return click.command(name, click.Command, **settings)(guarded)

    return wrap


class LocalPath(click.Path):
    """A path on this machine. A URI is refused, so that no folder called ``s3:`` is created."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if "://" in str(value):
            self.fail(f"{value} is in a bucket, but runs and reports are local folders; give a path", param, ctx)
        return super().convert(value, param, ctx)


class TableOption(click.Option):
    """An option whose values are the rows of a table. Its help lists them; only for that is the table imported.

    Args:
        table: ``module:NAME`` of a :class:`gdist.pipeline.extensions.Registry`.
    """

    def __init__(self, *args: Any, table: str, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.table = table

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        module, _, name = self.table.partition(":")
        table = getattr(importlib.import_module(module), name)
        summaries = {row: getattr(known, "summary", "") for row, known in table.own.items()}
        rows = ", ".join(f"{row} ({summaries[row]})" if summaries.get(row) else row for row in table)
        self.help = (self.help or "").replace("{rows}", rows)
        return super().get_help_record(ctx)
