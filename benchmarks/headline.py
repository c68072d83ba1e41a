"""The headline experiment: GenDistiller against the DistilHuBERT-style baseline, from one cache, on one budget.

    python benchmarks/headline.py --cache CACHE --work DIR          → docs/results.md

Trains every row of ``ROWS`` once a seed, judges each run by fidelity and every probe, and writes the page.
Interrupted? The same command goes on. ``--page`` writes the page from what is there. The cache may be the demo's
(``gdist demo``); the page tells how much speech it was.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from headline_page import Judged, page

FROZEN = "student.frontend=frozen"
ROWS: dict[str, tuple[str, list[str]]] = {
    "GenDistiller": ("headline-gendistiller", []),
    "baseline": ("headline-distilhubert", []),
    "baseline, as long": ("headline-distilhubert", ["train.steps=800"]),
    "GenDistiller, frozen front-end": ("headline-gendistiller", [FROZEN]),
    "GenDistiller, frozen front-end, skip and output layer": (
        "headline-gendistiller",
        [FROZEN, "student.skip=true", "student.output_layer=linear"],
    ),
    "baseline, frozen front-end": ("headline-distilhubert", [FROZEN]),
    "baseline, frozen front-end, as long": ("headline-distilhubert", [FROZEN, "train.steps=1600"]),
}
# A step of GenDistiller costs two of the baseline where the front-end learns, and four where it does not.
PAIRS = [
    ("GenDistiller", "baseline"),
    ("GenDistiller", "baseline, as long"),
    ("GenDistiller, frozen front-end", "baseline, frozen front-end"),
    ("GenDistiller, frozen front-end", "baseline, frozen front-end, as long"),
    ("GenDistiller, frozen front-end, skip and output layer", "baseline, frozen front-end"),
    ("GenDistiller, frozen front-end, skip and output layer", "baseline, frozen front-end, as long"),
]
GDIST = str(Path(sys.executable).with_name("gdist"))
HERE = Path(__file__).resolve().parent


def folder(work: Path, row: str, seed: int) -> Path:
    return work / f"{row.replace(', ', '-').replace(' ', '-').lower()}-{seed}"


def train(cache: str, run: Path, recipe: str, settings: list[str], seed: int) -> None:
    """One run, by the command people type; what it cost is kept beside it."""
    if (run / "cost.json").exists():
        return
    begun = time.monotonic()
    before = os.times()
    sets = [part for setting in [*settings, f"train.seed={seed}"] for part in ("--set", setting)]
    subprocess.run([GDIST, "train", "--cache", cache, "--out", run, "--recipe", recipe, *sets, "--json"], check=True)
    after = os.times()
    # Of a single worker's child this is exact; with several it is an upper bound, and wall time is the figure.
    spent = {"seconds": time.monotonic() - begun, "cpu_seconds": after.children_user - before.children_user}
    (run / "cost.json").write_text(json.dumps(spent))


def judge(runs: list[Path]) -> None:
    """Fidelity and every probe, of several runs in one process: the teacher's and log-mel's are shared."""
    left = [run for run in runs if not (run / "eval.json").exists()]
    if left:
        subprocess.run([GDIST, "eval", *left], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--page", action="store_true", help="write the page only")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "results.md")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    jobs = [(row, seed) for seed in range(options.seeds) for row in ROWS]
    if not options.page:
        with ThreadPoolExecutor(options.workers) as pool:
            done = [
                pool.submit(train, options.cache, folder(options.work, row, seed), *ROWS[row], seed)
                for row, seed in jobs
            ]
            for future in done:
                future.result()
            runs = [folder(options.work, row, seed) for row, seed in jobs]
            for future in [pool.submit(judge, runs[i :: options.workers]) for i in range(options.workers)]:
                future.result()
    found = [Judged.read(row, seed, folder(options.work, row, seed)) for row, seed in jobs]
    options.out.write_text(
        page([one for one in found if one is not None], ROWS, PAIRS, options.out), encoding="utf-8"
    )
    print(options.out)


if __name__ == "__main__":
    main()
