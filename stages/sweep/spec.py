"""A sweep's file: what all points share, what varies, and what they are judged by.

    recipe = "demo-gendistiller"          # of all points that name none
    seeds = [0, 1, 2]
    [set]                                 # as after --set, for all points
    "train.steps" = 400
    [grid]                                # every combination of these
    "student.history" = ["student", "teacher"]
    [[points]]                            # alternatives with a name; the grid is applied to each of them
    name = "baseline"
    recipe = "demo-distilhubert"
    set = {"train.lr" = 2e-3}
    grid = {}                             # except where a point has a grid of its own
    [search]                              # proposes trials of these (ranges.py)
    trials = 20
    "train.lr" = {low = 1e-4, high = 1e-2, log = true}
    [stopping]                            # trains on only the best of them (stopping.py)
    first = 100
    [equal]                               # a point's steps cost what another point costs (equal.py)
    "baseline" = "ours"
    [judge]
    metric = "cosine"

A field is ``table.field``, in quotes or as a table of its own, or ``cache``: the name of one that the command line
gives (``--cache int8=URI``), or a URI; or ``start_from``: whose weights it begins with (RUN, RUN@STEP or an export).
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gdist.pipeline.config import build, did_you_mean, load_toml, require
from gdist.pipeline.errors import ConfigError
from gdist.stages.standings.ranking import OF_TRAINING
from gdist.stages.sweep.fields import Settings, settings, table_of, text_of
from gdist.stages.sweep.judge import Judge, read_judge
from gdist.stages.sweep.ranges import Search, Space, read_search, read_space
from gdist.stages.sweep.stopping import Stopping

FIELDS = {"name", "recipe", "seeds", "set", "grid", "points", "search", "stopping", "equal", "judge"}
POINT_FIELDS = {"name", "recipe", "set", "grid", "search"}
MAX_POINTS = 100_000


@dataclass(frozen=True)
class Alternative:
    """One of the named points of a file; the only one of a file that names none has an empty name.

    Attributes:
        grid, space: its own, or the file's. The space is what is searched.
    """

    name: str = ""
    recipe: str | None = None
    settings: Settings = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    space: Space = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    """A sweep's file, checked as far as it can be without knowing the fields of students.

    Attributes:
        equal: the name of an alternative → that of another one, or of a point of its grid, whose cost its steps are
            to match.
    """

    name: str
    recipe: str | None
    seeds: tuple[int, ...]
    common: Settings
    points: tuple[Alternative, ...]
    judge: Judge
    search: Search | None = None
    stopping: Stopping | None = None
    equal: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many runs it has."""
        trials = self.search.trials if self.search else 1
        sizes = (math.prod(map(len, each.grid.values())) * (trials if each.space else 1) for each in self.points)
        return len(self.seeds) * sum(sizes)


def read_spec(path: Path) -> Spec:
    """Read a sweep's file.

    Raises:
        ConfigError: it cannot be read, is not TOML, or has something unknown, empty or contradictory; the message
            names it.
    """
    content = load_toml(path, "sweep")
    try:
        return _spec(path, content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", error.hint) from error


def _spec(path: Path, content: Mapping[str, Any]) -> Spec:
    if unknown := [name for name in content if name not in FIELDS]:
        hint = did_you_mean(unknown[0], FIELDS)
        loose = f'fields of a run go under [set], as "{unknown[0]}" = …' if "." in unknown[0] else hint
        raise ConfigError(f"unknown field `{unknown[0]}`", loose)
    seeds = content.get("seeds", [0])
    whole = isinstance(seeds, list) and all(type(seed) is int for seed in seeds)
    require(whole and len(seeds) > 0, f"seeds = {seeds!r}: must be a list of whole numbers, at least one")
    require(all(abs(seed) < 2**63 for seed in seeds), "seeds: one has more than 64 bits")
    require(len(set(seeds)) == len(seeds), f"seeds = {seeds}: one is there twice")
    grid = _grid(table_of(content, "grid"), "grid")
    common = settings(table_of(content, "set"), "set")
    search, space = read_search(table_of(content, "search"))
    for here, there, name in _twice({"[set]": common, "[grid]": grid, "[search]": space}):
        raise ConfigError(f"`{name}` is under {here} and under {there}", "keep one of them")
    require("train.seed" not in common, "`train.seed` is what `seeds` sets", "seeds = [0, 1, 2]")
    points = content.get("points", [{}])
    stopping = table_of(content, "stopping")
    require(isinstance(points, list) and len(points) > 0, "points is not a list of tables", "[[points]], with a name")
    spec = Spec(
        name=text_of(content, "name") or path.stem,
        recipe=text_of(content, "recipe"),
        seeds=tuple(seeds),
        common=common,
        points=tuple(
            _alternative(point, place, "points" in content, grid, space) for place, point in enumerate(points)
        ),
        judge=read_judge(table_of(content, "judge")),
        search=search,
        stopping=build(_StoppingOnly, {"stopping": stopping}).stopping if stopping else None,
        equal=table_of(content, "equal"),
    )
    names = [point.name for point in spec.points]
    twice = [name for name, times in Counter(names).items() if times > 1]
    require(not twice, f"two points are called {twice and twice[0]!r}", "give each its own name")
    for point in spec.points:
        for _, there, name in _twice({"set": point.settings, "grid": point.grid, "search": point.space}):
            raise ConfigError(
                f"`{name}` is given by the point {point.name!r} and varied by its {there}",
                f"give the point a {there} of its own: {there} = {{}}",
            )
        require(
            search is not None or not point.space,
            f"the point {point.name!r} has a search of its own, and the file does not say how many trials",
            "[search], with trials = 20",
        )
    searched = any(point.space for point in spec.points)
    require(search is None or searched, "[search] has no field to search", '"train.lr" = {low = 1e-4, high = 1e-2}')
    require_comparable(spec)
    require(spec.size <= MAX_POINTS, f"{spec.size} runs are more than {MAX_POINTS}", "vary fewer fields together")
    return spec


def _twice(tables: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """(table, another table, a field that both have)"""
    for (here, one), (there, other) in itertools.combinations(tables.items(), 2):
        yield from ((here, there, name) for name in one if name in other)


def _grid(table: Mapping[str, Any], where: str) -> dict[str, list[Any]]:
    grid = settings(table, where)
    for name, values in grid.items():
        require(isinstance(values, list), f'{where}."{name}" = {values!r}: must be a list of values')
        require(
            len(values) > 0, f'{where}."{name}" is empty, so there is no point', "leave it out, or give it values"
        )
        require(name != "train.seed", f"`{name}` is what `seeds` sets", "seeds = [0, 1, 2]")
    return grid


def _alternative(point: Any, place: int, named: bool, grid: dict[str, list[Any]], space: Space) -> Alternative:
    where = f"point {place + 1}"
    require(isinstance(point, dict), f"{where} is not a table")
    if unknown := [name for name in point if name not in POINT_FIELDS]:
        raise ConfigError(f"{where}: unknown field `{unknown[0]}`", did_you_mean(unknown[0], POINT_FIELDS))
    name = text_of(point, "name") or ""
    require(bool(name) or not named, f"{where} has no name", 'name = "…"')
    own = settings(table_of(point, "set"), f"{where}: set")
    require("train.seed" not in own, f"{where}: `train.seed` is what `seeds` sets", "seeds = [0, 1, 2]")
    if "grid" in point:
        grid = _grid(table_of(point, "grid"), f"{where}: grid")
    if "search" in point:
        space = read_space(table_of(point, "search"), f"{where}: search")
    return Alternative(name, text_of(point, "recipe"), own, grid, space)


def require_comparable(spec: Spec) -> None:
    """Raise ConfigError unless [stopping] and [equal] fit the rest of the file."""
    metric = spec.judge.metric
    require(
        spec.stopping is None or metric in OF_TRAINING,
        f"[stopping] compares points while they train, where {metric} is not measured",
        'metric = "cosine" or "loss" under [judge]',
    )
    known = {point.name: point for point in spec.points if point.name}
    for left, right in spec.equal.items():
        for name, found in ((left, left), (right, _of_grid(right, known))):
            if not isinstance(found, str) or found not in known:
                raise ConfigError(f"[equal]: no point is called {name!r}", did_you_mean(str(name), known))
            require(
                not known[found].space,
                f"[equal]: the point {name!r} is searched, and its cost would be that of one trial",
                "give it a search of its own: search = {}",
            )
        own = known[left]
        require(
            "train.steps" not in {**own.settings, **own.grid},
            f"[equal] sets `train.steps` of {left!r}, which has its own",
            "remove one of them",
        )
        chain = [left]
        while (after := _of_grid(spec.equal.get(chain[-1]), known)) is not None:
            require(after not in chain, f"[equal] goes round in a circle: {' = '.join([*chain, after])}")
            chain.append(after)


def _of_grid(name: Any, known: Mapping[str, Alternative]) -> Any:
    """The alternative that a point belongs to: ``ours``, for ``ours lr=0.001``, which its grid may have."""
    if not isinstance(name, str) or name in known:
        return name
    return max((one for one in known if name.startswith(f"{one} ")), key=len, default=name)


@dataclass(frozen=True)
class _StoppingOnly:
    stopping: Stopping
