"""One row of a manifest, and work on many of them at once."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from gdist.pipeline.audio import Header, Segment, read_header
from gdist.pipeline.errors import AudioError

THREADS = 32  # most of them wait for disks and object stores

type Progress = Callable[[int], None]  # called with the number of utterances just finished


@dataclass(frozen=True)
class Utterance:
    """A segment of a file (absolute path or URI), with its id and labels; the other fields are those of
    :class:`gdist.pipeline.audio.Segment`."""

    id: str
    path: str
    start: int
    num_samples: int | None
    sample_rate: int | None
    labels: dict[str, object]
    channel: int | None = None
    byte_offset: int | None = None
    byte_size: int | None = None
    gain_bits: int = 0

    @property
    def segment(self) -> Segment:
        """Its audio."""
        return Segment(
            self.path,
            self.start,
            self.num_samples,
            self.sample_rate,
            self.channel,
            self.byte_offset,
            self.byte_size,
            self.gain_bits,
        )


@dataclass(frozen=True)
class Problem:
    """An utterance that extraction would quarantine, and why."""

    id: str
    reason: str


def header_of(file: Segment, thorough: bool = False) -> Header | str:
    """Return the header, or the reason why there is none."""
    try:
        return read_header(file, thorough)
    except AudioError as error:
        return error.message


def in_threads[T, R](work: Callable[[T], R], items: Sequence[T], progress: Progress | None) -> list[R]:
    """Map ``work`` over ``items``, in order. Decoders and object stores release the GIL, so threads are enough."""
    results = []
    with ThreadPoolExecutor(THREADS) as pool:
        for result in pool.map(work, items):
            results.append(result)
            if progress:
                progress(1)
    return results
