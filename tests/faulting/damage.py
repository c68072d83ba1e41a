"""What is done to files that are there: each object of a cache, a run and a sweep, damaged in every way.

Whoever reads it has to give the right result, or refuse it in words; never another result. A cache is then repaired,
a run trained again, and both have to be as they were.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from conftest import contents

from faulting.phases import PHASES, Made, Place, Results, train_line

DAMAGE: dict[str, Callable[[bytes, Random], bytes | None]] = {
    "a bit": lambda data, random: _flipped(data, random.randrange(max(len(data), 1)), 1 << random.randrange(8)),
    "a byte": lambda data, random: _flipped(data, random.randrange(max(len(data), 1)), random.randrange(1, 256)),
    "cut": lambda data, random: data[: random.randrange(max(len(data), 1))],
    "empty": lambda data, random: b"",
    "zeros": lambda data, random: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "more": lambda data, random: data + random.randbytes(random.choice([1, 100])),
    "gone": lambda data, random: None,
}
Line = Callable[[Made, Path], list[object]]


def _flipped(data: bytes, place: int, mask: int) -> bytes:
    return data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :] if data else b"x"


@dataclass(frozen=True)
class Reading:
    """A command that reads an artefact: what is typed, and what must come out if it ends well."""

    line: Callable[[Made, Path, Path], list[object]]
    results: Callable[[Path], Results]


@dataclass(frozen=True)
class Artefact:
    """Something that lies on a disk for months.

    Attributes:
        put: copies it, undamaged, into an empty folder, and returns where it is.
        readings: the commands that read it.
        mend: the command after which it has to be whole again, if it does not say that it cannot be.
        whole: what it is compared by.
        ignored: names that no command reads.
    """

    put: Callable[[Made, Path], Path]
    readings: Mapping[str, Reading]
    mend: Line
    whole: Callable[[Path], Results]
    ignored: tuple[str, ...] = ()


def _of(phase: str, line: Callable[[Made, Path, Path], list[object]]) -> Reading:
    return Reading(line, lambda out: PHASES[phase].results(Place(out, "")))


def _cache(made: Made, folder: Path) -> Path:
    return Path(shutil.copytree(made.cache, folder / "cache"))


def _run(made: Made, folder: Path) -> Path:
    return Path(shutil.copytree(made.run, folder / "run"))


def _sweep(made: Made, folder: Path) -> Path:
    return Path(shutil.copytree(made.swept, folder / "sweep"))


def _student(run: Path) -> Results:
    """Of a run, what is not only there to go on from: an older checkpoint is not mended."""
    results = PHASES["train"].results(Place(run.parent, ""))
    return {name: value for name, value in results.items() if not name.startswith("checkpoints")}


ARTEFACTS = {
    "cache's files": Artefact(
        _cache,
        {
            "train": _of("train", lambda made, it, out: train_line(made, Place(out, str(it)))),
            "verify": Reading(lambda made, it, out: ["verify", it], lambda out: {"": "damage goes unnoticed"}),
        },
        lambda made, it: ["verify", "--repair", it, "--teacher", made.teacher, "--manifest", made.manifest],
        contents,
    ),
    "run's files": Artefact(
        _run,
        {
            "export": _of("export", lambda made, it, out: ["export", it, "--format", "hf", "--out", out / "export"]),
            "report": _of("report", lambda made, it, out: ["report", it, "--out", out / "report.html"]),
        },
        lambda made, it: train_line(made, Place(it.parent, str(made.cache))),
        _student,
        ignored=("tensorboard",),
    ),
    "sweep's files": Artefact(
        _sweep,
        {"report": _of("report", lambda made, it, out: ["report", it, "--out", out / "report.html"])},
        lambda made, it: ["sweep", made.sweep, "--cache", made.cache, "--out", it],
        lambda it: PHASES["sweep"].results(Place(it.parent, "")),
        ignored=("tensorboard",),
    ),
}


def files_of(it: Path, artefact: Artefact) -> list[str]:
    """Return the names of an artefact's files that commands read."""
    return [name for name in contents(it) if not any(part in artefact.ignored for part in name.split("/"))]


def hurt(it: Path, name: str, kind: str, random: Random) -> bool:
    """Damage one file. Returns whether it is different now."""
    path = it / name
    before = path.read_bytes()
    after = DAMAGE[kind](before, random)
    path.unlink()
    if after is not None:
        path.write_bytes(after)
    return before != after
