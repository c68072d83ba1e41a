"""What a pretended GPU counts, and the lines that caused it."""

import functools
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

OURS = ("/gdist/stages/", "/gdist/pipeline/", "/transformers/")
OWN_FOLDER = str(Path(__file__).parent)


class Counts:
    """Counters whose keys are "what @ where".

    Attributes:
        launches: kernels, one per operator that computes something on the device.
        syncs: what makes the host wait until the device has done everything that is queued.
        waits: an event was waited for. What it stands for may be done long ago, so this is no fault by itself.
        pageable: asynchronous copies to the device from memory that is not pinned: the host copies it first.
        attention: which kernel attention takes, in which type, with which mask.
    """

    def __init__(self) -> None:
        self.launches: Counter[str] = Counter()
        self.syncs: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.pageable: Counter[str] = Counter()
        self.attention: Counter[str] = Counter()

    def clear(self) -> None:
        """Count from zero again."""
        for counter in vars(self).values():
            counter.clear()

    def operators(self) -> Counter[str]:
        """Launches by operator, wherever they were caused."""
        found: Counter[str] = Counter()
        for key, number in self.launches.items():
            found[key.split(" @ ")[0]] += number
        return found


COUNTS = Counts()
"""The counts of this process, which has one pretended GPU."""


@functools.cache
def _place(name: str) -> str | None:
    """How a file is called in a count: None for torch's own and for these."""
    for part in OURS:
        if part in name:
            return f"{part.strip('/').removeprefix('gdist/')}/{name.split(part)[-1]}"
    return None if "/torch/" in name or name.startswith(OWN_FOLDER) else ""


def here() -> str:
    """The innermost line of gdist or transformers that is running; outside of both, of whatever else calls torch."""
    frame: FrameType | None = sys._getframe(1)
    other = ""
    while frame is not None:
        name = frame.f_code.co_filename
        place = _place(name)
        if place:
            return f"{place}:{frame.f_lineno}"
        if place is not None and not other:
            other = f"{Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back
    return other
