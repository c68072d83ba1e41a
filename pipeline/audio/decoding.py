"""The teacher's input audio: int16, mono, 16 kHz, decoded by soundfile and resampled by torchaudio's sinc filter.

Anything wrong with one file becomes an :class:`AudioError` with a short reason, which extraction records in the
receipt. An object store that does not answer is different: it fails the run (a CacheError), because an outage must
not be mistaken for a thousand bad recordings.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, gcd
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gdist.pipeline.audio.segment import Segment
from gdist.pipeline.errors import AudioError, UsageError
from gdist.pipeline.framing import SAMPLE_RATE, resampled_length
from gdist.pipeline.storage.paths import RemotePath, is_uri

if TYPE_CHECKING:
    from torch import Tensor

FULL_SCALE = 32_768
PEAK = 32_767  # the cache writes −32,768 where a waveform is missing, so no sample may have that value
_BLOCK = 1 << 20  # samples decoded at a time, so that a wrong header cannot cause one huge allocation
_UNKNOWN_LENGTH = 1 << 48  # libsndfile reports 2**63 − 1 for a FLAC that was streamed without a sample count
_RANGE = 1 << 16  # bytes of an object fetched at a time to read its header
_MAX_FILTER = 1 << 24  # values in a resampling filter; rates without a common factor need one phase per sample


@dataclass(frozen=True)
class Header:
    """What a file's header says: samples per channel, sample rate in Hz, number of channels."""

    num_samples: int
    sample_rate: int
    channels: int


def read_header(file: Segment) -> Header:
    """Read a file's header, without its samples.

    Args:
        file: the file; which part of it is meant does not matter. Of an object, only the ranges needed are fetched:
            mostly the first 64 KiB.

    Raises:
        AudioError: the file is missing, empty, a folder, undecodable, or of unknown length.
        CacheError: the object store could not be reached.
    """
    with _open(file, header_only=True) as opened:
        return Header(opened.frames, opened.samplerate, opened.channels)


def load_utterance(segment: Segment) -> NDArray[np.int16]:
    """Decode one segment to int16 mono at 16 kHz; only the segment is read.

    Values are multiplied by 2 to the power of ``gain_bits``, rounded half to even and clipped to ±32,767. 16-bit mono
    at 16 kHz is preserved bit for bit, except that −32,768 becomes −32,767.

    Args:
        segment: its length and its rate are known; another rate in the file is an error.

    Returns:
        ``[resampled_length(num_samples, sample_rate)]``.

    Raises:
        AudioError: something is wrong with the file, or with what the manifest says about it.
        CacheError: the object store could not be reached.
    """
    assert segment.num_samples is not None and segment.sample_rate is not None, "measured before"
    wave_S = _read_segment(segment, segment.num_samples, segment.sample_rate)
    bad = np.flatnonzero(~np.isfinite(wave_S))
    if len(bad):
        noun = "sample" if len(bad) == 1 else "samples"
        raise AudioError(
            f"{len(bad)} non-finite {noun}, the first at sample {segment.start + int(bad[0])} of {segment}"
        )
    if segment.sample_rate != SAMPLE_RATE:
        wave_S = _resample(wave_S, segment.sample_rate)
    return np.clip(np.rint(wave_S * (FULL_SCALE * 2.0**segment.gain_bits)), -PEAK, PEAK).astype(np.int16)


def to_float(samples_S: NDArray[np.int16]) -> "Tensor":
    """int16 samples → float32 in [−1, 1), as soundfile scales them: the input of teachers and students."""
    import torch

    return torch.from_numpy(samples_S).float() / FULL_SCALE


def _read_segment(segment: Segment, num_samples: int, sample_rate: int) -> NDArray[np.float64]:
    """Read the segment at the file's own rate: ``[num_samples]``, one channel or the mean of all, full scale is 1."""
    import soundfile

    channel = segment.channel
    with _open(segment) as file:
        if file.samplerate != sample_rate:
            raise AudioError(f"sample rate is {file.samplerate} Hz, the manifest says {sample_rate} Hz: {segment}")
        if channel is not None and channel >= file.channels:
            raise AudioError(f"has {file.channels} channels, the manifest says channel {channel}, from 0: {segment}")
        if segment.start + num_samples > file.frames:
            promised = f"the manifest promises {segment.start + num_samples}"
            raise AudioError(f"truncated: holds {file.frames} samples, {promised}: {segment}")
        blocks, missing = [np.zeros(0)], num_samples
        try:
            file.seek(segment.start)
            while missing:
                block_SC = file.read(min(missing, _BLOCK), dtype="float64", always_2d=True)
                if not len(block_SC):
                    break
                blocks.append(block_SC.mean(axis=1) if channel is None else block_SC[:, channel])
                missing -= len(block_SC)
        except soundfile.SoundFileError as error:
            # A FLAC that was cut short keeps its full length in the header and fails only here.
            raise AudioError(f"truncated or damaged: {_reason(error)}: {segment}") from error
    if missing:
        raise AudioError(f"truncated: {num_samples - missing} of {num_samples} samples decode: {segment}")
    return np.concatenate(blocks)


def _resample(wave_S: NDArray[np.float64], sample_rate: int) -> NDArray[np.float64]:
    """Resample to 16 kHz in double precision, ten seconds at a time.

    In single precision, torchaudio's filter itself is off by more than one int16 step at some rates (11,025 Hz), and
    its output is sometimes one sample shorter than the exact length (441,102 samples at 44.1 kHz). In one piece it
    needs up to 14 times the waveform's memory. Blocks that start on the filter's period, with the filter's width as
    context on either side, give the same values.
    """
    import torch

    common = gcd(sample_rate, SAMPLE_RATE)
    period, phases = sample_rate // common, SAMPLE_RATE // common  # ``period`` samples in give ``phases`` samples out
    if period * phases > _MAX_FILTER:
        why = f"it would need a filter of {period * phases:,} values"
        raise AudioError(f"cannot resample {sample_rate} Hz to {SAMPLE_RATE} Hz: {why}")
    filter_ = _resampler(sample_rate)
    context = ceil(filter_.width / period) * period
    block = ceil(10 * sample_rate / period) * period
    padded_S = np.pad(wave_S, (context, context + block))
    pieces = [np.zeros(0)]
    with torch.inference_mode():
        for start in range(0, len(wave_S), block):
            piece = filter_(torch.from_numpy(padded_S[start : start + block + 2 * context]))
            pieces.append(piece.numpy()[context // period * phases :][: block // period * phases])
    return np.concatenate(pieces)[: resampled_length(len(wave_S), sample_rate)]


@lru_cache(maxsize=8)
def _resampler(sample_rate: int) -> Any:
    import torch
    from torchaudio.transforms import Resample

    return Resample(sample_rate, SAMPLE_RATE, dtype=torch.float64)


def _open(segment: Segment, header_only: bool = False) -> Any:
    """Return a soundfile.SoundFile that is ready to read and whose length is known."""
    import soundfile

    path = segment.path
    source: Any = None
    if not is_uri(path):
        source = _existing(path.removeprefix("file://"))
        if segment.is_member:
            source = io.BytesIO(_member(source, segment))
    if source is None:
        offset, size = segment.byte_offset or 0, segment.byte_size
        source = _Ranges(path, offset, size) if header_only else io.BytesIO(_fetch(path, offset, size))
    try:
        with _raising_store_failures(source):
            file = soundfile.SoundFile(source)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless formats such as .raw
        if isinstance(source, str) and not os.access(source, os.R_OK):
            raise AudioError(f"permission denied: {segment}") from error
        raise AudioError(f"not audio soundfile can decode: {segment}") from error
    if file.frames >= _UNKNOWN_LENGTH:
        file.close()
        raise AudioError(f"the header does not say how long it is (a streamed file; encode it again): {segment}")
    return file


def _member(path: str, segment: Segment) -> bytes:
    """The bytes of a member of an archive on this machine."""
    offset, size = segment.byte_offset or 0, segment.byte_size
    with open(path, "rb") as file:  # noqa: PTH123 — paths stay str here
        there = max(os.fstat(file.fileno()).st_size - offset, 0)
        file.seek(offset)
        data = file.read(there if size is None else min(size, there))
    return _whole(data, str(segment), size)


def _whole(data: bytes, name: str, size: int | None) -> bytes:
    if not data:
        raise AudioError(f"empty file: {name}")
    if size is not None and len(data) < size:
        raise AudioError(f"truncated: {len(data)} of {size} bytes are there: {name}")
    return data


def _existing(path: str) -> str:
    try:
        status = os.stat(path)  # noqa: PTH116 — paths stay str here
    except FileNotFoundError as error:
        raise AudioError(f"file not found: {path}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise AudioError(f"cannot be read: {getattr(error, 'strerror', None) or error}: {path}") from error
    if os.path.isdir(path):  # noqa: PTH112
        raise AudioError(f"is a directory: {path}")
    if status.st_size == 0:
        raise AudioError(f"empty file: {path}")
    return path


def _object(uri: str) -> RemotePath:
    try:
        path = RemotePath.parse(uri)
    except UsageError as error:
        raise AudioError(error.message) from error
    if uri.endswith("/") or str(path) == path.root:
        raise AudioError(f"is a directory: {uri}")
    return path


@lru_cache(maxsize=4)  # utterances that are segments of one object usually follow one another
def _fetch(uri: str, offset: int, size: int | None) -> bytes:
    name = str(Segment(uri, byte_offset=offset or None, byte_size=size))
    try:
        if not offset and size is None:
            return _whole(_object(uri).read_bytes(), name, None)
        there = max(_size(uri) - offset, 0)
        wanted = there if size is None else min(size, there)
        return _whole(bytes(_object(uri).read_part(offset, wanted)[0]) if wanted else b"", name, size)
    except FileNotFoundError as error:
        raise AudioError(f"file not found: {uri}") from error


@lru_cache(maxsize=1024)  # an archive has many members
def _size(uri: str) -> int:
    """Bytes of an object. A store refuses a range that begins after its end in a way of its own."""
    return _object(uri).read_part(0, 1)[1]


class _Ranges(io.RawIOBase):
    """An object, or a range of its bytes, as a file: only the blocks that are read are fetched, each by one
    request."""

    def __init__(self, uri: str, offset: int = 0, size: int | None = None) -> None:
        self._path, self._position, self._offset = _object(uri), 0, offset
        self.failure: Exception | None = None
        try:
            if offset and offset >= _size(uri):
                raise AudioError(f"empty: the object ends at byte {_size(uri)}: {uri} (bytes {offset}+)")
            first, total = self._path.read_part(offset, _RANGE)
        except FileNotFoundError as error:
            raise AudioError(f"file not found: {uri}") from error
        self._size = total - offset
        if not self._size or size == 0:
            raise AudioError(f"empty file: {uri}")
        if size is not None:
            if size > self._size:
                raise AudioError(f"truncated: {self._size} of {size} bytes are there: {uri} (bytes {offset}+{size})")
            self._size = size
        self._blocks = {0: first[: self._size]}

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = (0, self._position, self._size)[whence] + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer up to the end of the object; 0 at the end, and when the store fails (see ``failure``)."""
        block, offset = divmod(self._position, _RANGE)
        if self._position >= self._size or self.failure:
            return 0
        try:
            if block not in self._blocks:
                length = min(_RANGE, self._size - block * _RANGE)
                self._blocks[block], _ = self._path.read_part(self._offset + block * _RANGE, length)
        # libsndfile calls this from C, where an exception would be printed and lost.
        except Exception as error:
            self.failure = error
            return 0
        part = self._blocks[block][offset : offset + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        if len(part) < len(buffer) and part:
            return len(part) + self.readinto(memoryview(buffer)[len(part) :])
        return len(part)


@contextmanager
def _raising_store_failures(source: Any) -> Iterator[None]:
    """Raise the store's own error where there is one: it says more than libsndfile's error about reading."""
    try:
        yield
    finally:
        if isinstance(source, _Ranges) and source.failure:
            raise source.failure


def _reason(error: Exception) -> str:
    """Return libsndfile's own text, without its prefix and final period."""
    return str(error).strip().removeprefix("Error : ").rstrip(".")
