"""The ablation's page: tables of the evaluated runs, what each factor does on its own, and a link to the figure."""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

from ablation_cells import (
    COLUMNS,
    DEFAULT,
    FROZEN,
    HISTORIES,
    OUTPUTS,
    RECIPE,
    REFERENCE_NAMES,
    SKIPS,
    row_name,
)

from gdist.stages.train.config import TrainConfig
from gdist.stages.train.recipes import recipe_path

Record = dict[str, Any]
"""One evaluated run: see ``record`` in ablation.py."""
Numbers = list[float]


class Results:
    """The evaluated runs by cell: (row, column) → seed → record."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self.cells: dict[tuple[str, str], dict[int, Record]] = {}
        for found in records:
            self.cells.setdefault((found["row"], found["column"]), {})[found["seed"]] = found
        self.seeds = len({found["seed"] for found in records})

    def values(self, row: str, column: str, get: Callable[[Record], float]) -> Numbers:
        return [get(found) for _, found in sorted(self.cells.get((row, column), {}).items())]

    def shown(self, row: str, column: str, get: Callable[[Record], float], digits: int = 3) -> str:
        """Mean ± standard deviation; with fewer seeds than other cells have, their number in brackets."""
        values = self.values(row, column, get)
        if not values:
            return "–"
        short = f" ({len(values)})" if len(values) < self.seeds else ""
        return spread(values, digits) + short

    def contrast(
        self,
        pairs: Sequence[tuple[tuple[str, str], tuple[str, str]]],
        get: Callable[[Record], float],
        alike: Callable[[Record], bool] = lambda found: False,
    ) -> tuple[Numbers, Numbers]:
        """Differences of pairs of cells (first − second): by seed, averaged over pairs; and by pair, over seeds.

        Only seeds that both cells of a pair have are counted, and only where not both are ``alike``.
        """
        by_seed: dict[int, Numbers] = {}
        by_pair: list[float] = []
        for first, second in pairs:
            here, there = self.cells.get(first, {}), self.cells.get(second, {})
            both = sorted(
                seed for seed in here.keys() & there.keys() if not (alike(here[seed]) and alike(there[seed]))
            )
            found = [get(here[seed]) - get(there[seed]) for seed in both]
            for seed, difference in zip(both, found, strict=True):
                by_seed.setdefault(seed, []).append(difference)
            if found:
                by_pair.append(statistics.mean(found))
        return [statistics.mean(values) for _, values in sorted(by_seed.items())], by_pair

    def noise(self, get: Callable[[Record], float], columns: Sequence[str] = tuple(COLUMNS)) -> float:
        """The standard deviation between seeds, pooled over the grid's cells."""
        variances = [
            statistics.variance([get(found) for found in seeds.values()])
            for (_, column), seeds in self.cells.items()
            if len(seeds) > 1 and column in columns and next(iter(seeds.values()))["group"] == "grid"
        ]
        return math.sqrt(statistics.mean(variances)) if variances else math.nan


def cosine(found: Record) -> float:
    return float(found["cosine"])


def cpu(found: Record) -> float:
    return float(found["cpu_seconds"])


def speed(found: Record) -> float:
    return float(found["audio_seconds"] / found["cpu_seconds"])


def probe(name: str) -> Callable[[Record], float]:
    return lambda found: float(found["probes"][name])


def from_layer_0(name: str) -> Callable[[Record], bool]:
    """Whether a run answered a probe from the teacher's layer 0, as others did: between those is no comparison."""
    return lambda found: name in found.get("from_layer_0", ())


def spread(values: Numbers, digits: int = 3, sign: str = "") -> str:
    mean = f"{statistics.mean(values):{sign}.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def page(base: TrainConfig, settings: Sequence[str], results: Results, jobs: int, notes: str, drawn: str) -> str:
    """The text of docs/ablation.md.

    Args:
        base: the recipe's config.
        settings: of every run, in addition to the recipe's.
        results: the evaluated runs.
        jobs: how many runs were trained at a time.
        notes: the notes that are written by hand, with their marks.
        drawn: the figure's link and caption, or nothing.
    """
    probes = sorted({name for found in results.records for name in found["probes"]})
    first = results.records[0]
    train_ = base.train
    common = "".join(f" --set {setting}" for setting in settings)
    heads = ["history", "skip", "output layer", *("full" if name == "full" else f"({name})" for name in COLUMNS)]
    parts = [
        "# The ablation, on the bundled teacher and speech",
        "Written by `python benchmarks/ablation.py`; only the notes are written by hand.",
        notes,
        "## What was run",
        "The grid is history × skip × output layer. Each cell is run in full and in three ways to spend less:",
        "- **(a)** Each step computes 4 of the 12 layers, drawn again for every step (`train.layers_per_step=4`): a "
        "roll-out of 4 layers from a random cached one where the student feeds itself, 4 single steps where the "
        "teacher does.\n"
        "- **(b)** The front-end remains the teacher's, and training starts from cached layer 0 "
        "(`student.frontend=frozen`).\n"
        "- **(c)** Both.",
        "The history `all` is the 2023 paper's form, fed by the teacher.",
        f"Every run takes {train_.steps} steps of {train_.batch_seconds:g} s of audio, with {results.seeds} "
        f"seed{'s' * (results.seeds != 1)} per cell, {len(results.records)} runs in total. Figures are the mean over "
        "seeds ± their standard deviation; where some seeds are missing, the number of seeds is in brackets. "
        f"Fidelity is the mean cosine over layers 1–12 and all frames of the {first['utterances']} utterances of the "
        f"`{first['split']}` split, in free-running generation. Probes learn from a quarter of the labeled "
        "utterances, so their figures are below the demo's. Cost is the CPU seconds that training took on one core, "
        f"including start-up and a short validation. {jobs} runs were trained at a time, with one thread each, on "
        "two CPU cores that were also used by others.",
        "Such short runs on a small teacher (192 wide) show which students learn fast, but not where they end.",
        "To run any row by hand:",
        "```\ngdist demo --out gdist-demo          # the cache: gdist-demo/cache\n"
        f"gdist train --cache gdist-demo/cache --out RUN --recipe {RECIPE}{common} \\\n"
        "    --set student.history=teacher --set student.skip=true --set student.output_layer=linear \\\n"
        "    --set train.layers_per_step=4 --set student.frontend=frozen --set train.seed=0\n"
        "gdist eval RUN\n```",
        "The settings are first those of the row, then those of the column: `layers_per_step=4` is (a), "
        "`frontend=frozen` is (b), both are (c). The recipe:",
        f"```toml\n{recipe_path(RECIPE).read_text().strip()}\n```",
        "## Fidelity: mean cosine",
        grid_table(results, heads, cosine),
        *(
            f"Copying layer 0 to every layer gives {references['copy_h0']:.3f}, the mean frame gives "
            f"{references['mean_frame']:.3f}."
            for references in [frozen_references(results)]
        ),
        drawn,
    ]
    for name in probes:
        baselines = first["baselines"]
        parts += [
            f"## Probe: {name}, accuracy",
            grid_table(results, heads, probe(name), alike=from_layer_0(name)),
            f"The teacher has {baselines['teacher'][name]:.3f}, and log-mel has {baselines['log_mel'][name]:.3f}.",
        ]
        if count := sum(map(from_layer_0(name), results.records)):
            parts.append(
                f"{count} of {len(results.records)} runs answered from the teacher's layer 0 (in brackets): these "
                "are not a comparison. They are not bold, and are left out of what each factor does."
            )
    parts += [
        "## Cost",
        "CPU seconds per run, relative to the default student's run in full, and in brackets the seconds of audio "
        "trained on per CPU second.",
        grid_table(results, heads, cpu, lambda row, column: cost_cell(results, row, column)),
        "## References",
        "Other students, and GenDistiller with one thing changed (self-fed, skip, output layer), on the same budget.",
        reference_table(results, probes),
        "## At equal compute",
        "The default student, with the steps of (a), (b) and (c) multiplied until they cost as many CPU seconds as a "
        "full run, by seed 0's measured costs.",
        equal_table(results, probes),
        "## What it says",
        *findings(results, probes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def frozen_references(results: Results) -> dict[str, float]:
    """The trivial references of a run with a frozen front-end, whose layer 0 is the teacher's."""
    frozen = [found for found in results.records if FROZEN in found["settings"]] or results.records
    return dict(frozen[0]["references"])


def grid_table(
    results: Results,
    heads: Sequence[str],
    get: Callable[[Record], float],
    cell: Callable[[str, str], str] | None = None,
    alike: Callable[[Record], bool] = lambda found: False,
) -> str:
    """Every row of the grid; the best of each column is bold, unless ``cell`` gives the text of each cell.

    Cells whose runs are all ``alike`` are not compared: they are in brackets, and none is the best.
    """

    def is_alike(row: tuple[str, ...], column: str) -> bool:
        return all(map(alike, results.cells.get((row_name(*row), column), {}).values()))

    rows = list(product(HISTORIES, SKIPS, OUTPUTS))
    best = {}
    for column in COLUMNS:
        means = {row: results.values(row_name(*row), column, get) for row in rows}
        ranked = sorted(
            (statistics.mean(values), row) for row, values in means.items() if values and not is_alike(row, column)
        )
        best[column] = ranked[-1][1] if ranked else None
    lines = []
    for row in rows:
        shown = []
        for column in COLUMNS:
            text = cell(row_name(*row), column) if cell else results.shown(row_name(*row), column, get)
            text = f"({text})" if text != "–" and is_alike(row, column) else text
            shown.append(f"**{text}**" if cell is None and best[column] == row else text)
        lines.append([row[0], "yes" if row[1] == "true" else "no", row[2], *shown])
    return table(heads, lines)


def cost_cell(results: Results, row: str, column: str) -> str:
    spent, unit = results.values(row, column, cpu), results.values(DEFAULT, "full", cpu)
    if not spent:
        return "–"
    relative = f"{statistics.mean(spent) / statistics.mean(unit):.2f}" if unit else "?"
    return f"{relative} ({statistics.mean(results.values(row, column, speed)):.0f}×)"


def reference_table(results: Results, probes: Sequence[str]) -> str:
    heads = ["student", "M parameters"]
    for column in ("full", "(b)"):
        heads += [f"{column}: cosine", *(f"{name}" for name in probes), "CPU s"]
    names = {DEFAULT: "GenDistiller, the default (from the tables above)", **REFERENCE_NAMES}
    lines = []
    for row, title in names.items():
        known = [found for column in ("full", "b") for found in results.cells.get((row, column), {}).values()]
        if not known:
            continue
        line = [title, f"{known[0]['params'] / 1e6:.2f}"]
        for column in ("full", "b"):
            line += [results.shown(row, column, get) for get in (cosine, *map(probe, probes))]
            line.append(results.shown(row, column, cpu, 1))
        lines.append(line)
    return table(heads, lines)


def equal_table(results: Results, probes: Sequence[str]) -> str:
    lines = []
    for title, row, column in [("full", DEFAULT, "full")] + [
        (f"({column}), more steps", f"equal-{column}", "x") for column in COLUMNS if column != "full"
    ]:
        steps = results.values(row, column, lambda found: found["steps"])
        line = [title, f"{steps[0]:.0f}" if steps else "–", results.shown(row, column, cpu, 1)]
        lines.append(line + [results.shown(row, column, get) for get in (cosine, *map(probe, probes))])
    return table(["", "steps", "CPU s", "mean cosine", *probes], lines)


def contrasts() -> Iterator[tuple[str, list[tuple[tuple[str, str], tuple[str, str]]], int]]:
    """Yield what is compared, the pairs of cells that differ only in it, and which pair is the default's in full."""

    def pairs(first: dict[str, str], second: dict[str, str]) -> tuple[Any, int]:
        found, default = [], -1
        axes = {"history": HISTORIES, "skip": SKIPS, "output": OUTPUTS, "column": tuple(COLUMNS)}
        free = [name for name in axes if name not in first]
        usual = {"history": "student", "skip": "true", "output": "linear", "column": "full"}
        for chosen in product(*(axes[name] for name in free)):
            rest = dict(zip(free, chosen, strict=True))
            cells = [
                (row_name(at["history"], at["skip"], at["output"]), at["column"])
                for at in (rest | first, rest | second)
            ]
            if all(usual[name] == value for name, value in rest.items()):
                default = len(found)
            found.append((cells[0], cells[1]))
        return found, default

    yield "skip, against none", *pairs({"skip": "true"}, {"skip": "false"})
    for output in OUTPUTS:
        yield (
            f"… where the output layer is {output}",
            *pairs({"skip": "true", "output": output}, {"skip": "false", "output": output}),
        )
    yield "output layer linear, against none", *pairs({"output": "linear"}, {"output": "none"})
    for skip, word in (("true", "with"), ("false", "without")):
        yield (
            f"… {word} skip",
            *pairs({"skip": skip, "output": "linear"}, {"skip": skip, "output": "none"}),
        )
    for history in HISTORIES[1:]:
        yield f"history {history}, against student", *pairs({"history": history}, {"history": "student"})
    for column in list(COLUMNS)[1:]:
        yield f"({column}), against full", *pairs({"column": column}, {"column": "full"})
        yield (
            f"… of students with skip and output layer, ({column})",
            *pairs(
                {"column": column, "skip": "true", "output": "linear"},
                {"column": "full", "skip": "true", "output": "linear"},
            ),
        )


def findings(results: Results, probes: Sequence[str]) -> list[str]:
    """The noise, the best and the worst cell, and the table of the factors, one by one."""
    found = []
    noise = results.noise(cosine)
    if not math.isnan(noise):
        usual = results.noise(probe(probes[0])) if probes else math.nan
        in_probe = f", and by {usual:.3f} in the {probes[0]} probe's accuracy" if probes else ""
        found.append(
            f"Noise: runs of one cell, which differ only in the seed, scatter by {noise:.4f} in cosine (standard "
            f"deviation, pooled over the grid){in_probe}. The standard error of a mean of {results.seeds} seeds is "
            f"{noise / math.sqrt(results.seeds):.4f} in cosine. The noise is not the same everywhere: see the cells."
        )
    ranked = sorted(
        (statistics.mean([cosine(r) for r in seeds.values()]), row, column)
        for (row, column), seeds in results.cells.items()
        if next(iter(seeds.values()))["group"] == "grid"
    )
    if ranked:
        best, worst = ranked[-1], ranked[0]
        found.append(
            f"The best cell is {best[1].replace('-', ', ')} in column {best[2]} with {best[0]:.3f}; the worst is "
            f"{worst[1].replace('-', ', ')} in column {worst[2]} with {worst[0]:.3f}."
        )
    lines = []
    for title, pairs, default in contrasts():
        by_seed, by_pair = results.contrast(pairs, cosine)
        if not by_pair:
            continue
        up = sum(difference > 0 for difference in by_pair)
        alone, _ = results.contrast([pairs[default]], cosine) if default >= 0 else ([], [])
        line = [title, spread(by_seed, 3, "+"), f"{up} of {len(by_pair)}", spread(alone, 3, "+") if alone else ""]
        for name in probes:
            compared = results.contrast(pairs, probe(name), from_layer_0(name))[0]
            line.append(spread(compared, 3, "+") if compared else "–")
        ratios = [
            statistics.mean(results.values(*first, cpu)) / statistics.mean(results.values(*second, cpu))
            for first, second in pairs
            if first in results.cells and second in results.cells
        ]
        lines.append([*line, f"{statistics.geometric_mean(ratios):.2f}"])
    heads = ["what is compared", "cosine, mean over pairs", "pairs better", "at the default", *probes, "CPU, ratio"]
    found += [
        "Every factor on its own: the mean difference over all pairs of cells that differ only in this factor (± the "
        "deviation of that mean between seeds), the number of pairs in which it is above zero, and the one pair in "
        "which everything else is the default: self-fed, skip, output layer, full.",
        table(heads, lines),
    ]
    return found
