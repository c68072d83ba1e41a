"""The papers' ablation on the bundled teacher and speech: history × skip × output layer × ways to spend less.

    python benchmarks/ablation.py --work gdist-ablation --jobs 2 --json ablation.json

Every cell is the recipe `ablation` with a few settings, trained from one cache over several seeds, then evaluated on
held-out speech. The outermost loop is over seeds, so a campaign that is cut short leaves a whole table of fewer
seeds. Run the command again to continue: runs that have been evaluated are not repeated. The page keeps the text
between its `<!-- notes -->` marks.

A run's cost is measured in CPU seconds of one core, because the worker processes share a machine.
"""

import argparse
import hashlib
import json
import math
import os
import re
import shutil
import signal
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in the workers

import torch
from ablation_cells import COLUMNS, DEFAULT, RECIPE, Cell, grid, references
from ablation_figure import drawing
from ablation_page import Record, Results, page

from gdist.data_manifests import demo_folder
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.config import differences, to_tables
from gdist.pipeline.files import write_atomically
from gdist.pipeline.loading.splits import DataConfig
from gdist.pipeline.run import Run
from gdist.stages.evaluate.bench import Bench
from gdist.stages.evaluate.evaluate import evaluate
from gdist.stages.evaluate.fidelity import mean_cosine
from gdist.stages.evaluate.layers import from_teachers_layer_0, whose_layer_0
from gdist.stages.evaluate.probes import probes_named
from gdist.stages.evaluate.probes.base import Example
from gdist.stages.extract.extract import extract
from gdist.stages.extract.plan import ExtractConfig
from gdist.stages.train.config import TrainConfig, load_config
from gdist.stages.train.train import train

NOTES = re.compile(r"<!-- notes -->.*?<!-- /notes -->", re.DOTALL)


class Campaign:
    """The cells of all seeds, in order, and their folders.

    Args:
        work: the folder of the cache and the runs.
        seeds: how many runs each cell has.
        common: settings of every run, in addition to the recipe's.
        only: a regular expression; only runs whose name matches are done.
    """

    def __init__(self, work: Path, seeds: int, common: tuple[str, ...], only: str) -> None:
        self.work, self.seeds, self.common, self.only = work, seeds, common, re.compile(only)
        self.base = load_config(RECIPE, None, common)
        self.cells = grid() + references(self.base)

    def jobs(self) -> list[tuple[Cell, int]]:
        """Every run to do, with seeds as the outermost loop; within a seed, runs at equal compute come last."""
        equal = [Cell(f"equal-{column}", "x", "equal", ()) for column in COLUMNS if column != "full"]
        every = [(cell, seed) for seed in range(self.seeds) for cell in (*self.cells, *equal)]
        return [(cell, seed) for cell, seed in every if self.only.search(f"{cell.name}-s{seed}")]

    def resolved(self, cell: Cell) -> Cell | None:
        """The cell; at equal compute, with as many steps as seed 0's costs allow, or None until these are known."""
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
        """Whether the run has been evaluated, and was trained with exactly this config."""
        folder = self.folder(cell.name, seed)
        if not (folder / "eval.json").exists():
            return False
        changed = differences(Run.open(folder).tables(), to_tables(self.config(cell, seed)))
        if changed:
            raise SystemExit(f"{folder} belongs to another campaign ({'; '.join(changed)}): use another --work")
        return True

    def records(self) -> list[Record]:
        """Every evaluated run."""
        found = []
        for cell, seed in self.jobs():
            known = self.resolved(cell)
            if known is not None and self.is_done(known, seed):
                found.append(record(known, seed, self.folder(known.name, seed)))
        return found


def record(cell: Cell, seed: int, folder: Path) -> Record:
    evaluated = json.loads((folder / "eval.json").read_text())
    evaluated["layer_0"] = whose_layer_0(evaluated, Run.open(folder).tables())
    references = {name: mean_cosine(rows) for name, rows in evaluated["references"].items()}
    baselines = {
        name: {probe: result["value"] for probe, result in evaluated[name]["probes"].items()}
        for name in ("teacher", "log_mel")
    }
    return {
        "row": cell.row,
        "column": cell.column,
        "group": cell.group,
        "seed": seed,
        "settings": list(cell.settings),
        "params": evaluated["params"],
        "cosine": evaluated["mean_cosine"],
        "cosine_by_layer": [layer["cosine"] for layer in evaluated["layers"]],
        "probes": {name: result["value"] for name, result in evaluated["probes"].items()},
        "from_layer_0": [name for name in evaluated["probes"] if from_teachers_layer_0(evaluated, name)],
        "split": evaluated["split"],
        "utterances": evaluated["utterances"],
        "references": references,
        "baselines": baselines,
        **json.loads((folder / "cost.json").read_text()),
    }


class ShortBench(Bench):
    """A bench with keyword spotting only, learned from a quarter of the labeled utterances.

    That saves most of an evaluation's time. The test split is used whole.
    """

    def __init__(self, cache: Cache, data: DataConfig) -> None:
        super().__init__(cache, data, probes_named("ks"))
        self.tasks = {
            name: {split: found if split == "test" else quartered(found) for split, found in examples.items()}
            for name, examples in self.tasks.items()
        }


def quartered(examples: Sequence[Example]) -> list[Example]:
    ranked = sorted(examples, key=lambda example: hashlib.sha256(example.id.encode()).digest())
    kept = {example.id for example in ranked[: -(-len(examples) // 4)]}
    return [example for example in examples if example.id in kept]


BENCH: list[Bench] = []  # of this worker, made once


def begin_worker(cache_uri: str, work: str) -> None:
    """Prepare what all runs of a worker share: the bench with its baselines, and the one-time costs of training."""
    torch.set_num_threads(1)
    config = load_config(RECIPE, None, ("train.steps=2", "train.warmup_steps=0"))
    BENCH.append(ShortBench(Cache.open(cache_uri), config.data))
    _ = BENCH[0].baselines, BENCH[0].mean_frame_rows
    warm = Path(work) / f"warm-up-{os.getpid()}"
    train(cache_uri, warm, config, show_progress=False)
    shutil.rmtree(warm)


def one_run(cache_uri: str, folder: Path, config: TrainConfig) -> str:
    """Train and evaluate one run; its cost is written first, its evaluation last."""
    shutil.rmtree(folder, ignore_errors=True)  # half a run would count half its seconds
    cpu, wall = time.process_time(), time.monotonic()
    train(cache_uri, folder, config, show_progress=False)
    run = Run.open(folder)
    trained_on = sum(row["audio_seconds"] for row in run.read_metrics() if row["kind"] == "train")
    cost = {
        "steps": config.train.steps,
        "cpu_seconds": time.process_time() - cpu,
        "wall_seconds": time.monotonic() - wall,
        "audio_seconds": trained_on,
    }
    write_atomically(folder / "cost.json", json.dumps(cost, indent=2))
    evaluated = evaluate(run, BENCH[0])
    for name in ("checkpoints", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)
    return f"cosine {evaluated['mean_cosine']:.4f}  {cost['cpu_seconds']:5.1f} CPU s of training"


def campaign(plan: Campaign, cache_uri: str, jobs: int, budget_minutes: float) -> None:
    """Hand out run after run; after ``budget_minutes``, begin no more."""
    todo = [job for job in plan.jobs() if (known := plan.resolved(job[0])) is None or not plan.is_done(known, job[1])]
    if not todo or budget_minutes <= 0:
        return
    count, began, done = len(todo), time.monotonic(), 0
    running: dict[Future[str], str] = {}
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), begin_worker, (cache_uri, str(plan.work)))
    try:
        while todo or running:
            if time.monotonic() - began > 60 * budget_minutes and todo:
                print(f"the time is up: {len(todo)} runs are left; run the command again to do them", flush=True)
                todo = []
            while todo and len(running) < jobs:
                cell, seed = todo.pop(0)
                known = plan.resolved(cell)
                if known is None:
                    print(f"{cell.name}-s{seed}: left out, because {DEFAULT} of seed 0 has no costs yet", flush=True)
                    continue
                folder, config = plan.folder(known.name, seed), plan.config(known, seed)
                running[pool.submit(one_run, cache_uri, folder, config)] = folder.name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name, done = running.pop(future), done + 1
                outcome = future.result() if future.exception() is None else f"FAILED: {future.exception()!r}"
                left = (time.monotonic() - began) / done * (count - done) / 60
                print(f"{done:3}/{count}  {name:32} {outcome}  ({left:.0f} minutes left)", flush=True)
    finally:
        pool.shutdown(cancel_futures=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("gdist-ablation"), help="folder for the cache and the runs")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each with one process and one thread")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--only", default="", metavar="REGEX", help="only runs whose name matches, such as student-skip-linear-a-s0"
    )
    parser.add_argument("--set", action="append", default=[], metavar="table.field=value", help="for every run")
    parser.add_argument(
        "--budget-minutes", type=float, default=math.inf, help="begin no run after this time; 0 writes only the page"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("docs/ablation.md"), help="the page; the figure is written next to it"
    )
    parser.add_argument("--json", type=Path, help="file for every run's figures")
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
        print("stopped: run the same command again to continue from here", flush=True)

    records = plan.records()
    if not records:
        raise SystemExit("no run is finished, so there is nothing to write")
    results = Results(records)
    if options.json:
        options.json.write_text(json.dumps(records, indent=2) + "\n")
    kept = NOTES.search(options.out.read_text()) if options.out.exists() else None
    notes = kept.group() if kept else "<!-- notes -->\n<!-- /notes -->"
    drawn = ""
    if any(column in COLUMNS for _, column in results.cells):  # `--only` may have left out everything that is drawn
        figure = options.out.with_suffix(".svg")
        figure.write_text(drawing(results))
        caption = "Each dot is a cell and each ring a reference; the default student is circled."
        drawn = f"![Cosine against CPU seconds]({figure.name})\n\n{caption}"
    options.out.write_text(page(plan.base, plan.common, results, options.jobs, notes, drawn))
    print(f"{options.out}: {len(records)} of {len(plan.jobs())} runs", flush=True)


if __name__ == "__main__":
    main()
