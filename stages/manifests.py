"""`gdist manifest build`, `gdist manifest check` and `gdist manifest export`."""

import io
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from gdist.pipeline import console
from gdist.pipeline.errors import EXIT_FAILURE, EXIT_OK, EXIT_QUARANTINED, ManifestError, UsageError
from gdist.pipeline.manifest.checking import Report, examine
from gdist.pipeline.manifest.exporting import export
from gdist.pipeline.manifest.sources import SOURCES
from gdist.pipeline.manifest.table import Manifest, Problem, build
from gdist.pipeline.printing import all_without_credentials
from gdist.pipeline.staging import replacing
from gdist.pipeline.storage.paths import RemotePath, place

SHOWN = 20  # problems listed without --json, which lists all
QUANTILES = {"least": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1.0}


def build_command(
    src: str, out: str, kind: str, as_json: bool, *, split_seconds: float | None, root: str | None, **options: bool
) -> int:
    """Build and write a manifest, and report what was found. The exit code is 3 if some files could not be read.

    Args:
        options: whether ``thorough``, ``gain`` and ``allow_commands``, as of :func:`build`.
    """
    manifest = build(
        src, out, kind, split_seconds=split_seconds, audio_root=root, progress=_counted("files"), **options
    )
    rows = manifest.table.num_rows
    result = {
        "utterances": rows,
        "columns": manifest.table.column_names,
        "kind": manifest.kind,
        "mixed_down": manifest.mixed,
        "problems": [asdict(p) for p in manifest.problems],
    }
    if as_json:
        console.emit(result)
    else:
        console.say(f"took {src} for {manifest.kind}: {getattr(SOURCES[manifest.kind], 'summary', manifest.kind)}")
        console.say(f"{out}: {rows} utterances; columns {', '.join(manifest.table.column_names)}")
        _say_mixed(manifest.mixed)
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


def check_command(path: str, audio: bool, report: str | None, as_json: bool) -> int:
    """List every utterance that cannot be used, and show what the others are like. The exit code is 1 if there is
    any that cannot."""
    if report is not None and not report.lower().endswith((".parquet", ".csv")):
        raise UsageError(f"--report {report}: neither .parquet nor .csv", "for example --report audio.csv")
    manifest = Manifest.read(path)
    rows = manifest.table.num_rows
    with console.progress("check", rows, "utterances", enabled=not as_json) as advance:
        reports = examine(manifest, audio=audio, progress=lambda n: advance(n))
    problems = [Problem(each.id, each.problem) for each in reports if each.problem]
    found = distribution(reports)
    if report is not None:
        _write(reports, report)
    if as_json:
        document = {"ok": not problems, "utterances": rows, "problems": [asdict(p) for p in problems]}
        console.emit(document | {"audio": found})
        return EXIT_FAILURE if problems else EXIT_OK
    if audio:
        _show(found)
    console.say(f"{path}: {rows} utterances, {len(problems)} with a problem")
    _say_mixed(found["mixed_down"])
    _list(problems, "")
    _list([Problem(each.id, words) for each in reports for words in each.remarks.values()], "")
    return EXIT_FAILURE if problems else EXIT_OK


def distribution(reports: Sequence[Report]) -> dict[str, Any]:
    """What the audio of a manifest is like: quantiles, and counts of utterances by format, rate and channels."""

    def quantiles(name: str) -> dict[str, float] | None:
        values = [value for each in reports if (value := getattr(each, name)) is not None]
        if not values:
            return None
        found = np.quantile(np.array(values, np.float64), list(QUANTILES.values()))
        return {label: round(float(value), 4) for label, value in zip(QUANTILES, found, strict=True)}

    def counts(name: str) -> dict[str, int]:
        values = (getattr(each, name) for each in reports)
        return {str(value): count for value, count in Counter(v for v in values if v is not None).most_common()}

    return {
        "hours": round(sum(each.seconds or 0 for each in reports) / 3600, 3),
        "mixed_down": sum(each.mixed_down for each in reports),
        "remarks": dict(Counter(kind for each in reports for kind in each.remarks).most_common()),
        **{name: counts(name) for name in ("format", "sample_rate", "channels")},
        **{name: quantiles(name) for name in ("seconds", "peak_dbfs", "clipped", "levels")},
    }


def _show(found: dict[str, Any]) -> None:
    labels = {"seconds": "seconds", "peak_dbfs": "peak, dBFS", "clipped": "share clipped", "levels": "levels reached"}
    rows = [
        [label, *(f"{value:.5g}" for value in found[name].values())] for name, label in labels.items() if found[name]
    ]
    console.print_table("the audio", ["", *QUANTILES], rows)
    for name, unit in (("format", ""), ("sample_rate", " Hz"), ("channels", " channels")):
        listed = ", ".join(f"{count} × {value}{unit}" for value, count in found[name].items())
        console.say(f"{name.replace('_', ' ')}: {listed}")


def _write(reports: Sequence[Report], path: str) -> None:
    """Write one row per utterance."""
    rows = [all_without_credentials(each.to_dict()) for each in reports]
    table, buffer, target = pa.Table.from_pylist(rows), io.BytesIO(), place(path)
    if path.lower().endswith(".csv"):
        pyarrow.csv.write_csv(table, buffer)
    else:
        pq.write_table(table, buffer, compression="zstd")
    if isinstance(target, RemotePath):
        target.write_bytes(buffer.getvalue())
        return
    try:
        with replacing(Path(target)) as file:
            file.write(buffer.getvalue())
    except OSError as error:
        raise ManifestError(f"cannot write the report {path}: {error.strerror or error}") from error


def _say_mixed(count: int) -> None:
    if count:
        which = "1 utterance has" if count == 1 else f"{count} utterances have"
        console.say(f"{which} several channels, which are mixed down; a column channel chooses one", style="yellow")


def _counted(what: str) -> Callable[[int], None]:
    """Print a progress line from time to time; the total number of headers is not known in advance."""
    done, last = 0, time.monotonic()

    def note(n: int) -> None:
        nonlocal done, last
        done += n
        if time.monotonic() - last >= console.PLAIN_LINE_SECONDS:
            last = time.monotonic()
            console.say(f"read {done} {what}")

    return note


def _list(problems: list[Problem], note: str) -> None:
    for problem in problems[:SHOWN]:
        console.say(f"  {problem.id}: {problem.reason}{f' ({note})' if note else ''}", style="yellow")
    if len(problems) > SHOWN:
        console.say(f"  … and {len(problems) - SHOWN} more (--json or --report lists all)")
