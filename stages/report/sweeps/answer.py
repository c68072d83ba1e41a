"""Which student to take, and why, in sentences that are generated from the numbers and say what these cannot show."""

from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from gdist.pipeline.storage.locations import in_shell
from gdist.stages.report.runs import Spread
from gdist.stages.report.story import duration, listed, millions, reduction, short_name
from gdist.stages.report.sweeps.board import Board, Point, cpu_seconds, wall_seconds
from gdist.stages.report.sweeps.front import placed
from gdist.stages.standings.ranking import OF_EVAL, OF_TRAINING, is_clear, scatter

CHEAPER = 0.9  # of the best point's size or compute, from which a point is mentioned as cheaper


@dataclass(frozen=True)
class Tile:
    what: str
    style: str
    value: str
    more: tuple[str, ...]


def title_of(board: Board) -> str:
    """The judged metric in words: ``accuracy in keyword spotting``."""
    metric = board.metric
    if metric == OF_EVAL:
        return "mean cosine"
    if metric in OF_TRAINING:
        return f"{metric} in the last validation"
    for run in board.evaluated:
        if found := (run.eval.get("probes") or {}).get(metric):
            return f"{found['metric']} in {found['title']}"
    return metric


def shown(board: Board) -> Callable[[float], str]:
    """How a value of the judged metric is written."""
    return "{:.4f}".format if board.metric in OF_TRAINING or board.metric == OF_EVAL else "{:.3f}".format


def mean_of(board: Board, point: Point) -> str:
    """A point's value: mean ± standard deviation over seeds."""
    return Spread.over(point.standing.values).text(shown(board)) if point.standing else "–"


def seeds_of(point: Point) -> str:
    found, of = len(point.standing.seeds) if point.standing else 0, len(point.entries)
    if found < of:
        return f"{found} of {of} seeds"
    return f"{found} seeds" if found > 1 else "one seed"


def take(board: Board, subject: str | None = None) -> list[Markup]:
    """Why the best point is the one to take, by what margin, its size and its cost.

    Args:
        subject: what the first sentence calls it; by default its name.
    """
    best, show = board.first, shown(board)
    where = f" on the {board.ranking.split} split" if board.ranking.split else ""
    which = "lowest" if not board.ranking.higher else "highest"
    text = Markup("{} has the {} {}{}: <b>{}</b> ({})").format(
        subject or Markup("<b>{}</b>").format(best.title),
        which,
        title_of(board),
        where,
        mean_of(board, best),
        seeds_of(best),
    )
    sentences = []
    if len(board.ranked) == 1:
        sentences.append(text + ". No other point has a value to compare it with.")
    else:
        second = board.ranked[1]
        assert best.standing and second.standing
        margin, error = abs(best.standing.mean - second.standing.mean), scatter(best.standing, second.standing)
        text += Markup(", ahead of <b>{}</b> by {}").format(second.title, show(margin))
        if error is None:
            text += ". Whether that is more than the scatter of seeds is not known: that takes two seeds of each."
        else:
            text += f" ± {show(error)}, which is "
            text += "more than the scatter of seeds." if is_clear(margin, error) else "within the scatter of seeds."
        sentences.append(text)
    if params := best.params:
        smaller = reduction(params, board.teacher["params"])
        less = f", {smaller} fewer than {short_name(str(board.teacher['name']))}" if smaller else ""
        sentences.append(Markup("It has {} parameters{}{}.").format(millions(params), less, _cost(best)))
    return sentences


def _cost(point: Point) -> str:
    wall, cpu = point.spread(wall_seconds), point.spread(cpu_seconds)
    if wall is None:
        return ""
    more = "" if cpu is None else f" ({duration(cpu.mean)} of CPU)"
    return f", and one training of it took {duration(wall.mean)}{more}"


def others(board: Board) -> list[Markup]:
    """The points that are not clearly behind the best, and the smallest and the cheapest of them."""
    level = [board.named[one.name] for one in board.ranking.level()]
    if not level:
        return []
    sentences = [Markup("Not clearly behind it: {}.").format(listed([point.title for point in level]))]
    costs = {one.point.name: one for one in placed(board)}
    best = costs.get(board.first.name)
    near = [costs[point.name] for point in level if point.name in costs]
    if best and near:
        unit, _ = board.compute()
        smallest, cheapest = min(near, key=lambda one: one.params), min(near, key=lambda one: one.compute)
        if smallest.params < CHEAPER * best.params:
            sentences.append(
                Markup("Of these, <b>{}</b> is the smallest, with {} of the parameters.").format(
                    smallest.point.title, f"{smallest.params / best.params:.0%}"
                )
            )
        if cheapest.compute < CHEAPER * best.compute:
            sentences.append(
                Markup("Cheapest to train of these is <b>{}</b>, with {} of the {}.").format(
                    cheapest.point.title, f"{cheapest.compute / best.compute:.0%}", unit
                )
            )
    return sentences


def gaps(board: Board) -> list[Markup]:
    """What is missing from the ranking: points without a value, and points with fewer seeds than others."""
    sentences = []
    states = [entry.state for entry in board.sweep.entries]
    unfinished = [
        f"{states.count(state)} {word}"
        for state, word in (
            ("stopped", "stopped early"),
            ("failed", "failed"),
            ("begun", "begun"),
            ("new", "not begun"),
        )
        if state in states
    ]
    if unfinished:
        text = Markup("Of {} runs, {} are finished, {}.").format(
            len(states), states.count("finished"), ", ".join(unfinished)
        )
        sentences.append(text)
    fewer = [point for point in board.ranked if point.standing and len(point.standing.seeds) < board.seeds]
    if fewer:
        names = listed([point.title for point in fewer], [seeds_of(point) for point in fewer])
        sentences.append(Markup("With fewer seeds than others: {}.").format(names))
    left_out = {board.named[name]: why for name, why in board.ranking.left_out.items()}
    odd = {point.title: why for point, why in left_out.items() if point.finished}
    if odd:
        sentences.append(Markup("Left out: {}.").format(listed(list(odd), list(odd.values()))))
    return sentences


def export_command(board: Board) -> str:
    assert board.first.standing
    _, run = board.first.standing.best(board.ranking.higher)
    return f"gdist export {in_shell(run)} --format hf --out FOLDER"


def tiles(board: Board) -> list[Tile]:
    """The best three points, for the first screen."""
    found = []
    for place, point in enumerate(board.ranked[:3]):
        if point.standing is None:
            continue
        sd = point.standing.sd
        more = [
            f"±\N{NO-BREAK SPACE}{shown(board)(sd)} over {seeds_of(point)}" if sd is not None else seeds_of(point)
        ]
        if place and board.first.standing:
            error = scatter(board.first.standing, point.standing)
            behind = abs(board.first.standing.mean - point.standing.mean)
            clear = "clearly behind" if is_clear(behind, error) else "behind, within scatter" if error else "behind"
            more.append(f"{shown(board)(behind)} {clear}")
        if point.params:
            more.append(f"{millions(point.params)} parameters")
        found.append(Tile(point.title, point.style, shown(board)(point.standing.mean), tuple(more)))
    return found
