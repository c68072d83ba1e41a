"""Which headers can be believed, by kind of file; and what one file holds where it is several streams in a row.

| kind | a header is believed where | otherwise |
|---|---|---|
| WAV, AIFF, AU, NIST SPHERE | its data chunk ends within the file | cut short, by the bytes that are missing |
| FLAC | it has a count of samples, at which the last frame ends | frames are looked at: cut short, or several |
| Ogg | its last page ends the stream that its first page begins | pages are scanned: cut short, or a chain |
| MP3 | its Xing or VBRI header names the bytes that the file has | frames are scanned |
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import Literal

from gdist.pipeline.audio import flac, mpeg
from gdist.pipeline.audio.bounds import MAX_CHUNKS, MAX_STREAMS
from gdist.pipeline.audio.source import RANGE, Source
from gdist.pipeline.errors import AudioError

_STREAMED = 0x7FFF_0000  # from here on, and 0, a size was written before it was known
_STREAMINFO = (b"\x00\x00\x00\x22", b"\x80\x00\x00\x22")  # the first block of metadata, which has 34 bytes


@dataclass(frozen=True)
class Part:
    """A stream of the file that is decoded by itself.

    Attributes:
        offset, size: its bytes.
        samples: how many it decodes to where libsndfile's own count is not to be believed.
    """

    offset: int
    size: int
    samples: int | None = None


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        parts: its streams, one after another; empty: one, as libsndfile reads it.
        cut: why it is known to be cut short; empty where it is not.
        note: what else was found.
    """

    parts: tuple[Part, ...] = ()
    cut: str = ""
    note: str = ""


WHOLE = Contents()


def contents(source: Source, kind: str, thorough: bool) -> Contents:
    """Find out what a file holds, beyond what its header says.

    Args:
        kind: the format as soundfile names it: ``WAV``, ``MP3``.
        thorough: read it to its end, which finds streams that the ends of a file do not show.
    """
    if kind in ("WAV", "WAVEX", "AIFF", "AU"):
        return _chunks(source)
    if kind == "NIST":
        return _sphere(source)
    if kind == "OGG":
        return _ogg(source, thorough)
    if kind == "FLAC":
        return _flac(source, thorough)
    if kind in ("MP3", "MPEG"):
        return _mp3(source)
    return WHOLE


def _chunks(source: Source) -> Contents:
    """RIFF, AIFF or AU: the size of the data, and whether another file follows."""
    head = source.at(0, 32)
    if head[:4] == b".snd":
        begins, size = (int.from_bytes(head[at : at + 4], "big") for at in (4, 8))
        return _missing(source, begins, size)
    order: Literal["little", "big"] = "little" if head[:4] == b"RIFF" else "big"
    data = b"SSND" if head[:4] == b"FORM" else b"data"
    at = 12
    for _ in range(MAX_CHUNKS):
        if at + 8 > source.size:
            break
        chunk = source.at(at, 8)
        size = int.from_bytes(chunk[4:], order)
        if chunk[:4] == data:
            found = _missing(source, at + 8, size)
            return found if found.cut else _files(source, order)
        at += 8 + size + size % 2
    return WHOLE


def _missing(source: Source, begins: int, size: int) -> Contents:
    there = source.size - begins
    if size == 0 or size >= _STREAMED or there >= size:
        return WHOLE
    return Contents(cut=f"its header promises {size} bytes of samples, and {max(there, 0)} are there")


def _sphere(source: Source) -> Contents:
    """NIST SPHERE: lines of text, such as ``sample_count -i 16000``, after the size of the header."""
    fields = dict(re.findall(rb"(\w+) -i (\d+)", source.at(0, 1024)))
    size = [int(fields.get(name, b"0")) for name in (b"sample_count", b"sample_n_bytes", b"channel_count")]
    begins = source.at(8, 8).strip()
    return _missing(source, int(begins) if begins.isdigit() else 1024, prod(size))


def _files(source: Source, order: Literal["little", "big"]) -> Contents:
    """Several whole WAV or AIFF files one after another."""
    starts, kind = [0], (source.at(0, 4), source.at(8, 4))
    while len(starts) <= MAX_STREAMS:
        size = int.from_bytes(source.at(starts[-1] + 4, 4), order)
        following = starts[-1] + 8 + size + size % 2
        if not size or size >= _STREAMED or (source.at(following, 4), source.at(following + 8, 4)) != kind:
            return _cut_at(starts, source.size)
        starts.append(following)
    raise _too_many(source)


def _flac(source: Source, thorough: bool) -> Contents:
    """FLAC: its last frame should end at the count of samples in its header. That costs another request for an
    object, and is left to extraction there, which has all of it."""
    head = source.at(0, 42)
    if head[:4] != b"fLaC" or (source.is_remote and not thorough):
        return WHOLE
    promised = flac.sample_count(head)
    data = source.data() if thorough or not promised else b""
    last = next((end for _, end in flac.ends(data[-RANGE:] or source.tail(RANGE), head)), None)
    if last == promised and not thorough:
        return WHOLE
    data = data or source.data()
    starts = [at for at in _found(data, b"fLaC") if data[at + 4 : at + 8] in _STREAMINFO]
    if len(starts) > MAX_STREAMS:
        raise _too_many(source)
    if len(starts) > 1:
        return _cut_at(starts, len(data))
    if not promised and (length := flac.length_of(data, head)) is not None:
        return Contents((Part(0, len(data), length),))
    # Bytes after the last frame may look like a frame.
    if promised not in (0, last) and not any(end == promised for _, end in flac.ends(data[-flac.MAX_FRAME :], head)):
        return Contents(cut=f"its header promises {promised} samples, and its last frame is not there")
    return WHOLE


def _ogg(source: Source, thorough: bool) -> Contents:
    """Pages: the first begins a stream, and the last should end the same one."""
    if not thorough:
        block = (source.size - 1) // RANGE
        ending = list(_pages(source.at(block * RANGE, RANGE)))
        ending = ending or list(_pages(source.at(max(block - 1, 0) * RANGE, 2 * RANGE)))
        if ending and ending[-1].ends and ending[-1].serial == source.at(14, 4):
            return WHOLE
    data = source.data()
    starts, last = list[int](), None
    for page in _pages(data):
        # Several streams that are played at once begin with consecutive pages.
        if page.begins and not (last and last.begins):
            starts.append(page.at)
        if len(starts) > MAX_STREAMS:
            raise _too_many(source)
        last = page
    cut = "" if last and last.ends else "its last page does not end the stream"
    if last and last.at + last.size > len(data):
        cut = f"its last page lacks {last.at + last.size - len(data)} of its {last.size} bytes"
    return replace(_cut_at(starts, len(data)), cut=cut)


@dataclass(frozen=True)
class _Page:
    at: int
    size: int
    begins: bool
    ends: bool
    serial: bytes


def _pages(data: bytes) -> Iterator[_Page]:
    """The pages of Ogg: 27 bytes, a table of segment lengths, and as many bytes as they add up to."""
    at = data.find(b"OggS\0")
    while at >= 0 and at + 27 <= len(data):
        table = data[at + 27 : at + 27 + data[at + 26]]
        size, flags = 27 + data[at + 26] + sum(table), data[at + 5]
        yield _Page(at, size, bool(flags & 2), bool(flags & 4), data[at + 14 : at + 18])
        following = at + size
        at = following if data[following : following + 5] == b"OggS\0" else data.find(b"OggS\0", at + 5)


def _mp3(source: Source) -> Contents:
    """MP3: what its header promises, if the file is as large as the header says; else all its frames."""
    head = source.at(0, RANGE)
    at = mpeg.begin(head)
    if at + 256 > len(head):  # pictures in the tag
        head, at = source.at(at, RANGE), 0
        base = mpeg.begin(source.at(0, 10))
    else:
        base = 0
    frame = mpeg.frame_at(head, at)
    said = mpeg.promise(head, at, frame) if frame else None
    if said and said.frames and said.size:
        end = base + at + said.size
        if source.size >= end and mpeg.end_of_tags(source.at(end, 32), source.size - end):
            return WHOLE
    found, junk = mpeg.streams(source.data())
    if len(found) > MAX_STREAMS:
        raise _too_many(source)
    note = f"{junk} bytes are not MP3" if junk else ""
    if not found:
        return Contents(note=note)
    parts, cut = [], ""
    for stream in found:
        promised = stream.promise.frames if stream.promise else None
        if promised and promised > stream.frames + 1:  # some encoders count the header's own frame
            cut = f"its header promises {promised} frames, and {stream.frames} are there"
        # libsndfile trims what the encoder added at both ends where the header's count is right.
        if promised == stream.frames:
            parts.append(Part(stream.offset, stream.size))
        else:
            parts.append(Part(stream.body, stream.offset + stream.size - stream.body, stream.samples))
    return Contents(tuple(parts), cut, note)


def first_file(source: Source) -> Part | None:
    """The first of several WAV or AIFF files in one, which libsndfile refuses to open."""
    kinds: dict[bytes, Literal["little", "big"]] = {b"RIFF": "little", b"FORM": "big"}
    order = kinds.get(source.at(0, 4))
    parts = _files(source, order).parts if order else ()
    return parts[0] if parts else None


def _cut_at(starts: list[int], end: int) -> Contents:
    """Streams that begin at these places."""
    if len(starts) < 2:
        return WHOLE
    return Contents(tuple(Part(start, stop - start) for start, stop in pairwise([*starts, end])))


def _too_many(source: Source) -> AudioError:
    return AudioError(f"holds more than {MAX_STREAMS:,} streams one after another: {source.name}")


def _found(data: bytes, mark: bytes) -> Iterator[int]:
    at = data.find(mark)
    while at >= 0:
        yield at
        at = data.find(mark, at + 1)
