"""How gdist writes into a local folder: whole files, with the mode that the umask gives, and never through a link.

The folder itself may be reached through links (a cache on a big disk). A link below it may lead anywhere, even to
other people's files: gdist reads through such a link, but never writes or deletes through it.
"""

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

LINK_HINT = "put the real file or folder there, or link the whole folder instead of a part of it"


def link_below(root: Path, path: Path) -> Path | None:
    """Return the first symbolic link on the way from ``root`` (itself not checked) to ``path`` (itself checked)."""
    parts = path.relative_to(root).parts
    steps = (root.joinpath(*parts[: depth + 1]) for depth in range(len(parts)))
    return next((step for step in steps if step.is_symlink()), None)


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder. A document may name one that nobody can have: then there is none."""
    try:
        return path.exists()
    except OSError:
        return False


class UnreadableError(OSError):
    """Something that is there, and is not read; its text follows the thing's name: "is a FIFO, …"."""


def reason(error: OSError) -> str:
    """Why a file cannot be read or written, after a colon: "Permission denied", "it is a FIFO, …"."""
    return f"it {error}" if isinstance(error, UnreadableError) else error.strerror or str(error)


def regular(path: Path) -> FileIO:
    """Open a file for reading, at once: a FIFO would be waited for, and a device may be without end.

    Raises:
        FileNotFoundError: there is no such file; a folder is none.
        UnreadableError: it is something else.
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return FileIO(descriptor)
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    raise UnreadableError(f"is {'a FIFO' if stat.S_ISFIFO(mode) else 'a device'}, where a file should be")


def require_size(size: int, limit: int | None) -> None:
    """Raise UnreadableError for a document that is larger than any that gdist wrote."""
    if limit is not None and size > limit:
        raise UnreadableError(f"has {size:,} bytes; it has {limit:,} at most")


def content_of(path: Path, limit: int) -> bytes:
    """The bytes of a file of at most ``limit``; OSError where it cannot be read, or is no such file."""
    with regular(path) as file:
        require_size(os.fstat(file.fileno()).st_size, limit)  # not read(limit), which takes so much memory first
        content = file.readall()
    require_size(len(content), limit)
    return content


def walk(folder: Path) -> Iterator[str]:
    """Yield the relative path of every file and every link below a folder: links count as files, none is followed."""
    for at, _, names in folder.walk():
        yield from ((at / name).relative_to(folder).as_posix() for name in names)


def make_folder(folder: Path) -> None:
    """Create a folder, and those above it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # /proc, an unmounted share: the parent exists but accepts no folders
        raise OSError(errno.EACCES, "no folder can be created there") from error


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits; OSError where it cannot be read, or is no file."""
    with regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_to_all(folder: Path) -> None:
    """Give every file below ``folder`` the mode that the umask gives. safetensors makes its files private.

    Args:
        folder: created by this process, so that its mode shows the umask, which cannot be read without changing it.
    """
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def foreign(folder: Path, ours: str) -> list[str]:
    """List everything below ``folder`` that is not a plain file whose relative path matches the pattern ``ours``.

    A subfolder is listed only if it is empty or a link: otherwise the files in it show whose it is.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        plain = path.is_file() and not path.is_symlink()
        if plain and re.fullmatch(ours, name):
            continue
        if path.is_dir() and not path.is_symlink() and any(path.iterdir()):
            continue
        found.append(name)
    return found
