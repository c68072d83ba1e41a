"""FLAC without decoding it: its frames say which samples they hold, whatever its header says.

A frame begins with 14 ones, a bit that is 0, a bit for the kind of blocking, codes for its block size, rate, channels
and bits, the number of the frame or of its first sample, and a checksum of all that (RFC 9639, section 9.1).
"""

from collections.abc import Iterator

MAX_FRAME = 1 << 20  # no real frame has more bytes
_STREAMINFO = 8  # where it begins: after the marker and its own header


def sample_count(head: bytes) -> int:
    """The count of samples in STREAMINFO; 0 where the writer did not know it."""
    return int.from_bytes(head[_STREAMINFO + 10 : _STREAMINFO + 18], "big") & 0xF_FFFF_FFFF


def with_sample_count(data: bytes, samples: int) -> bytes:
    """The same stream with another count in STREAMINFO, up to which libsndfile decodes."""
    at = _STREAMINFO + 10
    fields = int.from_bytes(data[at : at + 8], "big") & ~0xF_FFFF_FFFF | samples
    return data[:at] + fields.to_bytes(8, "big") + data[at + 8 :]


def ends(tail: bytes, head: bytes) -> Iterator[tuple[int, int]]:
    """What looks like frames in ``tail``, from the last to the first: where each begins in it, and the sample at
    which it ends. One in 30 million random bytes looks like one."""
    fixed = int.from_bytes(head[_STREAMINFO + 2 : _STREAMINFO + 4], "big")  # the largest block
    at = len(tail)
    while (at := tail.rfind(b"\xff", 0, at)) >= 0:
        if (
            at + 1 < len(tail)
            and tail[at + 1] in (0xF8, 0xF9)
            and (end := _end(tail[at : at + 16], fixed)) is not None
        ):
            yield at, end


def length_of(data: bytes, head: bytes) -> int | None:
    """Where the last frame ends: the one whose checksum is right to the end; None where there is none."""
    last = None
    for at, end in ends(data[-MAX_FRAME:], head):
        last = end if last is None else last
        if not _crc16(data[-MAX_FRAME:][at:]):
            return end
    return last


def _end(frame: bytes, fixed: int) -> int | None:
    """Where a frame ends, given its first bytes; None if it is none."""
    if len(frame) < 6:
        return None
    code, length = frame[2] >> 4, 1
    while length < 8 and frame[4] & (0x80 >> length):
        length += 1
    if frame[4] & 0x80 == 0:
        number, at = frame[4], 5
    else:
        number, at = frame[4] & (0x7F >> length), 4 + length
        for byte in frame[5:at]:
            number = number << 6 | byte & 0x3F
    extra = {6: 1, 7: 2}.get(code, 0)
    size = int.from_bytes(frame[at : at + extra], "big") + 1
    if not extra and code:
        size = 192 if code == 1 else 576 << (code - 2) if 2 <= code <= 5 else 256 << (code - 8)
    at += extra + {12: 1, 13: 2, 14: 2}.get(frame[2] & 15, 0)
    if code == 0 or at >= len(frame) or _crc8(frame[:at]) != frame[at]:
        return None
    return number + size if frame[1] & 1 else number * fixed + size


def _crc8(data: bytes) -> int:
    """With the polynomial x⁸ + x² + x + 1."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07 if crc & 0x80 else crc << 1) & 0xFF
    return crc


def _crc16(data: bytes) -> int:
    """With the polynomial x¹⁶ + x¹⁵ + x² + 1; 0 where ``data`` ends with its own."""
    crc = 0
    for byte in data:
        crc = _CRC16[crc >> 8 ^ byte] ^ crc << 8 & 0xFFFF
    return crc


def _entry(value: int) -> int:
    for _ in range(8):
        value = (value << 1 ^ 0x8005 if value & 0x8000 else value << 1) & 0xFFFF
    return value


_CRC16 = [_entry(byte << 8) for byte in range(256)]
