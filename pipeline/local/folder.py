"""The folder that ``--local`` names: shards that were fetched once, for every run and rank of this machine.

    DIR/gdist-kept/
      lock                        held for a moment, while room is reserved
      used                        how many bytes are kept or being written
      0f3a…/                      one folder per cache, named by its location's digest
        cache.json                which cache it is, and who used it last
        ab/abcdef…                a shard, named by its own digest: what is stale is never found
        ab/abcdef….part           a shard that is being fetched; its owner holds a lock on the file

All locks are the kernel's (flock), so a process that is killed leaves nothing that blocks others. A shard gets its
name by a rename when it is complete and checked. Nothing except these files is ever deleted.
"""

import fcntl
import getpass
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gdist.pipeline.errors import UsageError
from gdist.pipeline.files import LINK_HINT, link_below
from gdist.pipeline.staging import write_atomically
from gdist.pipeline.storage.locations import folder_of, scheme_of

ROOT = "gdist-kept"
LOCK_SECONDS = 10.0  # the lock is held for milliseconds; a process that was stopped just then must not stop others
_CACHE = re.compile(r"[0-9a-f]{32}")
_SHARD = re.compile(r"([0-9a-f]{2})/\1[0-9a-f]{30}(\.part)?")
_NOTE = "cache.json"


@dataclass(frozen=True)
class Kept:
    """What is kept of one cache.

    Attributes:
        name: of its folder.
        note: what ``cache.json`` says: uri, teacher, used_by, used_at; empty where it cannot be read.
    """

    name: str
    note: dict[str, Any]
    shards: int
    bytes: int


class LocalFolder:
    """A folder on a fast disk.

    Args:
        path: created if need be.
        limit: bytes to keep at most, of all caches together; None for as much as the disk has room for.

    Raises:
        UsageError: it cannot be a folder on this machine, or cannot be created.
    """

    def __init__(self, path: str | Path, limit: int | None = None) -> None:
        if scheme_of(str(path)) != "file":
            raise UsageError(f"--local {path}: it must be a folder on this machine", "give the path of a fast disk")
        self.path, self.limit = folder_of(str(path)), limit
        self.root = self.path / ROOT
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if not self.root.is_dir():  # what was kept in a folder that is now read-only can still be used
                raise UsageError(
                    f"cannot keep a local copy in {self.path}: {error.strerror}",
                    "choose a folder that you may write to: --local DIR, or GDIST_LOCAL",
                ) from error
        if link := link_below(self.path, self.root):
            raise UsageError(f"{link} is a link (to {link.readlink()}); nothing is kept through it", LINK_HINT)

    def place(self, uri: str, note: dict[str, Any]) -> Path:
        """Return the folder for the cache at ``uri``, and leave a note there about who uses it.

        Args:
            note: what ``cache.json`` says beside the cache's location and its last user.
        """
        folder = self.root / hashlib.sha256(uri.encode()).hexdigest()[:32]
        who = f"{_user()} (process {os.getpid()})"
        about = {"uri": uri, **note, "used_by": who, "used_at": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        with suppress(OSError):  # a folder that is full or read-only is still read from
            folder.mkdir(exist_ok=True)
            write_atomically(folder / _NOTE, json.dumps(about, indent=2) + "\n")
        return folder

    def caches(self) -> list[Kept]:
        """List what is kept, the largest first. Shards that are being fetched do not count."""
        found = []
        for folder in self._folders():
            sizes = [path.stat().st_size for path in self.shards(folder) if path.suffix != ".part"]
            found.append(Kept(folder.name, _read_note(folder), len(sizes), sum(sizes)))
        return sorted(found, key=lambda kept: -kept.bytes)

    def clear(self, names: list[str]) -> tuple[int, int]:
        """Delete what is kept of some caches, by the names of their folders. Runs that read it go on without it.

        Returns:
            how many shards were deleted, and their bytes.
        """
        shards = size = 0
        for folder in self._folders():
            if folder.name not in names:
                continue
            for path in self.shards(folder):
                with suppress(FileNotFoundError):
                    of_shard = path.stat().st_size
                    if path.suffix != ".part" or self._abandoned(path):
                        path.unlink()
                        shards, size = shards + (path.suffix != ".part"), size + of_shard
            self._remove_empty(folder)
        with suppress(OSError):
            self.recount()
        return shards, size

    # --- room -------------------------------------------------------------------------------------------------

    def recount(self) -> int:
        """Count the bytes that are kept or being written, and delete what killed processes left half-fetched."""
        with self._locked():
            used = 0
            for folder in self._folders():
                for path in self.shards(folder):
                    with suppress(FileNotFoundError):
                        if path.suffix == ".part" and self._abandoned(path):
                            path.unlink()
                        else:
                            used += path.stat().st_size
            self._write_used(used)
            return used

    def room(self, used: int) -> int:
        """Return how many more bytes may be kept, if ``used`` are."""
        disk = shutil.disk_usage(self.root)
        free = disk.free - min(disk.total // 50, 1 << 30)  # runs write their checkpoints somewhere, too
        return max(min(free, free if self.limit is None else self.limit - used), 0)

    @contextmanager
    def reserving(self, size: int) -> Iterator[bool]:
        """Reserve room for a shard. Says whether there is any; a file of that size, created in this context, is part
        of every count from then on."""
        with self._locked():
            used = self._read_used()
            fits = size <= self.room(used)
            yield fits
            if fits:
                self._write_used(used + size)

    def release(self, size: int) -> None:
        """Give back room that is not used after all."""
        with suppress(OSError), self._locked():
            self._write_used(max(self._read_used() - size, 0))

    def _read_used(self) -> int:
        try:
            return int((self.root / "used").read_bytes())
        except (OSError, ValueError):
            return 0

    def _write_used(self, used: int) -> None:
        (self.root / "used").write_bytes(b"%d" % used)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Raises OSError where the folder cannot be written, or is locked for a long time."""
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            deadline = time.monotonic() + LOCK_SECONDS
            while not try_lock(descriptor):
                if time.monotonic() > deadline:
                    raise OSError(0, f"another process holds {self.root / 'lock'}")
                time.sleep(0.005)
            yield
        finally:
            os.close(descriptor)

    # --- files ------------------------------------------------------------------------------------------------

    def _folders(self) -> list[Path]:
        with suppress(FileNotFoundError):
            found = [path for path in self.root.iterdir() if _CACHE.fullmatch(path.name)]
            return sorted(path for path in found if path.is_dir() and not path.is_symlink())
        return []

    def shards(self, folder: Path) -> Iterator[Path]:
        """Yield the files of ours in a cache's folder. Links are neither followed nor ours."""
        for inner in sorted(folder.iterdir()):
            if inner.is_dir() and not inner.is_symlink():
                for path in sorted(inner.iterdir()):
                    if _SHARD.fullmatch(f"{inner.name}/{path.name}") and path.is_file() and not path.is_symlink():
                        yield path

    def _abandoned(self, part: Path) -> bool:
        """Whether no living process is fetching this shard."""
        try:
            descriptor = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return try_lock(descriptor)
        finally:
            os.close(descriptor)

    def _remove_empty(self, folder: Path) -> None:
        for inner in (path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()):
            with suppress(OSError):
                inner.rmdir()
        if [path.name for path in folder.iterdir()] == [_NOTE]:
            (folder / _NOTE).unlink()
            with suppress(OSError):
                folder.rmdir()


def try_lock(descriptor: int) -> bool:
    """Lock an open file for as long as it stays open; False where another process has locked it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return f"user {os.getuid()}"


def _read_note(folder: Path) -> dict[str, Any]:
    try:
        note = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}
