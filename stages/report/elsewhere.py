"""What was found about students on other caches, or on another amount of speech, beside what stands for them."""

from collections.abc import Mapping, Sequence
from typing import Any

from gdist.stages.report import probes
from gdist.stages.report.runs import Configuration, RunSummary
from gdist.stages.report.tables import Cell, Column, Table, TableRow, ranked


def elsewhere(groups: Sequence[Configuration]) -> Table | None:
    """A table with a row for each evaluation of the runs that have several; None if no run has."""
    pairs = [(run, group) for run, group in ranked(groups) if run.others]
    if not pairs:
        return None
    every = [(run, group, found) for run, group in pairs for found in (run.eval, *run.others)]
    tasks = probes.tasks([_with(run, found) for run, _, found in every])
    rows = []
    for run, group, found in every:
        where = str(found.get("cache", "")).rstrip("/").rpartition("/")[2]
        minutes = found.get("minutes")
        cells = [
            Cell(where or "–", where.lower() or None),
            Cell(f"{minutes:g} minutes of each voice" if minutes else "all", minutes or float("inf")),
            Cell(f"{found['utterances']:,}", found["utterances"]),
            Cell(f"{found['mean_cosine']:.3f}", found["mean_cosine"]),
        ]
        for task in tasks:
            result = probes.result(task, [_with(run, found)])
            cells.append(Cell(result.value.text(task.show), result.value.mean) if result else Cell())
        rows.append(TableRow(run.name, group.style, tuple(cells)))
    columns = (
        Column("cache", first="ascending"),
        Column("speech"),
        Column("utterances"),
        Column("cosine", "mean of layers"),
        *(Column(task.title, task.metric, "descending" if task.higher_is_better else "ascending") for task in tasks),
    )
    return Table("Evaluations on other caches and speech", "run", columns, tuple(rows), (), "elsewhere")


def _with(run: RunSummary, found: Mapping[str, Any]) -> RunSummary:
    return RunSummary(run.folder, run.name, run.config, run.provenance, run.metrics, dict(found))
