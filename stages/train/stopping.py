"""Ctrl-C: the step is finished first."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from gdist.pipeline import console


@contextlib.contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM let the step finish; the list is then not empty. A second signal stops at once."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        console.say("stopping after this step (a second signal stops at once)")

    if threading.current_thread() is not threading.main_thread():
        yield received  # signals reach the main thread only
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
