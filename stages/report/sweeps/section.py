"""Everything that a sweep's page shows about the sweep, for its template; the Markdown page shows the same."""

from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from markupsafe import Markup

from gdist.stages.report.story import listed
from gdist.stages.report.sweeps import answer, effects, figures, tables
from gdist.stages.report.sweeps.board import Board, Measure, measured
from gdist.stages.report.sweeps.effects import Effect, Factor, Interaction, Values
from gdist.stages.report.sweeps.front import Placed, front, placed
from gdist.stages.report.sweeps.spending import Spending
from gdist.stages.report.tables import Table


@dataclass(frozen=True)
class Section:
    """A sweep's part of the page. The attributes are computed when the template asks for them."""

    board: Board
    spending: Spending

    @property
    def name(self) -> str:
        """The sweep's, or how many runs a list has."""
        return f"the sweep {self.board.sweep.name}" if self.board.sweep.name else f"{len(self.board.runs)} runs"

    @property
    def take(self) -> list[Markup]:
        return answer.take(self.board)

    @property
    def why(self) -> list[Markup]:
        """The same below a heading that has named the point."""
        return answer.take(self.board, "It")

    @property
    def others(self) -> list[Markup]:
        return answer.others(self.board)

    @property
    def gaps(self) -> list[Markup]:
        return answer.gaps(self.board)

    @property
    def cost(self) -> list[Markup]:
        return self.spending.sentences()

    @property
    def export(self) -> str:
        return answer.export_command(self.board)

    @property
    def tiles(self) -> list[answer.Tile]:
        return answer.tiles(self.board)

    @cached_property
    def placed(self) -> list[Placed]:
        return placed(self.board)

    @cached_property
    def on_front(self) -> frozenset[str]:
        return frozenset(one.point.name for one in front(self.placed))

    @property
    def points(self) -> Table:
        return tables.points(self.board, self.on_front)

    @cached_property
    def factors(self) -> list[Factor]:
        varied = {field: "" for entry in self.board.sweep.entries for field in entry.varied}
        return effects.factors(self.board.features(), varied)

    def values(self, measure: Measure | None = None, higher: bool | None = None) -> Values:
        """Ranked point → seed → value; more is better, whatever the metric."""
        measure = measure or measured(self.board.metric)
        sign = 1 if (self.board.ranking.higher if higher is None else higher) else -1
        return {
            point.name: {seed: sign * value for seed, value in point.values(measure).items()}
            for point in self.board.points
            if point.standing
        }

    @cached_property
    def effects(self) -> list[Effect]:
        return effects.effects(self.values(), self.factors)

    @cached_property
    def interacting(self) -> tuple[list[Interaction], int]:
        return effects.interactions(self.values(), self.factors)

    @property
    def unpaired(self) -> str:
        """The fields of which nothing is known, because no pair of points differs in them alone."""
        paired = {effect.factor.name for effect in self.effects if effect.found}
        names = [factor.name for factor in self.factors if factor.name not in paired]
        if not names:
            return ""
        return f"No pair of points differs in one of these alone, so nothing is known of them: {', '.join(names)}."

    @property
    def effects_table(self) -> Table | None:
        return tables.effects(self.board, self.effects)

    @property
    def interactions_table(self) -> Table | None:
        return tables.interactions(self.board, self.interacting[0])

    @property
    def interactions_note(self) -> str:
        """How many were looked at, and what follows from that."""
        found, count = self.interacting
        if not count:
            return "No four points differ in two fields alone, so nothing is known about interactions."
        text = f"Pairs of values of two fields that could be looked at: {count}"
        if all(one.found.error is None for one in found):
            return f"{text}; with one seed, none can be told from scatter."
        clear = sum(one.found.is_clear for one in found)
        most = tables.MAX_INTERACTIONS
        return f"{text}; clear of zero: {clear}{f', the {most} strongest are shown' if clear > most else ''}."

    @property
    def noise(self) -> str:
        """The scatter of seeds in words; "" where there is none to see."""
        found = effects.noise(self.values())
        if found is None:
            return "Every point has one seed, so the scatter of seeds is not known, and nothing can be told from it."
        show = answer.shown(self.board)
        counts = [len(point.standing.seeds) for point in self.board.ranked if point.standing]
        return (
            f"Noise: runs of one point, which differ only in the seed, scatter by {show(found)} in "
            f"{self.board.metric} (standard deviation, pooled over points with several seeds); the standard error of "
            f"a mean of {fmean(counts):.2g} seeds is {show(found / fmean(counts) ** 0.5)}. With three seeds, chance "
            "alone makes about one difference in eight clear, and one effect in five."
        )

    @property
    def stopped(self) -> Table | None:
        return tables.stopped(self.board)

    @property
    def front_figures(self) -> figures.Figures:
        return figures.front(self.board, self.placed, self.on_front)

    @property
    def front_names(self) -> Markup:
        return listed([one.point.title for one in self.placed if one.point.name in self.on_front])

    @property
    def compute(self) -> str:
        return self.board.compute()[0]

    @property
    def history(self) -> figures.Figures:
        return figures.history(self.board)

    @property
    def numeric(self) -> figures.Figures:
        return figures.numeric(self.board, self.factors, self.effects)
