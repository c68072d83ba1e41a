"""The report's tables as data: cells with their sort keys, and marks for the best values and ties with the best.

The page renders all tables with one macro, and one small script sorts them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from gdist.stages.evaluate.layers import NOT_COMPARED, Alike
from gdist.stages.report import probes
from gdist.stages.report.probes import Result, Task
from gdist.stages.report.runs import Configuration, RunSummary, Spread, varied
from gdist.stages.report.story import TIE, duration, millions, reduction, size

First = Literal["descending", "ascending", ""]


@dataclass(frozen=True)
class Column:
    """The head of a column.

    Attributes:
        first: the order in which the best value, or the first letter, comes first; "" if the column cannot be sorted.
        is_sorted: whether the rows are in the order of this column.
    """

    head: str
    note: str = ""
    first: First = "descending"
    is_sorted: bool = False
    style: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        key: the sort key; cells with None, whose value is unknown, come last in either order.
        mark: "best", "tie" (not distinguishable from the best) or "".
        shade: how dark the cell is, from 0 to 1; "" if it has no color.
        note: is shown below the text, in small letters.
    """

    text: str = "–"
    key: float | str | None = None
    mark: str = ""
    shade: str = ""
    note: str = ""


@dataclass(frozen=True)
class TableRow:
    head: str
    style: str
    cells: tuple[Cell, ...]
    rank: Cell | None = None


@dataclass(frozen=True)
class Table:
    """A table, whose ``rows`` can be sorted and whose ``references`` stay on top."""

    label: str
    head: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    references: tuple[TableRow, ...] = ()
    kind: str = ""


def ranking(groups: Sequence[Configuration], teacher: Mapping[str, Any], tasks: Sequence[Task]) -> Table:
    """A table with one row per run, the closest to the teacher first."""
    runs = ranked(groups)
    singles = [replace(group, name=run.name, runs=(run,)) for run, group in runs]
    rows = _ranked_rows(singles, teacher, tasks)
    for place, (run, _) in enumerate(runs):
        training = run.training()
        rows[place] = replace(
            rows[place],
            cells=(
                *rows[place].cells,
                Cell(run.student, run.student.lower()),
                _number(training.get("seconds"), duration),
                _number(training.get("steps"), "{:,}".format),
                _number(training.get("audio_seconds"), duration),
            ),
        )
    more = (
        Column("student", first="ascending"),
        Column("training", "time", first="ascending"),
        Column("steps", first="ascending"),
        Column("speech", "in training", first="ascending"),
    )
    all_runs = [run for run, _ in runs]
    references = _references(all_runs, teacher, tasks, len(more))
    columns = (*_columns(tasks, singles), *more)
    return Table("Runs, ranked", "run", columns, tuple(rows), references, "ranking")


def by_configuration(
    groups: Sequence[Configuration], teacher: Mapping[str, Any], tasks: Sequence[Task]
) -> Table | None:
    """A table with one row per configuration: mean ± standard deviation over its seeds.

    Returns:
        the table, or None if no configuration has several seeds.
    """
    if all(len(group.runs) == 1 for group in groups):
        return None
    differs = varied(groups)
    rows = [
        replace(row, cells=(*row.cells, _number(len(group.runs), str), Cell(text or "–", text.lower() or None)))
        for row, group, text in zip(_ranked_rows(groups, teacher, tasks), groups, differs, strict=True)
    ]
    more = (Column("seeds"), Column("what differs", first="ascending"))
    runs = [run for group in groups for run in group.runs]
    references = _references(runs, teacher, tasks, len(more))
    columns = (*_columns(tasks, groups), *more)
    return Table(
        "Configurations, ranked", "configuration", columns, tuple(rows), references, "ranking configurations"
    )


_SOURCES = {"bytes_fetched": "from the bucket", "bytes_local": "from the local folder"}


def costs(groups: Sequence[Configuration], teacher: Mapping[str, Any]) -> Table:
    """A table of what the training of each run took, and of the sizes of the students."""
    sources = [key for key in _SOURCES if any(key in run.training() for run, _ in ranked(groups))]
    far = [Column("shards", _SOURCES[key], first="ascending") for key in sources]
    columns = (
        Column("training", "time", first="ascending", is_sorted=False),
        Column("steps", first="ascending"),
        Column("speech", "in training", first="ascending"),
        Column("speed", "× real time"),
        Column("waiting", "for data", first="ascending"),
        *far,
        Column("last loss", first="ascending"),
        Column("parameters", first="ascending"),
        Column("parameters", "while distilling", first="ascending"),
        Column("weights", "fp32", first="ascending"),
    )
    rows = []
    for run, group in ranked(groups):
        training, result = run.training(), run.eval
        cells = (
            _number(training.get("seconds"), duration),
            _number(training.get("steps"), "{:,}".format),
            _number(training.get("audio_seconds"), duration),
            _number(training.get("audio_seconds_per_second"), "{:.0f}".format),
            _number(training.get("data_wait_fraction"), "{:.1%}".format),
            *(_number(training.get(key, 0), size) for key in sources),
            _number(training.get("loss"), "{:.3f}".format),
            _number(result["params"], millions),
            _number(result.get("params_with_heads", result["params"]), millions),
            _number(result["params"] * 4, size),
        )
        rows.append(TableRow(run.name, group.style, cells))
    known = (
        [_number(teacher["params"], millions), Cell(), _number(teacher["params"] * 4, size)]
        if teacher["params"]
        else []
    )
    references = [TableRow("teacher", "ref", (*(Cell() for _ in range(6 + len(far))), *known))] if known else []
    return Table("Costs of the runs", "run", columns, tuple(rows), tuple(references))


def ranked(groups: Sequence[Configuration]) -> list[tuple[RunSummary, Configuration]]:
    """Each run with its configuration, by descending mean cosine."""
    pairs = [(run, group) for group in groups for run in group.runs]
    return sorted(pairs, key=lambda pair: -pair[0].cosine)


def _columns(tasks: Sequence[Task], groups: Sequence[Configuration]) -> tuple[Column, ...]:
    def note(task: Task) -> str:
        metric = task.metric if task.higher_is_better else f"{task.metric}, lower is better"
        return f"{metric}; {NOT_COMPARED}" if probes.alike(task, groups).who else metric

    return (
        Column("cosine", "mean of layers", is_sorted=True),
        *(Column(task.title, note(task), "descending" if task.higher_is_better else "ascending") for task in tasks),
        Column("parameters", first="ascending"),
        Column("fewer", "than the teacher"),
    )


def _ranked_rows(
    groups: Sequence[Configuration], teacher: Mapping[str, Any], tasks: Sequence[Task]
) -> list[TableRow]:
    """Rank, cosine, probes and parameters of configurations, or of runs as configurations with one seed each."""
    top = max(groups, key=lambda group: group.cosine.mean).cosine
    alike = [probes.alike(task, groups) for task in tasks]
    winners = [_winner(task, groups, same) for task, same in zip(tasks, alike, strict=True)]
    rows = []
    for group in groups:
        cosine, params = group.cosine, group.first.eval["params"]
        # Configurations that are equal to three decimals share a rank.
        rank = 1 + sum(round(other.cosine.mean, 3) > round(cosine.mean, 3) for other in groups)
        shared = sum(round(other.cosine.mean, 3) == round(cosine.mean, 3) for other in groups) > 1
        cells = [Cell(cosine.text("{:.3f}".format), cosine.mean, _mark(cosine, top, len(groups)))]
        for task, winner, same in zip(tasks, winners, alike, strict=True):
            found = probes.result(task, group.runs)
            mark, is_alike = "", group.name in same
            if found and winner and not is_alike:
                equal = found.value.mean == winner.value.mean
                mark = "best" if equal else "tie" if found.known and found.overlaps(winner) else ""
            cells.append(_probed(task, found, mark, is_alike))
        share = reduction(params, teacher["params"])
        cells += [_number(params, millions), Cell(share, 1 - params / teacher["params"]) if share else Cell()]
        rows.append(TableRow(group.name, group.style, tuple(cells), Cell(f"{rank}=" if shared else str(rank), rank)))
    return rows


def _winner(task: Task, groups: Sequence[Configuration], same: Alike) -> Result | None:
    """The best result of those that can be compared, or None if there are fewer than two."""
    found = [r for group in groups if group.name not in same and (r := probes.result(task, group.runs))]
    return probes.best(task, found) if len(found) > 1 else None


def _probed(task: Task, found: Result | None, mark: str = "", is_alike: bool = False) -> Cell:
    if found is None:
        return Cell()
    return Cell(found.value.text(task.show), found.value.mean, mark, note=probes.SHORT if is_alike else found.source)


def _mark(value: Spread, top: Spread, count: int) -> str:
    """The mark of a cosine. Cosines have no interval over test items, so ties depend on seeds and :data:`TIE`."""
    if count == 1:
        return ""
    if value.mean == top.mean:
        return "best"
    return "tie" if top.mean - value.mean < max(TIE, value.sd + top.sd) else ""


def _references(
    runs: Sequence[RunSummary], teacher: Mapping[str, Any], tasks: Sequence[Task], more: int
) -> tuple[TableRow, ...]:
    """The rows of the teacher, and of log-mel if it was probed. They are not part of the ranking."""
    rows = []
    for key, name in (("teacher", "teacher"), ("log_mel", "log-mel")):
        found = [(task, probes.reference(task, runs, key)) for task in tasks]
        cells = [_probed(task, result) for task, result in found]
        params = teacher["params"] if key == "teacher" else None
        if params or any(cell.key is not None for cell in cells):
            blank = [Cell("")] * (1 + more)
            rows.append(TableRow(name, "ref", (Cell(), *cells, _number(params, millions), *blank), Cell("")))
    return tuple(rows)


def _number(value: Any, show: Callable[[Any], str]) -> Cell:
    return Cell() if value is None else Cell(show(value), value)
