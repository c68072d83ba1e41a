"""`make faults`: a thousand faults, in an order that SEED repeats, and a table of what became of them."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Lock

from faulting.faults import FAULTS, End, Scene
from faulting.nursery import Nursery
from faulting.phases import PHASES, Phase, make

DISK = "64m"
OTHERS = "somebody's notes.txt"  # a file that is not gdist's, next to its own
WORKERS = 2  # commands at a time


@dataclass
class Counts:
    """What became of the faults of a campaign.

    Attributes:
        ends: (phase, fault, how it ended) → how often.
        failures: one line each.
    """

    ends: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Return the counts of right and refused ends, a row for each phase."""
        faults = sorted({fault for _, fault, _ in self.ends})
        rows = [f"{'right + refused':16}" + "".join(f"{fault:>16}" for fault in faults)]
        for phase in PHASES:
            cells = [(self.ends[phase, fault, "right"], self.ends[phase, fault, "refused"]) for fault in faults]
            rows.append(f"{phase:16}" + "".join(f"{f'{right} + {refused}':>16}" for right, refused in cells))
        return "\n".join(rows)


@dataclass
class Undisturbed:
    """What a phase leaves, and how long it takes, when nothing happens."""

    results: object
    names: set[str]
    seconds: float


class Campaign:
    """Does faults to commands.

    Args:
        folder: an empty one, for everything.
    """

    def __init__(self, folder: Path, nursery: Nursery) -> None:
        self.folder, self.nursery, self.made = folder, nursery, make(folder, nursery)
        self.undisturbed = {name: self._undisturbed(name, phase) for name, phase in PHASES.items()}

    def _line(self, phase: Phase, out: Path) -> list[str]:
        cache = "" if phase is PHASES["extract"] else str(self.made.cache)
        return [str(word) for word in phase.line(self.made, cache, out)]

    def _undisturbed(self, name: str, phase: Phase) -> Undisturbed:
        with Disk(self.folder / name) as disk:
            out = self._prepared(phase, disk)
            began = time.monotonic()
            code, said = self.nursery.run(self._line(phase, out))
            assert code == 0, said
            return Undisturbed(phase.results(out), names(out, phase), time.monotonic() - began)

    def _prepared(self, phase: Phase, disk: Path) -> Path:
        out = disk / "out"
        out.mkdir()
        if phase.prepare:
            phase.prepare(self.made, out)
        (disk / OTHERS).write_text("mine")
        return out

    def fault(self, nursery: Nursery, number: int, name: str, kind: str, random: Random) -> tuple[str, list[str]]:
        """Do one fault. Returns how the command ended, and what is wrong."""
        phase, usual = PHASES[name], self.undisturbed[name]
        with Disk(self.folder / f"{number}") as disk:
            out = self._prepared(phase, disk)
            scene = Scene(nursery, random, self._line(phase, out), disk, out, usual.seconds)
            try:
                end = FAULTS[kind](scene)
            except TimeoutError as error:
                return "hang", [str(error)]
            found = wrong_with(end)
            if end.code == 0 and not found:
                found = self._differences(phase, usual, out, "silently, ")
            code, said = nursery.run(scene.line)
            if code != 0:
                found.append(f"lost: the same command then ends with {code}: {said[-500:]}")
            else:
                found += self._differences(phase, usual, out, "lost: ")
                left = names(out, phase) - usual.names
                found += [f"left behind: {', '.join(sorted(left)[:3])}"] * bool(left)
            found += ["somebody else's file is gone"] * ((disk / OTHERS).read_text() != "mine")
            return ("right" if end.code == 0 else "refused" if end.reached else "ended before"), found

    @staticmethod
    def _differences(phase: Phase, usual: Undisturbed, out: Path, how: str) -> list[str]:
        try:
            results = dict(phase.results(out))
        except (OSError, ValueError, KeyError) as error:
            return [f"{how}there is no result: {error}"]
        expected = dict(usual.results)  # type: ignore[call-overload]
        other = [key for key in expected.keys() | results.keys() if expected.get(key) != results.get(key)]
        return [f"{how}other results: {', '.join(map(str, other[:3]))}"] * bool(other)


def wrong_with(end: End) -> list[str]:
    """What is wrong with how a command ended: a traceback, or an end without a word."""
    if "Traceback" in end.said:
        return [f"a traceback: {end.said[-1500:]}"]
    ended = end.code in (0, -9, -15)  # -15: it was asked to stop before it began or after its end
    spoken = ended or "error: " in end.said or "interrupted" in end.said or "Usage: " in end.said
    return [] if spoken else [f"it ended with {end.code} without a word: {end.said[-300:]}"]


def names(out: Path, phase: Phase) -> set[str]:
    """The names of everything below a folder, except what may differ."""
    import re

    found = (path.relative_to(out).as_posix() for path in out.rglob("*"))
    return {name for name in found if not re.fullmatch(phase.loose, name)}


class Disk:
    """A disk for one command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Path:
        self.folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", self.folder], check=True)
        return self.folder

    def __exit__(self, *_: object) -> None:
        for _ in range(100):
            if subprocess.run(["umount", self.folder], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.05)
        else:
            subprocess.run(["umount", "-l", self.folder], check=True)
        self.folder.rmdir()


def run(faults: int, seed: int, seconds: float, phases: list[str], kinds: list[str]) -> Counts:
    """Do so many faults, or as many as there is time for."""
    cells = [(phase, kind) for phase in phases for kind in kinds]
    order = [cells[number % len(cells)] for number in range(faults)]
    Random(seed).shuffle(order)
    folder, counts, lock = Path(tempfile.mkdtemp(prefix="gdist-faults-")), Counts(), Lock()
    nurseries = [Nursery(folder / f"nursery{number}") for number in range(WORKERS)]
    campaign = Campaign(folder, nurseries[0])
    deadline = time.monotonic() + seconds

    def work(own: int) -> None:
        for number in range(own, len(order), WORKERS):
            if time.monotonic() > deadline:
                return
            phase, kind = order[number]
            end, found = campaign.fault(nurseries[own], number, phase, kind, Random(f"{seed} {number}"))
            with lock:
                counts.ends[phase, kind, end] += 1
                for what in found:
                    counts.failures.append(f"{number} {phase}, {kind}: {what}")
                    print(counts.failures[-1], flush=True)

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(work, range(WORKERS)))
    for nursery in nurseries:
        nursery.end()
    shutil.rmtree(folder)
    return counts


def main() -> int:
    """Run the campaign that the environment describes. Returns the exit code."""
    seed = int(os.environ.get("SEED") or Random().randrange(10**6))
    phases = os.environ.get("PHASE", "").split() or list(PHASES)
    kinds = list(filter(None, os.environ.get("FAULT", "").split(","))) or list(FAULTS)
    began = time.monotonic()
    print(f"seed {seed}", flush=True)
    counts = run(
        int(os.environ.get("FAULTS") or 1000), seed, 60 * float(os.environ.get("MINUTES") or 20), phases, kinds
    )
    print(counts.table())
    ends = Counter(end for (_, _, end), times in counts.ends.items() for _ in range(times))
    print(
        f"{sum(ends.values())} faults in {time.monotonic() - began:.0f} s: {ends['right']} ended right, "
        f"{ends['refused']} were refused, {ends['ended before']} came too late, {ends['hang']} hung; "
        f"{len(counts.failures)} failures"
    )
    return 1 if counts.failures or not ends else 0


if __name__ == "__main__":
    sys.exit(main())
