"""The bytes of an audio file: a file on this machine, an object in a bucket, or a range of either.

Anything wrong with one file becomes an :class:`AudioError`. An object store that does not answer is different: it
fails the run (a CacheError), because an outage must not be mistaken for a thousand bad recordings.
"""

import io
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from gdist.pipeline.audio.bounds import MAX_HELD, require_held
from gdist.pipeline.audio.segment import Segment
from gdist.pipeline.errors import AudioError, UsageError
from gdist.pipeline.storage.paths import RemotePath, is_uri
from gdist.pipeline.storage.ranged import Ranged

RANGE = 1 << 16  # bytes of an object fetched at a time to read its header


class Source(ABC):
    """The bytes of one audio file.

    Attributes:
        name: what messages call it.
        size: its length in bytes.
        key: equal for two sources of the same bytes, as far as that can be told without reading them.
        is_remote: whether each further range costs a request.
    """

    name: str
    size: int
    key: tuple[object, ...]
    is_remote = False

    def tail(self, length: int) -> bytes:
        """Its last bytes, at most so many."""
        return self.at(max(self.size - length, 0), length)

    @abstractmethod
    def at(self, offset: int, length: int) -> bytes:
        """A range of its bytes; shorter at its end."""

    @abstractmethod
    def data(self) -> bytes:
        """All of its bytes."""

    @abstractmethod
    def opened(self) -> Any:
        """What soundfile opens: a path, or an object with the methods of a file."""


class ViaCallbacks(Ranged):
    """What libsndfile reads through callbacks: it calls from C, where an exception would be printed and lost. A seek
    to before the beginning, which a damaged header asks for, changes nothing, as it does in a file."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        target = (0, self._position, self.size)[whence] + offset
        if target >= 0:
            self._position = target
        return self._position


class InMemory(ViaCallbacks):
    """Bytes, as a file."""

    def __init__(self, data: bytes) -> None:
        self._data, self.size = memoryview(data), len(data)

    def at(self, offset: int, length: int) -> memoryview:
        return self._data[offset : offset + length]


class LocalSource(Source):
    """A file on this machine, or a range of its bytes."""

    def __init__(self, segment: Segment) -> None:
        self.name, self._segment = str(segment), segment
        self._path = segment.path.removeprefix("file://")
        self._offset = segment.byte_offset or 0
        try:
            status = os.stat(self._path)  # noqa: PTH116 — paths stay str here
        except FileNotFoundError as error:
            raise AudioError(f"file not found: {self.name}") from error
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise AudioError(f"cannot be read: {getattr(error, 'strerror', None) or error}: {self.name}") from error
        if stat.S_ISDIR(status.st_mode):
            raise AudioError(f"is a directory: {self.name}")
        if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for somebody who writes to it
            raise AudioError(f"is no file, but a device, a pipe or a socket: {self.name}")
        self.size = _within(status.st_size, segment)
        self.key = (self._path, self._offset, self.size, status.st_mtime_ns)
        self._head = b""

    def at(self, offset: int, length: int) -> bytes:
        if offset + length <= RANGE:
            self._head = self._head or self._read(0, RANGE)
            return self._head[offset : offset + length]
        return self._read(offset, length)

    def _read(self, offset: int, length: int) -> bytes:
        try:
            with open(self._path, "rb") as file:  # noqa: PTH123
                file.seek(self._offset + offset)
                return file.read(max(min(length, self.size - offset), 0))
        except PermissionError as error:
            raise AudioError(f"permission denied: {self.name}") from error
        except OSError as error:
            raise AudioError(f"cannot be read: {error.strerror}: {self.name}") from error

    def data(self) -> bytes:
        require_held(self.size, self.name)
        return self.at(0, self.size)

    def opened(self) -> Any:
        return InMemory(self.data()) if self._segment.is_member else self._path


class RemoteSource(Source, ViaCallbacks):
    """An object, or a range of its bytes, as a file: only the blocks that are read are fetched, each by one
    request."""

    is_remote = True

    def __init__(self, segment: Segment) -> None:
        self.name, self._offset = str(segment), segment.byte_offset or 0
        self._segment, self._path = segment, _object(segment.path)
        self.failure: Exception | None = None
        try:
            if self._offset:
                _within(_size(segment.path), segment)
            first, total = self._path.read_part(self._offset, RANGE)
        except FileNotFoundError as error:
            raise AudioError(f"file not found: {self.name}") from error
        self.size = _within(total, segment)
        self.key = (segment.path, self._offset, self.size)
        self._blocks = {0: bytes(first[: self.size])}

    def at(self, offset: int, length: int) -> bytes:
        parts, stop = [], min(offset + length, self.size)
        while offset < stop:
            block, begin = divmod(offset, RANGE)
            parts.append(self._block(block)[begin : begin + stop - offset])
            offset = (block + 1) * RANGE
        return b"".join(parts)

    def data(self) -> bytes:
        return _fetched(self._segment)

    def opened(self) -> Any:
        self._position = 0
        return self

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer up to the end of the object; 0 at the end, and when the store fails (see ``failure``)."""
        if self.failure:
            return 0
        try:
            return super().readinto(buffer)
        # libsndfile calls this from C, where an exception would be printed and lost.
        except Exception as error:
            self.failure = error
            return 0

    def _block(self, block: int) -> bytes:
        if block not in self._blocks:
            length = min(RANGE, self.size - block * RANGE)
            self._blocks[block] = bytes(self._path.read_part(self._offset + block * RANGE, length)[0])
        return self._blocks[block]


class FetchedSource(Source):
    """An object, or a range of its bytes, fetched with one request."""

    def __init__(self, segment: Segment) -> None:
        self.name, self._data = str(segment), _fetched(segment)
        self.size, self.key = len(self._data), (segment.path, segment.byte_offset, len(self._data))

    def at(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]

    def data(self) -> bytes:
        return self._data

    def opened(self) -> Any:
        return InMemory(self._data)


def source_of(segment: Segment, header_only: bool) -> Source:
    """The bytes of a segment's file.

    Args:
        header_only: that only a little of it is needed, so that an object is not fetched as a whole.

    Raises:
        AudioError: it is missing, empty, a folder, or shorter than the range of bytes that is its part.
    """
    if not is_uri(segment.path):
        return LocalSource(segment)
    return RemoteSource(segment) if header_only else FetchedSource(segment)


@contextmanager
def raising_store_failures(source: Source) -> Iterator[None]:
    """Raise the store's own error where there is one: it says more than libsndfile's error about reading."""
    try:
        yield
    finally:
        if isinstance(source, RemoteSource) and source.failure:
            raise source.failure


def _within(total: int, segment: Segment) -> int:
    """The size of the segment's file in ``total`` bytes."""
    there, wanted = max(total - (segment.byte_offset or 0), 0), segment.byte_size
    if not there or wanted == 0:
        raise AudioError(f"empty file: {segment}")
    if wanted is not None and wanted > there:
        raise AudioError(f"truncated: {there} of {wanted} bytes are there: {segment}")
    return there if wanted is None else wanted


def _object(uri: str) -> RemotePath:
    try:
        path = RemotePath.parse(uri)
    except UsageError as error:
        raise AudioError(error.message) from error
    if uri.endswith("/") or str(path) == path.root:
        raise AudioError(f"is a directory: {uri}")
    return path


@lru_cache(maxsize=1024)  # an archive has many members
def _size(uri: str) -> int:
    """Bytes of an object. A store refuses a range that begins after its end in a way of its own."""
    return _object(uri).read_part(0, 1)[1]


def _fetched(segment: Segment) -> bytes:
    return _fetch(segment.file)


@lru_cache(maxsize=4)  # utterances that are segments of one object usually follow one another
def _fetch(file: Segment) -> bytes:
    try:
        if not file.is_member:
            data, total = _object(file.path).read_part(0, MAX_HELD)
            require_held(_within(total, file), str(file))
            return bytes(data)
        size = _within(_size(file.path), file)
        require_held(size, str(file))
        return bytes(_object(file.path).read_part(file.byte_offset or 0, size)[0])
    except FileNotFoundError as error:
        raise AudioError(f"file not found: {file}") from error
