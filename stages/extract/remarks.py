"""What extraction notices about audio that it can use all the same: counted, with one example of each kind."""

import threading
from collections.abc import Mapping
from typing import Any

from gdist.pipeline.audio import Signal

ADVICE = {
    "quiet": "16 bits leave little of it, and this teacher normalizes: gdist manifest build --gain auto",
    "cancels": "choose one channel: a column channel in the manifest",
    "mixed": "mixed down to one; a column channel in the manifest chooses one",
}


class Remarks:
    """The remarks on an extraction's audio; any thread may add to it.

    Args:
        normalizes: whether the teacher normalizes its input, so that quiet audio matters as much as loud.
    """

    def __init__(self, normalizes: bool = False) -> None:
        self._normalizes, self._lock = normalizes, threading.Lock()
        self._counts: dict[str, int] = {}
        self._examples: dict[str, tuple[str, str]] = {}

    def add(self, signals: Mapping[str, Signal]) -> None:
        """Add the signals of some utterances: id → signal."""
        with self._lock:
            for id, signal in signals.items():
                found = signal.remarks | ({"mixed": f"{signal.mixed} channels"} if signal.mixed > 1 else {})
                for kind, words in found.items():
                    if kind != "quiet" or self._normalizes:
                        self._counts[kind] = self._counts.get(kind, 0) + 1
                        # The first by id, whatever the order in which packs are read.
                        self._examples[kind] = min(self._examples.get(kind, (id, words)), (id, words))

    def to_dict(self) -> dict[str, Any]:
        """The field ``remarks`` of ``gdist extract --json``."""
        return {
            kind: {"utterances": count, "example": dict(zip(("id", "what"), self._examples[kind], strict=True))}
            for kind, count in sorted(self._counts.items())
        }


def lines(remarks: Mapping[str, Any]) -> list[str]:
    """What is printed of :meth:`Remarks.to_dict`."""
    found = []
    for kind, remark in remarks.items():
        count, example = remark["utterances"], remark["example"]
        noun = "utterance" if count == 1 else "utterances"
        advice = f" ({ADVICE[kind]})" if kind in ADVICE else ""
        found.append(f"{count} {noun}, such as {example['id']}: {example['what']}{advice}")
    return found
