"""What a source of manifests is, and how it reads names and text: never audio.

A source yields one row per utterance: ``id``, ``path`` (absolute, or a URI), its labels, and where they are known
``start``, ``num_samples`` and ``sample_rate``, in samples and Hz. Where it matters, a row also has ``channel`` (from
0), and ``byte_offset`` and ``byte_size``: the audio is this range of bytes of ``path``.
"""

import gzip
import io
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import ClassVar

from gdist.pipeline.audio import media
from gdist.pipeline.errors import ManifestError
from gdist.pipeline.storage.hub import is_read_only
from gdist.pipeline.storage.locations import join, scheme_of
from gdist.pipeline.storage.paths import Place, RemotePath, is_uri

_LINE = 1 << 24  # characters of one line
_RATIO, _UNPACKED = 200, 1 << 26  # a .gz unpacks to so many times its size, and so many characters, at most
_MOST = 1 << 62

type ManifestRow = dict[str, str | int | float | bool | None]

AUDIO_SUFFIXES = frozenset(
    [
        ".wav",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".aif",
        ".aiff",
        ".aifc",
        ".au",
        ".snd",
        ".caf",
        ".w64",
        ".rf64",
        ".sph",
        ".nist",
    ]
)


@dataclass(frozen=True)
class Options:
    """What the user adds or allows, and where a source may write.

    Attributes:
        root: the folder of the audio, where the manifest leaves it open: ``--root``.
        allow_commands: whether the commands that a manifest names may be run: ``--allow-commands``.
        audio: the folder for audio that is no file yet, next to the manifest that is built; None: nothing is written.
    """

    root: str | None = None
    allow_commands: bool = False
    audio: Place | None = None


class Source(ABC):
    """One kind of source.

    Attributes:
        name: the value of ``gdist manifest build --kind``.
        reads_folders: whether it is built from a folder rather than a file.
        reads_both: whether it is built from a folder or from a file.
        binary: whether its files may be other than text: :meth:`recognizes` then gets no lines.
        options: the fields of :class:`Options` that mean something for it.
        summary: what it is, for ``--help``.
    """

    name: ClassVar[str]
    reads_folders: ClassVar[bool] = False
    reads_both: ClassVar[bool] = False
    binary: ClassVar[bool] = False
    options: ClassVar[frozenset[str]] = frozenset()
    summary: ClassVar[str]

    @abstractmethod
    def rows(self, src: Place) -> Iterator[ManifestRow]:
        """The utterances of ``src``, in a fixed order.

        Raises:
            ManifestError: ``src`` is not of this kind, or contradicts itself; the message names the line.
        """

    def rows_with(self, src: Place, options: Options) -> Iterator[ManifestRow]:
        """The utterances of ``src``, as :meth:`rows`, for a source that has ``options``."""
        return self.rows(src)

    @abstractmethod
    def recognizes(self, src: Place, first: str, second: str) -> bool:
        """Whether ``src`` is of this kind, where the user did not name one.

        Args:
            first, second: the first two lines of a file; empty for a folder.
        """


class OptionalSource(Source):
    """A kind that has ``options``: it defines :meth:`rows_with` instead of :meth:`rows`."""

    def rows(self, src: Place) -> Iterator[ManifestRow]:
        return self.rows_with(src, Options())

    @abstractmethod
    def rows_with(self, src: Place, options: Options) -> Iterator[ManifestRow]:
        """The utterances of ``src``, as :meth:`rows`."""


def walk(src: Place) -> Iterator[Place]:
    """Every visible file below ``src`` in a fixed order. Follows links to folders, once each."""
    if isinstance(src, RemotePath):
        yield from (path for path in src.files if not any(p.startswith(".") for p in path.relative_to(src).parts))
        return
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise ManifestError(f"cannot list {error.filename}: {error.strerror}") from error

    for parent, folders, files in os.walk(src, onerror=refuse, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))
        seen.add(real)


def is_folder(place: Place) -> bool:
    """Whether ``place`` is a folder. A web server cannot say what is below an address, so there it is a file."""
    if isinstance(place, Path):
        return os.path.isdir(place)  # noqa: PTH112 — Path.is_dir raises for a name that is too long
    return not is_read_only(scheme_of(str(place))) and place.is_dir()


def is_there(place: Place) -> bool:
    """Whether there is a file or a folder."""
    if isinstance(place, Path):
        return os.path.isfile(place) or is_folder(place)  # noqa: PTH113 — as in is_folder
    return place.is_file() or is_folder(place)


def has(folder: Place, name: str) -> bool:
    """Whether there is a file of this name directly in ``folder``. In a bucket its one listing says so."""
    return folder / name in folder.files if isinstance(folder, RemotePath) else (folder / name).is_file()


def near(src: Place) -> Iterator[Place]:
    """The visible files in ``src`` and in two levels of folders below: enough to see what it is."""
    if isinstance(src, RemotePath):
        yield from (path for path in walk(src) if len(relative(path, src).parts) <= 3)
        return
    for parent, folders, files in os.walk(src, followlinks=True):
        below_src = os.path.relpath(parent, src)
        deep = below_src != "." and below_src.count(os.sep) >= 1
        folders[:] = [] if deep else sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


def children(folder: Place, pattern: str) -> list[Place]:
    """The files directly in ``folder`` whose name matches ``pattern``, in order."""
    if isinstance(folder, RemotePath):
        inside: list[Place] = [path for path in folder.files if path.parent == folder]
    else:
        inside = list(folder.iterdir()) if folder.is_dir() else []
    return sorted((path for path in inside if fnmatchcase(path.name, pattern)), key=str)


def relative(path: Place, folder: Place) -> PurePosixPath:
    if isinstance(path, RemotePath) and isinstance(folder, RemotePath):
        return path.relative_to(folder)
    return PurePosixPath(os.path.relpath(str(path), str(folder)))


def is_audio(path: Place) -> bool:
    """Whether the name of a file is that of audio that can be decoded here."""
    suffix = path.suffix.lower()
    return suffix in AUDIO_SUFFIXES or (suffix in media.SUFFIXES and media.available())


@contextmanager
def readable(src: Place) -> Iterator[None]:
    """Turn any failure to read a text file into a ManifestError that names the file. What is no file, such as a pipe
    that nobody writes to, is not opened."""
    if isinstance(src, Path) and os.path.exists(src) and not os.path.isfile(src):  # noqa: PTH110, PTH113
        what = "a folder" if os.path.isdir(src) else "a device, a pipe or a socket"  # noqa: PTH112
        raise ManifestError(f"cannot read {src}: it is {what}, and no file")
    try:
        yield
    except UnicodeDecodeError as error:
        raise ManifestError(f"cannot read {src}: it is not UTF-8 text") from error
    except (OSError, EOFError, zlib.error) as error:  # the last two: a .gz cut short or damaged
        reason = getattr(error, "strerror", None) or error
        raise ManifestError(f"cannot read {src}: {reason}") from error


def whole_lines(src: Place) -> Iterator[str]:
    """Yield the lines of text or gzipped text as they are, with their ends."""
    with readable(src), src.open("rb") as raw, gzip.open(raw) if src.suffix == ".gz" else raw as file:
        text, left = io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), _MOST
        if src.suffix == ".gz":
            left = _UNPACKED + _RATIO * raw.seek(0, os.SEEK_END)
            raw.seek(0)
        while line := text.readline(_LINE + 1):
            left -= len(line)
            if len(line) > _LINE:
                raise ManifestError(f"cannot read {src}: it has a line of more than {_LINE >> 20} MiB")
            if left < 0:
                raise ManifestError(f"cannot read {src}: it unpacks to more than {_RATIO} times its size")
            yield line


def lines(src: Place) -> Iterator[str]:
    """Yield the lines of text or gzipped text, without line ends; blank lines at the end do not count."""
    blank = 0
    for line in whole_lines(src):
        if stripped := line.rstrip("\r\n"):
            yield from [""] * blank
            yield stripped
        blank = 0 if stripped else blank + 1


def head(src: Place, length: int) -> bytes:
    """The first bytes of a file."""
    with readable(src):
        if isinstance(src, RemotePath):
            return bytes(src.read_part(0, length)[0])
        with src.open("rb") as file:
            return file.read(length)


def filled(src: Place) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers from 1."""
    return ((number, line) for number, line in enumerate(lines(src), start=1) if line.strip())


def located(path: str, beside: Place) -> str:
    """Resolve another tool's path: from the current directory, as such tools do, else from the manifest's folder."""
    if is_uri(path):
        return path
    here = Path(path).absolute()
    return str(here) if os.path.exists(here) else below(beside, path)  # noqa: PTH110


def below(folder: Place, path: str) -> str:
    """Resolve a path in a file of ``folder``: an absolute path is on this machine, wherever the file is."""
    local = isinstance(folder, Path) or os.path.isabs(path)  # noqa: PTH117
    return os.path.normpath(os.path.join(str(folder), path)) if local else join(str(folder), path)  # noqa: PTH118
