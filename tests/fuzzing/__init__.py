"""Fuzzing: damaged and hostile documents for every reader, made from real ones.

A *reader* is what opens something that a stranger may have written: a cache's root document, a manifest, a
checkpoint. It is one class in ``readers/`` with a row in :data:`fuzzing.readers.READERS`:

    class RootDocument(Reader):
        def __init__(self, folder): ...    # make real documents in an empty folder, once per process
        def make(self, random): ...        # an input, from random numbers alone
        def read(self, data): ...          # give it to gdist

``read`` may return or raise GdistError (or SystemExit, of a command). Whatever else it raises counts as uncaught, ten
seconds without an end as a hang. Input N of a seed is always the same, so that a failure is repeated by its number.

    make fuzz READER=root SEED=0 INPUTS=10000        every reader, or one; counts
    make fuzz READER=root MINUTES=10                  guided by coverage (atheris), which keeps what reaches new code
    pytest tests/test_fuzzing.py                      a few inputs for each, and all that were ever found

What was found is kept in ``found/READER/``, one file each.
"""

from pathlib import Path
from random import Random
from typing import Protocol


class Reader(Protocol):
    """Makes inputs for one reader of gdist, and has it read them. Its class is made with an empty folder."""

    def __init__(self, folder: Path) -> None: ...

    def make(self, random: Random) -> bytes:
        """Return an input. It depends on nothing but the real documents and ``random``."""
        ...

    def read(self, data: bytes) -> None:
        """Have gdist read it; raise what gdist raises."""
        ...
