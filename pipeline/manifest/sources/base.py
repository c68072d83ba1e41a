"""What a source of manifests is, and how it reads names and text: never audio.

A source yields one row per utterance: ``id``, ``path`` (absolute, or a URI), its labels, and where they are known
``start``, ``num_samples`` and ``sample_rate``, in samples and Hz.
"""

import gzip
import io
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import ClassVar

from gdist.pipeline.audio import media
from gdist.pipeline.errors import ManifestError
from gdist.pipeline.storage.locations import join
from gdist.pipeline.storage.paths import Place, RemotePath, is_uri

type ManifestRow = dict[str, str | int | None]

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


class Source(ABC):
    """One kind of source.

    Attributes:
        name: the value of ``gdist manifest build --kind``.
        reads_folders: whether it is built from a folder rather than a file.
        summary: what it is, for ``--help``.
    """

    name: ClassVar[str]
    reads_folders: ClassVar[bool] = False
    summary: ClassVar[str]

    @abstractmethod
    def rows(self, src: Place) -> Iterator[ManifestRow]:
        """The utterances of ``src``, in a fixed order.

        Raises:
            ManifestError: ``src`` is not of this kind, or contradicts itself; the message names the line.
        """

    @abstractmethod
    def recognizes(self, src: Place, first: str, second: str) -> bool:
        """Whether ``src`` is of this kind, where the user did not name one.

        Args:
            first, second: the first two lines of a file; empty for a folder.
        """


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
    """Turn any failure to read a text file into a ManifestError that names the file."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ManifestError(f"cannot read {src}: it is not UTF-8 text") from error
    except (OSError, EOFError, zlib.error) as error:  # the last two: a .gz cut short or damaged
        reason = getattr(error, "strerror", None) or error
        raise ManifestError(f"cannot read {src}: {reason}") from error


def lines(src: Place) -> Iterator[str]:
    """Yield the lines of text or gzipped text, without line ends; blank lines at the end do not count."""
    blank = 0
    with readable(src), src.open("rb") as raw, gzip.open(raw) if src.suffix == ".gz" else raw as file:
        for line in io.TextIOWrapper(file, encoding="utf-8-sig", newline=""):
            if stripped := line.rstrip("\r\n"):
                yield from [""] * blank
                yield stripped
            blank = 0 if stripped else blank + 1


def located(path: str, beside: Place) -> str:
    """Resolve another tool's path: from the current directory, as such tools do, else from the manifest's folder."""
    if is_uri(path):
        return path
    here = Path(path).absolute()
    return str(here) if here.exists() else below(beside, path)


def below(folder: Place, path: str) -> str:
    """Resolve a path in a file of ``folder``: an absolute path is on this machine, wherever the file is."""
    local = isinstance(folder, Path) or os.path.isabs(path)  # noqa: PTH117
    return os.path.normpath(os.path.join(str(folder), path)) if local else join(str(folder), path)  # noqa: PTH118
