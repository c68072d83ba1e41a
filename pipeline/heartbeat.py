"""How an owner shows that it is alive, and how others watch for that: a document that the owner keeps updating.

No clocks are compared: whoever finds the document watches whether it changes. An owner that was killed on the same
machine is detected at once.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from gdist.pipeline import console
from gdist.pipeline.machine import alive

BEAT_SECONDS = 10.0
PATIENCE_BEATS = 4  # after this many beats without a change, the owner counts as dead


class Heartbeat:
    """A thread that updates the document until it is stopped.

    Args:
        update: writes the document with the number of the beat; False when it belongs to someone else by now.
        passing: errors of a store that is briefly unavailable, which are no reason to stop.
    """

    def __init__(self, update: Callable[[int], bool], seconds: float, passing: type[Exception]) -> None:
        self._update, self._seconds, self._passing = update, seconds, passing
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Return once no update is under way any more."""
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        beat = 0
        while not self._stop.wait(self._seconds):
            beat += 1
            try:
                if not self._update(beat):
                    return
            except self._passing:
                continue


class Pulse:
    """Watches whether the owner that a document names goes on updating it, and is still the same one.

    Args:
        read: the document; empty when there is none, or when it was just being written.
        token: the owner's.
    """

    def __init__(self, read: Callable[[], dict[str, Any]], token: str, seconds: float = BEAT_SECONDS) -> None:
        self._read, self._token, self._seconds = read, token, seconds
        self._seen, self._since = read(), time.monotonic()
        self._next = self._since

    def is_gone(self) -> bool:
        """Whether it is silent, or another one took over. Cheap to ask often: it reads ten times in a beat."""
        if (now := time.monotonic()) >= self._next:
            self._next = now + self._seconds / 10
            if (seen := self._read()) and seen != self._seen:
                self._seen, self._since = seen, now
        other = self._seen.get("token", self._token) != self._token
        return other or now - self._since > PATIENCE_BEATS * self._seconds


def wait_for_silence(
    read: Callable[[], dict[str, Any]],
    refusal: Callable[[dict[str, Any]], Exception],
    notice: Callable[[dict[str, Any]], str],
    beat_seconds: float,
    is_dead: Callable[[dict[str, Any]], bool] = lambda seen: False,
) -> None:
    """Return when the owner that a document names is dead; raise ``refusal(seen)`` when it is alive.

    Args:
        read: the document; empty when there is none.
        notice: what people are told, once, while it is not known.
        is_dead: what else shows that an owner is dead, beside its process being gone and its silence.
    """
    seen, silent_since, announced = read(), time.monotonic(), False
    while seen and not is_dead(seen) and (living := alive(seen)) is not False:
        if living:
            raise refusal(seen)
        if time.monotonic() - silent_since > PATIENCE_BEATS * beat_seconds:
            return
        if not announced:
            console.say(notice(seen))
            announced = True
        time.sleep(beat_seconds / 10)
        if (now := read()) != seen and now:
            raise refusal(now)
        seen = now
