"""What each varied field does on its own, and which pairs of fields interact, over the seeds of a sweep.

Two points are a pair for a field if they differ in nothing else. A full grid has many such pairs, a random search
perhaps none, and the number is always given. Everything is averaged over pairs within each seed first, so that its
scatter over seeds is that of the whole comparison.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, variance
from typing import Any

from gdist.stages.standings.ranking import error_of, is_clear

Values = Mapping[str, Mapping[int, float]]
"""point → seed → value"""
Alike = Mapping[str, Collection[int]]
"""point → seeds"""

POINT = "point"  # the factor of points that have names of their own
MAX_LEVELS = 12  # values of a field that are compared; those of a continuous search have no pairs anyway
MAX_FACTORS = 16  # whose pairs are looked at for interactions


@dataclass(frozen=True)
class Factor:
    """Something that sets points apart: a field, or several fields that always change together.

    Attributes:
        levels: point → its value, as text.
        numbers: text → number, if every value is one.
    """

    name: str
    levels: Mapping[str, str]
    numbers: Mapping[str, float] | None = None

    @property
    def order(self) -> list[str]:
        """The values, ascending if they are numbers, else in the order of the points."""
        found = dict.fromkeys(self.levels.values())
        return sorted(found, key=self.numbers.__getitem__) if self.numbers else list(found)


@dataclass(frozen=True)
class Difference:
    """A mean over pairs, with its standard error over seeds (None with one seed).

    Attributes:
        pairs: how many pairs of points, or, for an interaction, squares of four.
        up: in how many of them it is above zero, averaged over seeds.
        at_first: of the pair that has the first point in it; None if there is none.
    """

    mean: float
    error: float | None
    pairs: int
    up: int
    at_first: float | None = None

    @property
    def is_clear(self) -> bool:
        return is_clear(self.mean, self.error)


@dataclass(frozen=True)
class Effect:
    """How a value of a factor compares with its first value: ``level`` − ``base``."""

    factor: Factor
    level: str
    base: str
    found: Difference | None


@dataclass(frozen=True)
class Interaction:
    """How much the effect of ``one`` changes with ``other``: ``found`` is ``at_level`` − ``at_base``.

    Attributes:
        at_level, at_base: the effect of ``one`` where ``other`` has its level, and where it has its base.
    """

    one: Effect
    other: Effect
    found: Difference
    at_level: Difference
    at_base: Difference


def factors(features: Mapping[str, Mapping[str, Any]], varied: Mapping[str, str]) -> list[Factor]:
    """The factors of some points.

    Args:
        features: point → field → value.
        varied: the fields that the sweep itself sets → "", and perhaps point → name of its alternative. Fields that
            change together with others and are not among them come from recipes: then the factor is the point.
    """
    points = list(features)
    columns: dict[tuple[int, ...], list[str]] = {}
    for field in dict.fromkeys(key for fields in features.values() for key in fields):
        texts = [_canonical(features[point].get(field)) for point in points]
        if len(set(texts)) > 1:
            columns.setdefault(tuple(texts.index(text) for text in texts), []).append(field)
    found = []
    for fields in columns.values():
        own = all(field in varied for field in fields)
        shown = fields if own or len(fields) <= 2 else []
        levels = {
            point: ", ".join(dict.fromkeys(plain(features[point].get(field)) for field in shown)) or _stem(point)
            for point in points
        }
        if not shown:
            first: dict[str, str] = {}  # points of one level have one text: that of the first of them
            for point in points:
                first.setdefault(_canonical([features[point].get(field) for field in fields]), levels[point])
            levels = {p: first[_canonical([features[p].get(field) for field in fields])] for p in points}
        values = {levels[point]: features[point].get(fields[0]) for point in points}
        numeric = len(shown) == 1 and all(_is_number(value) for value in values.values())
        numbers = {text: float(str(value)) for text, value in values.items()} if numeric else None
        found.append(Factor(", ".join(shown) or POINT, levels, numbers))
    return found


def effects(values: Values, all_factors: Sequence[Factor], alike: Alike | None = None) -> list[Effect]:
    """Every value of every factor against that of the first point, in the order of the factors.

    Args:
        alike: runs that are not compared with each other.
    """
    first = next(iter(values), "")
    found = []
    for factor in all_factors:
        base = factor.levels.get(first) or factor.order[0]
        others = [level for level in factor.order if level != base]
        for level in others[:MAX_LEVELS]:
            pairs = _pairs(factor, all_factors, level, base)
            found.append(Effect(factor, level, base, _difference(values, pairs, (1, -1), first, alike)))
    return found


def interactions(values: Values, all_factors: Sequence[Factor]) -> tuple[list[Interaction], int]:
    """Differences of differences, the strongest first, and how many could be looked at."""
    found = []
    first = next(iter(values), "")
    for one, other in combinations(list(all_factors)[:MAX_FACTORS], 2):
        bases = [factor.levels.get(first) or factor.order[0] for factor in (one, other)]
        key = _places(all_factors, (one, other))
        for level in one.order[:MAX_LEVELS]:
            for other_level in other.order[:MAX_LEVELS]:
                if level == bases[0] or other_level == bases[1]:
                    continue
                corners = ((level, other_level), (bases[0], other_level), (level, bases[1]), (bases[0], bases[1]))
                squares = [
                    [place[corner] for corner in corners]
                    for place in key.values()
                    if all(corner in place for corner in corners)
                ]
                whole, *parts = (
                    _difference(values, squares, signs, first)
                    for signs in ((1, -1, -1, 1), (1, -1, 0, 0), (0, 0, 1, -1))
                )
                if whole and parts[0] and parts[1]:
                    a, b = Effect(one, level, bases[0], None), Effect(other, other_level, bases[1], None)
                    found.append(Interaction(a, b, whole, parts[0], parts[1]))
    return sorted(found, key=lambda each: -abs(each.found.mean)), len(found)


def noise(values: Values) -> float | None:
    """The standard deviation between seeds, pooled over points; None where no point has two."""
    several = [list(seeds.values()) for seeds in values.values() if len(seeds) > 1]
    return math.sqrt(fmean(map(variance, several))) if several else None


def _pairs(factor: Factor, all_factors: Sequence[Factor], level: str, base: str) -> list[list[str]]:
    places = _places(all_factors, (factor,))
    return [[at[level,], at[base,]] for at in places.values() if (level,) in at and (base,) in at]


def _places(
    all_factors: Sequence[Factor], free: Sequence[Factor]
) -> dict[tuple[str, ...], dict[tuple[str, ...], str]]:
    """What all other factors are → what the free ones are → the point."""
    found: dict[tuple[str, ...], dict[tuple[str, ...], str]] = {}
    rest = [factor for factor in all_factors if factor not in free]
    for point in free[0].levels:
        fixed = tuple(factor.levels[point] for factor in rest)
        found.setdefault(fixed, {})[tuple(factor.levels[point] for factor in free)] = point
    return found


def _difference(
    values: Values, sets: Sequence[Sequence[str]], signs: Sequence[int], first: str, alike: Alike | None = None
) -> Difference | None:
    """The signed sum of each set of points, by the seeds that all of them have."""
    alike = alike or {}
    by_seed: dict[int, list[float]] = {}
    by_set: list[float] = []
    at_first = None
    for points in sets:
        shared = _common([values.get(point, {}) for point in points])
        shared -= _common([alike.get(point, ()) for point in points])
        sums = {
            seed: sum(sign * values[point][seed] for point, sign in zip(points, signs, strict=True))
            for seed in sorted(shared)
        }
        for seed, value in sums.items():
            by_seed.setdefault(seed, []).append(value)
        if sums:
            by_set.append(fmean(sums.values()))
            at_first = by_set[-1] if first in points else at_first
    if not by_set:
        return None
    means = [fmean(column) for _, column in sorted(by_seed.items())]
    return Difference(fmean(means), error_of(means), len(by_set), sum(each > 0 for each in by_set), at_first)


def _common(seeds: Sequence[Collection[int]]) -> set[int]:
    return set(seeds[0]).intersection(*seeds[1:])


def plain(value: Any) -> str:
    """A value as people write it.

    >>> plain(0.001), plain(True), plain([4, 8]), plain(None), plain("")
    ('0.001', 'true', '4, 8', 'none', 'default')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(plain, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "default"


def _stem(point: str) -> str:
    """A point's own name, without what its grid adds."""
    return point.partition("=")[0].rpartition(" ")[0] if "=" in point else point


def _canonical(value: Any) -> str:
    return json.dumps(float(value) if _is_number(value) else value, sort_keys=True, default=str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
