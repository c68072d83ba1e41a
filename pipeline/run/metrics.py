"""What a run reports: metrics.jsonl, one JSON object per report, in order of step."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from gdist.pipeline.console import say
from gdist.pipeline.errors import AGAIN, RunError
from gdist.pipeline.files import content_of, reason
from gdist.pipeline.folder import ROOM
from gdist.pipeline.run.origin import Origin
from gdist.pipeline.run.schema import METRICS_BYTES, ROW_BYTES, Row
from gdist.pipeline.schema import SchemaError, conform, parse

LISTED = 5  # damaged lines whose numbers a message gives
_said: set[tuple[Path, tuple[int, ...]]] = set()  # damage that was reported: the file is read often


class Metrics(Origin):
    """A run's folder, as far as its metrics go.

    Attributes:
        metrics: the file of all rows.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.metrics = folder / "metrics.jsonl"

    def rewind_metrics(self, step: int) -> None:
        """Drop the rows reported after ``step``: those steps will be repeated."""
        kept = [row for row in self.read_metrics() if row["step"] <= step]
        self.say_lost(kept, step)
        self.write(self.metrics.name, "".join(json.dumps(row) + "\n" for row in kept))

    def say_lost(self, rows: Sequence[dict[str, Any]], step: int) -> None:
        """Say so, where ``rows`` end before ``step``: a step is reported before its checkpoint is saved."""
        last = max((row["step"] for row in rows), default=0)
        if last < step:
            where = f"ends at step {last}" if rows else "has no rows"
            say(f"{self.metrics} {where}: what was reported up to step {step} is lost", style="yellow")

    def report(self, row: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl; RunError where that is not possible."""
        try:
            conform(row, Row)
            with self.own(self.metrics).open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise RunError(f"cannot write {self.metrics}: {error.strerror or error}", ROOM) from error
        except SchemaError as error:  # it could not be read again
            raise RunError(f"cannot write {self.metrics}: of a row, {error}") from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """Read every whole row of metrics.jsonl, and say which lines are damaged, or that those of a finished run are
        not those it wrote. Of a last line without its end, which comes from a killed process, nothing is said.

        Raises:
            RunError: it cannot be read.
        """
        try:
            content = content_of(self.own(self.metrics), METRICS_BYTES)
        except FileNotFoundError:
            return []
        except OSError as error:
            hint = f"fix its permissions, and {AGAIN}"
            raise RunError(f"cannot read {self.metrics}: {reason(error)}", hint) from error
        *lines, torn = content.split(b"\n")
        rows, damaged = [], []
        for number, line in enumerate([*lines, torn], 1):
            try:
                rows.append(_row(line))
            except SchemaError:
                if number <= len(lines):
                    damaged.append(number)
        known = self.known().get("metrics")
        changed = known is not None and hashlib.sha256(content).hexdigest() != known
        if not (damaged or changed) or (self.metrics, tuple(damaged)) in _said:
            return rows
        _said.add((self.metrics, tuple(damaged)))
        if damaged:
            which = ", ".join(map(str, damaged[:LISTED])) + ", …" * (len(damaged) > LISTED)
            some = f"line {which} is damaged and is" if len(damaged) == 1 else f"lines {which} are damaged and are"
            say(f"{self.metrics}: {some} left out; {len(rows)} rows are whole", style="yellow")
        else:
            say(
                f"{self.metrics} is not as it was when the run was finished: some of its numbers are wrong, or rows "
                "are missing; the curves show what there is",
                style="yellow",
            )
        return rows


def _row(line: bytes) -> dict[str, Any]:
    if len(line) > ROW_BYTES:
        raise SchemaError("it is too long")
    return cast("dict[str, Any]", conform(parse(line, measured=True), Row))
