"""What libsndfile does not read, AAC in M4A or MP4, WebM, ALAC, AMR, WMA and more: PyAV decodes it (extra `media`).

Their headers give durations that need not be those of their samples, so their length is counted by decoding.

Axes: S samples, C channels.
"""

import importlib.util
import io
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import PurePosixPath
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gdist.pipeline.audio.containers import WHOLE, Contents
from gdist.pipeline.audio.interface import Audio
from gdist.pipeline.audio.source import Source
from gdist.pipeline.errors import AudioError

SUFFIXES = frozenset(
    {".m4a", ".m4b", ".mp4", ".mov", ".3gp", ".aac", ".ac3", ".eac3", ".webm", ".mka", ".mkv"}
    | {".amr", ".awb", ".wma", ".asf", ".ape", ".tta", ".wv"}
)
INSTALL = "pip install 'gdist[media]'"
_MAGIC = (b"\x1aE\xdf\xa3", b"#!AMR", b"0&\xb2u\x8ef\xcf\x11")  # Matroska and WebM, AMR, ASF
_CUT_SECONDS = 0.5  # a header that promises so much more than decodes is that of a file that was cut short


def is_media(path: str, head: bytes) -> bool:
    """Whether a file is for PyAV, by its first bytes or its name."""
    return head[4:8] == b"ftyp" or head.startswith(_MAGIC) or PurePosixPath(path).suffix.lower() in SUFFIXES


@cache
def available() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


class MediaAudio(Audio):
    """What PyAV decodes."""

    def __init__(self, source: Source) -> None:
        if not available():
            raise AudioError(f"soundfile cannot decode it, PyAV may: {INSTALL}: {source.name}")
        import av

        self._source, self.messages = source, list[str]()
        opened = source.opened()
        try:
            self._container = av.open(opened if isinstance(opened, str) else io.BytesIO(source.data()))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise AudioError(f"not audio PyAV can decode: {_reason(error)}: {source.name}") from error
        streams = self._container.streams.audio
        if not streams:
            self._container.close()
            raise AudioError(f"has no audio: {source.name}")
        self._stream = streams[0]
        first = next(self._frames(), None)
        if first is None:
            self._container.close()
            raise AudioError(f"none of its audio decodes: {source.name}")
        self._length: int | None = None
        self.format = f"{self._container.format.name.split(',')[0]} {self._stream.codec_context.name}"
        # Not the stream's: HE-AAC says half the rate that it decodes to.
        self.sample_rate, self.channels = first.sample_rate, first.layout.nb_channels
        seconds = None
        if self._stream.duration is not None and self._stream.time_base is not None:
            seconds = float(self._stream.duration * self._stream.time_base)
        elif self._container.duration is not None:
            seconds = self._container.duration / av.time_base
        self.claimed = None if seconds is None else round(seconds * self.sample_rate)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def contents(self, thorough: bool) -> Contents:
        missing = ((self.claimed or 0) - self.ends(WHOLE)[0]) / self.sample_rate
        return (
            Contents(cut=f"its header promises {missing:.1f} s more than decode") if missing > _CUT_SECONDS else WHOLE
        )

    def ends(self, found: Contents) -> list[int]:
        if self._length is None:
            self._length = sum(frame.samples for frame in self._frames())
        return [self._length]

    def blocks(self, start: int, stop: int, found: Contents, dtype: str) -> Generator[NDArray[Any], None, None]:
        begin = 0
        for frame in self._frames():
            end = begin + frame.samples
            if start < end:
                yield self._samples(frame)[max(start - begin, 0) : stop - begin]
            if end >= stop:
                return
            begin = end

    def _frames(self) -> Iterator[Any]:
        """Decode from the beginning: seeking is exact in none of these formats."""
        import av

        try:
            self._container.seek(0)
            yield from self._container.decode(self._stream)
        except (av.FFmpegError, OSError) as error:
            raise AudioError(f"truncated or damaged: {_reason(error)}: {self._source.name}") from error

    def _samples(self, frame: Any) -> NDArray[np.float64]:
        """[S, C], where full scale is 1."""
        if (frame.sample_rate, frame.layout.nb_channels) != (self.sample_rate, self.channels):
            raise AudioError(f"its sample rate or its channels change in the middle: {self._source.name}")
        values = frame.to_ndarray()
        values_SC = values.T if frame.format.is_planar else values.reshape(-1, self.channels)
        if values.dtype.kind == "f":
            return np.asarray(values_SC, np.float64)
        half = 2.0 ** (8 * values.dtype.itemsize - 1)
        return np.asarray(values_SC / half - (values.dtype.kind == "u"), np.float64)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
