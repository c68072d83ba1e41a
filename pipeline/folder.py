"""A folder that gdist owns. One process writes there, never through links, and deletes only what gdist wrote."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import safetensors

from gdist.pipeline.console import size
from gdist.pipeline.errors import AGAIN, RunError
from gdist.pipeline.files import LINK_HINT, foreign, link_below, open_to_all, sync
from gdist.pipeline.owner import Owner
from gdist.pipeline.staging import write_atomically

TEMPORARY = r"|\..+\.tmp|\.tmp\w+"  # files of gdist and of safetensors, left behind when a process was killed

ELSEWHERE = "choose another --out"
ROOM = f"free some space, or fix its permissions, and {AGAIN}"


class OwnFolder:
    """A folder and its owner.

    Attributes:
        owner: the lock that shows that this process may write, within :meth:`owned`; else None.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.owner: Owner | None = None

    @property
    def name(self) -> str:
        return self.folder.name

    def require_place(self) -> None:
        """Raise RunError where the folder contains something else."""

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Be the only process that trains here, for the length of the ``with``.

        Raises:
            RunError: another process is training here; or the folder contains something else, or links in place of
                gdist's own files.
        """
        self.require_place()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self.unwritable(error) from error
        with Owner(self.folder) as self.owner:
            yield

    def unwritable(self, error: OSError) -> RunError:
        """Return the error to raise where the folder cannot be written."""
        return RunError(f"cannot write the run {self.folder}: {error.strerror or error}", f"{ELSEWHERE}; or {ROOM}")

    def require_room(self, needed: int, what: str) -> None:
        """Raise RunError where the folder cannot be written, or its disk lacks the bytes that ``what`` needs."""
        try:
            with tempfile.TemporaryFile(dir=self.folder):
                free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise self.unwritable(error) from error
        if free < needed:
            raise RunError(f"{self.folder} has {size(free)} of disk left, and {what} needs {size(needed)}", ROOM)

    def own(self, path: Path) -> Path:
        """Return ``path``, to be used; RunError where a link is on the way to it from the folder."""
        if link := link_below(self.folder, path):
            raise RunError(
                f"{link} is a link (to {link.readlink()}); nothing is read or written through it", LINK_HINT
            )
        return path

    def write(self, name: str, content: str | bytes) -> None:
        """Write one of the run's own documents, whole or not at all."""
        write_atomically(self.own(self.folder / name), content)

    @contextmanager
    def replacing(self, final: Path, ours: str) -> Iterator[Path]:
        """Give an empty folder to write to, which is renamed to ``final`` at the end.

        Args:
            ours: pattern of the files that gdist writes into it: nothing else is deleted, there or in ``final``.

        Raises:
            RunError: the folder cannot be written, or a link or another file is in the way.
        """
        if self.owner:
            self.owner.require()
        staged = self.own(final).with_name(final.name + ".tmp")
        try:
            self.remove(staged, ours + TEMPORARY)
            staged.mkdir(parents=True)
            yield staged
            open_to_all(staged)
            for path in staged.iterdir():
                sync(path)  # a power cut leaves nothing half-written under the final name
            if final.is_dir() and foreign(final, ours):  # people's notes stay where they are
                for path in staged.iterdir():
                    path.replace(self.own(final / path.name))
                staged.rmdir()
            else:
                self.remove(final, ours)
                staged.rename(final)
            sync(final.parent)
        except (OSError, safetensors.SafetensorError) as error:
            with suppress(OSError, RunError):  # the disk may be full: what is unfinished takes none of it
                self.remove(staged, ours + TEMPORARY)
            raise RunError(f"cannot write {final}: {getattr(error, 'strerror', None) or error}", ROOM) from error

    def remove(self, folder: Path, ours: str) -> None:
        """Delete one of the run's folders, with the files that gdist wrote there.

        Raises:
            RunError: it contains something else, or is a link; nothing is deleted then. Or it cannot be deleted.
        """
        try:
            if not self.own(folder).exists():
                return
            if others := foreign(folder, ours) if folder.is_dir() else [folder.name]:
                raise RunError(
                    f"{folder} contains {', '.join(others[:3])}, which gdist did not write",
                    f"move that elsewhere, and {AGAIN}",
                )
            for path in list(folder.iterdir()):
                path.unlink()
            folder.rmdir()
        except OSError as error:
            raise RunError(f"cannot delete {folder}: {error.strerror or error}", ROOM) from error
