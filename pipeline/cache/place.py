"""Where the bytes of a shard are: in its store, on this machine's disk, or in memory."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gdist.pipeline.storage.objects import Storage

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, eq=False)
class Place:
    """Where a shard's bytes are.

    Attributes:
        storage, key: the object; its bytes may also be in memory.
        data: the bytes, where they are in memory.
        counted: whether whoever brought them here has counted them.
    """

    storage: Storage
    key: str
    data: Bytes | None = None
    counted: bool = False

    @property
    def at_hand(self) -> bool:
        """Whether reading needs no request."""
        return self.data is not None or self.storage.folder is not None


class Whereabouts(Protocol):
    """What knows where shards are, better than their store."""

    def place(self, name: str, pack: int) -> Place: ...
    def doubt(self, name: str, pack: int) -> None: ...
    def count(self, place: Place, size: int) -> None: ...
