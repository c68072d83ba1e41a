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
from gdist.pipeline.config import did_you_mean, signature, to_tables
from gdist.pipeline.errors import ConfigError, GdistError
from gdist.pipeline.run import identifying
from gdist.pipeline.storage.locations import in_shell
from gdist.stages.students import STUDENTS
from gdist.stages.sweep.spec import Alternative, Settings, Spec
from gdist.stages.train.config import TrainConfig, load_config
from gdist.stages.train.origin import extensions_of
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
    """

    name: str
    varied: Settings
    seed: int
    cache: str
    recipe: str | None
    settings: tuple[str, ...]
    config: TrainConfig
    signature: str

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
        return ["train", "--cache", self.cache, "--out", str(out), *recipe, *sets]

    def command(self, out: Path) -> str:
        return " ".join(["gdist", *map(in_shell, self.arguments(out))])


def points_of(spec: Spec, caches: Mapping[str, str], beside: Path) -> list[Point]:
    """Every point of the file, checked against its cache.

    Args:
        caches: the names on the command line → URIs; :data:`DEFAULT_CACHE` is the one that has no name.
        beside: the file's folder, where its recipes may be.

    Raises:
        ConfigError: a config is impossible or a cache unknown, or two points are the same run. The message names the
            point.
        CacheError: a cache cannot be read, or lacks a layer that a point needs.
    """
    opened: dict[str, Cache] = {}
    found: dict[str, Point] = {}
    for alternative, chosen in _combinations(spec):
        varied = alternative.settings | chosen
        name = _name(alternative.name, chosen)
        with _about(name):
            uri = _cache({**spec.common, **varied}.get("cache", DEFAULT_CACHE), caches)
            if uri not in opened:
                opened[uri] = Cache.open(uri)
            cache = opened[uri]
            recipe = _recipe(alternative.recipe or spec.recipe, beside)
            fields = {key: value for key, value in {**spec.common, **varied}.items() if key != "cache"}
            typed = tuple(f"{key}={_typed(value)}" for key, value in fields.items())
            config = load_config(recipe, None, typed)
            _require_possible(cache, config)
        for seed in spec.seeds:
            settings = (*typed, f"train.seed={seed}")
            seeded = load_config(recipe, None, settings)
            identity = _signature(cache, seeded)
            point = Point(name, varied, seed, uri, recipe, settings, seeded, identity)
            if (twin := found.get(identity)) is not None:
                raise ConfigError(
                    f"the points {twin.label!r} and {point.label!r} are the same run: their configs do not differ",
                    "remove one of them",
                )
            found[identity] = point
    return list(found.values())


def _combinations(spec: Spec) -> Iterator[tuple[Alternative, Settings]]:
    for alternative in spec.points:
        for values in itertools.product(*alternative.grid.values()):
            yield alternative, dict(zip(alternative.grid, values, strict=True))


def _name(own: str, chosen: Settings) -> str:
    """``baseline lr=0.001 history=student``: fields by the shortest name that is their own."""
    short = [name.rpartition(".")[2] for name in chosen]
    parts = [
        f"{key if short.count(key) == 1 else full}={_typed(value).strip(chr(34))}"
        for key, (full, value) in zip(short, chosen.items(), strict=True)
    ]
    return " ".join([own, *parts] if own else parts)


def _typed(value: Any) -> str:
    """A value as it is typed after ``--set field=``."""
    return json.dumps(value, ensure_ascii=False)


def _cache(wanted: Any, caches: Mapping[str, str]) -> str:
    if wanted in caches:
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


def _require_possible(cache: Cache, config: TrainConfig) -> None:
    """Raise now what the training would raise: about the student, and about the layers that it needs."""
    with torch.device("meta"):
        student = STUDENTS[config.student["name"]](configured(cache, config))
    layers_to_read(cache, student, config)


def _signature(cache: Cache, config: TrainConfig) -> str:
    own = {each.name: each.sha256 for each in extensions_of(cache, config)}
    return signature({"config": identifying(to_tables(config)), "cache": cache.gdist["checksum"], "extensions": own})


@contextlib.contextmanager
def _about(name: str) -> Iterator[None]:
    """Put a point's name before the message of an error."""
    try:
        yield
    except GdistError as error:
        if not name:
            raise
        raise type(error)(f"the point {name!r}: {error.message}", error.hint) from error


def check_names(points: Sequence[Point], pattern: str) -> list[Point]:
    """The points whose label matches the regular expression ``pattern`` somewhere.

    Raises:
        ConfigError: it is none, or nothing matches.
    """
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"--only {pattern!r} is not a regular expression: {error}") from error
    chosen = [point for point in points if wanted.search(point.label)]
    if not chosen:
        raise ConfigError(
            f"--only {pattern!r}: no point is called like that", did_you_mean(pattern, [p.label for p in points])
        )
    return chosen
