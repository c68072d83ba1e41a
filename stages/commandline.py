"""What the commands share: how errors become messages and exit codes, `--json`, and local paths.

Each command's options are in the ``command.py`` of its folder. Everything heavy is imported inside a command's
function, so that `gdist --help` does not load torch.
"""

import contextlib
import functools
import importlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from gdist.pipeline.errors import AGAIN, EXIT_INTERRUPTED, GdistError, UsageError
from gdist.pipeline.extensions import forget

PATIENCE = 2.0  # seconds for which threads may go on after an interruption

use_option = click.option(
    "--use",
    "uses",
    multiple=True,
    metavar="FILE.py:NAME",
    help="Run your own file and use the object NAME in it; repeatable.",
)


class Size(click.ParamType[int]):
    """A number of bytes: ``500GB``, ``1.5 TB``, ``200GiB``."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?\s*", str(value), re.IGNORECASE)
        if not found:
            self.fail(f"{value!r} is not a size; type a number and kB, MB, GB or TB, such as 500GB", param, ctx)
        power = " kmgt".index((found[2] or " ").lower())
        return int(float(found[1]) * (1024 if found[3] else 1000) ** power)


def local_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--local`` and ``--local-limit`` to a command, which gets a LocalFolder, or None, as ``local``."""

    @click.option(
        "--local",
        metavar="DIR",
        envvar="GDIST_LOCAL",
        help="A folder on a fast disk in which what is fetched from a bucket is kept, for every run of this machine. "
        "[env: GDIST_LOCAL]",
    )
    @click.option(
        "--local-limit",
        type=Size(),
        envvar="GDIST_LOCAL_LIMIT",
        help="How much of it to use at most, such as 500GB; the rest is streamed. [env: GDIST_LOCAL_LIMIT; "
        "default: what is free]",
    )
    @functools.wraps(function)
    def wrapped(*args: Any, local: str | None, local_limit: int | None, **kwargs: Any) -> Any:
        if not local and local_limit is not None:
            raise UsageError("--local-limit limits what --local keeps, and there is no --local", "add --local DIR")
        if not local:
            return function(*args, local=None, **kwargs)
        from gdist.pipeline.local.folder import LocalFolder

        return function(*args, local=LocalFolder(local, local_limit), **kwargs)

    return wrapped


window_option = click.option(
    "--window",
    metavar="exact|short",
    help="Whisper: exact is what transformers gives on its windows of 30 seconds; short computes an utterance's own "
    "length, which is several times cheaper, and makes another teacher. [default: exact]",
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
            from gdist.pipeline.console import harmless, make_warnings_harmless

            forget()
            make_warnings_harmless()
            try:
                with _ended_by_sigterm():
                    code = function(*args, **kwargs)
            except GdistError as error:
                click.secho(f"error: {harmless(error.message)}", fg="red", err=True)
                if error.hint:
                    also = f": {kept}" if kept and error.hint.endswith(AGAIN) else ""
                    click.echo(f"  try: {harmless(error.hint)}{also}", err=True)
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


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """``kill`` ends a command as Ctrl-C does, from its first moment on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def leave_threads(code: int) -> None:
    """End the process where threads of gdist still wait, such as for a bucket: Python would wait for them.

    For the end of gdist's own process only: one that calls a command and does other things too would end with it.
    """
    ours = [each for each in threading.enumerate() if each.name.startswith("gdist-")]
    deadline = time.monotonic() + PATIENCE
    for thread in ours:
        thread.join(max(deadline - time.monotonic(), 0))
    if any(thread.is_alive() for thread in ours):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


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
