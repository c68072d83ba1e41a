"""What gdist writes into a local folder: whole, with the mode that the umask says, and never through a link.

A folder itself may be reached through links (a cache on a big disk). A link that lies below it may lead anywhere, to
other people's files: what is behind it is read, and neither written nor deleted.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

LINK_HINT = "put the real file or folder there, or link the whole folder instead of a part of it"


def link_below(root: Path, path: Path) -> Path | None:
    """The first symbolic link on the way from ``root`` (which may be one) down to ``path``, itself included."""
    parts = path.relative_to(root).parts
    steps = (root.joinpath(*parts[: depth + 1]) for depth in range(len(parts)))
    return next((step for step in steps if step.is_symlink()), None)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the name ``path`` at the end of the ``with`` and leaves nothing if that fails.

    What has the name ``path`` is replaced, also where it is a link: nothing is ever written through one.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    staged.unlink(missing_ok=True)  # of a killed process that had our number
    # "x" opens what was not there before, and so never what a link of that name leads to.
    with staged.open("xb") as file:
        try:
            yield file
            file.close()
            staged.replace(path)
        except BaseException:
            with suppress(OSError):  # what went wrong says more
                staged.unlink()
            raise


def write_atomically(path: Path, text: str) -> None:
    """A temporary file in the same folder, then a rename."""
    with replacing(path) as file:
        file.write(text.encode())


def open_to_all(folder: Path) -> None:
    """Give every file below ``folder`` the mode that the umask says. safetensors makes its own private.

    Args:
        folder: made by this process, so that its own mode tells the umask, which could only be asked by changing it.
    """
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def foreign(folder: Path, ours: str) -> list[str]:
    """What lies below ``folder`` and is not a plain file whose path there matches the pattern ``ours``.

    Folders count where they are empty or links: then there is no file in them to tell whose they are.
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
