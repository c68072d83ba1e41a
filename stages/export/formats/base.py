"""What a format is: a module with these names.

Axes: S samples, L teacher layers, T frames, D features.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from gdist.pipeline.run import Run
from gdist.stages.students import Student


@dataclasses.dataclass(frozen=True)
class Export:
    """What is exported.

    Attributes:
        student: finished, in float32, on the CPU and in eval mode.
        run: where it comes from.
        options: the format's own options that were given, by name; see :attr:`Format.OPTIONS`.
    """

    student: Student
    run: Run
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Format(Protocol):
    """One format. `gdist export` writes into a temporary folder, loads that back, compares, and only then renames."""

    OPTIONS: Mapping[str, Any]
    """The options of `gdist export` that it takes, beside the common ones, with their defaults."""

    def write(self, export: Export, folder: Path) -> dict[str, Any]:
        """Write everything into ``folder``, which is there and empty.

        Returns:
            fields of its own for ``--json``.
        """

    def hidden_states(self, folder: Path, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Load what was written as its users will, and answer for a batch.

        Args:
            waveforms: utterances ``[S]`` of several lengths, as they are recorded: not normalised.

        Returns:
            for each utterance its own L + 1 hidden states, ``[L + 1, T, D]``.
        """

    def tolerance(self, options: Mapping[str, Any]) -> float:
        """The largest difference from the student's hidden states that is rounding and not a fault, as a share of the
        largest value among them where that is above 1; ``math.inf`` where the difference is only reported."""

    def usage(self, folder: Path) -> str:
        """What to type next, in one or a few lines."""
