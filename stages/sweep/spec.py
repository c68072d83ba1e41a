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
    [judge]
    metric = "cosine"

A field is ``table.field``, in quotes or as a table of its own, or ``cache``: the name of one that the command line
gives (``--cache int8=URI``), or a URI.
"""

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gdist.pipeline.config import did_you_mean, require
from gdist.pipeline.errors import ConfigError

Settings = dict[str, Any]
"""``table.field``, or ``cache`` → value"""

FIELDS = {"name", "recipe", "seeds", "set", "grid", "points", "judge"}
POINT_FIELDS = {"name", "recipe", "set", "grid"}
MAX_POINTS = 100_000


@dataclass(frozen=True)
class Alternative:
    """One of the named points of a file; the only one of a file that names none has an empty name.

    Attributes:
        grid: its own, or the file's.
    """

    name: str = ""
    recipe: str | None = None
    settings: Settings = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Judge:
    """What points are judged by.

    Attributes:
        metric: ``cosine`` or ``loss`` of the last validation in training, or a field of ``gdist eval``:
            ``mean_cosine``, or the name of a probe.
        split, probes, minutes: as of ``gdist eval``; it runs only where the metric is one of its own.
    """

    metric: str = "cosine"
    split: str = "valid"
    probes: str = "none"
    minutes: float = 0.0

    def __post_init__(self) -> None:
        require(self.split in ("valid", "test"), f"judge.split = {self.split!r}: not one of valid, test")
        require(self.minutes >= 0, f"judge.minutes = {self.minutes}: must be 0 (all) or more")
        require(bool(self.metric), "judge.metric is empty", "cosine, loss, mean_cosine, or the name of a probe")

    @property
    def evaluates(self) -> bool:
        return self.metric not in ("cosine", "loss") or self.probes != "none"


@dataclass(frozen=True)
class Spec:
    """A sweep's file, checked as far as it can be without knowing the fields of students."""

    name: str
    recipe: str | None
    seeds: tuple[int, ...]
    common: Settings
    points: tuple[Alternative, ...]
    judge: Judge

    @property
    def size(self) -> int:
        """How many runs it has."""
        return len(self.seeds) * sum(math.prod(map(len, point.grid.values())) for point in self.points)


def read_spec(path: Path) -> Spec:
    """Read a sweep's file.

    Raises:
        ConfigError: it cannot be read, is not TOML, or has something unknown, empty or contradictory; the message
            names it.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the sweep {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
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
    require(len(set(seeds)) == len(seeds), f"seeds = {seeds}: one is there twice")
    grid = _grid(_table(content, "grid"), "grid")
    common = settings(_table(content, "set"), "set")
    both = [name for name in grid if name in common]
    require(not both, f"`{both and both[0]}` is under [set] and under [grid]", "keep one of them")
    require("train.seed" not in common, "`train.seed` is what `seeds` sets", "seeds = [0, 1, 2]")
    points = content.get("points", [{}])
    require(isinstance(points, list) and len(points) > 0, "points is not a list of tables", "[[points]], with a name")
    spec = Spec(
        name=_text(content, "name") or path.stem,
        recipe=_text(content, "recipe"),
        seeds=tuple(seeds),
        common=common,
        points=tuple(_alternative(point, place, "points" in content, grid) for place, point in enumerate(points)),
        judge=_judge(_table(content, "judge")),
    )
    names = [point.name for point in spec.points]
    twice = [name for name in names if names.count(name) > 1]
    require(not twice, f"two points are called {twice and twice[0]!r}", "give each its own name")
    for point in spec.points:
        shadowed = [name for name in point.settings if name in point.grid]
        require(
            not shadowed,
            f"`{shadowed and shadowed[0]}` is set by the point {point.name!r} and varied by its grid",
            "give the point a grid of its own: grid = {}",
        )
    require(spec.size <= MAX_POINTS, f"{spec.size} runs are more than {MAX_POINTS}", "vary fewer fields together")
    return spec


def _grid(table: Mapping[str, Any], where: str) -> dict[str, list[Any]]:
    grid = settings(table, where)
    for name, values in grid.items():
        require(isinstance(values, list), f'{where}."{name}" = {values!r}: must be a list of values')
        require(
            len(values) > 0, f'{where}."{name}" is empty, so there is no point', "leave it out, or give it values"
        )
        require(name != "train.seed", f"`{name}` is what `seeds` sets", "seeds = [0, 1, 2]")
    return grid


def _alternative(point: Any, place: int, named: bool, grid: dict[str, list[Any]]) -> Alternative:
    where = f"point {place + 1}"
    require(isinstance(point, dict), f"{where} is not a table")
    if unknown := [name for name in point if name not in POINT_FIELDS]:
        raise ConfigError(f"{where}: unknown field `{unknown[0]}`", did_you_mean(unknown[0], POINT_FIELDS))
    name = _text(point, "name") or ""
    require(bool(name) or not named, f"{where} has no name", 'name = "…"')
    own = settings(_table(point, "set"), f"{where}: set")
    require("train.seed" not in own, f"{where}: `train.seed` is what `seeds` sets", "seeds = [0, 1, 2]")
    if "grid" in point:
        grid = _grid(_table(point, "grid"), f"{where}: grid")
    return Alternative(name, _text(point, "recipe"), own, grid)


def settings(table: Mapping[str, Any], where: str) -> Settings:
    """Fields by their full names; ``[set.train]`` and ``"train.steps"`` are the same.

    Raises:
        ConfigError: a name is not one of a field, or a field is there twice.
    """
    found: Settings = {}
    for name, value in table.items():
        inner = {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
        for full, one in inner.items():
            right = full == "cache" or re.fullmatch(r"[^.\s]+\.[^.\s]+", full)
            require(bool(right), f"{where}: `{full}` is not a field", 'for example "train.lr", or cache')
            require(full not in found, f"{where}: `{full}` is there twice")
            found[full] = one
    return found


def _judge(table: Mapping[str, Any]) -> Judge:
    from gdist.pipeline.config import build  # the same messages as for a run's config

    return build(_JudgeOnly, {"judge": table}).judge


@dataclass(frozen=True)
class _JudgeOnly:
    judge: Judge = field(default_factory=Judge)


def _table(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = content.get(name, {})
    require(isinstance(table, dict), f"{name} is not a table")
    return dict(table)


def _text(content: Mapping[str, Any], name: str) -> str | None:
    value = content.get(name)
    require(value is None or (isinstance(value, str) and bool(value)), f"{name} = {value!r}: must be text")
    return value
