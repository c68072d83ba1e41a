"""The papers' ablation on the bundled teacher and speech: history × skip × output layer × ways to spend less.

    python benchmarks/ablation.py --work gdist-ablation --jobs 2 --json ablation.json

Every cell is the recipe `ablation` with a few settings, trained from one cache over several seeds, then judged on
held-out speech. Seeds go outermost, so that a campaign cut short leaves a whole table of fewer seeds. Run the command
again and it goes on: a run that was judged is not run again. The page keeps what is written between its
`<!-- notes -->` marks.

What a run costs is CPU seconds of one core, because the worker processes share a machine.
"""

import argparse
import hashlib
import json
import math
import os
import re
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in the workers

import torch

from gdist.data_manifests import demo_folder
from gdist.pipeline.cache import Cache
from gdist.pipeline.config import differences, to_tables
from gdist.pipeline.layout import Entry
from gdist.pipeline.run import Run, write_atomically
from gdist.stages.evaluate import Bench, evaluate
from gdist.stages.extract import extract
from gdist.stages.extract_plan import ExtractConfig
from gdist.stages.fidelity import mean_cosine
from gdist.stages.train import train
from gdist.stages.train_config import TrainConfig, load_config, recipe_path

RECIPE = "ablation"
HISTORIES, SKIPS, OUTPUTS = ("student", "teacher", "mixed", "all"), ("true", "false"), ("linear", "none")
SAMPLED, FROZEN = "train.layers_per_step=4", "student.frontend=frozen"
COLUMNS = {"full": (), "a": (SAMPLED,), "b": (FROZEN,), "c": (SAMPLED, FROZEN)}
DEFAULT = "student-skip-linear"
FITHUBERT_WEIGHTS = f"loss.layer_weights=[{', '.join(['0.1'] * 11)}, 1.0]"
LAYERS = "student.initialize=layers"
NAME = "student.name={}".format
NOTES = re.compile(r"<!-- notes -->.*?<!-- /notes -->", re.DOTALL)

Record = dict[str, Any]
"""One judged run: see :func:`record`."""
Numbers = list[float]


@dataclass(frozen=True)
class Cell:
    """What is run once a seed.

    Attributes:
        row, column: where its figure stands.
        group: grid, reference or equal.
        settings: what it changes of the recipe.
    """

    row: str
    column: str
    group: str
    settings: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.row}-{self.column}"


def grid() -> list[Cell]:
    cells = []
    for history, skip, output in product(HISTORIES, SKIPS, OUTPUTS):
        row = row_name(history, skip, output)
        settings = (f"student.history={history}", f"student.skip={skip}", f"student.output_layer={output}")
        cells += [Cell(row, column, "grid", (*settings, *spent)) for column, spent in COLUMNS.items()]
    return cells


def row_name(history: str, skip: str, output: str) -> str:
    return f"{history}-{'skip' if skip == 'true' else 'noskip'}-{output}"


def references(config: TrainConfig) -> list[Cell]:
    rows = {
        "distilhubert": (NAME("distilhubert"), LAYERS),
        "fithubert": (NAME("fithubert"), "loss.name=mse", FITHUBERT_WEIGHTS),
        "armhubert": (NAME("armhubert"),),
        "output_init": ("student.output_init=random",),
        "schedule": (f"train.forcing_steps={max(config.train.steps // 2, 1)}",),
        "rollout": ("student.rollout=4",),
        "adapters": ("student.adapter_rank=4",),
    }
    return [
        Cell(row, column, "reference", (*settings, *COLUMNS[column]))
        for row, settings in rows.items()
        for column in ("full", "b")
    ]


REFERENCE_NAMES = {
    "distilhubert": "DistilHuBERT's form: two layers, heads for 4, 8, 12",
    "fithubert": "FitHuBERT's form: as deep as the teacher, thin; squared error",
    "armhubert": "ARMHuBERT's form: FitHuBERT's with shared attention maps; the loss of the others",
    "output_init": "GenDistiller in the paper's plain form: output layer at random",
    "schedule": "GenDistiller, from teacher forcing to self-feeding over the first half of the steps",
    "rollout": "GenDistiller, roll-outs of 4 layers from cached ones, all layers",
    "adapters": "GenDistiller with an adapter of rank 4 a layer",
}


# --- the runs -------------------------------------------------------------------------------------------------------


class Campaign:
    """The cells of all seeds, in order, and their folders.

    Args:
        common: settings of every run, beside the recipe's.
    """

    def __init__(self, work: Path, seeds: int, common: tuple[str, ...], only: str) -> None:
        self.work, self.seeds, self.common, self.only = work, seeds, common, re.compile(only)
        self.base = load_config(RECIPE, None, common)
        self.cells = grid() + references(self.base)

    def jobs(self) -> list[tuple[Cell, int]]:
        """Every run there is to do, seeds outermost; those at equal compute come last in their seed."""
        equal = [Cell(f"equal-{column}", "x", "equal", ()) for column in COLUMNS if column != "full"]
        every = [(cell, seed) for seed in range(self.seeds) for cell in (*self.cells, *equal)]
        return [(cell, seed) for cell, seed in every if self.only.search(f"{cell.name}-s{seed}")]

    def resolved(self, cell: Cell) -> Cell | None:
        """A cell at equal compute with the steps that seed 0's costs allow; None as long as they are not known."""
        if cell.group != "equal":
            return cell
        column = cell.row.removeprefix("equal-")
        steps = self.base.train.steps
        costs = [self.cost(f"{DEFAULT}-{which}", 0) for which in ("full", column)]
        if None in costs:
            return None
        full, spent = costs
        steps = max(round(steps * full["cpu_seconds"] / spent["cpu_seconds"]), 1)
        ends = tuple(f"train.{name}={steps}" for name in ("steps", "validate_every", "checkpoint_every"))
        return Cell(cell.row, cell.column, "equal", (*ends, *COLUMNS[column]))

    def cost(self, name: str, seed: int) -> dict[str, Any] | None:
        path = self.folder(name, seed) / "cost.json"
        return json.loads(path.read_text()) if path.exists() else None

    def folder(self, name: str, seed: int) -> Path:
        return self.work / "runs" / f"{name}-s{seed}"

    def config(self, cell: Cell, seed: int) -> TrainConfig:
        return load_config(RECIPE, None, (*self.common, *cell.settings, f"train.seed={seed}"))

    def is_done(self, cell: Cell, seed: int) -> bool:
        """Whether the run was judged, and by this very config."""
        folder = self.folder(cell.name, seed)
        if not (folder / "eval.json").exists():
            return False
        changed = differences(Run.open(folder).tables(), to_tables(self.config(cell, seed)))
        if changed:
            raise SystemExit(f"{folder} is of another campaign ({'; '.join(changed)}): give another --work")
        return True

    def records(self) -> list[Record]:
        """Every judged run."""
        found = []
        for cell, seed in self.jobs():
            known = self.resolved(cell)
            if known is not None and self.is_done(known, seed):
                found.append(record(known, seed, self.folder(known.name, seed)))
        return found


def record(cell: Cell, seed: int, folder: Path) -> Record:
    judged = json.loads((folder / "eval.json").read_text())
    references = {name: mean_cosine(rows) for name, rows in judged["references"].items()}
    baselines = {
        name: {probe: result["value"] for probe, result in judged[name]["probes"].items()}
        for name in ("teacher", "log_mel")
    }
    return {
        "row": cell.row,
        "column": cell.column,
        "group": cell.group,
        "seed": seed,
        "settings": list(cell.settings),
        "params": judged["params"],
        "cosine": judged["mean_cosine"],
        "cosine_by_layer": [layer["cosine"] for layer in judged["layers"]],
        "probes": {name: result["value"] for name, result in judged["probes"].items()},
        "split": judged["split"],
        "utterances": judged["utterances"],
        "references": references,
        "baselines": baselines,
        **json.loads((folder / "cost.json").read_text()),
    }


class Judges(Bench):
    """A bench whose probes learn from a quarter of the labelled utterances, which spares nearly half of a judgement.
    All of the test split answers."""

    def labelled(self, name: str) -> dict[str, list[Entry]]:
        whole = super().labelled(name)
        return {split: entries if split == "test" else quartered(entries) for split, entries in whole.items()}


def quartered(entries: list[Entry]) -> list[Entry]:
    ranked = sorted(entries, key=lambda entry: hashlib.sha256(entry.id.encode()).digest())
    kept = {entry.id for entry in ranked[: -(-len(entries) // 4)]}
    return [entry for entry in entries if entry.id in kept]


BENCH: list[Bench] = []  # a worker's, made once


def begin_worker(cache_uri: str, work: str) -> None:
    """What all runs of a worker share: the bench with its baselines, and whatever a first training alone pays for."""
    torch.set_num_threads(1)
    config = load_config(RECIPE, None, ("train.steps=2", "train.warmup_steps=0"))
    BENCH.append(Judges(Cache.open(cache_uri), config.data))
    _ = BENCH[0].baselines, BENCH[0].mean_frame_rows
    warm = Path(work) / f"warm-up-{os.getpid()}"
    train(cache_uri, warm, config, show_progress=False)
    shutil.rmtree(warm)


def one_run(cache_uri: str, folder: Path, config: TrainConfig) -> str:
    """Train and judge; what it cost is written first, the judgement last."""
    shutil.rmtree(folder, ignore_errors=True)  # half a run would count half its seconds
    cpu, wall = time.process_time(), time.monotonic()
    train(cache_uri, folder, config, show_progress=False)
    run = Run.open(folder)
    heard = sum(row["audio_seconds"] for row in run.read_metrics() if row["kind"] == "train")
    cost = {
        "steps": config.train.steps,
        "cpu_seconds": time.process_time() - cpu,
        "wall_seconds": time.monotonic() - wall,
        "audio_seconds": heard,
    }
    write_atomically(folder / "cost.json", json.dumps(cost, indent=2))
    judged = evaluate(run, BENCH[0])
    for name in ("checkpoints", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)
    return f"cosine {judged['mean_cosine']:.4f}  {cost['cpu_seconds']:5.1f} CPU s of training"


def campaign(plan: Campaign, cache_uri: str, jobs: int, budget_minutes: float) -> None:
    """Hand out run after run, for so many minutes at most."""
    todo = [job for job in plan.jobs() if (known := plan.resolved(job[0])) is None or not plan.is_done(known, job[1])]
    if not todo or budget_minutes <= 0:
        return
    count, began, done = len(todo), time.monotonic(), 0
    running: dict[Future[str], str] = {}
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), begin_worker, (cache_uri, str(plan.work)))
    try:
        while todo or running:
            if time.monotonic() - began > 60 * budget_minutes and todo:
                print(f"the time is up: {len(todo)} runs are left for another time", flush=True)
                todo = []
            while todo and len(running) < jobs:
                cell, seed = todo.pop(0)
                known = plan.resolved(cell)
                if known is None:
                    print(f"{cell.name}-s{seed}: left out, {DEFAULT} of seed 0 has no costs", flush=True)
                    continue
                folder, config = plan.folder(known.name, seed), plan.config(known, seed)
                running[pool.submit(one_run, cache_uri, folder, config)] = folder.name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name, done = running.pop(future), done + 1
                told = future.result() if future.exception() is None else f"FAILED: {future.exception()!r}"
                left = (time.monotonic() - began) / done * (count - done) / 60
                print(f"{done:3}/{count}  {name:32} {told}  ({left:.0f} minutes left)", flush=True)
    finally:
        pool.shutdown(cancel_futures=True)


# --- the page -------------------------------------------------------------------------------------------------------


class Results:
    """Judged runs by cell: (row, column) → seed → record."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self.cells: dict[tuple[str, str], dict[int, Record]] = {}
        for found in records:
            self.cells.setdefault((found["row"], found["column"]), {})[found["seed"]] = found
        self.seeds = len({found["seed"] for found in records})

    def values(self, row: str, column: str, get: Callable[[Record], float]) -> Numbers:
        return [get(found) for _, found in sorted(self.cells.get((row, column), {}).items())]

    def shown(self, row: str, column: str, get: Callable[[Record], float], digits: int = 3) -> str:
        """mean ± deviation; with fewer seeds than others have, their number in brackets."""
        values = self.values(row, column, get)
        if not values:
            return "–"
        short = f" ({len(values)})" if len(values) < self.seeds else ""
        return spread(values, digits) + short

    def contrast(
        self, pairs: Sequence[tuple[tuple[str, str], tuple[str, str]]], get: Callable[[Record], float]
    ) -> tuple[Numbers, Numbers]:
        """Differences of pairs of cells (first − second): by seed, averaged over pairs; and by pair, over seeds.
        Only what both cells of a pair have counts."""
        by_seed: dict[int, Numbers] = {}
        by_pair: list[float] = []
        for first, second in pairs:
            here, there = self.cells.get(first, {}), self.cells.get(second, {})
            both = sorted(here.keys() & there.keys())
            found = [get(here[seed]) - get(there[seed]) for seed in both]
            for seed, difference in zip(both, found, strict=True):
                by_seed.setdefault(seed, []).append(difference)
            if found:
                by_pair.append(statistics.mean(found))
        return [statistics.mean(values) for _, values in sorted(by_seed.items())], by_pair

    def noise(self, get: Callable[[Record], float], columns: Sequence[str] = tuple(COLUMNS)) -> float:
        """The deviation between seeds, pooled over the grid's cells."""
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


def spread(values: Numbers, digits: int = 3, sign: str = "") -> str:
    mean = f"{statistics.mean(values):{sign}.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def page(plan: Campaign, results: Results, options: argparse.Namespace, notes: str, drawn: str) -> str:
    """The whole of docs/ablation.md."""
    probes = sorted({name for found in results.records for name in found["probes"]})
    first = results.records[0]
    train_ = plan.base.train
    common = "".join(f" --set {setting}" for setting in plan.common)
    heads = ["history", "skip", "output layer", *("full" if name == "full" else f"({name})" for name in COLUMNS)]
    parts = [
        "# The ablation, on the bundled teacher and speech",
        "Written by `python benchmarks/ablation.py`; only the notes are written by hand.",
        notes,
        "## What was run",
        "History × skip × output layer, each in full and in three ways to spend less: "
        "**(a)** 4 of the 12 layers a step, drawn anew for each (`train.layers_per_step=4`): a roll-out of 4 layers "
        "from a random cached one where the student feeds itself, 4 single steps where the teacher does; **(b)** the "
        "front-end is the teacher's and stays so, training starts from cached layer 0 "
        "(`student.frontend=frozen`); **(c)** both. The history `all` is the 2023 paper's form, fed by the teacher.",
        f"Every run takes {train_.steps} steps of {train_.batch_seconds:g} s of audio, {results.seeds} "
        f"seed{'s' * (results.seeds != 1)} a cell, {len(results.records)} runs in all. Figures are the mean over "
        "seeds ± their standard deviation; a number in brackets is how many seeds there are where some are missing. "
        f"Fidelity is the mean cosine over layers 1–12 and all frames of the {first['utterances']} utterances of the "
        f"`{first['split']}` split, in free-running generation. Probes learn from a quarter of the labelled "
        "utterances, so their figures are below the demo's. Cost is the CPU seconds that training took of one core, "
        f"start and a short validation included; {options.jobs} runs at a time, one thread each, on two CPU cores "
        "that others used as well.",
        "Such short runs on a small teacher (192 wide) show which students learn fast, and not where they end.",
        "Any row, by hand:",
        "```\ngdist demo --out gdist-demo          # the cache: gdist-demo/cache\n"
        f"gdist train --cache gdist-demo/cache --out RUN --recipe {RECIPE}{common} \\\n"
        "    --set student.history=teacher --set student.skip=true --set student.output_layer=linear \\\n"
        "    --set train.layers_per_step=4 --set student.frontend=frozen --set train.seed=0\n"
        "gdist eval RUN\n```",
        "The settings are the row, then the column: `layers_per_step=4` is (a), `frontend=frozen` is (b), both are "
        "(c). The recipe:",
        f"```toml\n{recipe_path(RECIPE).read_text().strip()}\n```",
        "## Fidelity: mean cosine",
        grid_table(results, heads, cosine),
        *(
            f"The copy of layer 0 to every layer has {references['copy_h0']:.3f}, the mean frame "
            f"{references['mean_frame']:.3f}."
            for references in [frozen_references(results)]
        ),
        drawn,
    ]
    for name in probes:
        baselines = first["baselines"]
        parts += [
            f"## Probe: {name}, accuracy",
            grid_table(results, heads, probe(name)),
            f"The teacher has {baselines['teacher'][name]:.3f}, log-mel {baselines['log_mel'][name]:.3f}.",
        ]
    parts += [
        "## Cost",
        "CPU seconds a run relative to the default student's in full, and audio seconds trained on a CPU second.",
        grid_table(results, heads, cpu, lambda row, column: cost_cell(results, row, column)),
        "## References",
        "Other students, and GenDistiller with one thing changed (self-fed, skip, output layer), on the same budget.",
        reference_table(results, probes),
        "## At equal compute",
        "The default student; the steps of (a), (b) and (c) multiplied until they cost the CPU seconds of a full "
        "run, by seed 0's measured costs.",
        equal_table(results, probes),
        "## What it says",
        *findings(results, probes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def frozen_references(results: Results) -> dict[str, float]:
    """The trivial references; layer 0 is the teacher's where a front-end is frozen."""
    frozen = [found for found in results.records if FROZEN in found["settings"]] or results.records
    return dict(frozen[0]["references"])


def grid_table(
    results: Results,
    heads: Sequence[str],
    get: Callable[[Record], float],
    cell: Callable[[str, str], str] | None = None,
) -> str:
    """Every row of the grid; the best of each column is bold unless ``cell`` says what stands there."""
    rows = list(product(HISTORIES, SKIPS, OUTPUTS))
    best = {}
    for column in COLUMNS:
        means = {row: results.values(row_name(*row), column, get) for row in rows}
        ranked = sorted((statistics.mean(values), row) for row, values in means.items() if values)
        best[column] = ranked[-1][1] if ranked else None
    lines = []
    for row in rows:
        shown = []
        for column in COLUMNS:
            text = cell(row_name(*row), column) if cell else results.shown(row_name(*row), column, get)
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
    for row, told in names.items():
        known = [found for column in ("full", "b") for found in results.cells.get((row, column), {}).values()]
        if not known:
            continue
        line = [told, f"{known[0]['params'] / 1e6:.2f}"]
        for column in ("full", "b"):
            line += [results.shown(row, column, get) for get in (cosine, *map(probe, probes))]
            line.append(results.shown(row, column, cpu, 1))
        lines.append(line)
    return table(heads, lines)


def equal_table(results: Results, probes: Sequence[str]) -> str:
    lines = []
    for told, row, column in [("full", DEFAULT, "full")] + [
        (f"({column}), more steps", f"equal-{column}", "x") for column in COLUMNS if column != "full"
    ]:
        steps = results.values(row, column, lambda found: found["steps"])
        line = [told, f"{steps[0]:.0f}" if steps else "–", results.shown(row, column, cpu, 1)]
        lines.append(line + [results.shown(row, column, get) for get in (cosine, *map(probe, probes))])
    return table(["", "steps", "CPU s", "mean cosine", *probes], lines)


def contrasts() -> Iterator[tuple[str, list[tuple[tuple[str, str], tuple[str, str]]], int]]:
    """(what is compared, pairs of cells that differ in it alone, which pair is the default student's in full)."""

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
    for skip, told in (("true", "with"), ("false", "without")):
        yield (
            f"… {told} skip",
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
    """The factors one by one, computed."""
    found = []
    noise = results.noise(cosine)
    if not math.isnan(noise):
        usual = results.noise(probe(probes[0])) if probes else math.nan
        told = f"; of the {probes[0]} probe's accuracy {usual:.3f}" if probes else ""
        found.append(
            f"Noise: runs of one cell, which differ in the seed alone, scatter by {noise:.4f} of cosine (standard "
            f"deviation, pooled over the grid){told}. The standard error of a mean of {results.seeds} seeds is "
            f"{noise / math.sqrt(results.seeds):.4f}. It is not the same everywhere: see the cells."
        )
    ranked = sorted(
        (statistics.mean([cosine(r) for r in seeds.values()]), row, column)
        for (row, column), seeds in results.cells.items()
        if next(iter(seeds.values()))["group"] == "grid"
    )
    if ranked:
        best, worst = ranked[-1], ranked[0]
        found.append(
            f"The best cell is {best[1].replace('-', ', ')} in column {best[2]} with {best[0]:.3f}, the worst "
            f"{worst[1].replace('-', ', ')} in column {worst[2]} with {worst[0]:.3f}."
        )
    lines = []
    for told, pairs, default in contrasts():
        by_seed, by_pair = results.contrast(pairs, cosine)
        if not by_pair:
            continue
        up = sum(difference > 0 for difference in by_pair)
        alone, _ = results.contrast([pairs[default]], cosine) if default >= 0 else ([], [])
        line = [told, spread(by_seed, 3, "+"), f"{up} of {len(by_pair)}", spread(alone, 3, "+") if alone else ""]
        for name in probes:
            line.append(spread(results.contrast(pairs, probe(name))[0], 3, "+"))
        ratios = [
            statistics.mean(results.values(*first, cpu)) / statistics.mean(results.values(*second, cpu))
            for first, second in pairs
            if first in results.cells and second in results.cells
        ]
        lines.append([*line, f"{statistics.geometric_mean(ratios):.2f}"])
    heads = ["what is compared", "cosine, mean over pairs", "pairs better", "at the default", *probes, "CPU, ratio"]
    found += [
        "Every factor by itself: the mean difference over all pairs of cells that differ in it alone (± the "
        "deviation of that mean between seeds), in how many pairs it is above zero, and the one pair where all else "
        "is the default: self-fed, skip, output layer, full.",
        table(heads, lines),
    ]
    return found


# --- the figure -----------------------------------------------------------------------------------------------------

COLOURS = {"full": "#2563eb", "a": "#d97706", "b": "#059669", "c": "#db2777"}


def drawing(results: Results) -> str:
    """Cosine over CPU seconds, a dot a cell (means over seeds), rings for the references."""
    width, height, left, top = 640, 380, 70, 40
    points = [
        (statistics.mean(map(cpu, runs.values())), statistics.mean(map(cosine, runs.values())), row, column)
        for (row, column), runs in results.cells.items()
        if column in COLUMNS
    ]
    xs, ys = [math.log10(x) for x, *_ in points], [y for _, y, *_ in points]
    low_x, high_x = min(xs) - 0.05, max(xs) + 0.05
    margin = 0.06 * (max(ys) - min(ys) or 1)
    low_y, high_y = min(ys) - margin, max(ys) + margin

    def place(seconds: float, value: float) -> tuple[float, float]:
        across, up = (math.log10(seconds) - low_x) / (high_x - low_x), (value - low_y) / (high_y - low_y)
        return left + across * width, top + (1 - up) * height

    parts = [
        f'<text x="{left}" y="{top - 16}" class="title">mean cosine on held-out speech against CPU seconds</text>',
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" class="frame"/>',
    ]
    for seconds in (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 60, 80, 120):
        if low_x <= math.log10(seconds) <= high_x:
            x, _ = place(seconds, low_y)
            parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{top + height}" class="grid"/>')
            parts.append(
                f'<text x="{x:.1f}" y="{top + height + 18}" class="tick" text-anchor="middle">{seconds}</text>'
            )
    for step in range(5):
        value = low_y + (high_y - low_y) * (step + 0.5) / 5
        _, y = place(10**low_x, value)
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" class="tick" text-anchor="end">{value:.2f}</text>')
    parts.append(
        f'<text x="{left + width / 2}" y="{top + height + 38}" class="tick" text-anchor="middle">'
        "CPU seconds of training (logarithmic)</text>"
    )
    for seconds, value, row, column in points:
        x, y = place(seconds, value)
        paint = f'fill="none" stroke="{COLOURS[column]}"' if row in REFERENCE_NAMES else f'fill="{COLOURS[column]}"'
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" {paint} opacity=".8"><title>{row}, {column}: '
            f"{value:.3f}, {seconds:.1f} s</title></circle>"
        )
        if row == DEFAULT:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="none" stroke="#333"/>')
    for number, (column, colour) in enumerate(COLOURS.items()):
        x = left + width - 190 + 48 * number
        parts.append(f'<circle cx="{x}" cy="{top - 20}" r="4" fill="{colour}"/>')
        told = column if column == "full" else f"({column})"
        parts.append(f'<text x="{x + 8}" y="{top - 16}" class="tick">{told}</text>')
    style = (
        "text{font:13px system-ui,sans-serif;fill:#333}.title{font-weight:600}.tick{fill:#666;font-size:12px}"
        ".frame{fill:none;stroke:#999}.grid{stroke:#ddd}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 20} {top + height + 50}" role="img">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("gdist-ablation"), help="for the cache and the runs")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a process and a thread each")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--only", default="", metavar="REGEX", help="runs whose name has it: student-skip-linear-a-s0"
    )
    parser.add_argument("--set", action="append", default=[], metavar="table.field=value", help="for every run")
    parser.add_argument("--budget-minutes", type=float, default=math.inf, help="begin no run after; 0: the page only")
    parser.add_argument("--out", type=Path, default=Path("docs/ablation.md"), help="the page; beside it, a figure")
    parser.add_argument("--json", type=Path, help="where to keep every run's figures")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    plan = Campaign(options.work, options.seeds, tuple(options.set), options.only)
    cache_uri = str(options.work / "cache")
    if options.budget_minutes > 0:
        torch.set_num_threads(options.jobs)
        speech = demo_folder()
        extract(
            ExtractConfig(str(speech / "teacher-nano"), str(speech / "demo.parquet"), cache_uri), show_progress=False
        )
    try:
        campaign(plan, cache_uri, options.jobs, options.budget_minutes)
    except KeyboardInterrupt:
        print("stopped: the same command goes on from here", flush=True)

    records = plan.records()
    if not records:
        raise SystemExit("no run is finished: there is nothing to write")
    results = Results(records)
    if options.json:
        options.json.write_text(json.dumps(records, indent=2) + "\n")
    kept = NOTES.search(options.out.read_text()) if options.out.exists() else None
    notes = kept.group() if kept else "<!-- notes -->\n<!-- /notes -->"
    told = ""
    if any(column in COLUMNS for _, column in results.cells):  # `--only` may have left out all that is drawn
        figure = options.out.with_suffix(".svg")
        figure.write_text(drawing(results))
        caption = "A dot a cell, a ring a reference, the default student circled."
        told = f"![Cosine against CPU seconds]({figure.name})\n\n{caption}"
    options.out.write_text(page(plan, results, options, notes, told))
    print(f"{options.out}: {len(records)} of {len(plan.jobs())} runs", flush=True)


if __name__ == "__main__":
    main()
