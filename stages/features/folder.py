"""The folder of an export: its plan first, its pieces with a record each, its index last.

    gdist-features.json      what is exported, from where; ``finished`` once the index is there
    .gdist-features/00000    the record of a finished piece, sealed: its files and their sizes, a row per utterance
    …                        the format's own files

A piece without a record, or of which a file has another size, is written again under the same names.
"""

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from gdist.pipeline.config import differences
from gdist.pipeline.errors import AGAIN, CacheDamagedError, RunError, UsageError
from gdist.pipeline.files import LINK_HINT, link_below
from gdist.pipeline.owner import OWNER, Owner
from gdist.pipeline.storage.locations import in_shell
from gdist.pipeline.storage.objects import seal, unseal

PLAN, RECORDS = "gdist-features.json", ".gdist-features"
STAGED = f".{PLAN}.tmp"


class OutFolder:
    """The folder that is written, by one process at a time.

    Args:
        folder: as it was typed.
        identity: what determines the exported bytes; another export there is refused.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder, self.identity = folder, identity
        self._files: dict[str, int] = {}

    @property
    def absolute(self) -> Path:
        """Where it is, for indices that name files."""
        return self.folder.resolve()

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Be the only process that exports here, for the length of the ``with``.

        Raises:
            RunError: another process exports here, or the folder contains something else, or cannot be written.
            UsageError: it contains another export.
        """
        with self.explained():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._require_ours()
        with Owner(self.folder):
            self._require_ours()  # another process may have begun in between
            yield

    def _require_ours(self) -> None:
        elsewhere = f"choose another --out, such as {in_shell(self.folder)}-features"
        try:
            found = unseal(self.at(PLAN).read_bytes())
        except FileNotFoundError:
            others = sorted(path.name for path in self.folder.iterdir() if path.name not in (STAGED, OWNER))
            if others:
                raise RunError(
                    f"{self.folder} is not empty and contains no export of features (it has {others[0]})", elsewhere
                ) from None
            return
        except CacheDamagedError as error:
            raise RunError(f"{self.folder}/{PLAN} is damaged: {error.message}", elsewhere) from error
        if changed := differences(found["identity"], self.identity):
            lines = "\n".join(f"  {line}" for line in changed)
            raise UsageError(
                f"{self.folder} contains another export:\n{lines}",
                "choose another --out, or go back to the options that it was begun with",
            )

    def plan(self, about: dict[str, Any], finished: bool) -> None:
        """Write what is exported here."""
        document = {"identity": self.identity, **about, "finished": finished}
        with self.replacing(PLAN) as file:
            file.write(seal(document, document))

    # --- files --------------------------------------------------------------------------------------------------

    def at(self, name: str) -> Path:
        """Return the path of a file of the export.

        Raises:
            RunError: a link is on the way: nothing is written through it.
        """
        path = self.folder / name
        if link := link_below(self.folder, path):
            raise RunError(f"{link} is a link (to {link.readlink()}); nothing is written through it", LINK_HINT)
        return path

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Give a file of a piece to write to. It counts once the piece's record is there."""
        path = self.at(name)
        with self.explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                yield file
                self._files[name] = file.tell()

    @contextmanager
    def replacing(self, name: str) -> Iterator[BinaryIO]:
        """Give a file to write to that is renamed to its name at the end: an index, which readers look for."""
        path = self.at(name)
        staged = self.at(str(Path(name).with_name(f".{path.name}.tmp")))
        with self.explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            with staged.open("wb") as file:
                yield file
            staged.replace(path)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Say what cannot be written, and what to do about it."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise RunError(
                f"cannot write {self.folder}: {error.strerror or error}",
                f"free some space, and {AGAIN}" if full else "choose another --out",
            ) from error

    # --- pieces -------------------------------------------------------------------------------------------------

    def commit(self, piece: int, rows: list[dict[str, Any]]) -> int:
        """Write the record of a piece, whose files were all written since the last one. Returns their bytes."""
        files, self._files = self._files, {}
        record = {"piece": piece, "files": files, "rows": rows}
        with self.replacing(_record(piece)) as file:
            file.write(seal(record, record))
        return sum(files.values())

    def record(self, piece: int) -> dict[str, Any] | None:
        """Return the record of a piece; None where it is to be written, or to be written again."""
        try:
            record = unseal(self.at(_record(piece)).read_bytes())
            if all(self.at(name).stat().st_size == size for name, size in record["files"].items()):
                return record
        except (OSError, CacheDamagedError):
            pass
        return None

    def rows(self, pieces: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield each utterance's piece and row, in order; one record is in memory at a time."""
        for piece in range(pieces):
            record = json.loads(self.at(_record(piece)).read_bytes())
            yield from ((piece, row) for row in record["rows"])


def _record(piece: int) -> str:
    return f"{RECORDS}/{piece:05d}.json"
