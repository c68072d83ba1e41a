"""A file of which only the bytes that are asked for are read: an object in a bucket, or what stands for a file."""

import io
from abc import abstractmethod
from typing import Any, BinaryIO, cast

from gdist.pipeline.storage.paths import Place, RemotePath

_AHEAD = 1 << 14  # bytes fetched at least: a few headers of small members of an archive, little of a large one


class Ranged(io.RawIOBase):
    """Bytes that can be read from any place. A subclass sets ``size``, and says what is where.

    Attributes:
        size: the length in bytes.
    """

    size: int
    _position = 0

    @abstractmethod
    def at(self, offset: int, length: int) -> Any:
        """Return the bytes of a range, or fewer of them; none only at the end."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = (0, self._position, self.size)[whence] + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        part = self.at(self._position, len(buffer))
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)


class _Object(Ranged):
    """An object: each read is one request."""

    def __init__(self, path: RemotePath) -> None:
        self._path, self.size = path, path.read_part(0, 1)[1]

    def at(self, offset: int, length: int) -> Any:
        length = min(length, self.size - offset)
        return self._path.read_part(offset, length)[0] if length > 0 else b""


def opened(path: Place) -> BinaryIO:
    """Open a file for random access. Of an object, only the ranges that are read are fetched."""
    if isinstance(path, RemotePath):
        return cast(BinaryIO, io.BufferedReader(_Object(path), _AHEAD))
    return path.open("rb")
