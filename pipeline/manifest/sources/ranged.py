"""Archives on this machine or in a bucket, of which only the parts that are asked for are read."""

import io
from typing import Any, BinaryIO, cast

from gdist.pipeline.storage.paths import Place, RemotePath

_AHEAD = 1 << 14  # bytes fetched at least: a few headers of small members, little of a large one


def opened(path: Place) -> BinaryIO:
    """Open a file for random access. Of an object, only the ranges that are read are fetched."""
    if isinstance(path, RemotePath):
        return cast(BinaryIO, io.BufferedReader(_Ranged(path), _AHEAD))
    return path.open("rb")


class _Ranged(io.RawIOBase):
    """An object as a file: each read is one request."""

    def __init__(self, path: RemotePath) -> None:
        self._path, self._position = path, 0
        self._size = path.read_part(0, 1)[1]

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
        length = min(len(buffer), self._size - self._position)
        if length <= 0:
            return 0
        part, _ = self._path.read_part(self._position, length)
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)
