"""One process per folder (a run's, a sweep's, an export's): a file in it names its owner, and the kernel locks it.

The kernel releases the lock when the owner dies, however it dies, so a second process on the same machine refuses or
takes over at once. Not every shared disk passes locks on to other machines. There, the file itself shows whether its
owner is alive: the owner keeps updating it, and a process that finds it watches for changes. No clocks are compared.
"""

import errno
import fcntl
import json
import os
import time
import uuid
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict

from gdist.pipeline.errors import AGAIN, RunError
from gdist.pipeline.files import content_of
from gdist.pipeline.heartbeat import BEAT_SECONDS, Heartbeat, wait_for_silence
from gdist.pipeline.machine import is_here, myself
from gdist.pipeline.schema import Count, SchemaError, Word, conform, parse

OWNER = "training.json"
UNWRITABLE = f"choose another --out; or free some space, or fix its permissions, and {AGAIN}"
REFUSED = "another process of gdist is using"
MAX_BYTES = 1 << 16  # of the file
DYING_SECONDS = 1.0  # for which a process that was killed may still have its lock
NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}  # errors of file systems without locks


class OwnerDocument(TypedDict, total=False):
    """Who owns a folder."""

    token: Word
    since: Word
    beat: Count
    pid: Count
    started: Any
    host: Word
    boot: Word
    processes: Word


class Owner:
    """Own a folder for the length of a ``with``.

    Raises:
        RunError: on entry, another process is at work there; or the folder cannot be written.
    """

    def __init__(self, folder: Path, beat_seconds: float = BEAT_SECONDS) -> None:
        self.folder, self.path, self.beat_seconds = folder, folder / OWNER, beat_seconds
        self._about = {
            "token": uuid.uuid4().hex,
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            **myself(),
        }
        self._heartbeat = Heartbeat(self._update, beat_seconds, OSError)

    def __enter__(self) -> Self:
        try:
            self._file, locked = self._lock()
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            self._wait_for_silence(locked)
            self._write(0)
        except OSError as error:
            if locked:
                self.path.unlink(missing_ok=True)
            os.close(self._file)
            raise self._unwritable(error) from error
        except BaseException:
            os.close(self._file)
            raise
        self._heartbeat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._heartbeat.stop()
        with suppress(OSError):  # if the file stays, the next owner takes over once it stops changing
            if self._is_ours():
                self.path.unlink()
        os.close(self._file)

    @property
    def token(self) -> str:
        """What tells this owner from any other, in the file too."""
        return str(self._about["token"])

    def require(self) -> None:
        """Raise RunError where another process took over; called before anything is written."""
        if not self._is_ours():
            raise RunError(
                f"this process may no longer write to {self.folder}: {_named(self._read())} took over, or "
                f"{self.path.name} was deleted",
                "let the other process finish, or run the same command again; the checkpoints up to here are kept",
            )

    def _unwritable(self, error: OSError) -> RunError:
        return RunError(f"cannot write {self.path}: {error.strerror or error}", UNWRITABLE)

    def _lock(self) -> tuple[int, bool]:
        """Return the open file, and whether the kernel locked it for us (if not, this file system has no locks)."""
        patience = time.monotonic() + DYING_SECONDS
        while True:
            # O_NOFOLLOW: a link of this name would lead elsewhere.
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                if time.monotonic() > patience:
                    raise self._refusal(self._read()) from None
                time.sleep(DYING_SECONDS / 20)
                continue
            except OSError as error:
                if error.errno in NO_LOCKS:
                    return file, False
                os.close(file)
                raise
            # The previous owner may have deleted the file between our opening and our locking it.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), self.path.lstat()):
                    return file, True
            os.close(file)

    def _wait_for_silence(self, locked: bool) -> None:
        def notice(seen: dict[str, Any]) -> str:
            return f"{_named(seen)} was writing {self.folder}; waiting to see whether it is still alive"

        # The kernel gave us the lock: no process of this machine has it any more.
        wait_for_silence(self._read, self._refusal, notice, self.beat_seconds, lambda seen: locked and is_here(seen))

    def _write(self, beat: int) -> None:
        # In place, since the lock belongs to the file and not to its name; and synced, so that other machines see it.
        text = json.dumps(self._about | {"beat": beat}, indent=2).encode() + b"\n"
        os.pwrite(self._file, text, 0)
        os.ftruncate(self._file, len(text))
        os.fsync(self._file)

    def _update(self, beat: int) -> bool:
        if ours := self._is_ours():
            self._write(beat)
        return ours

    def _is_ours(self) -> bool:
        try:
            same = os.path.samestat(os.fstat(self._file), self.path.lstat())
        except OSError:
            same = False
        return same and self._read().get("token", self._about["token"]) == self._about["token"]

    def _read(self) -> dict[str, Any]:
        return read_owner(self.folder)

    def _refusal(self, seen: dict[str, Any]) -> RunError:
        return RunError(
            f"{REFUSED} {self.folder}: {_named(seen)}",
            "wait until it is done, or stop it and run the same command again, or choose another --out",
        )


def read_owner(folder: Path) -> dict[str, Any]:
    """Read who owns a run; empty when nobody does, or when the file was just being written."""
    try:
        return dict(conform(parse(content_of(folder / OWNER, MAX_BYTES)), OwnerDocument))
    except (OSError, SchemaError):
        return {}


def _named(seen: dict[str, Any]) -> str:
    if not seen:
        return "another process"
    return f"process {seen.get('pid')} on {seen.get('host')}, since {seen.get('since')}"
