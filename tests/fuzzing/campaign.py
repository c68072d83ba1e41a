"""`make fuzz`: thousands of inputs for every reader, and what became of them.

Each reader runs in a process of its own, which may crash, hang, or take memory without end: it is then counted, and
another one goes on with the next input. One line for each reader; inputs that were not refused in words are kept.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from fuzzing import Reader
from fuzzing.readers import READERS, reader_class

HANG_SECONDS = 10.0
MEMORY = 6 << 30  # bytes of address space that an input may take, beyond what the process had
# A document may name a server that does not answer, which is waited for: half a minute, unless asked otherwise.
PATIENCE = {"GDIST_STORE_TIMEOUT": "1", "AWS_MAX_ATTEMPTS": "1"}
TESTS = Path(__file__).parents[1]
IMPORTED = (TESTS, *(TESTS / folder for folder in ("pipeline/audio", "pipeline/manifest", "pipeline/storage")))
KEPT = 20  # inputs kept of each reader


@dataclass
class Counts:
    """What became of a reader's inputs.

    Attributes:
        megabytes: what one input took at most.
        found: number of the input → what was not caught.
    """

    inputs: int = 0
    refused: int = 0
    hangs: int = 0
    crashes: int = 0
    megabytes: float = 0.0
    found: dict[int, str] = field(default_factory=dict)

    @property
    def uncaught(self) -> int:
        return len(self.found) - self.hangs - self.crashes

    def add(self, number: int, outcome: str, megabytes: float) -> None:
        """Count one input."""
        self.inputs += 1
        self.megabytes = max(self.megabytes, megabytes)
        self.refused += outcome == "refused"
        self.hangs += outcome == "hang"
        self.crashes += outcome.startswith("crash")
        if outcome not in ("read", "refused"):
            self.found[number] = outcome


def input_of(reader: Reader, name: str, seed: int, number: int) -> bytes:
    """Return one input, which is always the same."""
    return reader.make(Random(f"{name} {seed} {number}"))


def outcome_of(reader: Reader, data: bytes) -> str:
    """Give a reader an input. Returns ``read``, ``refused``, or what was not caught."""
    from gdist.pipeline.errors import GdistError

    try:
        reader.read(data)
    except (GdistError, SystemExit):
        return "refused"
    except BaseException as error:
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        where = f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}" if frame else "?"
        return f"{type(error).__name__} in {where}: {error}"[:300]
    return "read"


def work(name: str, seed: int, first: int, last: int, results: int, folder: str) -> None:
    """Read the inputs of a reader, in the process that was started for it; one line of JSON each."""
    with os.fdopen(results, "w", buffering=1) as out:
        reader = reader_class(name)(Path(folder))
        print("{}", file=out)  # everything is imported and made: from now on an input has its ten seconds
        size = _memory("VmSize")
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
        for number in range(first, last):
            data = input_of(reader, name, seed, number)
            Path("/proc/self/clear_refs").write_text("5")  # the peak is measured from here on
            before = _memory("VmRSS")
            outcome = outcome_of(reader, data)
            print(json.dumps([number, outcome, max(_memory("VmHWM") - before, 0) / 1e6]), file=out)


def _memory(field: str) -> int:
    """Return a number of bytes from what the kernel says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def campaign(name: str, seed: int, inputs: int, patience: float = HANG_SECONDS) -> Counts:
    """Give one reader its inputs, each of which has ``patience`` seconds."""
    counts, first = Counts(), 0
    while first < inputs:
        with tempfile.TemporaryDirectory(prefix="gdist-fuzz-", ignore_cleanup_errors=True) as folder:
            for number, outcome, megabytes in _of_one_process(name, seed, first, inputs, patience, folder):
                counts.add(number, outcome, megabytes)
                first = number + 1
    return counts


def _of_one_process(
    name: str, seed: int, first: int, last: int, patience: float, folder: str
) -> Iterator[tuple[int, str, float]]:
    """Yield what a process says of its inputs, until it ends; and how it ended, where it did not reach the last.

    Args:
        folder: an empty one for the reader, which the process may not live to remove.
    """
    ours, theirs = os.pipe()
    code = f"from fuzzing.campaign import work; work({name!r}, {seed}, {first}, {last}, {theirs}, {folder!r})"
    path = os.pathsep.join(filter(None, [*map(str, IMPORTED), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-c", code], pass_fds=[theirs], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env=os.environ | PATIENCE | {"PYTHONPATH": path},
    )  # fmt: skip
    os.close(theirs)
    heard, waiting = [time.monotonic() + 300], threading.Event()  # until everything is made

    def watch() -> None:
        while not waiting.wait(0.5):
            if time.monotonic() > heard[0]:
                process.kill()

    said: list[bytes] = []
    threads = [threading.Thread(target=watch), threading.Thread(target=lambda: said.extend(process.stderr or ()))]
    for thread in threads:
        thread.start()
    begun, number = False, first - 1
    with os.fdopen(ours) as lines:
        for line in lines:
            heard[0] = time.monotonic() + patience
            if begun:
                number, outcome, megabytes = json.loads(line)
                yield number, outcome, megabytes
            begun = True
    code_of_end = process.wait()
    late = time.monotonic() > heard[0]
    waiting.set()
    for thread in threads:
        thread.join()
    if not begun:
        raise RuntimeError(f"{name} could not begin:\n{b''.join(said).decode()}")
    if number + 1 < last:
        how = signal.Signals(-code_of_end).name if code_of_end < 0 else f"exit {code_of_end}"
        yield (
            number + 1,
            "hang" if late else f"crash: {how} {b''.join(said[-2:]).decode(errors='replace')[:200]}",
            0.0,
        )


def line_of(name: str, counts: Counts) -> str:
    """Return a line of the table."""
    return (
        f"{name:24} {counts.inputs:7,} inputs  {counts.refused:7,} refused  {counts.uncaught:5,} uncaught  "
        f"{counts.crashes:3} crashes  {counts.hangs:3} hangs  {counts.megabytes:6,.0f} MB at most"
    )


def main(settings: dict[str, str]) -> int:
    """Run the campaign that the environment describes. Returns the exit code."""
    names = settings.get("READER", "").split() or list(READERS)
    seed, inputs = int(settings.get("SEED") or 0), int(settings.get("INPUTS") or 10_000)
    kept, bad = settings.get("KEPT", ""), 0
    for name in names:
        counts = campaign(name, seed, inputs)
        print(line_of(name, counts), flush=True)
        _show(counts.found)
        bad += len(counts.found)
        if counts.found:
            kept = kept or tempfile.mkdtemp(prefix="gdist-found-")
            _keep(Path(kept) / name, name, seed, counts.found)
    print(f"{bad} inputs were not refused in words; they are in {kept}" if bad else "every input was read or refused")
    return 1 if bad else 0


def _show(found: dict[int, str]) -> None:
    """Print each kind of what was not caught, with the number of an input that shows it."""
    kinds: dict[str, list[int]] = {}
    for number, outcome in found.items():
        kinds.setdefault(outcome.partition(": ")[0] if ": " in outcome else outcome, []).append(number)
    for numbers in sorted(kinds.values(), key=len, reverse=True):
        print(f"    {len(numbers):6,} × {found[numbers[0]]}  (INPUT={numbers[0]})")


def _keep(folder: Path, name: str, seed: int, found: dict[int, Any]) -> None:
    """Write the first inputs of every kind to files, which become tests when they are put into found/."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gdist-fuzz-") as own:
        reader = reader_class(name)(Path(own))
        kinds: dict[str, int] = {}
        for number, outcome in found.items():
            kind = outcome.partition(": ")[0]
            kinds[kind] = kinds.get(kind, 0) + 1
            if kinds[kind] <= 2 and len(kinds) <= KEPT:
                (folder / f"{seed}-{number}").write_bytes(input_of(reader, name, seed, number))


if __name__ == "__main__":
    if "INPUT" in os.environ:  # one input, in this process, with its traceback
        chosen = os.environ["READER"]
        own_reader = reader_class(chosen)(Path(tempfile.mkdtemp()))
        given = input_of(own_reader, chosen, int(os.environ.get("SEED") or 0), int(os.environ["INPUT"]))
        print(repr(given[:2000]))
        own_reader.read(given)
    else:
        sys.exit(main(dict(os.environ)))
