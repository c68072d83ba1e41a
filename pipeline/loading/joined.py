"""Several caches over the same utterances, read as one: those of two teachers, or of one teacher's layers apart.

The layers of all teachers are numbered one after another. The first teacher's layer 3 is number 3. After its last
layer, 12, comes the second teacher's layer 0, which is number 13. Caches of one teacher act as one cache with all
their layers.

Utterances are matched by id, and must be the same audio. Frames are those of the first cache. For each of them,
another teacher's frame is the one whose center is nearest (:meth:`gdist.pipeline.framing.Framing.nearest`), and at
the ends of an utterance the nearest that there is. Teachers with the same framing have the same frames.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gdist.pipeline.cache.by_name import Span
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.entries import Entry, Numbers
from gdist.pipeline.cache.near import Traffic
from gdist.pipeline.config import signature
from gdist.pipeline.errors import CacheError, UsageError
from gdist.pipeline.framing import Framing
from gdist.pipeline.loading.batch import Selection
from gdist.pipeline.loading.matching import same_waveforms
from gdist.pipeline.storage.locations import in_shell


@dataclass(frozen=True)
class Taught:
    """One teacher's layers among those of all teachers.

    Attributes:
        name: what its layers are called by, as in ``wavlm:3``.
        cache: the first of its caches.
        offset: the number of its layer 0.
        layers: its own numbers of the layers that its caches have, ascending.
    """

    name: str
    cache: Cache
    offset: int
    layers: tuple[int, ...]

    @property
    def num_layers(self) -> int:
        return int(self.cache.identity["teacher"]["num_layers"])

    @property
    def dim(self) -> int:
        return int(self.cache.identity["dim"])

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers, among those of all teachers, of all its layers that are cached."""
        return tuple(self.offset + layer for layer in self.layers)


@dataclass(frozen=True)
class Part:
    """One of the caches, and what is read from it.

    Attributes:
        layers: number among the layers of all teachers → the cache's own number.
        first: the cache whose audio and frames are those of all.
    """

    cache: Cache
    layers: Mapping[int, int]
    first: Cache

    @property
    def leads(self) -> bool:
        """Whether this is the first cache."""
        return self.cache is self.first

    def selection(self, selection: Selection) -> Selection:
        """What is read from this cache for ``selection``, by its own numbers."""
        own = sorted(self.layers[number] for number in selection.layers if number in self.layers)
        return Selection(tuple(own), selection.waveforms and self.leads)

    def span(self, span: Span) -> Span:
        """This cache's frames that are aligned with a span of the first one."""
        if self.leads:
            return span
        entry = self.cache.utterances[span[0].id]
        aligned_T = self.aligned(entry, span[1], span[2])
        return entry, int(aligned_T[0]), int(aligned_T[-1] - aligned_T[0] + 1)

    def aligned(self, entry: Entry, first: int, frames: int) -> Numbers:
        """This cache's frame of an utterance for each frame of a span of the first cache: [T]."""
        own = self.first.framing.nearest(self.cache.framing, first + np.arange(frames))
        clipped: Numbers = np.clip(own, 0, entry.num_frames - 1)
        return clipped


class Joined:
    """Caches that are read as one; also of one cache alone, which is then read as it is.

    Args:
        caches: pairs of name and cache, in order; a name is that of the cache's teacher, "" for one that follows from
            it.

    Attributes:
        first: the cache whose order of utterances, audio, frames and front-end are used.
        teachers: in the order of their first caches.
        parts: one for each cache.

    Raises:
        CacheError: a cache adds nothing to the others.
        UsageError: two teachers have the same name.
    """

    def __init__(self, caches: Sequence[tuple[str, Cache]]) -> None:
        self.first = caches[0][1]
        groups: dict[str, list[tuple[str, Cache]]] = {}
        for name, cache in caches:
            groups.setdefault(_identity_of_teacher(cache), []).append((name, cache))
        self.teachers: list[Taught] = []
        parts: dict[str, Part] = {}
        for group in groups.values():
            name = next((name for name, _ in group if name), "") or _short_name(group[0][1])
            taken: dict[int, int] = {}
            before = self.teachers[-1:]
            offset = before[0].offset + before[0].num_layers + 1 if before else 0
            for _, cache in group:
                own = {offset + layer: layer for layer in cache.layers if offset + layer not in taken}
                if not own:
                    raise CacheError(
                        f"{cache.uri} adds nothing to {group[0][1].uri}: they are of the same teacher, and it has no "
                        "layer that the other lacks",
                        "leave it out",
                    )
                taken |= own
                parts[cache.uri] = Part(cache, own, self.first)
            taught = Taught(name, group[0][1], offset, tuple(sorted(taken.values())))
            self.teachers.append(taught)
        self.parts = [parts[cache.uri] for _, cache in caches]
        names = [taught.name for taught in self.teachers]
        for name in names:
            if names.count(name) > 1:
                uris = " ".join(f"--cache NAME={in_shell(t.cache.uri)}" for t in self.teachers if t.name == name)
                raise UsageError(f"two teachers would be called {name}", f"name them: {uris}")

    @cached_property
    def checksum(self) -> str:
        """The state of all caches: of one alone, its own checksum."""
        if len(self.parts) == 1:
            return str(self.first.gdist["checksum"])
        named = [[taught.name for taught in self.teachers], [part.cache.gdist["checksum"] for part in self.parts]]
        return signature({"caches": named})

    @property
    def uri(self) -> str:
        """Where they are, for messages."""
        return " and ".join(part.cache.uri for part in self.parts)

    @property
    def layers(self) -> list[int]:
        """The numbers of all layers that are cached, ascending."""
        return sorted(number for part in self.parts for number in part.layers)

    @property
    def framing(self) -> Framing:
        return self.first.framing

    @property
    def identity(self) -> dict[str, Any]:
        """The first cache's."""
        return self.first.identity

    @property
    def widths(self) -> dict[int, int]:
        """The number of features of each layer; empty where all have the same number."""
        if len({taught.dim for taught in self.teachers}) == 1:
            return {}
        return {number: taught.dim for taught in self.teachers for number in taught.numbers}

    @property
    def width(self) -> int:
        """The features of the widest layers."""
        return max(taught.dim for taught in self.teachers)

    @property
    def traffic(self) -> list[Traffic]:
        """What counts the bytes that come from buckets."""
        return [part.cache.near.traffic for part in self.parts if part.cache.near is not None]

    @property
    def in_folders(self) -> bool:
        """Whether no cache is in a bucket."""
        return all(part.cache.storage.folder is not None for part in self.parts)

    @cached_property
    def unsettled(self) -> list[Part]:
        """The caches whose stored audio has not been shown to be the first one's, and is compared when it is read."""
        return [part for part in self.parts if not part.leads and not same_waveforms(self.first, part.cache)]

    def teacher_of(self, number: int) -> Taught:
        """The teacher whose layer has this number."""
        return next(taught for taught in reversed(self.teachers) if taught.offset <= number)

    def by_teacher(self, numbers: Iterable[int]) -> dict[str, list[int]]:
        """Teacher → those of the numbers that are its layers."""
        found: dict[str, list[int]] = {}
        for number in numbers:
            found.setdefault(self.teacher_of(number).name, []).append(number)
        return found

    def layer_name(self, number: int) -> str:
        """What a layer is called: ``wavlm:3``, or ``3`` where there is one teacher."""
        taught = self.teacher_of(number)
        return str(number) if len(self.teachers) == 1 else f"{taught.name}:{number - taught.offset}"


Source = Cache | Joined
"""A cache, or several that are read as one."""


def joined(source: Source) -> Joined:
    return source if isinstance(source, Joined) else Joined([("", source)])


def named_locations(given: Sequence[str]) -> list[tuple[str, str]]:
    """What was typed after each ``--cache`` → (name, location); one alone is a location as it was typed.

    >>> named_locations(["a=one"]), named_locations(["a=one", "./b=two"])
    ([('', 'a=one')], [('a', 'one'), ('', './b=two')])
    """
    if len(given) == 1:
        return [("", given[0])]
    found = []
    for text in given:
        name, equals, location = text.partition("=")
        found.append((name, location) if equals and location and name.isidentifier() else ("", text))
    locations = [location for _, location in found]
    for location in locations:
        if locations.count(location) > 1:
            raise UsageError(f"--cache {location} is given twice", "leave one out")
    return found


def _identity_of_teacher(cache: Cache) -> str:
    """What is equal where two caches have the hidden states of one teacher."""
    return signature({name: cache.identity.get(name) for name in ("teacher", "dim", "framing", "window")})


def _short_name(cache: Cache) -> str:
    """The last part of the teacher's name: ``microsoft/wavlm-base`` → ``wavlm_base``."""
    last = str(cache.gdist["about"].get("teacher", "")).rstrip("/").rpartition("/")[2]
    name = re.sub(r"\W", "_", last)
    return name if name.isidentifier() else f"teacher_{name}".rstrip("_")
