"""What is being written has a hidden name beside its place until it is whole; a failure leaves nothing.

A process that is killed leaves it there, and whoever writes to the same place next removes it. The kernel knows what
is left over: it locks each for its process as long as that lives. Where a file system has no locks, they stay.
"""

import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import randbelow
from typing import BinaryIO

NEW, EARLIER = "new", "earlier"  # in a workshop: what is being made, and what it replaces
_SUFFIX = ".gdist"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write to, which is renamed to ``path`` at the end of the ``with``; a failure leaves nothing.

    Whatever has the name ``path`` is replaced. If that is a link, the link itself is: nothing is written through it.
    """
    for left in _left_over(path.parent, rf"\.{re.escape(path.name)}\.\d+\.tmp", stat.S_ISREG):
        with suppress(OSError):  # its writer was about to finish
            left.unlink()
    staged, file = _created(path)
    with file:
        held = os.dup(file.fileno())  # it stays locked when ``file`` is closed, which shows whether all is written
        try:
            yield file
            file.close()
            staged.replace(path)
        except BaseException:
            with suppress(OSError):  # the first error says more
                staged.unlink()
            raise
        finally:
            os.close(held)


def _created(path: Path) -> tuple[Path, BinaryIO]:
    """Create a file beside ``path`` that is locked for this process. Returns its name, too."""
    while True:
        # A new name, which nobody can have planted, and under which nobody takes it for another file.
        staged = path.with_name(f".{path.name}.{randbelow(10**7)}.tmp")
        try:
            file = staged.open("xb")
        except FileExistsError:
            continue
        _lock(file.fileno())
        if staged.exists():
            return staged, file
        file.close()  # another process took it for left over before it was locked


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write ``content`` to a temporary file in the same folder, then rename it to ``path``; text becomes UTF-8."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def workshop(place: Path) -> Iterator[Path]:
    """Give a folder beside ``place`` that contains an empty one, :data:`NEW`; it is gone at the end of the ``with``.

    What NEW becomes is then put into ``place`` by :func:`put`.
    """
    _clear_up(place)
    while True:
        # A unique name, which nobody can have planted.
        made = Path(tempfile.mkdtemp(_SUFFIX, f".{place.name}.", place.parent))
        try:
            descriptor = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # another process took it for left over before it was locked
        _lock(descriptor)
        if made.exists():
            break
        os.close(descriptor)
    try:
        (made / NEW).mkdir()
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(descriptor)


def put(made: Path, place: Path) -> None:
    """Rename what is NEW in a workshop to ``place``. What is there is moved aside, and back if that fails."""
    aside = made / EARLIER
    if place.exists():
        place.rename(aside)
    try:
        (made / NEW).rename(place)
    except BaseException:  # Ctrl-C too: the workshop is removed, with what is aside
        if aside.exists() and not place.exists():
            aside.rename(place)
        raise


def _clear_up(place: Path) -> None:
    """Remove the workshops of processes that were killed; what one had moved aside is put back."""
    pattern = rf"\.{re.escape(place.name)}\.[a-z0-9_]{{8}}{re.escape(_SUFFIX)}"
    for left in _left_over(place.parent, pattern, stat.S_ISDIR):
        aside = left / EARLIER
        with suppress(OSError):  # its writer was about to finish, or it may not be moved: it stays
            if not {each.name for each in left.iterdir()} - {NEW, EARLIER}:
                if aside.is_dir() and not aside.is_symlink() and not place.exists():
                    aside.rename(place)
                shutil.rmtree(left, ignore_errors=True)


def _left_over(folder: Path, pattern: str, kind: Callable[[int], bool]) -> Iterator[Path]:
    """Yield what has a name like ``pattern``, is no link, and belongs to no process that lives; locked meanwhile."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if re.fullmatch(pattern, entry.name)]
    except OSError:
        return
    for path in map(folder.joinpath, names):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if kind(os.fstat(descriptor).st_mode) and _lock(descriptor, fcntl.LOCK_NB):
                yield path
        finally:
            os.close(descriptor)


def _lock(descriptor: int, how: int = 0) -> bool:
    """Lock a file for this process, until it is closed. Returns whether that was possible."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | how)
    except OSError:
        return False
    return True
