"""Audio that is no file yet, written into a folder next to the manifest that is built."""

import hashlib
import re
from collections.abc import Callable
from typing import BinaryIO

from gdist.pipeline import console
from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.sources.base import AUDIO_SUFFIXES
from gdist.pipeline.staging import replacing
from gdist.pipeline.storage.locations import in_shell
from gdist.pipeline.storage.paths import Place, RemotePath

_MAGIC = {
    b"RIFF": ".wav",
    b"RF64": ".wav",
    b"fLaC": ".flac",
    b"OggS": ".ogg",
    b"ID3": ".mp3",
    b"FORM": ".aiff",
    b".snd": ".au",
    b"caff": ".caf",
    b"NIST": ".sph",
}


class AudioFolder:
    """Writes audio files that are named after their ids; what is there already is kept, so a build can be resumed.

    Args:
        folder: where to; None where nothing may be written.
        what: the source, for messages.
    """

    def __init__(self, folder: Place | None, what: Place) -> None:
        if folder is None:
            raise ManifestError(
                f"the audio of {what} is in no file of its own, and must be written to one",
                f"gdist manifest build {in_shell(what)} --out M.parquet, which writes it to M-audio/",
            )
        self._folder, self._what = folder, what
        self._written = self._kept = self._bytes = 0

    def put(self, id: str, data: bytes, name: str = "") -> str:
        """Write the audio of ``id``, unless it is there; return its path.

        Args:
            name: what the source calls the file; its suffix is used where the content does not tell the kind.

        Raises:
            ManifestError: there is a file of this name with another content.
        """
        target = self._folder / f"{_file_name(id)}{_suffix(data, name)}"
        if (there := _content(target)) is not None:
            if there != data:
                raise ManifestError(
                    f"{target} is there already, with other audio than {id} of {self._what}",
                    f"remove {in_shell(self._folder)}, or choose another --out",
                )
            self._kept += 1
            return str(target)
        if isinstance(target, RemotePath):
            target.write_bytes(data)
        else:
            self._stream(target, lambda file: file.write(data))
        self._written, self._bytes = self._written + 1, self._bytes + len(data)
        return str(target)

    def make(self, id: str, key: str, write: Callable[[BinaryIO], object]) -> str:
        """Let ``write`` write the audio of ``id`` as WAV, unless it is there; return its path.

        Args:
            key: determines the content, and becomes a part of the name: what is there under it is never made again.
        """
        target = self._folder / f"{_file_name(id)}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.wav"
        if isinstance(target, RemotePath):
            raise ManifestError(f"what commands print cannot be written to {self._folder}", "use a local --out")
        if target.is_file():
            self._kept += 1
        else:
            self._stream(target, write)
            self._written, self._bytes = self._written + 1, self._bytes + target.stat().st_size
        return str(target)

    def report(self) -> None:
        """Say how much was written: the audio now exists twice."""
        if self._written or self._kept:
            kept = f"; {self._kept} were there" if self._kept else ""
            console.say(f"wrote {self._written} audio files ({self._bytes / 1e6:.1f} MB) to {self._folder}/{kept}")

    def _stream(self, target: Place, write: Callable[[BinaryIO], object]) -> None:
        assert not isinstance(target, RemotePath)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as file:
                write(file)
        except OSError as error:
            raise ManifestError(f"cannot write {target}: {error.strerror or error}") from error


def _content(path: Place) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error.strerror or error}") from error


def _file_name(id: str) -> str:
    """Return a name for any id: itself where that is a plain one, else what is plain in it and a digest."""
    if re.fullmatch(r"[A-Za-z0-9_][\w.+=-]{0,150}", id, re.ASCII) and "." not in id[-6:]:
        return id
    plain = re.sub(r"[^\w+=-]+", "_", id, flags=re.ASCII)[:80].strip("_")
    return f"{plain}-{hashlib.sha256(id.encode()).hexdigest()[:12]}"


def _suffix(data: bytes, name: str) -> str:
    for magic, suffix in _MAGIC.items():
        if data.startswith(magic):
            return suffix
    if data[:1] == b"\xff" and len(data) > 1 and data[1] & 0xE0 == 0xE0:
        return ".mp3"
    suffix = f".{name.rpartition('.')[2].lower()}"
    return suffix if suffix in AUDIO_SUFFIXES else ".audio"
