"""`make faults`: a thousand faults, in an order that SEED repeats, and a table of what became of them."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Lock

from servers import Flaky, running

from faulting.damage import ARTEFACTS, DAMAGE, Artefact, files_of, hurt
from faulting.faults import BUCKET_FAULTS, FAULTS, End, Scene
from faulting.nursery import Nursery
from faulting.phases import PHASES, Phase, Place, make

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
        """Return the counts of right and refused ends, a row for each fault."""
        tables = []
        for names, faults in ((PHASES, FAULTS | BUCKET_FAULTS), (ARTEFACTS, DAMAGE)):
            shown = [name for name in names if any(name == other for other, _, _ in self.ends)]
            rows = [f"{'right + refused':16}" + "".join(f"{name:>15}" for name in shown)]
            for fault in faults:
                cells = [(self.ends[name, fault, "right"], self.ends[name, fault, "refused"]) for name in shown]
                rows.append(f"{fault:16}" + "".join(f"{f'{a} + {b}' if a + b else '':>15}" for a, b in cells))
            tables += ["\n".join(rows)] * bool(shown)
        return "\n\n".join(tables)


@dataclass
class Undisturbed:
    """What a phase leaves, and how long it takes, when nothing happens."""

    results: dict[str, object]
    names: set[str]
    seconds: float


class Worker:
    """What one thread of a campaign has for itself: a nursery, and a way to the server."""

    def __init__(self, nursery: Nursery, store: Flaky) -> None:
        self.nursery, self.store = nursery, store
        patience = {"GDIST_STORE_TIMEOUT": "1", "AWS_MAX_ATTEMPTS": "4"}
        self.environment = store.server.environment(store.port) | patience


class Campaign:
    """Does faults to commands.

    Args:
        folder: an empty one, for everything.
    """

    def __init__(self, folder: Path, worker: Worker, phases: Iterable[str]) -> None:
        self.folder = folder
        self.made = make(folder, worker.nursery, worker.store)
        self.undisturbed = {name: self._undisturbed(name, worker) for name in phases if name in PHASES}
        self.readings: dict[tuple[str, str], Mapping[str, object]] = {}
        self.lock = Lock()

    def _undisturbed(self, name: str, worker: Worker) -> Undisturbed:
        with Disk(self.folder / name.replace(" ", "-")) as disk:
            place = self._prepared(PHASES[name], disk, worker)
            began = time.monotonic()
            code, said = worker.nursery.run(self._line(PHASES[name], place), environment=worker.environment)
            assert code == 0, said
            seconds = time.monotonic() - began
            return Undisturbed(dict(PHASES[name].results(place)), names(place, PHASES[name]), seconds)

    def _line(self, phase: Phase, place: Place) -> list[str]:
        return [str(word) for word in phase.line(self.made, place)]

    def _prepared(self, phase: Phase, disk: Path, worker: Worker) -> Place:
        out, store = disk / "out", worker.store if phase.in_bucket else None
        out.mkdir()
        if store is not None:
            cache = f"{store.uri}/{disk.name if phase.own_cache else 'cache'}"
        else:
            cache = str(out / "cache" if phase.own_cache else self.made.cache)
        place = Place(out, cache, store)
        if phase.prepare:
            phase.prepare(self.made, place)
        (disk / OTHERS).write_text("mine")
        return place

    def fault(self, worker: Worker, number: int, name: str, kind: str, random: Random) -> tuple[str, list[str]]:
        """Do one fault. Returns how the command ended, and what is wrong."""
        phase, usual = PHASES[name], self.undisturbed[name]
        with Disk(self.folder / f"{number}") as disk:
            place = self._prepared(phase, disk, worker)
            line = self._line(phase, place)
            scene = Scene(
                *(worker.nursery, random, line, disk, place.out, usual.seconds, worker.environment, place.store)
            )
            try:
                end = (FAULTS | BUCKET_FAULTS)[kind](scene)
            except TimeoutError as error:
                return "hang", [str(error)]
            found = wrong_with(end)
            if end.code == 0 and not found:
                found = self._differences(phase, usual, place, "silently, ")
            code, said = worker.nursery.run([*line, *phase.again], environment=worker.environment)
            if code != 0:
                found.append(f"lost: the same command then ends with {code}: {said[-500:]}")
            else:
                found += self._differences(phase, usual, place, "lost: ")
                left = names(place, phase) - usual.names
                found += [f"left behind: {', '.join(sorted(left)[:3])}"] * bool(left)
            found += ["somebody else's file is gone"] * ((disk / OTHERS).read_text() != "mine")
            return ("right" if end.code == 0 else "refused" if end.reached else "ended before"), found

    def damage(self, worker: Worker, number: int, name: str, kind: str, random: Random) -> tuple[str, list[str]]:
        """Damage one file of an artefact. Returns how the command that read it ended, and what is wrong."""
        artefact, folder = ARTEFACTS[name], self.folder / f"{number}"
        (folder / "out").mkdir(parents=True)
        it = artefact.put(self.made, folder)
        whole = artefact.whole(it)
        file = random.choice(files_of(it, artefact))
        if not hurt(it, file, kind, random):
            return "ended before", []
        reading = random.choice(sorted(artefact.readings))
        end = self._read(worker, artefact, reading, it, folder / "out")
        found = wrong_with(End(*end))
        if end[0] == 0 and not found and str(it / file) not in end[1]:
            other = self._other(worker, artefact, name, reading, folder / "out")
            found = [f"silently, {other}"] * bool(other)
        code, said = worker.nursery.run([str(word) for word in artefact.mend(self.made, it)])
        found += wrong_with(End(code, said))
        # What nothing can make again, such as curves, is said to be lost.
        if code == 0 and str(it / file) not in said and (other := difference(whole, lambda: artefact.whole(it))):
            found.append(f"mended, {other}")
        shutil.rmtree(folder)
        return "right" if end[0] == 0 else "refused", [f"{file}, {reading}: {what}" for what in found]

    def _read(self, worker: Worker, artefact: Artefact, reading: str, it: Path, out: Path) -> tuple[int, str]:
        line = artefact.readings[reading].line(self.made, it, out)
        return worker.nursery.run([str(word) for word in line])

    def _other(self, worker: Worker, artefact: Artefact, name: str, reading: str, out: Path) -> str:
        """What is different in a result, compared with that of the undamaged artefact; empty if nothing is."""
        with self.lock:
            if (name, reading) not in self.readings:
                folder = self.folder / re.sub(r"\W+", "-", f"whole {name} {reading}")  # which pages need not quote
                (folder / out.name).mkdir(parents=True)
                it = artefact.put(self.made, folder)
                code, said = self._read(worker, artefact, reading, it, folder / out.name)
                assert code == 0, said
                self.readings[name, reading] = dict(artefact.readings[reading].results(folder / out.name))
        return difference(self.readings[name, reading], lambda: artefact.readings[reading].results(out))

    @staticmethod
    def _differences(phase: Phase, usual: Undisturbed, place: Place, how: str) -> list[str]:
        other = difference(usual.results, lambda: phase.results(place), phase.loose)
        return [f"{how}{other}"] * bool(other)


def difference(expected: Mapping[str, object], read: Callable[[], Mapping[str, object]], loose: str = "$^") -> str:
    """What is different in some results; empty if nothing is. Those named like ``loose`` may be in one only."""
    try:
        results = dict(read())
    except (OSError, ValueError, KeyError) as error:
        return f"there is no result: {error}"
    either = {key for key in expected.keys() ^ results.keys() if re.fullmatch(loose, key)}
    other = [key for key in (expected.keys() | results.keys()) - either if expected.get(key) != results.get(key)]
    return f"other results: {', '.join(map(str, other[:3]))}" if other else ""


def wrong_with(end: End) -> list[str]:
    """What is wrong with how a command ended: a traceback, or an end without a word."""
    if "Traceback" in end.said:
        return [f"a traceback: {end.said[-1500:]}"]
    ended = end.code in (0, -9, -15)  # -15: it was asked to stop before it began or after its end
    if end.code < 0 and not ended:
        return [f"a crash, {signal.Signals(-end.code).name}: {end.said[-3000:]}"]
    spoken = ended or any(word in end.said for word in ("error: ", "interrupted", "NOT ok", "Usage: "))
    return [] if spoken else [f"it ended with {end.code} without a word: {end.said[-300:]}"]


def names(place: Place, phase: Phase) -> set[str]:
    """The names of everything below the folder of a command, except what may differ."""
    found = (path.relative_to(place.out).as_posix() for path in place.out.rglob("*"))
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
        for _try in range(100):
            if subprocess.run(["umount", self.folder], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.05)
        else:
            subprocess.run(["umount", "-l", self.folder], check=True)
        self.folder.rmdir()


def run(faults: int, seed: int, seconds: float, phases: list[str], kinds: list[str]) -> Counts:
    """Do so many faults, or as many as there is time for."""
    cells = [(phase, kind) for phase in phases for kind in kinds if kind in _faults_of(phase)]
    order = [cells[number % len(cells)] for number in range(faults)]
    Random(seed).shuffle(order)
    folder, counts, lock = Path(tempfile.mkdtemp(prefix="gdist-faults-")), Counts(), Lock()
    (folder / "moto").mkdir()
    with running("moto", folder / "moto") as server, ExitStack() as stack:
        workers = []
        for number in range(WORKERS):
            worker = Worker(Nursery(folder / f"nursery{number}"), Flaky(server, "faults"))
            stack.callback(worker.nursery.end)
            stack.callback(worker.store.kill)
            workers.append(worker)
        campaign = Campaign(folder, workers[0], phases)
        deadline = time.monotonic() + seconds

        def work(own: int) -> None:
            for number in range(own, len(order), WORKERS):
                if time.monotonic() > deadline:
                    return
                phase, kind = order[number]
                do = campaign.damage if phase in ARTEFACTS else campaign.fault
                end, found = do(workers[own], number, phase, kind, Random(f"{seed} {number}"))
                with lock:
                    counts.ends[phase, kind, end] += 1
                    for what in found:
                        counts.failures.append(f"{number} {phase}, {kind}: {what}")
                        print(counts.failures[-1], flush=True)

        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(work, range(WORKERS)))
    shutil.rmtree(folder)
    return counts


def _faults_of(name: str) -> Mapping[str, object]:
    if name in ARTEFACTS:
        return DAMAGE
    return BUCKET_FAULTS | {"SIGKILL": FAULTS["SIGKILL"]} if PHASES[name].in_bucket else FAULTS


def main() -> int:
    """Run the campaign that the environment describes. Returns the exit code."""
    seed = int(os.environ.get("SEED") or Random().randrange(10**6))
    phases = list(filter(None, os.environ.get("PHASE", "").split(","))) or [*PHASES, *ARTEFACTS]
    kinds = list(filter(None, os.environ.get("FAULT", "").split(","))) or [*FAULTS, *BUCKET_FAULTS, *DAMAGE]
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
