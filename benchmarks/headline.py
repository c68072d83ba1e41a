"""The headline experiment: GenDistiller against the DistilHuBERT-style baseline, from one cache, on one budget.

    python benchmarks/headline.py --cache CACHE [--cache int8=CACHE …] --work DIR --minutes 2    → docs/results.md

It trains every row of ``ROWS`` once per seed, evaluates each run by fidelity and every probe, and writes the page.
If it is interrupted, run the same command again to continue. ``--page`` only writes the page, from the runs that are
there. Rows that learn from another encoding need a cache with its name, ``--cache int8=CACHE``, as ``gdist copy``
makes it; they are left out where there is none. All rows are judged by the first cache.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from headline_page import Evaluated, Row, page

from gdist.pipeline.run import EVALUATIONS

OURS = "GenDistiller"
ROWS = {
    OURS: Row("headline-gendistiller"),
    "baseline": Row("headline-distilhubert"),
    # A step of GenDistiller costs about 2.3 of the baseline's.
    "baseline, as long": Row("headline-distilhubert", ["train.steps=920", "train.validate_every=920"]),
    "FitHuBERT's form": Row("headline-fithubert"),
    "ARMHuBERT's form": Row("headline-armhubert"),
    **{
        f"GenDistiller, {coarser} targets": Row("headline-gendistiller", cache=coarser, probes="ks,qbe,sid,lid")
        for coarser in ("int8", "int4", "rvq")  # without the two probes that take longest
    },
}
PAIRS = [
    *((OURS, other) for other in ROWS if other != OURS and not ROWS[other].cache),
    *((coarser, OURS) for coarser in ROWS if ROWS[coarser].cache),
]
GDIST = str(Path(sys.executable).with_name("gdist"))
HERE = Path(__file__).resolve().parent


DEFAULT = ""  # the name of the first cache


def folder(work: Path, row: str, seed: int) -> Path:
    return work / f"{row.replace(', ', '-').replace(' ', '-').lower()}-{seed}"


def named(caches: Sequence[str]) -> dict[str, str]:
    """Name → URI; the first cache's name is :data:`DEFAULT`."""
    found = {DEFAULT: caches[0].removeprefix("=")}
    for text in caches[1:]:
        name, equals, uri = text.partition("=")
        if not equals or not name.isidentifier():
            raise SystemExit(f"--cache {text}: the second and further caches need a name, as in int8=CACHE")
        found[name] = uri
    return found


def train(cache: str, run: Path, row: Row, seed: int) -> None:
    """Train one run with the command that a user types, and keep its cost in the run's folder."""
    if (run / "cost.json").exists():
        return
    begun = time.monotonic()
    sets = [part for setting in [*row.settings, f"train.seed={seed}"] for part in ("--set", setting)]
    subprocess.run(
        [GDIST, "train", "--cache", cache, "--out", run, "--recipe", row.recipe, *sets, "--json"], check=True
    )
    spent = {"seconds": time.monotonic() - begun}
    (run / "cost.json").write_text(json.dumps(spent))


def evaluate(runs: list[Path], cache: str, split: str, minutes: float, probes: str) -> None:
    """Evaluate several runs in one process, by fidelity and probes: they share the teacher's and log-mel's."""
    left = [run for run in runs if not (run / EVALUATIONS[split]).exists()]
    if left:
        options = ["--cache", cache, "--split", split, "--minutes", str(minutes), "--probes", probes]
        subprocess.run([GDIST, "eval", *left, *options], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", required=True, action="append", metavar="[NAME=]URI")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--split", default="test", choices=list(EVALUATIONS), help="valid, while rows are chosen")
    parser.add_argument("--minutes", type=float, default=0.0, help="as of gdist eval")
    parser.add_argument("--page", action="store_true", help="write the page only")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "results.md")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    caches = named(options.cache)
    rows = {name: row for name, row in ROWS.items() if row.cache in caches}
    jobs = [(name, seed) for seed in range(options.seeds) for name in rows]
    if not options.page:
        with ThreadPoolExecutor(options.workers) as pool:
            done = [
                pool.submit(train, caches[rows[name].cache], folder(options.work, name, seed), rows[name], seed)
                for name, seed in jobs
            ]
            for future in done:
                future.result()
            alike: dict[str, list[Path]] = {}
            for name, seed in jobs:
                alike.setdefault(rows[name].probes, []).append(folder(options.work, name, seed))
            done = [
                pool.submit(
                    evaluate, runs[i :: options.workers], caches[DEFAULT], options.split, options.minutes, probes
                )
                for probes, runs in alike.items()
                for i in range(options.workers)
            ]
            for future in done:
                future.result()
    found = [Evaluated.read(name, seed, folder(options.work, name, seed), options.split) for name, seed in jobs]
    options.out.write_text(
        page([one for one in found if one is not None], rows, PAIRS, options.out), encoding="utf-8"
    )
    print(options.out)


if __name__ == "__main__":
    main()
