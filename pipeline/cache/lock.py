"""One extraction per cache at a time, or one copy to it: a lock object that its owner keeps updating.

A second one refuses while the first is alive, and takes over when it is not. No clocks are compared: a
process that finds a lock watches whether it changes. An owner that was killed on the same machine is detected at
once.
"""

import uuid
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from gdist.pipeline.cache.planning import LOCK
from gdist.pipeline.cache.schema import SMALL_BYTES, LockDocument
from gdist.pipeline.errors import CacheError, CacheLockedError
from gdist.pipeline.heartbeat import BEAT_SECONDS, Heartbeat, wait_for_silence
from gdist.pipeline.machine import myself
from gdist.pipeline.schema import SchemaError, conform, parse
from gdist.pipeline.storage.objects import Storage, canonical


class Lock:
    """Hold the lock of a cache for the length of a ``with``.

    Args:
        work: what this process does, for the message of the one that is refused.

    Raises:
        CacheLockedError: on entry, another process is writing to the cache.
    """

    def __init__(self, storage: Storage, beat_seconds: float = BEAT_SECONDS, work: str = "extraction") -> None:
        self.storage, self.beat_seconds, self.work = storage, beat_seconds, work
        self.token = uuid.uuid4().hex
        # A bucket that is briefly unreachable is no reason to stop: commits check the lock themselves.
        self._heartbeat = Heartbeat(self._update, beat_seconds, CacheError)

    def __enter__(self) -> Self:
        if not self.storage.put_new(LOCK, self._document(0)):
            self._wait_for_silence()
            self.storage.put(LOCK, self._document(0))
        self._heartbeat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._heartbeat.stop()
        with suppress(
            CacheError
        ):  # an earlier error says more; if the lock stays, the next owner waits, then takes over
            if owner(self.storage).get("token") == self.token:
                self.storage.delete([LOCK])

    def _document(self, beat: int) -> bytes:
        return canonical({"token": self.token, "beat": beat, "work": self.work, **myself()})

    def _update(self, beat: int) -> bool:
        if owner(self.storage).get("token") != self.token:
            return False
        self.storage.put(LOCK, self._document(beat))
        return True

    def _wait_for_silence(self) -> None:
        def notice(seen: dict[str, Any]) -> str:
            return f"another {_work(seen)} holds the cache's lock; waiting to see whether it is still alive"

        wait_for_silence(lambda: owner(self.storage), self._refusal, notice, self.beat_seconds)

    def _refusal(self, seen: dict[str, Any]) -> CacheLockedError:
        return CacheLockedError(
            f"another {_work(seen)} is writing to {self.storage.uri} "
            f"(process {seen.get('pid')} on {seen.get('host')})",
            "wait until it is done, or stop it and run the same command again",
        )


def require_token(storage: Storage, token: str) -> None:
    """Raise CacheLockedError unless the lock still has ``token``; called before anything is committed."""
    seen = owner(storage)
    if seen.get("token") != token:
        who = f"process {seen.get('pid')} on {seen.get('host')}" if seen else "the one that held the lock has ended"
        raise CacheLockedError(
            f"this process may no longer write to {storage.uri}: another {_work(seen)} took over ({who})",
            f"let the other {_work(seen)} finish; what was committed is kept",
        )


def _work(seen: dict[str, Any]) -> str:
    return str(seen.get("work", "extraction"))


def owner(storage: Storage) -> dict[str, Any]:
    """Read who holds the lock; empty when nobody does, or when it is no lock of gdist's.

    Raises:
        CacheError: what has its name cannot be read, or is no file.
    """
    try:
        return dict(conform(parse(storage.get(LOCK, SMALL_BYTES)), LockDocument))
    except (FileNotFoundError, SchemaError):
        return {}
