"""Whether long work stays flat: memory, open files and threads of an extraction, a training and an evaluation.

    python benchmarks/soak.py OUT [--minutes 60]

Each gets a third of the time, as one command on the bundled speech, with a small teacher and student. The extraction
is stopped at the end of its time, the training too; the evaluation reads as many checkpoints as fit.
Prints the second quarter of each beside the last one (the first is for warming up), and exits with 1 where the last
one is higher by more than the limits below.
"""

import argparse
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa

from gdist.data_manifests import demo_folder
from gdist.pipeline.manifest.table import Manifest

MORE_MEMORY = 0.05, 16 << 20  # the larger of: a share of what it was, bytes
MORE_FILES = 0
MORE_THREADS = 0
GDIST = (sys.executable, "-c", "from gdist.stages.cli import main; main()")
SAMPLES = 400  # of a phase
REPEATS = 400  # of each bundled utterance: 100,000 in all, more than two cores extract in the time


@dataclass(frozen=True)
class Sample:
    """What a command and all processes that it started have at one moment."""

    bytes: int
    files: int
    threads: int


def sample(process: psutil.Process) -> Sample | None:
    """Look at a process and at those it started; None where one of them ended meanwhile."""
    try:
        all_of_it = [process, *process.children(recursive=True)]
        return Sample(
            sum(each.memory_full_info().uss for each in all_of_it),
            sum(each.num_fds() for each in all_of_it),
            sum(each.num_threads() for each in all_of_it),
        )
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return None


def watch(line: list[str], seconds: float, log: Path) -> list[Sample]:
    """Run a command for so many seconds, or to its end, and look at it again and again."""
    found: list[Sample] = []
    with log.open("w") as said:
        running = psutil.Popen([*GDIST, *line], stdout=said, stderr=said)
        until = time.monotonic() + seconds
        while running.poll() is None and time.monotonic() < until:
            time.sleep(max(seconds / SAMPLES, 0.2))
            if running.poll() is None and (now := sample(running)):
                found.append(now)
        if running.poll() is None:
            running.send_signal(signal.SIGTERM)  # Ctrl-C is ignored by what a shell started in the background
        code = running.wait(timeout=300)
    if code not in (0, 130):
        raise SystemExit(f"gdist {line[0]} ended with {code}: {log.read_text()[-2000:]}")
    return found


def quarter(samples: list[Sample], which: int) -> Sample:
    """What is usual in a quarter of the time: the median of the memory, and the most files and threads."""
    size = len(samples) // 4
    some = samples[which * size : (which + 1) * size]
    return Sample(
        int(statistics.median(each.bytes for each in some)),
        max(each.files for each in some),
        max(each.threads for each in some),
    )


def report(name: str, samples: list[Sample], done: str) -> bool:
    """Print one phase. Returns whether it stayed flat."""
    before, after = quarter(samples, 1), quarter(samples, 3)
    flat = (
        after.bytes - before.bytes <= max(MORE_MEMORY[0] * before.bytes, MORE_MEMORY[1])
        and after.files - before.files <= MORE_FILES
        and after.threads - before.threads <= MORE_THREADS
    )
    figures = (
        f"{before.bytes / 1e6:7.1f} → {after.bytes / 1e6:7.1f} MB",
        f"{before.files:3} → {after.files:3} files",
        f"{before.threads:3} → {after.threads:3} threads",
        f"{len(samples)} samples",
        done + " NOT flat" * (not flat),
    )
    print(f"{name:10}", "   ".join(figures), flush=True)
    return flat


def manifest(out: Path, repeats: int) -> Path:
    """The bundled speech, each utterance many times under different ids."""
    demo = Manifest.read(demo_folder() / "demo.parquet")
    rows = demo.table.to_pylist()
    many = (row | {"id": f"{row['id']}-{n}"} for n in range(repeats) for row in rows)
    Manifest(pa.Table.from_pylist(list(many), schema=demo.table.schema), demo.root).write(out)
    return out


def main() -> int:
    """Run all three. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    options = parser.parse_args()
    out, seconds = options.out.resolve(), 60 * options.minutes / 3
    out.mkdir(parents=True)
    flat = []
    extract = ["extract", "--teacher", str(demo_folder() / "teacher-nano"), "--layers", "4,8,12", "--device", "cpu"]
    much = manifest(out / "much.parquet", REPEATS)
    samples = watch([*extract, "--manifest", str(much), "--cache", str(out / "much")], seconds, out / "extract.log")
    done = sum(1 for _ in (out / "much" / "receipts").iterdir())
    flat.append(report("extract", samples, f"{done} packs"))
    shutil.rmtree(out / "much")

    few = manifest(out / "few.parquet", 1)
    subprocess.run(
        [*GDIST, *extract, "--manifest", str(few), "--cache", str(out / "cache")],
        check=True,
        capture_output=True,
    )
    settings: dict[str, object] = {
        "train.steps": 10**7, "train.schedule": "constant", "train.batch_seconds": 8, "train.log_every": 5,
        "train.checkpoint_every": 20, "train.validate_every": 100, "train.validate_seconds": 20,
        "train.keep_every": 100, "student.predict_layers": "4,8,12",
    }  # fmt: skip
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    run = out / "run"
    samples = watch(["train", "--cache", str(out / "cache"), "--out", str(run), *flags], seconds, out / "train.log")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    flat.append(report("train", samples, f"{rows[-1]['step']} steps"))

    steps = sorted(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").iterdir())
    names = [f"{run}@{step}" for step in steps] * 1000
    samples = watch(["eval", *names[:2000], "--probes", "sid,ks"], seconds, out / "eval.log")
    counts = [int(done) for done in re.findall(r"eval: (\d+)/", (out / "eval.log").read_text())]
    flat.append(report("eval", samples, f"{max(counts, default=0)} evaluations"))
    return 0 if all(flat) else 1


if __name__ == "__main__":
    sys.exit(main())
