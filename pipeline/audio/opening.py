"""An audio file that is ready to be decoded, by soundfile or by PyAV, and how long it really is.

Axes: S samples, C channels.
"""

import os
import threading
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from gdist.pipeline.audio import flac, media, mpeg
from gdist.pipeline.audio.bounds import BLOCK_VALUES, require_possible
from gdist.pipeline.audio.containers import Contents, Part, contents, first_file
from gdist.pipeline.audio.interface import Audio
from gdist.pipeline.audio.native_messages import messages
from gdist.pipeline.audio.segment import Segment
from gdist.pipeline.audio.source import InMemory, Source, ViaCallbacks, raising_store_failures, source_of
from gdist.pipeline.errors import AudioError

_UNKNOWN_LENGTH = 1 << 48  # libsndfile reports 2**63 − 1 for a FLAC that was streamed without a sample count
_KNOWN_SCANS = 1024

_scans: dict[tuple[object, ...], Contents] = {}  # segments of one file usually follow one another
_scans_lock = threading.Lock()


class SoundFileAudio(Audio):
    """What libsndfile reads."""

    def __init__(self, source: Source, file: Any, said: list[str]) -> None:
        self._source, self._file, self.messages = source, file, said
        self.format = f"{file.format} {file.subtype}"
        self.sample_rate, self.channels = file.samplerate, file.channels
        self.claimed = file.frames if file.frames < _UNKNOWN_LENGTH else None
        self._ends: dict[Contents, list[int]] = {}

    def contents(self, thorough: bool) -> Contents:
        key = (*self._source.key, thorough)
        if key not in _scans:
            found = contents(self._source, self._file.format, thorough or self.claimed is None)
            with _scans_lock:
                if len(_scans) >= _KNOWN_SCANS:
                    _scans.clear()
                _scans[key] = found
        found = _scans[key]
        if found.note and found.note not in self.messages:
            self.messages.append(found.note)
        return found

    def ends(self, found: Contents) -> list[int]:
        if found not in self._ends:  # asked for twice: for the length, and to decode
            self._ends[found] = self._counted(found)
        return self._ends[found]

    def _counted(self, found: Contents) -> list[int]:
        if not found.parts and self.claimed is not None:
            return [self.claimed]
        if not found.parts:
            return [self._decoded]
        ends, total = [], 0
        for part in found.parts:
            if part.samples is None:
                with self._opened(part) as stream:
                    total += stream.frames
            else:
                total += part.samples
            ends.append(total)
        return ends

    def blocks(self, start: int, stop: int, found: Contents, dtype: str) -> Generator[NDArray[Any], None, None]:
        if not found.parts:
            yield from _blocks(self._file, start, stop, dtype)
            return
        begin = 0
        for part, end in zip(found.parts, self.ends(found), strict=True):
            if start < end and stop > begin:
                with self._opened(part) as stream:
                    yield from _blocks(stream, max(start - begin, 0), min(stop, end) - begin, dtype)
            begin = end

    @cached_property
    def _decoded(self) -> int:
        """Its length, by decoding all of it."""
        import soundfile

        try:
            with _soundfile(self._source.opened(), self._source) as file:
                return sum(len(block) for block in _blocks(file, 0, _UNKNOWN_LENGTH, "int16"))
        except soundfile.SoundFileError as error:
            raise AudioError(f"of unknown length, and it does not decode: {self._source.name}") from error

    @contextmanager
    def _opened(self, part: Part) -> Iterator[Any]:
        """A stream of several, as a file of its own."""
        data = self._source.data()[part.offset : part.offset + part.size]
        stream: Any = InMemory(data)
        if part.samples is not None:
            is_flac = self._file.format == "FLAC"
            stream = InMemory(flac.with_sample_count(data, part.samples)) if is_flac else _Endless(data)
        with _soundfile(stream, self._source) as file:
            if (file.samplerate, file.channels) != (self.sample_rate, self.channels):
                raise AudioError(
                    f"several streams in one file, of {self.sample_rate} Hz with {self.channels} channels and of "
                    f"{file.samplerate} Hz with {file.channels}: {self._source.name}"
                )
            yield file


class _Endless(ViaCallbacks):
    """Bytes that claim to be many more, so that libsndfile's estimate of the length of an MP3 is never too short:
    it decodes no further than its estimate."""

    _TAG = 128  # libsndfile reads so much at the end, where an ID3 tag may be

    def __init__(self, data: bytes) -> None:
        self._data, self.size = memoryview(data), 64 * len(data) + self._TAG

    def at(self, offset: int, length: int) -> bytes | memoryview:
        if offset >= self.size - self._TAG:
            return bytes(min(length, self.size - offset))
        return self._data[offset : offset + length]


@contextmanager
def opened(segment: Segment, header_only: bool = False) -> Iterator[Audio]:
    """Open the file of a segment.

    Args:
        header_only: that its samples are not needed; of an object, only ranges are fetched then.

    Raises:
        AudioError: it is missing, empty, a folder, or nothing that can be decoded.
        CacheError: the object store could not be reached.
    """
    source = source_of(segment, header_only)
    head = source.at(0, 16)
    with ExitStack() as stack:
        # Only mpg123 prints anything.
        mp3 = head[:3] == b"ID3" or mpeg.frame_at(head, 0) is not None
        said = stack.enter_context(messages()) if mp3 else []
        audio: Audio
        if media.is_media(segment.path, head):
            audio = stack.enter_context(media.MediaAudio(source))
        else:
            audio = SoundFileAudio(source, stack.enter_context(_first(source)), said)
        require_possible(audio.sample_rate, audio.channels, source.name)
        yield audio


def _first(source: Source) -> Any:
    """Open with soundfile all of a file, or the first of several files in one."""
    try:
        return _soundfile(source.opened(), source)
    except AudioError:
        part = first_file(source)
        if part is None:
            raise
        return _soundfile(InMemory(source.data()[: part.size]), source)


def _soundfile(file: Any, source: Source) -> Any:
    """Open with soundfile."""
    import soundfile

    try:
        with raising_store_failures(source):
            return soundfile.SoundFile(file)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless formats such as .raw
        if isinstance(file, str) and not os.access(file, os.R_OK):
            raise AudioError(f"permission denied: {source.name}") from error
        raise AudioError(f"not audio soundfile can decode: {source.name}") from error


def _blocks(file: Any, start: int, stop: int, dtype: str) -> Iterator[NDArray[Any]]:
    """Decode from ``start`` on; where seeking is impossible, by decoding what comes before, too."""
    if not file.seekable():
        _skip(file, start)
    elif start or not file.subtype.startswith("PCM_"):
        file.seek(start)  # to 0, too: after that mpg123 rounds a little differently, as it always did here
    left, most = stop - start, max(BLOCK_VALUES // file.channels, 1)
    while left and len(block_SC := file.read(min(left, most), dtype=dtype, always_2d=True)):
        left -= len(block_SC)
        yield block_SC


def _skip(file: Any, samples: int) -> None:
    most = max(BLOCK_VALUES // file.channels, 1)
    while samples and (read := len(file.read(min(samples, most), dtype="int16"))):
        samples -= read
