"""Archives on this machine or in a bucket, of which only the parts that are asked for are read."""

import io
from typing import Any, BinaryIO, cast

from gdist.pipeline.storage.paths import Place, RemotePath

_RANGE = 1 << 14  # bytes fetched at a time: a few headers of small members, little of a large one


def opened(path: Place) -> BinaryIO:
    """Open a file for random access. Of an object, only the ranges that are read are fetched."""
    return cast(BinaryIO, _Ranged(path)) if isinstance(path, RemotePath) else path.open("rb")


class _Ranged(io.RawIOBase):
    """An object as a file; the last range that was fetched is kept."""

    def __init__(self, path: RemotePath) -> None:
        self._path, self._position, self._start = path, 0, 0
        self._part, self._size = path.read_part(0, _RANGE)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = (0, self._position, self._size)[whence] + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position >= self._size:
            return 0
        if not self._start <= self._position < self._start + len(self._part):
            self._start = self._position
            self._part, _ = self._path.read_part(self._start, max(_RANGE, len(buffer)))
        at = self._position - self._start
        part = self._part[at : at + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)
