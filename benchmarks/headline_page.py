"""The page docs/results.md: what `benchmarks/headline.py` found, as tables.

The notes between its marks are written by hand, and are kept.
"""

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gdist.pipeline.run import EVALUATIONS, Run
from gdist.stages.evaluate.layers import answered_alike, layer_read, whose_layer_0

NOT_RUN = "–"  # a probe that was not run for a row
NOTES = re.compile(r"<!-- notes -->.*<!-- /notes -->", re.DOTALL)


@dataclass(frozen=True)
class Row:
    """A student of the experiment.

    Attributes:
        recipe, settings: how it is trained.
        cache: the name of the cache that it learns from; "" is the one that every student is judged by.
        probes: as of ``gdist eval``.
    """

    recipe: str
    settings: Sequence[str] = ()
    cache: str = ""
    probes: str = "all"


@dataclass(frozen=True)
class Evaluated:
    """One evaluated run of a row."""

    row: str
    seed: int
    eval: dict[str, Any]
    cost: dict[str, float]

    @classmethod
    def read(cls, row: str, seed: int, folder: Path, split: str = "test") -> "Evaluated | None":
        """The run in ``folder``, or None if it has not been evaluated on this split."""
        evaluation, cost = folder / EVALUATIONS[split], folder / "cost.json"
        if not evaluation.exists():
            return None
        found = json.loads(evaluation.read_text())
        found["layer_0"] = whose_layer_0(found, Run.open(folder).tables())
        return cls(row, seed, found, json.loads(cost.read_text()) if cost.exists() else {})


def page(
    found: Sequence[Evaluated],
    rows: Mapping[str, Row],
    pairs: Sequence[tuple[str, str]],
    out: Path,
) -> str:
    """The text of the whole page, with ``pairs`` of rows compared; notes of an earlier page at ``out`` are kept."""
    if not found:
        raise SystemExit("no run has been evaluated yet")
    kept = NOTES.search(out.read_text(encoding="utf-8")) if out.exists() else None
    first = found[0].eval
    by_row = {row: [one for one in found if one.row == row] for row in rows}
    by_row = {row: members for row, members in by_row.items() if members}
    probes = list(first["probes"])
    alike = {name: answered_alike(name, _evaluations(by_row)) for name in probes}
    not_compared = "".join(f"\n\n`{name}`: {one.note}." for name, one in alike.items() if one)
    commands = "\n".join(
        f"gdist train --cache CACHE{one.cache and '-' + one.cache} --out RUN --recipe {one.recipe}"
        + "".join(f" --set {s}" for s in one.settings)
        + f"    # {row}"
        for row, one in rows.items()
    )
    return f"""# GenDistiller against the baseline

Written by `python benchmarks/headline.py`; only the notes are written by hand.

{kept[0] if kept else "<!-- notes -->" + chr(10) + "<!-- /notes -->"}

## What was run

{_teacher(first)}, run once, and students from its cache:

```
{commands}
```

Each was trained with `train.seed` 0, 1 and 2; where not all three runs were evaluated, a number in brackets says how
many were. {_speech(first)}
docs/probes.md describes the probes.

## Fidelity, size and cost

| student | M parameters, with heads | mean cosine | seconds of one thread |
|---|---|---|---|
{chr(10).join(_size(row, members) for row, members in by_row.items())}

| layer | {" | ".join(str(layer["layer"]) for layer in first["layers"])} |
|---|{"---|" * len(first["layers"])}
{chr(10).join(_layers(row, members) for row, members in by_row.items())}

## Probes

For students, the mean over seeds ± their standard deviation; for teacher and log-mel, the value and its 95 % interval
over test items. A student's own interval is as wide as the teacher's: these test items cannot resolve smaller
differences.

| | {" | ".join(f"{name} {_arrow(first['probes'][name])}" for name in probes)} |
|---|{"---|" * len(probes)}
{_reference("teacher", first["teacher"], probes)}
{chr(10).join(_probes(row, members, probes) for row, members in by_row.items())}
{_reference("log-mel", first["log_mel"], probes)}
| chance | {" | ".join(f"{first['probes'][name]['chance']:.3f}" for name in probes)} |
| test items | {" | ".join(str(first["probes"][name]["test_items"]) for name in probes)} |

Where a probe chose one layer, it is in brackets; "{NOT_RUN}" is a probe that was not run for a row.{not_compared}

The next table shows by how much the first is ahead (+) of the second or behind (−), whichever direction is better:
the difference of the means ± its standard error over seeds. It is **bold** where it is at least twice that. All
students were evaluated on the same test items, whose own scatter is not included. The last column counts the probes
on which the first is clearly ahead and clearly behind (bold), of those that can be compared: where both answered from
the teacher's layer 0, there is no comparison, and the cell says "layer 0".

| this | against | mean cosine | {" | ".join(probes)} | ahead, behind |
|---|---|---|{"---|" * len(probes)}---|
{chr(10).join(_ahead(one, other, by_row, probes) for one, other in pairs if {one, other} <= by_row.keys())}
"""


def _teacher(evaluated: Mapping[str, Any]) -> str:
    teacher, layers = evaluated["teacher"], len(evaluated["layers"])
    return f"The teacher {teacher['name']} ({teacher['params'] / 1e6:.2f} M parameters, {layers} layers)"


def _speech(evaluated: Mapping[str, Any]) -> str:
    minutes = evaluated.get("minutes")
    where = f"{evaluated['utterances']} utterances of the `{evaluated['split']}` split"
    if minutes:
        where += f"\n(`gdist eval --minutes {minutes:g}`: at most so many of each voice in each split)"
    return f"They were evaluated on {where}, in free-running generation."


def _evaluations(by_row: Mapping[str, Sequence[Evaluated]]) -> dict[str, list[dict[str, Any]]]:
    return {row: [one.eval for one in members] for row, members in by_row.items()}


def _chosen(results: Sequence[Mapping[str, Any]]) -> str:
    """The layer that the seeds' probes chose, or the layers, in brackets; "" if they weigh all layers."""
    layers = sorted({layer for result in results if (layer := layer_read(result)) is not None})
    return f" (layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))})" if layers else ""


def _arrow(result: Mapping[str, Any]) -> str:
    return f"({result['metric']} {'↑' if result['higher_is_better'] else '↓'})"


def _spread(values: Sequence[float], digits: int = 3) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    spread = f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean
    return spread if len(values) == 3 else f"{spread} ({len(values)})"


def _size(row: str, members: Sequence[Evaluated]) -> str:
    size = f"{members[0].eval['params'] / 1e6:.2f}, {members[0].eval['params_with_heads'] / 1e6:.2f}"
    spent = [one.cost["seconds"] for one in members if one.cost]
    cosine = _spread([one.eval["mean_cosine"] for one in members])
    return f"| {row} | {size} | {cosine} | {_spread(spent, 0) if spent else '–'} |"


def _layers(row: str, members: Sequence[Evaluated]) -> str:
    columns = zip(*([layer["cosine"] for layer in one.eval["layers"]] for one in members), strict=True)
    return f"| {row} | " + " | ".join(f"{statistics.mean(column):.3f}" for column in columns) + " |"


def _probes(row: str, members: Sequence[Evaluated], probes: Sequence[str]) -> str:
    found = [[member.eval["probes"][name] for member in members if name in member.eval["probes"]] for name in probes]
    cells = [
        _spread([one["value"] for one in results]) + _chosen(results) if results else NOT_RUN for results in found
    ]
    return f"| {row} | {' | '.join(cells)} |"


def _ahead(one: str, other: str, by_row: Mapping[str, Sequence[Evaluated]], probes: Sequence[str]) -> str:
    def cell(values: Sequence[Sequence[float]], sign: int) -> tuple[str, int]:
        """The difference, and 1 if it is clear and for the better, −1 if it is clear and for the worse, else 0."""
        difference = sign * (statistics.mean(values[0]) - statistics.mean(values[1]))
        if min(map(len, values)) < 2:
            return f"{difference:+.3f}".replace("-", "−"), 0
        error = sum(statistics.variance(column) / len(column) for column in values) ** 0.5
        text = f"{difference:+.3f} ± {error:.3f}".replace("-", "−")
        is_clear = abs(difference) >= 2 * error > 0
        return (f"**{text}**", 1 if difference > 0 else -1) if is_clear else (text, 0)

    both = [by_row[one], by_row[other]]
    cells = [cell([[m.eval["mean_cosine"] for m in members] for members in both], 1)[0]]
    won = []
    pair = _evaluations({one: by_row[one], other: by_row[other]})
    for name in probes:
        if not all(name in member.eval["probes"] for members in both for member in members):
            cells.append(NOT_RUN)
            continue
        if len(answered_alike(name, pair).students) == 2:
            cells.append("layer 0")
            continue
        sign = 1 if both[0][0].eval["probes"][name]["higher_is_better"] else -1
        text, win = cell([[m.eval["probes"][name]["value"] for m in members] for members in both], sign)
        cells.append(text)
        won.append(win)
    return f"| {one} | {other} | {' | '.join(cells)} | {won.count(1)}, {won.count(-1)} of {len(won)} |"


def _reference(name: str, evaluated: Mapping[str, Any], probes: Sequence[str]) -> str:
    results = [evaluated["probes"][probe] for probe in probes]
    cells = [f"{r['value']:.3f} ({r['low']:.3f}–{r['high']:.3f}){_chosen([r])}" for r in results]
    return f"| {name} | {' | '.join(cells)} |"
