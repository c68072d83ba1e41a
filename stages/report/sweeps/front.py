"""The Pareto front: the points that no other point beats in parameters, compute and quality at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from gdist.stages.report.sweeps.board import Board, Point


@dataclass(frozen=True)
class Placed:
    """A ranked point with what it costs. All three are means over seeds; more ``merit`` is better.

    Attributes:
        value: of the judged metric.
        compute: as of :meth:`Board.compute`.
    """

    point: Point
    params: float
    compute: float
    value: float
    merit: float


def placed(board: Board) -> list[Placed]:
    """The ranked points whose size and compute are known, the best first."""
    _, measure = board.compute()
    found = []
    for point in board.ranked:
        compute, params = point.spread(measure), point.params
        if point.standing and compute and params:
            value = point.standing.mean
            found.append(Placed(point, float(params), compute.mean, value, board.merit(value)))
    return found


def front(points: Sequence[Placed]) -> list[Placed]:
    """Those that no other is at least as good as in everything, and better in something."""
    return [one for one in points if not any(_beats(other, one) for other in points)]


def _beats(one: Placed, other: Placed) -> bool:
    as_good = one.params <= other.params and one.compute <= other.compute and one.merit >= other.merit
    return as_good and (one.params, one.compute, one.merit) != (other.params, other.compute, other.merit)
