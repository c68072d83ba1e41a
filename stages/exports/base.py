"""What a form of export is: a module with ``write``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gdist.pipeline.run import Run
from gdist.stages.students import Student


@dataclass(frozen=True)
class Source:
    """What is exported: a run and its finished student, in eval mode."""

    run: Run
    student: Student

    @property
    def student_name(self) -> str:
        """Its key in ``STUDENTS``."""
        return str(self.run.tables()["student"]["name"])


class Format(Protocol):
    """A form."""

    def write(self, source: Source, folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
        """Write everything into the empty ``folder``, load it back the way its users will, and compare.

        Returns:
            JSON-able facts for people, at least ``max_difference`` of any hidden state, ``try``: what to type next.

        Raises:
            GdistError: a library is missing, or what was written does not answer as the student does.
        """
        ...
