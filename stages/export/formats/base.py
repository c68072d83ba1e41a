"""The contract of a format: a module with these names.

Axes: S samples, L teacher layers, T frames, D features.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from gdist.pipeline.run import Run
from gdist.pipeline.run.snapshot import Snapshot
from gdist.stages.students import Student


@dataclasses.dataclass(frozen=True)
class Export:
    """What is exported.

    Attributes:
        student: in float32, on the CPU and in eval mode.
        at: the run that it comes from, and after which step.
        options: the values of the format's own options, by name; see :attr:`Format.OPTIONS`.
    """

    student: Student
    at: Snapshot
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def run(self) -> Run:
        return self.at.run

    @property
    def unfinished(self) -> str:
        """A sentence for readers about a student that is not finished; else empty."""
        if self.at.is_finished:
            return ""
        return f"**This student is unfinished**: it was taken after step {self.at.step} of {self.at.total}."


class Format(Protocol):
    """One format. `gdist export` writes into a temporary folder, loads that back, compares, and only then renames."""

    OPTIONS: Mapping[str, Any]
    """The options of `gdist export` that it takes in addition to the common ones, with their defaults."""

    def write(self, export: Export, folder: Path) -> dict[str, Any]:
        """Write everything into ``folder``, which exists and is empty.

        Returns:
            the format's own fields for ``--json``.
        """

    def hidden_states(self, folder: Path, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Load what was written in the way its users will, and run it on a batch.

        Args:
            waveforms: utterances ``[S]`` of several lengths, as recorded: not normalized.

        Returns:
            the L + 1 hidden states of each utterance, ``[L + 1, T, D]``.
        """

    def tolerance(self, options: Mapping[str, Any]) -> float:
        """Return the largest difference from the student's hidden states that still counts as rounding.

        It is relative to the largest value among them if that is above 1. ``math.inf`` means that the difference is
        only reported.
        """

    def usage(self, folder: Path) -> str:
        """Return what to type next, in one or a few lines."""
