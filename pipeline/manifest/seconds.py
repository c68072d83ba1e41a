"""Seconds, in which other toolkits cut their audio, and the samples that gdist counts."""

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from gdist.pipeline.audio import Header, Segment
from gdist.pipeline.manifest.utterance import header_of, in_threads

ROUNDED = 0.02  # seconds by which a length that was rounded for printing may lie past the end of its file


def samples(seconds: float | str, rate: int) -> int:
    """Return the nearest sample, halves up after rounding away the noise of floating point, as lhotse counts.

    Text is taken exactly: ``"0.29"`` at 100 Hz is sample 29.
    """
    exact = Fraction(seconds) * rate if isinstance(seconds, str) else round(seconds * rate, 8)
    return math.floor(exact + Fraction(1, 2))


def seconds(count: int, rate: int) -> float:
    """Return ``count`` samples as seconds: readers that round and readers that truncate both get ``count`` again.

    >>> seconds(29, 100)  # 29 / 100 * 100 is 28.999999999999996
    0.29000000000000004
    """
    found = count / rate
    while int(found * rate) < count:
        found = math.nextafter(found, math.inf)
    return found


def segment(start: float | str, stop: float | str | None, header: Header) -> tuple[int, int]:
    """Return the first sample and the number of samples of a segment that is given in seconds.

    Args:
        stop: its end; None for the file's end. An end that rounding alone can have put past the file's is the file's.
    """
    rate, total = header.sample_rate, header.num_samples
    first = samples(start, rate)
    last = total if stop is None else samples(stop, rate)
    if total < last <= total + ROUNDED * rate:
        last = total
    return first, last - first


def file_of(row: Mapping[str, Any]) -> Segment:
    """Return the file that the audio of a source's row is in."""
    return Segment(row["path"], byte_offset=row.get("byte_offset"), byte_size=row.get("byte_size"))


def headers(files: Iterable[Segment]) -> dict[Segment, Header]:
    """Read the header of each file once, in threads; files that cannot be read are left out."""
    wanted = list(dict.fromkeys(files))
    found = zip(wanted, in_threads(header_of, wanted, None), strict=True)
    return {file: header for file, header in found if isinstance(header, Header)}
