"""The report's probes: values with their intervals, and what these allow to be said.

Two values are called different only where their 95 % intervals do not overlap. That is stricter than a test of the
difference would be, and on a few hundred test items strictness is what a reader needs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from markupsafe import Markup

from gdist.stages.report.runs import Configuration, RunSummary, Spread
from gdist.stages.report.story import listed


@dataclass(frozen=True)
class Task:
    """What a probe measures. One that was judged by two metrics (phones here, characters there) is two tasks."""

    name: str
    metric: str
    title: str
    higher_is_better: bool
    chance: float

    def show(self, value: float) -> str:
        """Percentages, but for MTWV, which is none."""
        return f"{value:.3f}" if self.metric == "MTWV" else f"{value:.1%}"

    def merit(self, value: float) -> float:
        """More is better, whatever the metric."""
        return value if self.higher_is_better else -value


@dataclass(frozen=True)
class Result:
    """One system on one task: its mean over seeds, and the 95 % interval over test items (a mean over seeds too).

    Attributes:
        values: each seed's.
        raw: what the first seed's eval.json says beside it.
    """

    value: Spread
    low: float
    high: float
    values: tuple[float, ...]
    raw: Mapping[str, Any]

    def overlaps(self, other: "Result") -> bool:
        """Whether the two cannot be told apart: by test items, or by one standard deviation of their seeds."""
        seeds = abs(self.value.mean - other.value.mean) <= self.value.sd + other.value.sd
        return (self.low <= other.high and other.low <= self.high) or seeds

    @property
    def known(self) -> bool:
        """Whether there is an interval: resampled items may leave nothing to measure."""
        return self.low < self.high


def tasks(runs: Sequence[RunSummary]) -> list[Task]:
    """The tasks that any run was probed on, in the order of their results."""
    found: dict[tuple[str, str], Task] = {}
    for run in runs:
        for name, raw in (run.eval.get("probes") or {}).items():
            task = Task(name, raw["metric"], raw["title"], raw["higher_is_better"], raw["chance"])
            found.setdefault((name, task.metric), task)
    return list(found.values())


def result(task: Task, runs: Sequence[RunSummary]) -> Result | None:
    """What runs of one configuration achieved on a task; None where they were not probed on it."""
    return _combined([raw for run in runs if (raw := _raw(task, run.eval.get("probes")))])


def reference(task: Task, runs: Sequence[RunSummary], key: str) -> Result | None:
    """What the ``teacher`` or ``log_mel`` achieved, as the first run that knows it says."""
    found = (_raw(task, (run.eval.get(key) or {}).get("probes")) for run in runs)
    return _combined([raw for raw in found if raw][:1])


def best(task: Task, results: Sequence[Result]) -> Result:
    return max(results, key=lambda found: task.merit(found.value.mean))


def verdict(task: Task, groups: Sequence[Configuration], runs: Sequence[RunSummary]) -> list[Markup]:
    """Which differences between systems the number of test items can carry."""
    systems = {group.name: found for group in groups if (found := result(task, group.runs))}
    top = best(task, list(systems.values()))
    name = next(key for key, found in systems.items() if found is top)
    others = {key: found for key, found in systems.items() if found is not top}
    said = Markup("The best student is <b>{}</b> ({})").format(name, top.value.text(task.show))
    known: dict[str, Result] = {}
    for key, label in (("teacher", "the teacher"), ("log_mel", "log-mel")):
        other = reference(task, runs, key)
        if other:
            said += f", {label} has {task.show(other.value.mean)}"
            known |= {label: other} if other.known else {}
    sentences = [said + "."]
    if others and top.known:
        sentences.append(_told_apart([key for key, found in others.items() if found.overlaps(top)], len(others)))
    sentences += _against(known, systems, task)
    lost = [key for key, found in systems.items() if _at_chance(task, found)]
    if lost:
        sentences.append(Markup("Not told apart from guessing: {}.").format(listed(lost)))
    return sentences


def _told_apart(tied: Sequence[str], others: int) -> Markup:
    if not tied:
        return Markup("Its interval lies clear of every other student's.")
    if len(tied) == others:
        whom = "the other student" if others == 1 else f"the other {others} students"
        return Markup("It and {} lie within each other's intervals: these test items cannot tell them apart.").format(
            whom
        )
    return Markup("Within each other's intervals with it: {}; the other {} {} worse.").format(
        listed(tied), others - len(tied), "is" if others - len(tied) == 1 else "are"
    )


def _against(references: Mapping[str, Result], systems: Mapping[str, Result], task: Task) -> list[Markup]:
    """Which students can be told from the references."""
    said, near = [], []
    for label, other in references.items():
        clear = [key for key, found in systems.items() if found.known and not found.overlaps(other)]
        above = [key for key in clear if task.merit(systems[key].value.mean) > task.merit(other.value.mean)]
        for names, how in ((above, "better"), ([key for key in clear if key not in above], "worse")):
            if names:
                whom = Markup("Every student is") if len(names) == len(systems) > 1 else _are(names)
                said.append(Markup("{} clearly {} than {}.").format(whom, how, label))
        near += [] if clear else [label]
    if near:
        few = "No student is" if len(systems) > 1 else "The student is not"
        said.append(Markup("{} told apart from {}.").format(few, " or ".join(near)))
    return said


def _are(names: Sequence[str]) -> Markup:
    return Markup("{} {}").format(listed(names), "is" if len(names) == 1 else "are")


def _raw(task: Task, probes: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = (probes or {}).get(task.name)
    return found if found and found["metric"] == task.metric else None


def _combined(raws: Sequence[Mapping[str, Any]]) -> Result | None:
    if not raws:
        return None
    values = tuple(float(raw["value"]) for raw in raws)
    low, high = (fmean(float(raw[bound]) for raw in raws) for bound in ("low", "high"))
    return Result(Spread.over(values), low, high, values, raws[0])


def _at_chance(task: Task, found: Result) -> bool:
    """Whether its interval holds the value of guessing, or lies on its wrong side."""
    bound = found.low if task.higher_is_better else found.high
    return found.known and task.merit(bound) <= task.merit(task.chance)
