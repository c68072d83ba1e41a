"""How long a file is, in samples that decode, and whether that agrees with what a manifest says of it."""

from dataclasses import dataclass, field

from gdist.pipeline.audio.opening import opened
from gdist.pipeline.audio.segment import Segment


@dataclass(frozen=True)
class Header:
    """What is known of a file without decoding it, where that can be believed.

    Attributes:
        num_samples: samples per channel that decode.
        sample_rate: in Hz.
        channels: how many it has.
        format: its container and its coding, ``WAV PCM_16``.
        claimed: the samples that its header alone says, or estimates; None where it does not say.
        streams: how many streams it holds, one after another.
        cut: why it is known to be cut short; empty where it is not.
    """

    num_samples: int
    sample_rate: int
    channels: int
    format: str = field(default="", compare=False)
    claimed: int | None = field(default=None, compare=False)
    streams: int = field(default=1, compare=False)
    cut: str = field(default="", compare=False)


def read_header(file: Segment, thorough: bool = False) -> Header:
    """Read a file's header; its samples only where the header cannot be believed.

    Args:
        file: the file; which part of it is meant does not matter. Of an object, only the ranges needed are fetched,
            mostly the first 64 KiB; all of it where its frames or pages have to be counted.
        thorough: read the file to its end, which also finds a second stream where the ends of the file do not show
            it: FLACs, or Oggs with the same serial number, one after another.

    Raises:
        AudioError: the file is missing, empty, a folder, or undecodable.
        CacheError: the object store could not be reached.
    """
    with opened(file, header_only=True) as audio:
        found = audio.contents(thorough)
        ends = audio.ends(found)
        return Header(ends[-1], audio.sample_rate, audio.channels, audio.format, audio.claimed, len(ends), found.cut)


def mismatch(segment: Segment, header: Header) -> str | None:
    """Why the file cannot give the segment, by its header; None where it can.

    A part of a file that was cut short can be used unless it reaches the cut.
    """
    stop = None if segment.num_samples is None else segment.start + segment.num_samples
    if (why := unlike(segment, header.sample_rate, header.channels)) is not None:
        return why
    if header.cut and (stop is None or stop >= header.num_samples):
        return f"truncated: {header.cut}"
    if (stop or segment.start) > header.num_samples:
        return f"the segment ends at sample {stop or segment.start}, the file at {header.num_samples}"
    return None


def unlike(segment: Segment, sample_rate: int, channels: int) -> str | None:
    """What the manifest says that the file contradicts: its rate or its channel."""
    if segment.sample_rate is not None and segment.sample_rate != sample_rate:
        return f"sample rate is {sample_rate} Hz, the manifest says {segment.sample_rate} Hz"
    if segment.channel is not None and segment.channel >= channels:
        noun = "channel" if channels == 1 else "channels"
        return f"has {channels} {noun}, the manifest says channel {segment.channel}, counted from 0"
    return None
