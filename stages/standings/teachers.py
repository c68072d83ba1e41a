"""Whose students runs are. A cosine to one teacher says nothing beside a cosine to another: they are ranked apart."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gdist.pipeline.errors import RunError
from gdist.pipeline.run import Run
from gdist.pipeline.run.schema import About
from gdist.stages.standings.record import Entry, Sweep

UNKNOWN = "unknown"


@dataclass(frozen=True)
class TeacherOf:
    """The teacher of a run, or the first of several: the one that its mean cosine is to.

    Attributes:
        key: equal for students of one teacher.
    """

    key: Hashable
    name: str


def teacher_of(provenance: Mapping[str, Any]) -> TeacherOf:
    """The teacher of the run that recorded this."""
    about = provenance.get("teacher") or {}
    name = str(about.get("name", UNKNOWN))
    return TeacherOf((about.get("fingerprint", name), about.get("num_layers")), name)


def told_apart(teachers: Iterable[TeacherOf]) -> dict[TeacherOf, str]:
    """Teacher → its name, with its place among those of the same name where there are several."""
    distinct = list(dict.fromkeys(teachers))
    names = [teacher.name for teacher in distinct]
    count = Counter(names)
    return {
        teacher: name if count[name] == 1 else f"{name} ({names[:at].count(name) + 1})"
        for at, (teacher, name) in enumerate(zip(distinct, names, strict=True))
    }


def by_teacher(sweep: Sweep) -> list[tuple[str, Sweep]]:
    """A sweep apart for each teacher of its points: name of the teacher → the sweep of its students.

    A point that has not begun is one of those on the same cache; where that is not known, of the first teacher's.
    """
    found = {name: _teacher(entries) for name, entries in sweep.points.items()}
    of_cache = {str(sweep.points[name][0].varied.get("cache")): own for name, own in found.items() if own}
    known = [own for own in found.values() if own]
    names = told_apart(known)
    if len(names) < 2:
        return [(next(iter(names.values()), UNKNOWN), sweep)]
    whose = {
        name: own or of_cache.get(str(sweep.points[name][0].varied.get("cache")), known[0])
        for name, own in found.items()
    }
    return [
        (title, replace(sweep, entries=tuple(e for e in sweep.entries if whose[e.name] == own), wall=()))
        for own, title in names.items()
    ]


def _teacher(entries: Sequence[Entry]) -> TeacherOf | None:
    """The teacher of a point, if one of its runs has begun."""
    return next((teacher_of(about) for entry in entries if (about := _provenance(entry.folder))), None)


def _provenance(folder: Path) -> dict[str, Any]:
    try:
        return Run(folder).provenance(About) if (folder / "run.json").exists() else {}
    except RunError:  # said where the run is read as a whole
        return {}
