"""What each field does, as a table of the Markdown page, with the probes and the compute beside the judged metric."""

import math
from collections.abc import Sequence

from gdist.stages.evaluate.layers import from_teachers_layer_0
from gdist.stages.report.runs import RunSummary
from gdist.stages.report.sweeps import answer
from gdist.stages.report.sweeps.board import Measure, measured
from gdist.stages.report.sweeps.effects import Difference, Effect, effects
from gdist.stages.report.sweeps.md_tables import NONE, THREE, probed, table
from gdist.stages.report.sweeps.section import Section
from gdist.stages.report.sweeps.tables import signed


def marginal(section: Section, names: Sequence[str]) -> str:
    """Every value of every field against that of the first point; "" where there are no pairs."""
    board = section.board
    show = answer.shown(board)
    main = section.effects
    if not main:
        return ""
    others = [name for name in names if name != board.metric]
    by_probe = [_of_probe(section, name) for name in others]
    unit, compute = board.compute()
    costs = effects(section.values(_logarithm(compute), higher=True), section.factors)
    lines = []
    for place, effect in enumerate(main):
        found = effect.found
        what = f"{effect.factor.name}: {effect.level}, against {effect.base}"
        if found is None:
            continue
        cost = costs[place].found
        lines.append(
            [
                what,
                _bold(found, signed(found.mean, found.error, show)),
                f"{found.up} of {found.pairs}",
                NONE if found.at_first is None else signed(found.at_first, None, show),
                *(_cell(each[place].found) for each in by_probe),
                f"{math.exp(cost.mean):.2f}" if cost else NONE,
            ]
        )
    heads = ["what is compared", board.metric, "pairs ahead", "at the first point", *others, f"{unit}, ratio"]
    return table(heads, lines) if lines else ""


def interactions(section: Section) -> str:
    """The interactions that are clear, as the page shows them."""
    found = section.interactions_table
    if found is None:
        return ""
    heads = ["fields", *(f"{column.head} {column.note}".strip() for column in found.columns)]
    rows = [[row.head, *(f"{cell.note}: {cell.text}".removeprefix(": ") for cell in row.cells)] for row in found.rows]
    return table(heads, rows)


def _of_probe(section: Section, name: str) -> list[Effect]:
    """The effects in a probe, without pairs that both answered from the teacher's layer 0."""
    points = section.board.points
    raws = [raw for run in section.board.evaluated if (raw := probed(run, name))]
    alike = {
        point.name: [
            seed
            for seed, run in point.finished.items()
            if probed(run, name) and from_teachers_layer_0(run.eval, name)
        ]
        for point in points
    }
    return effects(section.values(measured(name), bool(raws[0]["higher_is_better"])), section.factors, alike)


def _logarithm(measure: Measure) -> Measure:
    def of(run: RunSummary) -> float | None:
        value = measure(run)
        return math.log(value) if value else None

    return of


def _cell(found: Difference | None) -> str:
    return NONE if found is None else _bold(found, signed(found.mean, found.error, THREE))


def _bold(found: Difference, text: str) -> str:
    return f"**{text}**" if found.is_clear else text
