"""Decides which points of a sweep go on, and which are stopped early.

Successive halving (arXiv 1502.07943) and Hyperband (arXiv 1603.06560), synchronous: a rung is decided once all of its
points have come there. A decision follows from what the runs' validations have measured, and from nothing else. So it
is the same whatever was killed or ran first, and a rung that gets another point is decided anew.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gdist.stages.sweep.points import Point
from gdist.stages.sweep.stopping import Stopping


@dataclass(frozen=True)
class Stopped:
    """Why a point was stopped.

    Attributes:
        rung: from 1.
        value: the mean over the point's seeds.
    """

    rung: int
    step: int
    value: float
    reason: str


@dataclass
class Decision:
    """What is decided so far.

    Attributes:
        until: signature → the step at which it waits for the others; those that are absent go to their end.
    """

    until: dict[str, int] = field(default_factory=dict)
    stopped: dict[str, Stopped] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        values: step → what a validation measured there.
        step: the last one that it has kept. What was measured after it is measured again, and does not count yet: a
            run that was killed before its checkpoint goes on from an earlier one.
    """

    values: Mapping[int, float]
    step: int
    failed: bool = False


def decide(
    stopping: Stopping, cohort: Sequence[Point], progress: Mapping[str, Progress], higher_is_better: bool
) -> Decision:
    """Decide the rungs of points that are compared with each other.

    The seeds of a point share its fate: they are ranked by their mean. A point that failed before a rung is not
    ranked there, nor is one that was beyond it before there was a rung: it goes on.

    Args:
        progress: signature → how far it is.
    """
    seeds: dict[str, list[Point]] = {}
    for point in cohort:
        seeds.setdefault(point.name, []).append(point)
    decision = Decision()
    steps = stopping.steps(max((point.config.train.steps for point in cohort), default=0))
    brackets = len(steps) + 1 if stopping.method == "hyperband" else 1
    for bracket in range(brackets):
        members = [group for group in seeds.values() if bracket_of(group, stopping, brackets) == bracket]
        _decide(stopping, list(enumerate(steps, 1))[bracket:], members, progress, higher_is_better, decision)
    return decision


def bracket_of(group: Sequence[Point], stopping: Stopping, brackets: int) -> int:
    """The bracket of a point, from its signature alone: other points do not change it. The bracket number b leaves
    out the first b rungs; Hyperband gives the ones with more rungs more points."""
    most = brackets - 1
    weights = [math.ceil((most + 1) / (most - b + 1) * stopping.factor ** (most - b)) for b in range(brackets)]
    drawn = int(min(point.signature for point in group), 16) % sum(weights)
    return next(b for b in range(brackets) if drawn < sum(weights[: b + 1]))


def _decide(
    stopping: Stopping,
    rungs: Sequence[tuple[int, int]],
    alive: Sequence[Sequence[Point]],
    progress: Mapping[str, Progress],
    higher_is_better: bool,
    decision: Decision,
) -> None:
    """Follow one bracket up to the first rung that is not complete."""
    for rung, step in rungs:
        entrants = [group for group in alive if group[0].config.train.steps > step]
        runs = [point for group in entrants for point in group if not progress[point.signature].failed]
        if any(progress[p.signature].step < step for p in runs):
            decision.until |= {point.signature: step for point in runs}
            return
        found = {}
        for place, group in enumerate(entrants):
            reached = [progress[point.signature] for point in group]
            values = [run.values[step] for run in reached if run.step >= step and step in run.values]
            if values:  # also of a run that failed later on: what was decided stands
                found[place] = statistics.fmean(values)
        # Of two with the same value the one with the smaller signature is the better one: any rule does that does not
        # depend on the order of the file.
        sign = -1 if higher_is_better else 1
        ranked = sorted(found, key=lambda place: (sign * found[place], entrants[place][0].signature))
        kept = max(len(ranked) // stopping.factor, 1)
        for rank, place in enumerate(ranked[kept:], kept + 1):
            first = "the first goes on" if kept == 1 else f"the first {kept} go on"
            reason = f"{found[place]:.3f} at step {step}: {_ordinal(rank)} of {len(ranked)}, {first}"
            why = Stopped(rung, step, found[place], reason)
            decision.stopped |= {point.signature: why for point in entrants[place]}
        alive = [group for group in alive if group[0].signature not in decision.stopped]


def _ordinal(number: int) -> str:
    """``1st``, ``2nd``, ``13th``"""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
