"""MP3 without decoding it: its frames, what its Xing or VBRI header promises, and where another stream begins.

A frame's header is 4 bytes: 11 bits of ones, version, layer, bit rate, sample rate, padding, mode. What a stream's
length is follows from the number of its frames, unless the encoder's delay and padding are in a LAME header, in which
case libsndfile trims them.
"""

from dataclasses import dataclass

_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_KBPS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBPS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RESYNC = 1 << 16  # bytes searched for the next frame where there should have been one


@dataclass(frozen=True)
class Frame:
    """One frame: its size in bytes, its samples per channel, its rate in Hz, and where a Xing header would be in
    it."""

    size: int
    samples: int
    rate: int
    xing_at: int


@dataclass(frozen=True)
class Promise:
    """What a Xing, Info or VBRI header says of the stream that begins with it: its frames and its bytes, both with
    the header's own frame left out of the count of frames; None where it does not say."""

    frames: int | None
    size: int | None


@dataclass(frozen=True)
class Stream:
    """Consecutive frames that belong together.

    Attributes:
        offset, size: where it is, in bytes.
        body: where its first frame is that is not its header's.
        frames: its whole frames, without that of its header.
        samples: what they decode to, before any trimming.
        promise: its header, if it has one.
    """

    offset: int
    size: int
    body: int
    frames: int
    samples: int
    promise: Promise | None


def frame_at(data: bytes, at: int) -> Frame | None:
    """The MPEG layer III frame whose header is at ``at``, if there is one."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE6 != 0xE2:
        return None
    version, code, rate = data[at + 1] >> 3 & 3, data[at + 2] >> 4, data[at + 2] >> 2 & 3
    if version == 1 or code in (0, 15) or rate == 3:
        return None
    hz, mono = _RATES[version][rate], data[at + 3] >> 6 == 3
    samples = 1152 if version == 3 else 576
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    kbps = (_KBPS_1 if version == 3 else _KBPS_2)[code]
    return Frame(samples // 8 * kbps * 1000 // hz + (data[at + 2] >> 1 & 1), samples, hz, 4 + side)


def begin(data: bytes) -> int:
    """Where the first frame is: after the ID3 tags at the beginning."""
    at = 0
    while data[at : at + 3] == b"ID3":
        at += _id3_size(data, at)
    return at


def promise(data: bytes, at: int, frame: Frame) -> Promise | None:
    """The Xing, Info or VBRI header in a frame."""
    xing = at + frame.xing_at
    if data[xing : xing + 4] in (b"Xing", b"Info"):
        flags, rest = int.from_bytes(data[xing + 4 : xing + 8], "big"), data[xing + 8 : xing + 16]
        frames = int.from_bytes(rest[:4], "big") if flags & 1 else None
        size = int.from_bytes(rest[4:] if flags & 1 else rest[:4], "big") if flags & 2 else None
        return Promise(frames or None, size or None)
    if data[at + 36 : at + 40] == b"VBRI":
        return Promise(int.from_bytes(data[at + 50 : at + 54], "big"), int.from_bytes(data[at + 46 : at + 50], "big"))
    return None


def end_of_tags(rest: bytes, left: int) -> bool:
    """Whether the ``left`` bytes after a stream's end are nothing but tags, given the first of them."""
    if left == 0 or (left == 128 and rest[:3] == b"TAG"):
        return True
    if rest[:8] == b"APETAGEX" and len(rest) >= 16:
        return left - int.from_bytes(rest[12:16], "little") in (0, 32, 128, 160)
    return False


def streams(data: bytes) -> tuple[list[Stream], int]:
    """Walk over all frames. Returns the streams, and how many bytes are neither frames nor tags.

    A new stream begins with each Xing, Info or VBRI header: what was encoded without one continues the stream before
    it. A last frame that is cut short does not count.
    """
    found: list[Stream] = []
    at, end, junk, first, body, frames, samples = 0, 0, 0, -1, 0, 0, 0
    said: Promise | None = None

    def close() -> None:
        if first >= 0 and (frames or said):
            found.append(Stream(first, end - first, body, frames, samples, said))

    while at < len(data):
        frame = frame_at(data, at)
        if frame is not None and at + frame.size <= len(data):
            new = promise(data, at, frame)
            if new or first < 0:
                close()
                first, frames, samples, said = at, 0, 0, new
                body = at + frame.size if new else at
            if not new:
                frames, samples = frames + 1, samples + frame.samples
            at = end = at + frame.size
        elif data[at : at + 3] == b"ID3":
            at += _id3_size(data, at)
        elif end_of_tags(data[at : at + 32], len(data) - at) or (frame is not None and at + frame.size > len(data)):
            break
        elif data[at : at + 3] == b"TAG":
            at += 128
        else:
            following = _resync(data, at)
            junk, at = junk + following - at, following
    close()
    return found, junk


def _resync(data: bytes, at: int) -> int:
    """The next place where two frames, or one and the end, follow each other; the end if there is none."""
    stop = min(len(data), at + _RESYNC)
    for next_ in range(at + 1, stop):
        frame = frame_at(data, next_) if data[next_] == 0xFF else None
        if frame and (next_ + frame.size == len(data) or frame_at(data, next_ + frame.size)):
            return next_
        if data[next_ : next_ + 3] == b"ID3":
            return next_
    return len(data)


def _id3_size(data: bytes, at: int) -> int:
    return 10 + sum((byte & 0x7F) << 7 * (3 - place) for place, byte in enumerate(data[at + 6 : at + 10]))
