"""`gdist manifest build`, `gdist manifest check` and `gdist manifest export`."""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from gdist.pipeline import console
from gdist.pipeline.errors import EXIT_FAILURE, EXIT_OK, EXIT_QUARANTINED
from gdist.pipeline.manifest.exporting import export
from gdist.pipeline.manifest.sources import SOURCES
from gdist.pipeline.manifest.table import Manifest, Problem, build, check

SHOWN = 20  # problems listed without --json, which lists all


def build_command(
    src: str,
    out: str,
    kind: str,
    split_seconds: float | None,
    audio_root: str | None,
    allow_commands: bool,
    as_json: bool,
) -> int:
    """Build and write a manifest, and report what was found. The exit code is 3 if some files could not be read."""
    manifest = build(
        src,
        out,
        kind,
        split_seconds=split_seconds,
        audio_root=audio_root,
        allow_commands=allow_commands,
        progress=_counted(),
    )
    rows = manifest.table.num_rows
    result = {
        "utterances": rows,
        "columns": manifest.table.column_names,
        "kind": manifest.kind,
        "problems": [asdict(p) for p in manifest.problems],
    }
    if as_json:
        console.emit(result)
    else:
        console.say(f"took {src} for {manifest.kind}: {getattr(SOURCES[manifest.kind], 'summary', manifest.kind)}")
        console.say(f"{out}: {rows} utterances; columns {', '.join(manifest.table.column_names)}")
        _list(list(manifest.problems), "extraction would quarantine it")
    return EXIT_QUARANTINED if manifest.problems else EXIT_OK


def export_command(path: str, to: str, out: Path, as_json: bool) -> int:
    """Write a manifest in another toolkit's form, and say what that form cannot say."""
    manifest = Manifest.read(path)
    done = export(manifest, to, out, path)
    result = {"utterances": manifest.table.num_rows, "to": to, "out": str(out)}
    if as_json:
        console.emit(result | {"files": list(done.files), "notes": list(done.notes)})
    else:
        console.say(f"{out}: {manifest.table.num_rows} utterances; {', '.join(done.files)}")
        for note in done.notes:
            console.say(f"  {note}", style="yellow")
    return EXIT_OK


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
