"""The report's probes: values with their intervals, and the conclusions that these allow.

Two values are called different only if their 95 % intervals do not overlap. This is stricter than a test of the
difference would be, and with a few hundred test items, readers need that strictness.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from markupsafe import Markup, escape

from gdist.stages.evaluate.layers import NOT_COMPARED, Alike, answered_alike, layer_read, ranges
from gdist.stages.report.runs import Configuration, RunSummary, Spread
from gdist.stages.report.story import listed

LAYER_0 = "the teacher's layer 0"
SHORT = LAYER_0.removeprefix("the ")  # in tables and charts


@dataclass(frozen=True)
class Task:
    """What a probe measures. A probe with two metrics (phones in some runs, characters in others) is two tasks."""

    name: str
    metric: str
    title: str
    higher_is_better: bool
    chance: float

    def show(self, value: float) -> str:
        """Format a value as a percentage, except for MTWV, which is not one."""
        return f"{value:.3f}" if self.metric == "MTWV" else f"{value:.1%}"

    def merit(self, value: float) -> float:
        """The value, with its sign changed if lower is better: higher merit is always better."""
        return value if self.higher_is_better else -value


@dataclass(frozen=True)
class Result:
    """The result of one system on one task, and its 95 % interval over test items, both averaged over seeds.

    Attributes:
        values: the values of the seeds.
        raw: the entry in the eval.json of the first seed.
        layers: the layers that the seeds' probes chose, if each chose one.
        weights: the weight of each layer, averaged over seeds; empty where they are not known, or for log-mel.
    """

    value: Spread
    low: float
    high: float
    values: tuple[float, ...]
    raw: Mapping[str, Any]
    layers: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def source(self) -> str:
        """``layer 3`` or ``layers 0, 3`` if the probe chose; "" if it weighs all layers."""
        return f"layer{'s' * (len(self.layers) > 1)}\N{NO-BREAK SPACE}{ranges(self.layers)}" if self.layers else ""

    def overlaps(self, other: "Result") -> bool:
        """Whether the two cannot be distinguished, by test items or by one standard deviation over seeds."""
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
    """The result of the runs of one configuration on a task; None if they were not probed on it."""
    return _combined([raw for run in runs if (raw := _raw(task, run.eval.get("probes")))])


def reference(task: Task, runs: Sequence[RunSummary], key: str) -> Result | None:
    """The result of the ``teacher`` or ``log_mel`` on a task, from the first run that has it as a finite number."""
    found = (_raw(task, (run.eval.get(key) or {}).get("probes")) for run in runs)
    return _combined([raw for raw in found if raw and math.isfinite(raw["value"])][:1])


def alike(task: Task, groups: Sequence[Configuration]) -> Alike:
    """The systems that answered a task from the teacher's layer 0, so that they cannot be compared."""
    return answered_alike(
        task.name,
        {group.name: [run.eval for run in group.runs if _raw(task, run.eval.get("probes"))] for group in groups},
    )


def of_layer_0(task: Task, groups: Sequence[Configuration]) -> Result | None:
    """The one result of all systems that are :func:`alike`: the teacher's if it is one of them."""
    same = alike(task, groups)
    if not same:
        return None
    runs = [run for group in groups for run in group.runs if group.name in same]
    return reference(task, runs, "teacher") if same.teacher else result(task, runs[:1])


def remarks(tasks: Sequence[Task], groups: Sequence[Configuration]) -> list[Markup]:
    """For the story: on which tasks there is nothing to compare."""
    return [Markup("In {}, {}.").format(task.title, _note(same)) for task in tasks if (same := alike(task, groups))]


def _note(same: Alike, value: str = "") -> Markup:
    who = Markup(same.who)
    if not who:
        who = listed(same.students)
        who += " and the teacher" * same.teacher
    of = "" if same.who else " of these"
    return Markup("{} answered from {}{}: {}{}").format(who, LAYER_0, value and f" ({value})", NOT_COMPARED, of)


def best(task: Task, results: Sequence[Result]) -> Result:
    """The result with the best mean."""
    return max(results, key=lambda found: task.merit(found.value.mean))


def verdict(task: Task, groups: Sequence[Configuration], runs: Sequence[RunSummary]) -> list[Markup]:
    """Which differences between systems the number of test items supports."""
    same, shared = alike(task, groups), of_layer_0(task, groups)
    systems = {
        group.name: found for group in groups if group.name not in same and (found := result(task, group.runs))
    }
    found_of = {"the teacher": None if same.teacher else reference(task, runs, "teacher")}
    found_of |= {LAYER_0: shared, "log-mel": reference(task, runs, "log_mel")}
    known = {label: other for label, other in found_of.items() if other and other.known}
    references = [
        f"{label} has {task.show(other.value.mean)}"
        for label, other in found_of.items()
        if other and other is not shared
    ]
    sentences = [_capitalized(_note(same, task.show(shared.value.mean))) + "."] if shared else []
    if systems:
        which = (
            "The best student" if not same else "The other student" if len(systems) == 1 else "The best of the others"
        )
        sentences += _winner(task, systems, references, which)
        sentences += _against(known, systems, task)
    elif references:
        sentences.append(_capitalized(Markup(escape(" and ".join(references)))) + ".")
    lost = [key for key, found in systems.items() if _at_chance(task, found)]
    lost += [LAYER_0] * (shared is not None and _at_chance(task, shared))
    if lost:
        sentences.append(Markup("Not distinguishable from guessing: {}.").format(listed(lost)))
    return sentences


def _winner(task: Task, systems: Mapping[str, Result], references: Sequence[str], which: str) -> list[Markup]:
    """The best of the students, what the references have, and who cannot be distinguished from it."""
    top = best(task, list(systems.values()))
    name = next(key for key, found in systems.items() if found is top)
    others = {key: found for key, found in systems.items() if found is not top}
    text = Markup("{} is <b>{}</b> ({})").format(which, name, top.value.text(task.show))
    sentences = [text + ("; " if references else "") + " and ".join(references) + "."]
    if others and top.known:
        sentences.append(_ties([key for key, found in others.items() if found.overlaps(top)], len(others)))
    return sentences


def _capitalized(text: Markup) -> Markup:
    return text if text.startswith("<") else Markup(text[:1].upper() + text[1:])


def _ties(tied: Sequence[str], others: int) -> Markup:
    """How many of the other students are as good as the best one."""
    if not tied:
        return Markup("Its interval overlaps with that of no other student.")
    if len(tied) == others:
        which = "the other student" if others == 1 else f"any of the other {others} students"
        return Markup("These test items cannot distinguish it from {}.").format(which)
    worse = others - len(tied)
    rest = "the other student is" if worse == 1 else f"the other {worse} students are"
    return Markup("Not distinguishable from it: {}; {} worse.").format(listed(tied), rest)


def _against(references: Mapping[str, Result], systems: Mapping[str, Result], task: Task) -> list[Markup]:
    """Which students can be distinguished from the references."""
    sentences, near = [], []
    for label, other in references.items():
        clear = [key for key, found in systems.items() if found.known and not found.overlaps(other)]
        above = [key for key in clear if task.merit(systems[key].value.mean) > task.merit(other.value.mean)]
        for names, how in ((above, "better"), ([key for key in clear if key not in above], "worse")):
            if names:
                which = Markup("Every student is") if len(names) == len(systems) > 1 else _are(names)
                sentences.append(Markup("{} clearly {} than {}.").format(which, how, label))
        near += [] if clear else [label]
    if near:
        none = "No student is" if len(systems) > 1 else "The student is not"
        sentences.append(Markup("{} distinguishable from {}.").format(none, " or ".join(near)))
    return sentences


def _are(names: Sequence[str]) -> Markup:
    return Markup("{} {}").format(listed(names), "is" if len(names) == 1 else "are")


def _raw(task: Task, probes: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = (probes or {}).get(task.name)
    return found if found and found["metric"] == task.metric else None


def _combined(raws: Sequence[Mapping[str, Any]]) -> Result | None:
    if not raws:
        return None
    values = tuple(float(raw["value"]) for raw in raws)
    value = Spread.over(values)
    low, high = (fmean(float(raw[bound]) for raw in raws) for bound in ("low", "high"))
    if not math.isfinite(high - low):  # too few test items for an interval
        low = high = value.mean
    layers = [layer_read(raw) for raw in raws]
    chosen = tuple(sorted({layer for layer in layers if layer is not None}))
    return Result(value, low, high, values, raws[0], () if None in layers else chosen, _mean_weights(raws))


def _mean_weights(raws: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    each = [raw.get("layer_weights") or [] for raw in raws]
    if len({len(weights) for weights in each}) > 1 or len(each[0]) < 2 or not all(map(any, each)):
        return ()
    return tuple(fmean(column) for column in zip(*each, strict=True))


def _at_chance(task: Task, found: Result) -> bool:
    """Whether the interval includes the value of guessing, or is entirely worse than it."""
    bound = found.low if task.higher_is_better else found.high
    return found.known and task.merit(bound) <= task.merit(task.chance)
