"""The tables of a sweep's Markdown page: fidelity, size and cost; probes; and who is ahead of whom."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from gdist.stages.evaluate.layers import answered_alike, layer_read
from gdist.stages.report.runs import RunSummary, Spread
from gdist.stages.report.sweeps.board import Board, Measure, Point, cpu_seconds, measured, wall_seconds
from gdist.stages.report.sweeps.tables import signed, state
from gdist.stages.standings.ranking import OF_EVAL, error_of, is_clear

NONE = "–"  # what was not measured
THREE: Callable[[float], str] = "{:.3f}".format
Lines = Sequence[Sequence[str]]


def table(heads: Sequence[str], lines: Lines) -> str:
    """A Markdown table."""
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(map(cell, row)) + " |" for row in rows)


def cell(text: str) -> str:
    """A text that may stand in a table."""
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("|", r"\|").replace("<", "&lt;").replace("\n", " ")


def fidelity(board: Board) -> str:
    """Size, mean cosine, judged metric and cost of every point, in the order of the file; the best cosine is bold."""
    cosine = measured(board.fidelity)
    means = {point.name: spread.mean for point in board.points if (spread := point.spread(cosine))}
    top = max(means, key=lambda name: means[name], default=None)
    has_cpu = any(point.spread(cpu_seconds) for point in board.points)
    judged = board.metric not in (OF_EVAL, "cosine")
    states = {point: state(point) for point in board.points}
    unlike = {(status.text, status.note) for status in states.values()} != {("finished", "")}
    lines = []
    for point in board.points:
        run = point.any
        size = NONE
        if run and run.params:
            size = f"{run.params / 1e6:.2f}, {(run.params_with_heads or run.params) / 1e6:.2f}"
        value = _spread(point.spread(cosine), board.seeds)
        steps = run.config.get("train", {}).get("steps") if run else None
        line = [point.title, size, f"**{value}**" if point.name == top and len(means) > 1 else value]
        if judged:
            line.append(_spread(Spread.over(point.standing.values), board.seeds) if point.standing else NONE)
        line += [
            NONE if steps is None else str(steps),
            _spread(point.spread(wall_seconds), board.seeds, "{:.0f}".format),
        ]
        if has_cpu:
            line.append(_spread(point.spread(cpu_seconds), board.seeds, "{:.0f}".format))
        if unlike:
            line.append(": ".join(filter(None, (states[point].text, states[point].note))))
        lines.append(line)
    split = "" if board.fidelity == OF_EVAL else ", last validation"
    heads = ["point", "M parameters, with heads", f"mean cosine{split}", *([board.metric] if judged else []), "steps"]
    heads += ["seconds of training", *(["CPU seconds"] if has_cpu else []), *(["state"] if unlike else [])]
    return table(heads, lines)


def layers(board: Board) -> str:
    """Cosine by layer, where points were evaluated on the same layers; "" elsewhere."""
    rows = {point: point.evaluated for point in board.few() if point.evaluated}
    numbers = {tuple(row["layer"] for row in run.eval["layers"]) for runs in rows.values() for run in runs}
    if len(numbers) != 1:
        return ""
    lines = []
    for point, runs in rows.items():
        columns = zip(*([row["cosine"] for row in run.eval["layers"]] for run in runs), strict=True)
        lines.append([point.title, *(f"{fmean(column):.3f}" for column in columns)])
    return table(["layer", *(f"{number:g}" for number in numbers.pop())], lines)


def probe_names(board: Board) -> list[str]:
    return list(dict.fromkeys(name for run in board.evaluated for name in run.eval.get("probes") or {}))


def probes(board: Board, names: Sequence[str]) -> str:
    """Every probe of every point, of the teacher and of log-mel."""
    first = {name: next(raw for run in board.evaluated if (raw := probed(run, name))) for name in names}
    lines = [_reference("teacher", board.evaluated, "teacher", names)]
    for point in board.points:
        found = [[raw for run in point.evaluated if (raw := probed(run, name))] for name in names]
        if any(found):
            cells = [
                _spread(Spread.over(one["value"] for one in raws), board.seeds) + _chosen(raws) if raws else NONE
                for raws in found
            ]
            lines.append([point.title, *cells])
    lines.append(_reference("log-mel", board.evaluated, "log_mel", names))
    lines.append(["chance", *(f"{first[name]['chance']:.3f}" for name in names)])
    lines.append(["test items", *(str(first[name].get("test_items") or NONE) for name in names)])
    return table(["", *(f"{name} {_arrow(first[name])}" for name in names)], lines)


def not_compared(board: Board, names: Sequence[str]) -> list[str]:
    """Of which probes some systems answered from the teacher's layer 0."""
    evaluations = {point.title: _evaluations(point) for point in board.points if _evaluations(point)}
    notes = {name: answered_alike(name, evaluations).note for name in names}
    return [f"`{name}`: {note}." for name, note in notes.items() if note]


def ahead(board: Board, other: Point, names: Sequence[str]) -> str:
    """By how much every point is ahead of ``other``, in mean cosine (or the judged metric) and in every probe."""
    basis = OF_EVAL if board.fidelity == OF_EVAL else board.metric
    higher = board.ranking.higher if basis == board.metric else True
    lines = []
    for one in board.few():
        if one is other or not one.finished:
            continue
        cells, won = [_compared(one, other, measured(basis), higher)[0]], []
        for name in names:
            text, win = _by_probe(one, other, name)
            cells.append(text)
            won += [] if win is None else [win]
        last = [f"{won.count(1)}, {won.count(-1)} of {len(won)}"] if names else []
        lines.append([one.title, *cells, *last])
    last = ["ahead, behind"] if names else []
    label = "mean cosine" if basis == OF_EVAL else basis
    return table([f"against {other.title}", label, *names, *last], lines) if lines else ""


def probed(run: RunSummary, name: str) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = (run.eval.get("probes") or {}).get(name)
    return found


def _by_probe(one: Point, other: Point, name: str) -> tuple[str, int | None]:
    raws = [raw for point in (one, other) for run in point.finished.values() if (raw := probed(run, name))]
    if not all(any(probed(run, name) for run in point.finished.values()) for point in (one, other)):
        return NONE, None
    if len(answered_alike(name, {"one": _evaluations(one), "other": _evaluations(other)}).students) == 2:
        return "layer 0", None
    return _compared(one, other, measured(name), bool(raws[0]["higher_is_better"]))


def _compared(one: Point, other: Point, measure: Measure, higher: bool) -> tuple[str, int]:
    """The difference, bold if it is clear; and 1 if it is clear and for the better, −1 for the worse, else 0."""
    columns = [list(point.values(measure).values()) for point in (one, other)]
    if not all(columns):
        return NONE, 0
    difference = (fmean(columns[0]) - fmean(columns[1])) * (1 if higher else -1)
    error = error_of(*columns)
    text = signed(difference, error, THREE)
    return (f"**{text}**", 1 if difference > 0 else -1) if is_clear(difference, error) else (text, 0)


def _evaluations(point: Point) -> list[dict[str, Any]]:
    return [run.eval for run in point.evaluated]


def _reference(title: str, runs: Iterable[RunSummary], key: str, names: Sequence[str]) -> list[str]:
    cells = []
    for name in names:
        found = [(run.eval.get(key) or {}).get("probes") or {} for run in runs]
        raw = next((probes[name] for probes in found if name in probes), None)
        interval = f"{raw['value']:.3f} ({raw['low']:.3f}–{raw['high']:.3f}){_chosen([raw])}" if raw else NONE
        cells.append(interval)
    return [title, *cells]


def _chosen(raws: Sequence[Mapping[str, Any]]) -> str:
    """The layer that the seeds' probes chose, or the layers, in brackets; "" if they weigh all layers."""
    found = sorted({layer for raw in raws if (layer := layer_read(raw)) is not None})
    return f" (layer{'s' * (len(found) > 1)} {', '.join(map(str, found))})" if found else ""


def _arrow(raw: Mapping[str, Any]) -> str:
    return f"({raw['metric']} {'↑' if raw['higher_is_better'] else '↓'})"


def _spread(value: Spread | None, seeds: int, show: Callable[[float], str] = THREE) -> str:
    """Mean ± standard deviation; with fewer seeds than other points have, their number in brackets."""
    if value is None:
        return NONE
    return value.text(show) + (f" ({value.count})" if value.count < seeds else "")
