"""Where audio is, and which part of it is meant."""

from dataclasses import dataclass, replace

MAX_GAIN_BITS = 24  # 144 dB: the whole range of 24-bit audio


@dataclass(frozen=True)
class Segment:
    """A part of an audio file, as the manifest describes it.

    Attributes:
        path: a local path or a URI.
        start, num_samples: the part, in samples at ``sample_rate``; None: to the end of the file.
        sample_rate: the file's rate in Hz; None where it is not known yet.
        channel: the channel that is meant, from 0; None: all channels are mixed down to their mean.
        byte_offset, byte_size: the audio file is this range of the bytes of ``path``, as a member of an uncompressed
            archive is; None: from its beginning, to its end.
        gain_bits: samples are multiplied by 2 to this power before they are rounded to 16 bits.
    """

    path: str
    start: int = 0
    num_samples: int | None = None
    sample_rate: int | None = None
    channel: int | None = None
    byte_offset: int | None = None
    byte_size: int | None = None
    gain_bits: int = 0

    @property
    def file(self) -> "Segment":
        """All of the file that this is a part of, whose header is the same for all of its parts."""
        return Segment(self.path, byte_offset=self.byte_offset, byte_size=self.byte_size)

    @property
    def is_member(self) -> bool:
        """Whether the audio file is a range of the bytes of another file."""
        return self.byte_offset is not None or self.byte_size is not None

    @property
    def name(self) -> str:
        """The path, with the range of bytes where there is one: how messages name it."""
        if not self.is_member:
            return self.path
        size = "" if self.byte_size is None else self.byte_size
        return f"{self.path} (bytes {self.byte_offset or 0}+{size})"

    def __str__(self) -> str:
        return self.name

    def part(self, start: int, num_samples: int) -> "Segment":
        """Another part of the same file, at the same rate."""
        return replace(self, start=start, num_samples=num_samples)
