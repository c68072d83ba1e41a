"""What the requests of one process to one bucket know of each other: since when nothing has answered.

A training has dozens of requests under way. Each on its own would notice that the network is gone, wait as long as it
may, and leave the next ones to begin anew. So the time that passes without an answer is counted once, for all: the
first request that gives up ends the others too, those under way included, and says why for all of them.
"""

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from functools import lru_cache
from typing import Any

from gdist.pipeline import console
from gdist.pipeline.storage.failures import explain, is_temporary
from gdist.pipeline.storage.patience import Patience

PROBE_SECONDS = 2.0  # how long a server that was given up may take to show that it is there again
UNANSWERED_SECONDS = 5.0  # how long an unanswered probe stands for the next ones


class GaveUpError(Exception):
    """Another request to the same bucket gave up; ``error`` says why."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Outage:
    """Since when nothing has answered, and what that means for every request. Any number of threads may use it.

    Attributes:
        reached: whether the server ever answered.
    """

    def __init__(self, where: str) -> None:
        self.where, self.reached = where, False
        self._since: float | None = None  # when the first request that failed since the last answer was sent
        self._gave_up: Exception | None = None
        self._unanswered: float | None = None  # when the last probe was not answered
        self._announced = False
        self._changed, self._probing = threading.Condition(), threading.Lock()
        self._running: set[Future[Any]] = set()

    @property
    def is_on(self) -> bool:
        """Whether a request has failed and none was answered since."""
        return self._since is not None

    def forget(self) -> None:
        """Begin anew: a place that is opened again gets all the patience there is."""
        with self._changed:
            self._since = self._gave_up = self._unanswered = None

    def answered(self) -> None:
        """Note that the server answered, with whatever."""
        self.reached = True
        if self._since is None:
            return
        with self._changed:
            passed = time.monotonic() - (self._since or time.monotonic())
            self._since = self._gave_up = self._unanswered = None
            announced, self._announced = self._announced, False
        if announced:
            console.settle(f"{self.where}: answers again, after {console.duration(passed)}")

    def failed(self, sent: float) -> float:
        """Note that a request sent at that time had no answer. Returns since when there has been none."""
        with self._changed:
            self._since = sent if self._since is None else min(self._since, sent)
            return self._since

    def announce(self, error: Exception, seconds: float, tries: int, limits: Patience) -> None:
        """Say in one line what all requests are waiting for."""
        self._announced = True
        limit = console.duration(limits.in_all if self.reached else limits.at_first)
        console.wait_for(
            f"{self.where}: {explain(error)}; waiting for {console.duration(seconds)}, try {tries} of {limits.tries} "
            f"(gives up after {limit})"
        )

    def give_up(self, error: Exception, began: float) -> None:
        """End all requests, unless one was answered since ``began``: then the trouble is this request's own."""
        with self._changed:
            if self._since is None or self._since > began or self._gave_up is not None:
                return
            self._gave_up = error
            running = list(self._running)
            self._changed.notify_all()
        for future in running:
            future.cancel()
        if self._announced:
            console.settle()

    def pause(self, seconds: float) -> None:
        """Wait; GaveUpError when another request gives up meanwhile."""
        with self._changed:
            if self._changed.wait_for(self._is_over, seconds):
                raise GaveUpError(self._reason())

    def run[T](self, request: Callable[[], Awaitable[T]], seconds: float | None = None) -> T:
        """Return what a request gives.

        Args:
            seconds: how long a probe may take; probes are sent after all others were given up.

        Raises:
            GaveUpError: it was abandoned, because another request gave up.
            TimeoutError: a probe took too long.
        """

        async def answer() -> T:
            return await request()

        with self._changed:
            if self._gave_up is not None and seconds is None:
                raise GaveUpError(self._reason())
            future = asyncio.run_coroutine_threadsafe(answer(), _loop(os.getpid()))
            self._running.add(future)
        try:
            return future.result(seconds)
        except CancelledError:
            raise GaveUpError(self._reason()) from None
        finally:
            future.cancel()  # after Ctrl-C, or when time has passed
            with self._changed:
                self._running.discard(future)

    def require_hope(self, probe: Callable[[], Awaitable[Any]]) -> None:
        """Raise GaveUpError if a request gave up and the server still does not answer, which ``probe`` asks it."""
        if not self._is_over():
            return
        with self._probing:
            if not self._is_over():  # another thread's probe was answered
                return
            if self._unanswered and time.monotonic() - self._unanswered < UNANSWERED_SECONDS:
                raise GaveUpError(self._reason())
            try:
                self.run(probe, PROBE_SECONDS)
            except Exception as error:
                if isinstance(error, TimeoutError) or is_temporary(error):
                    self._unanswered = time.monotonic()
                    raise GaveUpError(self._reason()) from error
            self.answered()

    def _is_over(self) -> bool:
        return self._gave_up is not None

    def _reason(self) -> Exception:
        """Return the error of the request that gave up, as a copy: each thread that raises it adds a traceback."""
        first = self._gave_up
        if first is None:  # the server answered again a moment ago
            return TimeoutError("the request was abandoned, because the server did not answer others")
        error = type(first)(*first.args)
        for note in getattr(first, "__notes__", ()):
            error.add_note(note)
        return error


@lru_cache(maxsize=1)
def _loop(process: int) -> asyncio.AbstractEventLoop:
    """Return the loop of this process that waits for requests which may be abandoned."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="gdist-requests", daemon=True).start()
    return loop


_known: dict[tuple[Any, ...], Outage] = {}
_finding = threading.Lock()


def outage_of(where: str) -> Outage:
    """Return what is known of a bucket; it is another one where the environment names another server."""
    named = sorted(item for item in os.environ.items() if item[0].startswith(("AWS_", "AZUR", "GOOGLE_")))
    with _finding:
        return _known.setdefault((os.getpid(), where, *named), Outage(where))
