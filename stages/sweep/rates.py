"""How long points take, by the steps measured so far."""

from collections.abc import Sequence

from gdist.pipeline.run import Run
from gdist.stages.sweep.folder import SweepFolder
from gdist.stages.sweep.points import Point


class Rates:
    """The seconds per step of each run of ``points`` that has reported any."""

    def __init__(self, folder: SweepFolder, points: Sequence[Point]) -> None:
        self.own: dict[str, float] = {}
        named: dict[str, list[float]] = {}
        for point in points:
            rate = seconds_per_step(Run(folder.run(point)))
            if rate is not None:
                self.own[point.signature] = rate
                named.setdefault(point.name, []).append(rate)
        self.named = {name: sum(rates) / len(rates) for name, rates in named.items()}

    def seconds(self, point: Point, step: int, until: int | None = None) -> float | None:
        """About how long a point takes from ``step`` on, by its own steps, those of its other seeds, or of any other
        point; None where nothing has been measured."""
        steps = max((until or point.config.train.steps) - step, 0)
        if point.signature in self.own:
            return steps * self.own[point.signature]
        if point.name in self.named:
            return steps * self.named[point.name]
        return steps * sum(self.own.values()) / len(self.own) if self.own else None


def seconds_per_step(run: Run) -> float | None:
    """The wall time of a run's steps, validations included; None before its first report."""
    rows = run.read_metrics()
    return float(rows[-1]["seconds"]) / rows[-1]["step"] if rows and rows[-1]["step"] else None
