"""A shared bucket: what of a line's speed training uses, and what is fetched more than once.

    python benchmarks/bucket.py --json bucket.json         # everything, in ten minutes at most; needs nginx
    python benchmarks/bucket.py --steps half eight         # some steps
    python benchmarks/bucket.py --small                    # a dry run of a minute

nginx on this machine serves the caches, behind a proxy that adds 30 ms to each request and gives each connection at
most 60 MB/s (and, for the first pass, 0 and 100 ms). The caches have WavLM Base's shapes: layers 0 to 12 of 768,
packs of 16,384 frames, 12 of them so that everything fits into ten minutes (int8 1.8 GB, fp16 4 GB); what is decided
pack by pack is measured on two layers in 48 packs. Values are random, but compress like activations. Everything is in
the page cache, and server, proxy and gdist share the machine's cores. All figures are ratios within one run:

    first_pass_of_line       bytes used per second, over a plain download of the same objects over as many connections
                             as the pass had at most at a time. A pass also checks and decodes: first_pass_of_local
                             says what it is of a pass on a plain folder, which no line can make faster
    second_pass_of_local     the second pass with --local, over the same pass on a plain folder
    gets_per_shard           GETs of a whole pass, for each shard and each 16 MB of it; `streamed` is without --local
    bytes_fetched_of_cache   bytes of a whole pass, over those of the shards
    requests_to_open         listings and documents until a training knows its utterances
    half_limit_hits          the share of a pass's bytes that comes from a folder which may hold half of the cache
    eight_runs_bytes_of_one  bytes that eight trainings at once with one folder fetch, over those of one alone
    data_wait                the share of its time that `gdist train` waits for data. The student learns at 0.8 of
                             the pace at which the loader reads from this disk; the cores stay free, as beside a GPU
    copy_of_line             `gdist copy` to a folder, over a plain download
"""

import argparse
import itertools
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bucket_steps import copying, passes, trainings
from bucket_steps.content import Content
from bucket_steps.server import Bucket
from bucket_steps.setting import Say, Setting

from gdist.stages.device import keep_freed_memory

STEPS: dict[str, Callable[[Setting, Say], None]] = {
    "passes": passes.run,
    "half": passes.half,
    "wait": trainings.data_wait,
    "eight": trainings.eight,
    "copy": copying.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps", nargs="+", choices=STEPS, default=list(STEPS), metavar="STEP", help=", ".join(STEPS)
    )
    parser.add_argument("--packs", type=int, default=12, help="packs of each cache; four times as many of `many`")
    parser.add_argument("--megabytes", type=float, default=60.0, help="MB per second of each connection")
    parser.add_argument("--batch-seconds", type=float, default=300.0)
    parser.add_argument("--rounds", type=int, default=3, help="of the second pass and the one on a plain folder")
    parser.add_argument("--small", action="store_true", help="two packs, one round: to see that everything runs")
    parser.add_argument("--folder", type=Path, help="where to write 10 GB, on a disk [default: the system's]")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    if options.small:
        options.packs, options.rounds, options.batch_seconds = 2, 1, 60.0
    keep_freed_memory()  # as training does
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # or the server would stay
    found: dict[str, Any] = {}

    def say(what: str, figure: float | str) -> None:
        print(f"  {what:60} {figure if isinstance(figure, str) else format(figure, '.3f')}", flush=True)
        found[what] = figure
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory(dir=options.folder, prefix="gdist-bucket-") as folder:
        place = Path(folder)
        with Bucket(place / "server") as bucket:
            setting = Setting(options, place, bucket, Content(place), itertools.count())
            for step in options.steps:
                began = time.monotonic()
                print(step, flush=True)
                STEPS[step](setting, say)
                print(f"  ({time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
