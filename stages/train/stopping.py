"""Ctrl-C, and what schedulers send before they end a job: what is in hand is finished first."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from gdist.pipeline import console

# Ctrl-C; `kill`, and the end of a job; a terminal that is lost; what Slurm's --signal=USR1@120 sends before the end.
ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Asked(KeyboardInterrupt):
    """Something was left unfinished, because it was asked to stop: what was whole before can be kept."""


class Stopping(list[int]):
    """The signals that have come. In what may take long and changes nothing, the first of them ends it at once."""

    _waits = False

    def note(self, number: int) -> None:
        self.append(number)
        if self._waits:
            raise Asked

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """What may be ended at once; Asked where it is, or was asked for before."""
        if self:
            raise Asked
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def awaited[T](self, items: Iterator[T]) -> Iterator[T]:
        """The items; each may be waited for in vain."""
        while True:
            with self.waiting():
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item


@contextlib.contextmanager
def stop_on_signal(again: Callable[[], object], words: str = "") -> Iterator[Stopping]:
    """The list gets an item at each signal of :data:`ASKED`; a hang-up that `nohup` has switched off stays so.

    Args:
        again: called at a second signal, to stop at once.
        words: said at the first one.
    """
    received = Stopping()

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            again()
        if words:
            console.say(words)
        received.note(number)

    if threading.current_thread() is not threading.main_thread():
        yield received  # signals reach the main thread only
        return
    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    asked = [number for number in ASKED if not (nohup and number == signal.SIGHUP)]
    before = {number: signal.signal(number, note) for number in asked}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def finish_step() -> contextlib.AbstractContextManager[Stopping]:
    """The first signal lets the step finish; a second one stops at once."""
    return stop_on_signal(interrupt, "stopping after this step (a second signal stops at once)")


def interrupt() -> NoReturn:
    raise KeyboardInterrupt
