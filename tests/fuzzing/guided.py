"""`make fuzz MINUTES=…`: one reader, guided by coverage: inputs that reach new code of gdist are kept and changed.

atheris (libFuzzer for Python) chooses the bytes from which a reader draws its random numbers, so that every input is
still made by the reader. What reached new code stays in ``.fuzz/READER``, and the next campaign begins with it.
"""

import os
import sys
import tempfile
from pathlib import Path
from random import Random

import atheris

from fuzzing.campaign import HANG_SECONDS, outcome_of
from fuzzing.readers import READERS, reader_class

CORPUS = Path(".fuzz")


class Given(Random):
    """Random numbers from given bytes; zeros when these are used up."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self.data, self.place = data, 0

    def getrandbits(self, k: int, /) -> int:
        """Return the next ``k`` bits."""
        size = -(-k // 8)
        found = self.data[self.place : self.place + size].ljust(size, b"\0")
        self.place += size
        return int.from_bytes(found, "little") >> (size * 8 - k)

    def random(self) -> float:
        """Return a number from 0 to 1, from the next four bytes."""
        return self.getrandbits(32) / 2**32


def main(name: str, minutes: float) -> None:
    """Look for inputs of a reader that are not refused in words; exits with 1 at the first of each kind."""
    with atheris.instrument_imports(include=["gdist"], enable_loader_override=False):
        reader_kind = reader_class(name)  # which imports what is to be instrumented
    reader = reader_kind(Path(tempfile.mkdtemp(prefix="gdist-fuzz-")))
    corpus = CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)

    def one(data: bytes) -> None:
        made = reader.make(Given(data))
        outcome = outcome_of(reader, made)
        if outcome not in ("read", "refused"):
            found = Path(tempfile.mkdtemp(prefix=f"gdist-found-{name}-")) / "input"
            found.write_bytes(made)
            raise AssertionError(f"{outcome}; the input is in {found}")

    limits = [f"-max_total_time={round(minutes * 60)}", f"-timeout={round(HANG_SECONDS)}", "-rss_limit_mb=8000"]
    atheris.Setup(
        [
            sys.argv[0],
            str(corpus),
            *limits,
            f"-artifact_prefix={CORPUS}/{name}-",
            "-max_len=256",
            "-verbosity=1",
            "-print_final_stats=1",
        ],
        one,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    wanted = os.environ.get("READER", "")
    if wanted not in READERS:
        sys.exit(f"READER= one of {', '.join(READERS)}")
    main(wanted, float(os.environ["MINUTES"]))
