"""The tables of a sweep's page, as data for the report's one macro."""

from collections.abc import Callable, Sequence

from gdist.stages.report.runs import Spread
from gdist.stages.report.story import duration, millions
from gdist.stages.report.sweeps import answer
from gdist.stages.report.sweeps.board import Board, Point, cpu_seconds, wall_seconds
from gdist.stages.report.sweeps.effects import Difference, Effect, Interaction
from gdist.stages.report.tables import Cell, Column, Table, TableRow
from gdist.stages.standings.ranking import is_clear, scatter

MAX_INTERACTIONS = 8
Show = Callable[[float], str]


def points(board: Board, on_front: frozenset[str]) -> Table:
    """Every point, the best first: value, size, cost and state."""
    show = answer.shown(board)
    has_cpu = any(point.spread(cpu_seconds) for point in board.points)
    rows = []
    for point in [*board.ranked, *(point for point in board.points if point.standing is None)]:
        mark, standing = "", point.standing
        if standing and board.first.standing and len(board.ranked) > 1:
            first = board.first.standing
            error = scatter(first, standing)
            tie = error is not None and not is_clear(first.mean - standing.mean, error)
            mark = "best" if standing is first else "tie" if tie else ""
        value = Spread.over(standing.values) if standing else None
        cells = [
            Cell(value.text(show), value.mean, mark) if value else Cell(),
            Cell(answer.seeds_of(point), len(standing.seeds) if standing else 0),
            _of(point.params, millions),
            _spread(point.spread(wall_seconds)),
            *([_spread(point.spread(cpu_seconds))] if has_cpu else []),
            Cell("yes" if point.name in on_front else "", 1 if point.name in on_front else 0),
            state(point),
        ]
        rows.append(TableRow(point.title, point.style, tuple(cells)))
    columns = (
        Column(board.metric, "mean ± sd over seeds", "descending" if board.ranking.higher else "ascending", True),
        Column("seeds"),
        Column("parameters", first="ascending"),
        Column("training", "wall time of one", first="ascending"),
        *((Column("training", "CPU time of one", first="ascending"),) if has_cpu else ()),
        Column("on the", "Pareto front"),
        Column("state", first="ascending"),
    )
    return Table("Points of the sweep", "point", columns, tuple(rows), kind="points")


def state(point: Point) -> Cell:
    """A point's state; of those that are not finished, with the reason."""
    states = [entry.state for entry in point.entries]
    if set(states) == {"finished"}:
        return Cell("finished", "0")
    counted = [f"{states.count(one)} {one}" if len(states) > 1 else one for one in dict.fromkeys(states)]
    reasons = list(dict.fromkeys(entry.reason for entry in point.entries if entry.reason))
    return Cell(", ".join(counted).replace("new", "not begun"), "1", note="; ".join(reasons)[:300])


def effects(board: Board, found: Sequence[Effect]) -> Table | None:
    """What each value of each field does, against its first value."""
    show = answer.shown(board)
    rows = []
    for effect in found:
        if effect.found is None:
            continue
        cells = (
            Cell(f"{effect.level}, against {effect.base}", effect.level),
            *_difference(effect.found, show),
        )
        rows.append(TableRow(effect.factor.name, "", cells))
    if not rows:
        return None
    columns = (
        Column("what is compared", first="ascending"),
        Column("ahead by", "± standard error over seeds"),
        Column("pairs"),
        Column("pairs ahead"),
        Column("at the first point"),
    )
    return Table("Marginal effects", "field", columns, tuple(rows), kind="effects")


def interactions(board: Board, found: Sequence[Interaction]) -> Table | None:
    """The strongest differences of differences that are clear of zero."""
    show = answer.shown(board)
    rows = []
    for each in [one for one in found if one.found.is_clear][:MAX_INTERACTIONS]:
        one, other = each.one, each.other
        name = f"{one.factor.name} × {other.factor.name}"
        cells = [Cell(f"{one.factor.name} {one.level}, against {one.base}", one.level)]
        for value, found_there in ((other.level, each.at_level), (other.base, each.at_base)):
            there = signed(found_there.mean, found_there.error, show)
            cells.append(Cell(there, found_there.mean, note=f"{other.factor.name} {value}"))
        cells.append(Cell(signed(each.found.mean, each.found.error, show), each.found.mean))
        rows.append(TableRow(name, "", (*cells, Cell(str(each.found.pairs), each.found.pairs))))
    if not rows:
        return None
    columns = (
        Column("what is compared", first="ascending"),
        Column("ahead by", "where"),
        Column("and by", "where"),
        Column("difference", "± standard error over seeds"),
        Column("squares", "of four points"),
    )
    return Table("Interactions", "fields", columns, tuple(rows), kind="effects")


def stopped(board: Board) -> Table | None:
    """The rungs of early stopping: how many ended at each, and which."""
    rungs: dict[tuple[int, int], list[str]] = {}
    for entry in board.sweep.entries:
        if entry.state == "stopped" and entry.stopped is not None:
            at = int(entry.stopped.get("rung", 0)), int(entry.stopped.get("step", 0))
            rungs.setdefault(at, []).append(f"{entry.name} seed {entry.seed}".strip())
    if not rungs:
        return None
    rows = []
    for (rung, step), names in sorted(rungs.items()):
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        cells = (
            Cell(f"{step:,}", step),
            Cell(str(len(names)), len(names)),
            Cell(", ".join(names[:6]) + more),
        )
        rows.append(TableRow(str(rung), "", cells))
    columns = (Column("step"), Column("stopped"), Column("which", first=""))
    return Table("Rungs of early stopping", "rung", columns, tuple(rows), kind="effects")


def _difference(found: Difference, show: Show) -> tuple[Cell, ...]:
    return (
        Cell(signed(found.mean, found.error, show), found.mean, "best" if found.is_clear else ""),
        Cell(str(found.pairs), found.pairs),
        Cell(f"{found.up} of {found.pairs}", found.up / found.pairs),
        Cell() if found.at_first is None else Cell(signed(found.at_first, None, show), found.at_first),
    )


def signed(mean: float, error: float | None, show: Show) -> str:
    """``+0.012 ± 0.003``, with a minus sign that is as wide as the plus.

    >>> signed(-0.0123, 0.003, "{:.3f}".format)
    '−0.012\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.003'
    """
    size = show(abs(mean))
    text = ("−" if mean < 0 and float(size.rstrip("%")) else "+") + size
    return text if error is None else f"{text}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{show(error)}"


def _of(value: float | None, show: Show) -> Cell:
    return Cell() if value is None else Cell(show(value), value)


def _spread(value: Spread | None) -> Cell:
    return Cell() if value is None else Cell(duration(value.mean), value.mean)
