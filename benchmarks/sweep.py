"""What several students cost that learn from one stream of batches, and a sweep beside distillation online.

    python benchmarks/sweep.py --json sweep.json       # with the demo's teacher, in ten minutes on two cores
    python benchmarks/sweep.py --size base             # WavLM Base's shapes: eight together over their parts

    together   N students of `gdist sweep --together`, over N times one alone: whole trainings, their first step left
               out. What can be won is what is shared: reading, and where the front-end is frozen, nothing is computed
               before the student
    line       the same for eight students that cost nothing, from a bucket behind a slow line (needs nginx): at most
               0.2 of eight alone
    sweep      24 students of 120 steps from a cache, extraction included, over as many whose teacher (Hugging Face's
               WavLM, as s3prl runs it) is online in every step: with equal settings, and with a frozen front-end and
               four layers per step. Steps of both are measured in turns, and scaled to the whole
    apart      eight together, over one reading of each batch and the eight students' steps, each measured apart: at
               most 1.05

All ratios are of one run, by the clock; those of the processors' seconds are beside them, and on a machine that does
other work they are the ones to look at. A cache that fits into memory is read anew for each batch nevertheless.
"""

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from sweep_steps import parts
from sweep_steps.setting import Setting, write

from gdist.pipeline.loading import loader

PARTS = {"together": parts.together, "line": parts.line, "sweep": parts.sweep, "apart": parts.apart}
OF_SIZE = {"tiny": tuple(PARTS), "demo": ("together", "line", "sweep"), "base": ("apart",)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=OF_SIZE, default="demo", help="of the teacher [default: demo]")
    parser.add_argument("--parts", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--steps", type=int, help="measured steps of each training [default: 6, of base 2]")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8], help="students together")
    parser.add_argument("--batch-seconds", type=float, default=4.0)
    parser.add_argument("--minutes", type=float, default=1.0, help="of speech, unless it is the demo's")
    parser.add_argument("--megabytes", type=float, default=0.5, help="per second of each connection of the line")
    parser.add_argument("--folder", type=Path, help="where to write the cache [default: the system's]")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    options.steps = options.steps or (2 if options.size == "base" else 6)
    loader.RESIDENT_BYTES = 0  # so that every batch is read
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # or the server would stay
    found: dict[str, Any] = {"size": options.size, "threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="gdist-sweep-") as folder:
        setting = Setting.of(options, Path(folder))
        for name in options.parts or OF_SIZE[options.size]:
            began = time.monotonic()
            print(name, flush=True)
            PARTS[name](setting, found)
            write(options.json, found)
            print(f"  ({time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
