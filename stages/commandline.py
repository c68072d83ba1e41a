"""What the commands share: how errors become messages and exit codes, `--json`, and local paths.

Each command's options are in the ``command.py`` of its folder. Everything heavy is imported inside a command's
function, so that `gdist --help` does not load torch.
"""

import contextlib
import errno
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

from gdist.pipeline.errors import AGAIN, EXIT_INTERRUPTED, GdistError, RunError, UsageError
from gdist.pipeline.extensions import forget

LOG_JSON, METRICS = "GDIST_LOG_JSON", "GDIST_METRICS"  # variables for the options of the same names
# What a machine refuses, however right a command is: permissions, a full, broken or read-only disk, a lost share.
REFUSALS = {errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}
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
        found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*(?:([kmgt])(i?))?b?\s*", str(value), re.IGNORECASE)
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


class _Ends:
    """How a command line ends: an interruption exits with 130 wherever it comes, also while options are read, where
    click itself would print "Aborted!" and exit with 1."""

    def main(self, *args: Any, standalone_mode: bool = True, **settings: Any) -> Any:
        """Run a command line; see :meth:`click.Command.main`."""
        run = functools.partial(super().main, *args, **settings)  # type: ignore[misc]  # it is click's
        if not standalone_mode:
            return run(standalone_mode=False)
        try:
            code = run(standalone_mode=False)
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            click.echo("interrupted", err=True)  # click has ended the line that shows ^C
            code = EXIT_INTERRUPTED
        sys.exit(code)


class Command(_Ends, click.Command):
    """A command of gdist."""


def command(name: str, kept: str = "", **settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """A command whose GdistErrors become a message on stderr and their exit code, and whose Ctrl-C exits with 130.

    Args:
        kept: what the same command finds done when it is run again ("finished packs are kept"); empty for commands
            that begin anew. It completes the hints that advise to run the same command again.
    """

    def wrap(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            from gdist.pipeline.console import is_logged, say
            from gdist.pipeline.logs import make_warnings_harmless

            forget()
            make_warnings_harmless()
            try:
                with _ended_by_sigterm(), _trouble_in_words():
                    code = function(*args, **kwargs)
            except GdistError as error:
                also = f": {kept}" if kept and (error.hint or "").endswith(AGAIN) else ""
                hint = f"{error.hint}{also}" if error.hint else None
                say(f"error: {error.message}", style="red", hint=hint)
                if hint and not is_logged():
                    say(f"  try: {hint}")
                code = error.exit_code
            except KeyboardInterrupt:
                say(f"\ninterrupted{f'; {AGAIN} to continue from here' if kept else ''}")
                code = EXIT_INTERRUPTED
            except BrokenPipeError:
                sys.stderr.close()  # the reader of our stdout has closed it (`| head`)
                code = 0
            sys.exit(code or 0)

        return click.command(name, Command, **settings)(guarded)

    return wrap


@contextlib.contextmanager
def observed(log_json: bool, metrics: str | None) -> Iterator[None]:
    """Tell other programs what a command is doing, for the length of a ``with``."""
    from gdist.pipeline import observe

    os.environ.pop(METRICS, None)  # its port is this process's, and not of those that it starts
    with contextlib.ExitStack() as stack:
        if log_json:
            stack.enter_context(observe.json_lines())
        if metrics:
            try:
                stack.enter_context(observe.metrics(metrics))
            except UsageError as error:
                raise click.UsageError(f"{error.message}; {error.hint}") from error
        yield


@contextlib.contextmanager
def _trouble_in_words() -> Iterator[None]:
    """Say in words what a machine refuses, wherever it is first met: a name that no file can have, a file that may
    not be looked at, a disk that is full. Who expects it says more."""
    try:
        yield
    except RuntimeError as error:  # pathlib's own, in Python 3.12, of links that lead to each other
        if not (isinstance(cause := error.__context__, OSError) and cause.errno == errno.ELOOP):
            raise
        raise _circle(cause) from error
    except OSError as error:
        if error.errno in REFUSALS:
            where = f"{error.filename}: " if error.filename else ""
            raise RunError(f"{where}{error.strerror}", f"see to that, and {AGAIN}") from error
        if error.errno == errno.ELOOP:
            raise _circle(error) from error
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise UsageError(
            f"{error.filename!s:.80}…: the name is too long for a file", "check what you typed"
        ) from error
    except UnicodeEncodeError as error:
        if not re.search("[\udc80-\udcff]", error.object):  # as Python has bytes of a name that are no text
            raise
        raise UsageError(
            f"{error.object!r:.80}: its bytes are no UTF-8", "rename it, and type the new name"
        ) from error


def _circle(error: OSError) -> UsageError:
    return UsageError(f"{error.filename}: a link that leads back to itself", "name another place")


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


class InOrder(_Ends, click.Group):
    """Lists its commands in the order in which they are used, not alphabetically."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. What it says about arguments that it does not take quotes them, as data."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            from gdist.pipeline.printing import harmless

            error.message = harmless(error.message)  # type: ignore[misc]  # no other place decides what is printed
            raise


class Program(InOrder):
    """`gdist` as a process: what calls it, as the installed command does, ends when it ends."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command line, and end the process with its exit code."""
        from gdist.pipeline.logs import make_tracebacks_harmless

        make_tracebacks_harmless()
        try:
            return super().__call__(*args, **kwargs)
        except SystemExit as ended:
            if ended.code == EXIT_INTERRUPTED:
                leave_threads(EXIT_INTERRUPTED)
            raise


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
