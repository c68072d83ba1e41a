"""A cache in one row of a table, from its root document and its summaries: neither its index nor a receipt is read.

A cache without all summaries is listed, because that is the only other way to know what is there.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gdist.pipeline.cache import summary
from gdist.pipeline.cache.plan import framing_of
from gdist.pipeline.cache.planning import LOCK, parse_root
from gdist.pipeline.cache.summary import head_key
from gdist.pipeline.storage.objects import Storage

RECEIPT = re.compile(r"receipts/(\d+)(?:-(\d+))?\.json")


@dataclass(frozen=True)
class Description:
    """One cache.

    Attributes:
        teacher: its name: a hub id, or the name of a folder.
        audio_seconds: of the frames that were planned.
        layers: the stored layers, ascending.
        bytes: of everything in it.
        tasks, tasks_done: packs, counted once more for each time that layers were added.
        locked: whether an extraction is writing to it, or was killed while it did.
        changed: when its plan or its summaries were last written; of an unfinished cache, anything in it.
    """

    uri: str
    teacher: str
    audio_seconds: float
    utterances: int
    layers: tuple[int, ...]
    dim: int
    encoding: str
    bytes: int
    tasks: int
    tasks_done: int
    locked: bool
    changed: datetime

    @property
    def whole(self) -> bool:
        """Whether everything that was planned is there."""
        return self.tasks_done == self.tasks


def described(storage: Storage, root: bytes, top: Mapping[str, Mapping[str, Any]]) -> Description:
    """Describe the cache in a store.

    Args:
        root: its root document.
        top: name → {size, last_modified} of the objects on its first level.

    Raises:
        CacheError, CacheDamagedError: it has another format or is of an earlier revision, or the root is damaged.
        KeyError, TypeError, ValueError: the root is sealed and describes something else.
    """
    gdist = parse_root(storage.uri, root)
    identity, additions = gdist["identity"], gdist["additions"]
    tasks = sum(len(range(*addition["packs"])) for addition in additions)
    objects = storage.objects("summaries")
    heads = [
        found.head
        for number, addition in enumerate(additions)
        if head_key(number) in objects and (found := summary.read(storage, number, addition))
    ]
    if len(heads) == len(additions):
        done = tasks
        objects |= storage.objects("plans") | storage.objects("teacher") | {key: dict(top[key]) for key in top}
        size = sum(int(head["receipt_bytes"]) + sum(map(int, head["bytes"].values())) for head in heads)
    else:
        objects, size = storage.objects(), 0
        done = sum(_planned(key, additions, gdist["packs"]) for key in objects)
    return Description(
        uri=storage.uri,
        teacher=str(gdist["about"]["teacher"]),
        audio_seconds=int(gdist["frames"]) / framing_of(identity, storage.uri).frames_per_second,
        utterances=int(gdist["utterances"]),
        layers=tuple(sorted(int(layer) for layer in identity["layers"])),
        dim=int(identity["dim"]),
        encoding=str(identity["encoding"]),
        bytes=size + sum(int(meta["size"]) for meta in objects.values()),
        tasks=tasks,
        tasks_done=done,
        locked=LOCK in top,
        changed=max(meta["last_modified"] for key, meta in objects.items() if key != LOCK),
    )


def _planned(key: str, additions: list[Mapping[str, Any]], packs: int) -> bool:
    """Whether a key is the receipt of a task: ``receipts/00003.json`` of a pack, ``receipts/00003-1.json`` of layers
    that addition 1 adds to it."""
    if not (named := RECEIPT.fullmatch(key)):
        return False
    pack, number = int(named[1]), named[2]
    if number is not None:
        within = int(number) < len(additions) and not additions[int(number)]["waveform"]
        return within and pack in range(*additions[int(number)]["packs"])
    return pack < packs
