"""The report's heatmaps: cosine by layer and run, in shades that show the differences between good students; and
the layers that each probe used.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gdist.stages.report import probes
from gdist.stages.report.probes import Result, Task
from gdist.stages.report.runs import COLORS, Configuration, RunSummary
from gdist.stages.report.tables import Cell, Column, Table, TableRow, ranked

MAX_COLUMNS = 6  # up to this many runs, layers are rows and runs are columns, which fits on a phone
MIN_ERROR = 1e-4  # values of 1 − cosine below this all have the same shade


def heatmap(groups: Sequence[Configuration], references: Mapping[str, Sequence[Mapping[str, float]]]) -> Table:
    """Cosine by layer and run, with one column per run if there are few runs, else one row per run."""
    pairs = ranked(groups)
    numbers = sorted({row["layer"] for run, _ in pairs for row in run.eval["layers"]})
    layers = [*(f"{layer:g}" for layer in numbers), "mean"]
    values = [[*_by_layer(run.eval["layers"], numbers), run.cosine] for run, _ in pairs]
    low, high = _error_span(values)
    best = [max(value for value in column if value is not None) for column in zip(*values, strict=True)]
    cells = [
        tuple(_heat(v, low, high, len(pairs) > 1 and v == top) for v, top in zip(row, best, strict=True))
        for row in values
    ]
    rows = [TableRow(run.name, group.style, row) for (run, group), row in zip(pairs, cells, strict=True)]
    trivial = []
    for name, found in references.items():
        mean = sum(row["cosine"] for row in found) / len(found)
        drawn = tuple(_heat(value, low, high, False) for value in (*_by_layer(found, numbers), mean))
        trivial.append(TableRow(name, "ref", drawn))
    if len(rows) + len(trivial) > MAX_COLUMNS:
        columns = (*(Column(layer) for layer in layers[:-1]), Column("mean", is_sorted=True))
        return Table("Cosine by run and layer", "layer", columns, tuple(rows), tuple(trivial), "heat by-run")
    across = (*rows, *trivial)
    turned = zip(*(row.cells for row in across), strict=True)
    down = tuple(TableRow(layer, "", cells) for layer, cells in zip(layers, turned, strict=True))
    columns = tuple(Column(row.head, first="", style=row.style) for row in across)
    return Table("Cosine by layer and run", "layer", columns, down, (), "heat by-layer")


def _by_layer(rows: Sequence[Mapping[str, float]], layers: Sequence[float]) -> list[float | None]:
    """The cosine at each layer; None where it was not judged, because the cache lacks the layer."""
    found = {row["layer"]: row["cosine"] for row in rows}
    return [found.get(layer) for layer in layers]


def _error_span(values: Sequence[Sequence[float | None]]) -> tuple[float, float]:
    """The logarithms of the largest and the smallest error 1 − cosine of the runs: the ends of the color scale."""
    errors = [math.log(max(1 - value, MIN_ERROR)) for row in values for value in row if value is not None]
    return max(errors), min(errors)


def _heat(cosine: float | None, low: float, high: float, best: bool) -> Cell:
    """A cell that is darker the smaller its error is, on a logarithmic scale, because good runs differ very little.

    >>> [_heat(cosine, math.log(0.4), math.log(0.1), False).shade for cosine in (0.2, 0.6, 0.8, 0.9)]
    ['0.000', '0.000', '0.500', '1.000']
    """
    if cosine is None:
        return Cell()
    error = math.log(max(1 - cosine, MIN_ERROR))
    share = (low - error) / (low - high) if low > high else 0.5
    return Cell(f"{cosine:.3f}", cosine, "best" if best else "", f"{min(max(share, 0.0), 1.0):.3f}")


@dataclass(frozen=True)
class Strip:
    """The layers that a probe used of one system.

    Attributes:
        weights: of each layer, from layer 0 on, averaged over seeds; they sum to 1.
        shades: how dark each layer is, from 0 to 1 for the largest weight.
        chosen: whether the probe chose one layer.
        text: the layer that was chosen, or the one with the largest weight, and this weight.
    """

    name: str
    style: str
    weights: tuple[float, ...]
    shades: tuple[float, ...]
    chosen: bool
    text: str


def strips(task: Task, groups: Sequence[Configuration], runs: Sequence[RunSummary]) -> list[Strip]:
    """One row for the teacher and one for each of the best configurations; none if the probe tells no weights.

    Shades are relative to each row's largest weight: learned weights are often almost even, and would all be pale.
    """
    found = [("teacher", "ref", probes.reference(task, runs, "teacher"))]
    found += [(group.name, group.style, probes.result(task, group.runs)) for group in groups[:COLORS]]
    return [_strip(name, style, one) for name, style, one in found if one and one.weights]


def _strip(name: str, style: str, found: Result) -> Strip:
    top = max(found.weights)
    text = found.source or f"{found.weights.index(top)} ({top:.2f})"
    shades = tuple(weight / top for weight in found.weights)
    return Strip(name, style, found.weights, shades, bool(found.source), text)
