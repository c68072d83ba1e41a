"""What a run reports: metrics.jsonl, one JSON object per report, in order of step."""

import json
from pathlib import Path
from typing import Any

from gdist.pipeline.folder import OwnFolder


class Metrics(OwnFolder):
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
        self.write(self.metrics.name, "".join(json.dumps(row) + "\n" for row in kept))

    def report(self, row: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with self.own(self.metrics).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """Read every whole line of metrics.jsonl; a torn last line comes from a killed process and is ignored."""
        if not self.metrics.exists():
            return []
        rows = []
        for line in self.metrics.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows
