"""`gdist manifest build` and `gdist manifest check`."""

import time
from collections.abc import Callable
from dataclasses import asdict

from gdist.pipeline import console
from gdist.pipeline.errors import EXIT_FAILURE, EXIT_OK, EXIT_QUARANTINED
from gdist.pipeline.manifest.table import Manifest, Problem, build, check

SHOWN = 20  # problems listed without --json, which lists all


def build_command(src: str, out: str, kind: str, split_seconds: float | None, as_json: bool) -> int:
    """Build and write a manifest, and report what was found. The exit code is 3 if some files could not be read."""
    manifest = build(src, out, kind, split_seconds=split_seconds, progress=_counted())
    rows = manifest.table.num_rows
    result = {
        "utterances": rows,
        "columns": manifest.table.column_names,
        "problems": [asdict(p) for p in manifest.problems],
    }
    if as_json:
        console.emit(result)
    else:
        console.say(f"{out}: {rows} utterances; columns {', '.join(manifest.table.column_names)}")
        _list(list(manifest.problems), "extraction would quarantine it")
    return EXIT_QUARANTINED if manifest.problems else EXIT_OK


def check_command(path: str, audio: bool, as_json: bool) -> int:
    """List every utterance that cannot be used. The exit code is 1 if there is any."""
    manifest = Manifest.read(path)
    rows = manifest.table.num_rows
    with console.progress("check", rows, "utterances", enabled=not as_json) as advance:
        problems = check(manifest, audio=audio, progress=lambda n: advance(n))
    if as_json:
        console.emit({"ok": not problems, "utterances": rows, "problems": [asdict(p) for p in problems]})
    else:
        console.say(f"{path}: {rows} utterances, {len(problems)} with a problem")
        _list(problems, "")
    return EXIT_FAILURE if problems else EXIT_OK


def _counted() -> Callable[[int], None]:
    """Print a progress line from time to time; the total number of headers is not known in advance."""
    done, last = 0, time.monotonic()

    def note(n: int) -> None:
        nonlocal done, last
        done += n
        if time.monotonic() - last >= console.PLAIN_LINE_SECONDS:
            last = time.monotonic()
            console.say(f"read {done} headers")

    return note


def _list(problems: list[Problem], note: str) -> None:
    for problem in problems[:SHOWN]:
        console.say(f"  {problem.id}: {problem.reason}{f' ({note})' if note else ''}", style="yellow")
    if len(problems) > SHOWN:
        console.say(f"  … and {len(problems) - SHOWN} more (--json lists all)")
