"""What a search varies, and how: the table `[search]` of a sweep's file.

[search]
sampler = "tpe"
trials = 24
"train.lr" = {low = 1e-4, high = 1e-2, log = true}
"student.adapter_rank" = {low = 8, high = 64, step = 8}
"student.history" = ["student", "teacher"]
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from gdist.pipeline.config import build, did_you_mean, require
from gdist.pipeline.errors import ConfigError
from gdist.stages.sweep.fields import ALONE, Settings, settings

BATCH = 4
LARGEST, MOST_STEPS = 1e15, 1e9  # of a range: numbers that a 64-bit float still tells apart
RANGE_FIELDS = {"low", "high", "step", "log"}


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included: whole ones where both ends are whole."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> list[Any]:
        """Values that a run must accept before anything begins."""
        last = self.high
        if self.step:  # the last value that the steps reach
            last = self.low + int((self.high - self.low) / self.step + 1e-9) * self.step
        return [self.low, last]


@dataclass(frozen=True)
class Choice:
    """One of these values."""

    values: tuple[Any, ...]

    @property
    def ends(self) -> list[Any]:
        return list(self.values)


Space = dict[str, Range | Choice]
"""field → what it is searched in"""


@dataclass(frozen=True)
class Search:
    """How trials are proposed.

    Attributes:
        trials: how many are proposed for each alternative with each choice of its grid.
        batch: so many are proposed before the results of those before them are known; 0 is 4 for ``tpe``, and all
            for ``random``, which learns nothing from results.
        startup: so many trials of ``tpe`` are drawn at random at first.
    """

    sampler: Literal["random", "tpe"] = "tpe"
    trials: int = 0
    seed: int = 0
    batch: int = 0
    startup: int = 10

    def __post_init__(self) -> None:
        require(self.trials >= 1, f"search.trials = {self.trials}: must be 1 or more", "trials = 20")
        for name in ("batch", "seed"):
            require(getattr(self, name) >= 0, f"search.{name} = {getattr(self, name)}: must be 0 or more")
        require(self.startup >= 1, f"search.startup = {self.startup}: must be 1 or more")
        for name in ("trials", "batch", "seed", "startup"):
            require(getattr(self, name) < 2**32, f"search.{name} = {getattr(self, name)}: must be below 2^32")

    @property
    def at_once(self) -> int:
        return self.batch or (BATCH if self.sampler == "tpe" else self.trials)


@dataclass(frozen=True)
class _SearchOnly:
    search: Search


OPTIONS = {each.name for each in fields(Search)}


def read_search(table: Mapping[str, Any]) -> tuple[Search | None, Space]:
    """The table ``[search]``: how, and what is searched in the alternatives that have no ``search`` of their own.

    Raises:
        ConfigError: something in it is unknown or impossible.
    """
    if not table:
        return None, {}
    options = {name: value for name, value in table.items() if name in OPTIONS}
    space = read_space({name: value for name, value in table.items() if name not in OPTIONS}, "search")
    return build(_SearchOnly, {"search": {"trials": 0} | options}).search, space


def read_space(table: Mapping[str, Any], where: str) -> Space:
    """Field → range or list of values.

    Raises:
        ConfigError: a name is not one of a field, or its range is impossible; the message names it.
    """
    written: Settings = {}
    for name, value in table.items():
        if "." not in name and name not in ALONE and not isinstance(value, dict):
            raise ConfigError(f"{where}: unknown field `{name}`", did_you_mean(name, OPTIONS))
        is_table = "." not in name and name not in ALONE
        for full, one in (settings({name: value}, where) if is_table else {name: value}).items():
            require(full not in written, f"{where}: `{full}` is there twice")
            written[full] = one
    settings(dict.fromkeys(written), where)  # the names
    for name in written:
        require(name != "train.seed", f"{where}: `{name}` is what `seeds` sets", "seeds = [0, 1, 2]")
    return {name: _range(value, f'{where}."{name}"') for name, value in sorted(written.items())}


def _range(value: Any, where: str) -> Range | Choice:
    if isinstance(value, list):
        require(len(value) > 0, f"{where} is empty, so there is nothing to choose", "leave it out, or give it values")
        twice = len(set(map(str, value))) < len(value)
        require(not twice, f"{where} = {value}: one value is there twice")
        return Choice(tuple(value))
    if not isinstance(value, dict):
        raise ConfigError(f"{where} = {value!r} is no range", "{low = 1e-4, high = 1e-2}, or a list of values")
    if unknown := [name for name in value if name not in RANGE_FIELDS]:
        raise ConfigError(f"{where}: unknown field `{unknown[0]}`", did_you_mean(unknown[0], RANGE_FIELDS))
    for end in ("low", "high"):
        require(end in value, f"{where} has no {end}", "{low = 1e-4, high = 1e-2}")
    for name in ("low", "high", "step"):
        number = value.get(name, 1)
        small = type(number) in (int, float) and abs(number) <= LARGEST  # neither infinite nor undefined
        require(small, f"{where}: {name} = {number!r:.99} is not a number up to {LARGEST:.0e}")
    low, high, step, log = value["low"], value["high"], value.get("step"), value.get("log", False)
    require(type(log) is bool, f"{where}: log = {log!r} is neither true nor false")
    require(low <= high, f"{where} is upside down: low = {low} is above high = {high}")
    require(not log or low > 0, f"{where}: low = {low}, and a logarithm needs more than 0")
    require(not (log and step), f"{where} has both log and step", "keep one of them")
    if step is not None:
        require(step > 0, f"{where}: step = {step} must be more than 0")
        require(step <= high - low, f"{where}: step = {step} is larger than the range from {low} to {high}")
        require((high - low) / MOST_STEPS <= step, f"{where} has more than {MOST_STEPS:.0e} steps", "a larger step")
    if type(low) is type(high) is int and type(step) is float:
        low = float(low)  # a step of 0.5 makes fractions
    return Range(low, high, step, log)
