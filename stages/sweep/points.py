"""The points of a sweep: every run that its file asks for, with its resolved config and the signature of it.

A point's identity is that signature, and nothing else: not its name, and not its place in the file.
"""

import contextlib
import dataclasses
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.config import require, signature, to_tables
from gdist.pipeline.errors import ConfigError, GdistError
from gdist.pipeline.run.identity import identifying
from gdist.pipeline.storage.locations import in_shell
from gdist.stages.students import STUDENTS
from gdist.stages.sweep.fields import Settings
from gdist.stages.sweep.spec import Alternative, Spec
from gdist.stages.train.config import TrainConfig, load_config
from gdist.stages.train.origin import extensions_of
from gdist.stages.train.start import Start, require_alike, start_of
from gdist.stages.train.student_store import configured, layers_to_read

DEFAULT_CACHE = ""


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        name: what sets it apart from the other points, for people; its seeds share it.
        varied: its own fields and their values: those of the grid, and those that its table sets.
        cache: the URI.
        recipe, settings: as they would be typed after ``gdist train --recipe … --set …``.
        signature: of the resolved config, the cache's content and the user's own files.
        alternative: the name of its table in the file.
        trial: its number in a search.
        start_from: the student whose weights it begins with, as after ``gdist train --start-from``.
        equal: whose cost its steps match; ``pending`` as long as that is not measured.
    """

    name: str
    varied: Settings
    seed: int
    cache: str
    recipe: str | None
    settings: tuple[str, ...]
    config: TrainConfig
    signature: str
    alternative: str = ""
    trial: int | None = None
    equal: str | None = None
    pending: bool = False
    start_from: str | None = None

    @property
    def label(self) -> str:
        return f"{self.name} seed {self.seed}" if self.name else f"seed {self.seed}"

    @property
    def folder(self) -> str:
        """The name of a new folder for it."""
        return f"{re.sub(r'[^A-Za-z0-9.=_]+', '-', self.label).strip('-.')[:80]}-{self.signature}"

    def arguments(self, out: Path) -> list[str]:
        """What comes after ``gdist``, to run this point by hand."""
        recipe = ["--recipe", self.recipe] if self.recipe else []
        sets = [part for setting in self.settings for part in ("--set", setting)]
        start = ["--start-from", self.start_from] if self.start_from else []
        return ["train", "--cache", self.cache, "--out", str(out), *recipe, *start, *sets]

    def command(self, out: Path) -> str:
        return " ".join(["gdist", *map(in_shell, self.arguments(out))])


@dataclasses.dataclass(frozen=True)
class Resolved:
    """A combination's config, before it gets a seed."""

    cache: Cache
    uri: str
    recipe: str | None
    settings: tuple[str, ...]
    config: TrainConfig
    start_from: str | None = None
    start: Start | None = None


class Points:
    """Makes the points of a file, each checked against its cache.

    Args:
        caches: the names on the command line → URIs; :data:`DEFAULT_CACHE` is the one that has no name.
        beside: the file's folder, where its recipes may be.
    """

    def __init__(self, spec: Spec, caches: Mapping[str, str], beside: Path) -> None:
        self.spec, self.caches, self.beside = spec, caches, beside
        self._opened: dict[str, Cache] = {}
        self._starts: dict[str, Start] = {}
        if spec.judge.cache is not None:
            cache_uri(spec.judge.cache, caches)  # raises now what evaluating would raise

    def combinations(self) -> Iterator[tuple[Alternative, Settings]]:
        """Each alternative with every choice of its grid."""
        for alternative in self.spec.points:
            for values in itertools.product(*alternative.grid.values()):
                yield alternative, dict(zip(alternative.grid, values, strict=True))

    def name(self, alternative: Alternative, chosen: Settings) -> str:
        return _name(alternative.name, chosen)

    def resolve(self, alternative: Alternative, chosen: Settings) -> Resolved:
        """
        Args:
            chosen: fields on top of those of the alternative.

        Raises:
            ConfigError: the config is impossible, or the cache unknown; the message names the point.
            CacheError: the cache cannot be read, or lacks a layer that the point needs.
        """
        with _about(_name(alternative.name, chosen)):
            fields = {**self.spec.common, **alternative.settings, **chosen}
            uri = cache_uri(fields.pop("cache", DEFAULT_CACHE), self.caches)
            if uri not in self._opened:
                self._opened[uri] = Cache.open(uri)
            cache = self._opened[uri]
            start_from = self._start_from(fields.pop("start_from", None))
            recipe = _recipe(alternative.recipe or self.spec.recipe, self.beside)
            sets = tuple(f"{key}={typed(value)}" for key, value in fields.items())
            config = load_config(recipe, None, sets)
            start = self._starts[start_from] if start_from else None
            _require_possible(cache, config, start)
            return Resolved(cache, uri, recipe, sets, config, start_from, start)

    def _start_from(self, wanted: Any) -> str | None:
        """What points begin with, as an absolute path: it is read once."""
        require(wanted is None or isinstance(wanted, str), f"start_from = {wanted!r}: must be text")
        if not wanted:
            return None
        place = str(Path(wanted).absolute())
        if place not in self._starts:
            self._starts[place] = start_of(None, Path(place))
        return place

    def of(
        self,
        alternative: Alternative,
        chosen: Settings,
        trial: int | None = None,
        more: Settings | None = None,
        pending: bool = False,
    ) -> list[Point]:
        """A combination's points, one for each seed.

        Args:
            chosen: of the grid and of the search, which name it.
            more: further fields, which do not.
            pending: see :class:`Point`.

        Raises:
            GdistError: as :meth:`resolve`.
        """
        name = _name(alternative.name, chosen)
        found = self.resolve(alternative, chosen | (more or {}))
        points = []
        for seed in self.spec.seeds:
            settings = (*found.settings, f"train.seed={seed}")
            seeded = load_config(found.recipe, None, settings)
            # Without its steps it is no run yet, and must not be taken for one that differs in the steps alone.
            known = (
                signature({"to be measured": [name, seed]})
                if pending
                else signature_of(found.cache, seeded, found.start)
            )
            point = Point(
                name=name,
                varied=alternative.settings | chosen | (more or {}),
                seed=seed,
                cache=found.uri,
                recipe=found.recipe,
                settings=settings,
                config=seeded,
                signature=known,
                alternative=alternative.name,
                trial=trial,
                equal=self.spec.equal.get(alternative.name),
                pending=pending,
                start_from=found.start_from,
            )
            points.append(point)
        return points


def require_distinct(points: Sequence[Point]) -> None:
    """Raise ConfigError where two points of a file are the same run, or have the same name."""
    runs: dict[str, Point] = {}
    names: dict[tuple[str, int], Point] = {}
    for point in points:
        twin = runs.setdefault(point.signature, point)
        if twin is not point and not (point.equal or twin.equal):  # steps that happen to be equal are no mistake
            raise ConfigError(
                f"the points {twin.label!r} and {point.label!r} are the same run: their configs do not differ",
                "remove one of them",
            )
        if names.setdefault((point.name, point.seed), point) is not point:
            raise ConfigError(f"two points are called {point.label!r}", "give one of them another name")


def _name(own: str, chosen: Settings) -> str:
    """``baseline lr=0.001 history=student``: fields by the shortest name that is their own."""
    short = [name.rpartition(".")[2] for name in chosen]
    parts = [
        f"{key if short.count(key) == 1 else full}={typed(value).strip(chr(34))}"
        for key, (full, value) in zip(short, chosen.items(), strict=True)
    ]
    return " ".join([own, *parts] if own else parts)


def typed(value: Any) -> str:
    """A value as it is typed after ``--set field=``."""
    return json.dumps(value, ensure_ascii=False, default=str)  # TOML has dates, which no field takes


def cache_uri(wanted: Any, caches: Mapping[str, str]) -> str:
    """The URI of the cache that a file calls ``wanted``; ConfigError where no cache has this name."""
    if isinstance(wanted, str) and wanted in caches:
        return caches[wanted]
    if isinstance(wanted, str) and ("/" in wanted or Path(wanted).exists()):
        return wanted
    if wanted == DEFAULT_CACHE:
        raise ConfigError("no cache was given for it", "--cache URI")
    raise ConfigError(f"cache = {wanted!r} is not one of those given", f"--cache {wanted}=URI")


def _recipe(name: str | None, beside: Path) -> str | None:
    """A shipped recipe, or a file: beside the sweep's own file if there is one of this name."""
    if name and name.endswith(".toml") and (beside / name).exists():
        return str(beside / name)
    return name


def _require_possible(cache: Cache, config: TrainConfig, start: Start | None) -> None:
    """Raise now what the training would raise: about the student, and about the layers that it needs."""
    with torch.device("meta"):
        student = STUDENTS[config.student["name"]](configured(cache, config))
    layers_to_read(cache, student, config)
    if start is not None:
        require_alike(student.config, start)


def signature_of(cache: Cache, config: TrainConfig, start: Start | None = None) -> str:
    own = {each.name: each.sha256 for each in extensions_of(cache, config)}
    begun = {} if start is None else {"start": start.record["sha256"]}
    about = {"config": identifying(to_tables(config)), "cache": cache.gdist["checksum"], "extensions": own}
    return signature(about | begun)


@contextlib.contextmanager
def _about(name: str) -> Iterator[None]:
    """Put a point's name before the message of an error."""
    try:
        yield
    except GdistError as error:
        if not name:
            raise
        raise type(error)(f"the point {name!r}: {error.message}", error.hint) from error
