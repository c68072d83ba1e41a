"""Ctrl-C: what is in hand is finished first."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from gdist.pipeline import console


@contextlib.contextmanager
def stop_on_signal(again: Callable[[], object], words: str = "") -> Iterator[list[int]]:
    """The list gets an item at Ctrl-C or SIGTERM.

    Args:
        again: called at a second signal, to stop at once.
        words: said at the first one.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            again()
        received.append(number)
        if words:
            console.say(words)

    if threading.current_thread() is not threading.main_thread():
        yield received  # signals reach the main thread only
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def finish_step() -> contextlib.AbstractContextManager[list[int]]:
    """Ctrl-C and SIGTERM let the step finish; a second signal stops at once."""
    return stop_on_signal(interrupt, "stopping after this step (a second signal stops at once)")


def interrupt() -> NoReturn:
    raise KeyboardInterrupt
