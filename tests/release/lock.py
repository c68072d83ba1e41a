"""Which packages of requirements.lock a user gets: those of gdist, and those that each extra adds.

The lock is one file for developers, so it has their tools too. Under each package it says which packages asked for it
(`# via`); followed from pyproject.toml's requirements, that tells them apart:

    python tests/release/lock.py                  the part of the lock that gdist itself needs, with its hashes
    python tests/release/lock.py media search     the same with these extras
    python tests/release/lock.py --cpu media      without torch, torchaudio and what they bring for CUDA: those come
                                                  from PyTorch's CPU index, whose files have other hashes
    python tests/release/lock.py --torch          these two, as `torch==VERSION`

Who asked for a package is known by name only. If it was an extra of a package that gdist uses, which only a
developer's tool switches on, it is counted as gdist's all the same: rather one too many than one too few.
"""

import re
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LOCK = ROOT / "requirements.lock"
TORCH = ("torch", "torchaudio")
CUDA = ("cuda-", "nvidia-", "triton")
DEVELOPERS = "dev"  # the extra that is no user's


@dataclass(frozen=True)
class Pinned:
    """A package of the lock: ``text`` is its part of the file, with hashes."""

    name: str
    version: str
    marker: str  # "" where it is installed everywhere
    asked_by: frozenset[str]  # names of packages; gdist itself is "gdist"
    text: str


def read_lock(path: Path = LOCK) -> dict[str, Pinned]:
    """Name → package, in the file's order.

    >>> sorted(read_lock()["markdown-it-py"].asked_by)
    ['mdit-py-plugins', 'myst-parser', 'rich']
    """
    found = {}
    for text in re.split(r"^(?=[a-z0-9])", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        head = re.match(r"([a-z0-9-]+)==([^ ;]+)(?: ; ([^\\]+?))? \\\n", text)
        assert head is not None, f"a line that is no pinned package: {text[:80]!r}"
        name, version, marker = head.groups()
        asked_by = frozenset(re.findall(r"^    #(?: via (?=\S)|   )\s*([a-z0-9-]+)", text, re.MULTILINE))
        found[name] = Pinned(name, version, marker or "", asked_by, text)
    return found


def wanted(extra: str | None = None) -> set[str]:
    """The packages that pyproject.toml names, for gdist itself or for one of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    names = (re.match(r"[A-Za-z0-9._-]+", line) for line in lines)
    return {re.sub(r"[-_.]+", "-", name[0]).lower() for name in names if name}


def extras() -> list[str]:
    """The extras that users choose from."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [extra for extra in project["optional-dependencies"] if extra != DEVELOPERS]


def closure(lock: dict[str, Pinned], names: Iterable[str]) -> set[str]:
    """``names`` and all that they ask for."""
    reached: set[str] = set()
    new = set(names)
    while new:
        reached |= new
        new = {name for name, one in lock.items() if one.asked_by & reached} - reached
    return reached


def brought_by(lock: dict[str, Pinned]) -> dict[str, tuple[str, ...]]:
    """Name of each package that users may get → the extras that bring it; none where gdist itself does.

    Without what is only for Emscripten, where torch does not run.
    """
    always = closure(lock, wanted())
    found: dict[str, tuple[str, ...]] = dict.fromkeys(always, ())
    for extra in extras():
        for name in closure(lock, wanted(extra)) - always:
            found[name] = (*found.get(name, ()), extra)
    return {
        name: found[name]
        for name, one in lock.items()
        if name in found and one.marker != "sys_platform == 'emscripten'"
    }


def part(lock: dict[str, Pinned], chosen: Iterable[str] = (), cpu: bool = False) -> str:
    """The lines of the lock that gdist with the ``chosen`` extras needs, as pip reads them."""
    kept = closure(lock, wanted().union(*(wanted(extra) for extra in chosen)))
    if cpu:
        kept = {name for name in kept if name not in TORCH and not name.startswith(CUDA)}
    return "".join(one.text for name, one in lock.items() if name in kept)


def main(arguments: list[str]) -> None:
    lock = read_lock()
    if arguments == ["--torch"]:
        print(*(f"{name}=={lock[name].version}" for name in TORCH))
        return
    chosen = [argument for argument in arguments if argument != "--cpu"]
    if unknown := set(chosen) - set(extras()):
        raise SystemExit(f"error: gdist has no extra {sorted(unknown)}, but {extras()}")
    print(part(lock, chosen, "--cpu" in arguments), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
