"""The shards of one cache that are kept in a local folder: found, fetched by one process at a time, discarded."""

import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np

from gdist.pipeline import console
from gdist.pipeline.local.folder import LocalFolder, try_lock
from gdist.pipeline.storage.objects import Storage
from gdist.pipeline.storage.patience import Patience

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
DIGEST = re.compile(r"[0-9a-f]{32}")
WAIT_SECONDS = 0.02  # between two looks at whether another process has fetched a shard


class Record(NamedTuple):
    """What a receipt says of a shard."""

    bytes: int
    digest: str


class KeptCache:
    """What a local folder has of one cache. Every failure of the disk means only that less is kept; it is said once.

    Attributes:
        storage: the kept shards, by :meth:`key`.
        keeping: whether shards can be kept at all.
        full: whether there was no room for one.
        doubting: held while a damaged shard is looked into.
    """

    def __init__(self, folder: LocalFolder, uri: str, note: dict[str, Any]) -> None:
        self.folder, self.uri = folder, uri
        self.path = folder.place(uri, note)
        self.keeping, self.full = True, False
        self._used = 0
        self.doubting = threading.Lock()
        try:
            self._used = folder.recount()
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            self._stop(error.strerror or str(error))
        self.storage = Storage(str(self.path if self.path.is_dir() else folder.root))

    @staticmethod
    def key(record: Record) -> str:
        """Return the name of a shard's file."""
        assert DIGEST.fullmatch(record.digest), "a digest comes from a receipt, and becomes a path"
        return f"{record.digest[:2]}/{record.digest}"

    def has(self, record: Record) -> bool:
        """Whether the shard is here, in full length; its content is checked when it is read."""
        try:
            found = os.lstat(self.path / self.key(record))
        except OSError:
            return False
        return found.st_size == record.bytes

    def delete(self, digests: Collection[str]) -> None:
        """Delete some shards, such as those that are no longer the cache's: it was repaired, or made again."""
        for path in [self.path / digest[:2] / digest for digest in digests]:
            with suppress(OSError):
                size = path.stat().st_size
                path.unlink()
                self.folder.release(size)

    def room(self) -> int:
        """Return how many more bytes could be kept when the folder was opened."""
        return self.folder.room(self._used)

    def size(self) -> int:
        """Return how many bytes are kept."""
        with suppress(OSError):
            return sum(path.stat().st_size for path in self.folder.shards(self.path) if path.suffix != ".part")
        return 0

    def digests(self) -> set[str]:
        """Return the digests of all shards that are here."""
        with suppress(OSError):
            return {path.name for path in self.folder.shards(self.path) if path.suffix != ".part"}
        return set()

    def fetched(self, record: Record, download: Callable[[Callable[[], None]], Bytes]) -> tuple[bool, Bytes | None]:
        """Have a shard here: it is fetched by this process, or by another one that began before.

        Args:
            download: returns the shard's bytes, checked; it calls its argument whenever some of them have arrived.

        Returns:
            whether this process fetched it, and its bytes, if they could not be kept.
        """
        while self.keeping and not self.has(record):
            try:
                with self._part(record) as part:
                    if part is None:
                        continue
                    if self.has(record):
                        break
                    if self._reserve(part, record.bytes):
                        return True, self._filled(part, record, download)
                    self.full = True
                    return True, download(_nothing)
            except _StalledError:
                break
            except _UnwritableError as error:
                self._stop(str(error))
        return (False, None) if self.has(record) else (True, download(_nothing))

    def _filled(self, part: int, record: Record, download: Callable[[Callable[[], None]], Bytes]) -> Bytes | None:
        path = self.path / self.key(record)
        try:
            data = download(lambda: os.utime(part))
        except BaseException:
            self.folder.release(record.bytes)
            raise
        try:
            view, written = memoryview(data), 0
            while written < len(view):
                written += os.pwrite(part, view[written:], written)
            path.with_name(f"{path.name}.part").rename(path)
        except OSError as error:
            self.folder.release(record.bytes)
            self._stop(error.strerror or str(error))
            return data
        return None

    def is_whole(self, record: Record, digest: Callable[[bytes], str]) -> bool:
        """Whether the shard is here and has its digest."""
        try:
            return digest((self.path / self.key(record)).read_bytes()) == record.digest
        except OSError:
            return False

    def discard(self, record: Record) -> None:
        """Delete a shard that turned out to be damaged."""
        with suppress(OSError):
            (self.path / self.key(record)).unlink()
            self.folder.release(record.bytes)

    # --- one process at a time ------------------------------------------------------------------------------------

    def _reserve(self, part: int, size: int) -> bool:
        """Reserve room for a shard. Returns whether there is any."""
        try:
            with self.folder.reserving(size) as fits:
                if fits:
                    os.ftruncate(part, size)
            return fits
        except OSError as error:
            raise _UnwritableError(error.strerror or str(error)) from error

    @contextmanager
    def _part(self, record: Record) -> Iterator[int | None]:
        """Own the fetch of a shard: an open file, which is deleted at the end unless it was renamed. None after a
        short wait where another process owns it. A process that shows no progress for a long time is passed by."""
        path = self.path / f"{self.key(record)}.part"
        try:
            if not self.folder.root.is_dir():  # never created again: it may be where a disk is to be mounted
                raise _UnwritableError("the folder is gone")
            path.parent.mkdir(parents=True, exist_ok=True)
            part = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise _UnwritableError(error.strerror or str(error)) from error
        mine = False
        try:
            try:
                locked = try_lock(part)
            except OSError as error:  # a file system without locks
                raise _UnwritableError(error.strerror or str(error)) from error
            if locked:  # unless the file was finished, or removed, before it was locked
                with suppress(OSError):
                    mine = os.path.samestat(os.fstat(part), os.lstat(path))
            if mine:
                os.utime(part)
            elif time.time() - os.fstat(part).st_mtime > Patience.from_environment().in_all:
                raise _StalledError
            else:
                time.sleep(WAIT_SECONDS)
            yield part if mine else None
        finally:
            with suppress(OSError):
                if mine and os.path.samestat(os.fstat(part), os.lstat(path)):
                    path.unlink()
            os.close(part)

    def _stop(self, why: str) -> None:
        if self.keeping:
            self.keeping = False
            console.say(
                f"no more shards are kept in {self.folder.path}: {why}; the rest is read from {self.uri}",
                style="yellow",
            )


def _nothing() -> None:
    pass


class _UnwritableError(Exception):
    """The folder cannot be written; the run goes on without it."""


class _StalledError(Exception):
    """Another process is fetching the shard, and has come to a halt: nobody waits for it any longer."""
