"""The documents of a cache, with checksums that are right again."""

import shutil
from pathlib import Path
from random import Random
from typing import Any

from fuzzing import artefacts
from fuzzing.mutations import hostile, text_of
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.plan import HOLDER, ROOT
from gdist.pipeline.cache.verify import verify
from gdist.pipeline.errors import GdistError
from gdist.pipeline.storage.objects import seal, unseal


def resealed(document: Any, path_to_holder: tuple[str, ...] = ()) -> bytes:
    """Return a document's bytes with the right checksum, if there is still a place for one."""
    holder = document
    try:
        for key in path_to_holder:
            holder = holder[key]
        return seal(document, holder)
    except (TypeError, KeyError, IndexError, ValueError):  # ValueError: halves of characters cannot be sealed
        return text_of(document)


class RootDocument:
    """A cache whose root document says something else. It is opened, read and verified."""

    def __init__(self, folder: Path) -> None:
        self.cache = shutil.copytree(artefacts.cache(), folder / "cache")
        self.good = (self.cache / ROOT).read_bytes()

    def make(self, random: Random) -> bytes:
        return resealed(hostile(unseal(self.good, HOLDER), random), HOLDER)

    def read(self, data: bytes) -> None:
        (self.cache / ROOT).write_bytes(data)
        use(self.cache)


def use(folder: Path) -> None:
    """Do with a cache what training and `gdist verify` do."""
    cache = Cache.open(str(folder))
    entries = [entry for entry in cache.entries[:4] if entry.num_frames]
    for act in (
        lambda: cache.hidden(cache.layers[0], [(entry, 0, entry.num_frames) for entry in entries]),
        lambda: cache.waveform([(entry, 0, entry.num_frames) for entry in entries]),
        lambda: verify(cache, lambda *_: None),
    ):
        try:
            act()
        except GdistError:  # one of them may still be refused by the others
            continue
