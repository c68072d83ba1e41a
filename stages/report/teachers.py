"""Fidelity to each teacher of students that have several, beside those of students of one of these teachers alone."""

from collections.abc import Mapping, Sequence

from gdist.stages.report.runs import Configuration, RunSummary
from gdist.stages.report.tables import Cell, Column, Table, TableRow, ranked


def by_teacher(groups: Sequence[Configuration], every: Sequence[Configuration]) -> Table | None:
    """A table with one row per run and one column per teacher; None if no run of ``groups`` has several teachers.

    Args:
        every: those of the whole page: students of a second teacher alone are in another part of it.
    """
    pairs = ranked(every)
    heads: dict[str, str] = {}  # teacher's fingerprint → its name in the first run that has it
    for run, _ in ranked(groups):
        for name, teacher in _several(run).items():
            heads.setdefault(teacher["fingerprint"], name)
    if not heads:
        return None
    rows = []
    for run, group in pairs:
        found = _fidelity(run)
        if not found.keys() & heads.keys():
            continue
        cells = [_cell(found.get(key)) for key in heads]
        of_all = run.eval.get("mean_cosine_of_all")
        rows.append(TableRow(run.name, group.style if group in groups else "rest", (*cells, _cell(of_all))))
    columns = (*(Column(name, "mean cosine") for name in heads.values()), Column("mean", "of its teachers"))
    return Table("Fidelity to each teacher", "run", columns, tuple(rows), (), "teachers")


def _several(run: RunSummary) -> Mapping[str, Mapping[str, str]]:
    """The run's teachers, where its evaluation is of each of them."""
    teachers: Mapping[str, Mapping[str, str]] = run.provenance.get("teachers") or {}
    are_known = all("fingerprint" in teacher for teacher in teachers.values())
    return teachers if are_known and len(run.eval.get("teachers") or {}) == len(teachers) else {}


def _fidelity(run: RunSummary) -> dict[str, float]:
    """Fingerprint of a teacher → the mean cosine to its layers."""
    several = _several(run)
    if several:
        each = zip(several.values(), run.eval["teachers"].values(), strict=True)
        return {teacher["fingerprint"]: float(found["mean_cosine"]) for teacher, found in each}
    own = (run.provenance.get("teacher") or {}).get("fingerprint")
    return {own: run.cosine} if own else {}


def _cell(value: float | None) -> Cell:
    return Cell() if value is None else Cell(f"{value:.3f}", value)
