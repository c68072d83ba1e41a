"""What an open audio file must be able to do.

Axes: S samples, C channels.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Any

from numpy.typing import NDArray

from gdist.pipeline.audio.containers import Contents


class Audio(ABC):
    """An open audio file.

    Attributes:
        format: its container and its coding, ``WAV PCM_16``.
        sample_rate: in Hz.
        channels: how many it has.
        claimed: its length in samples by its header alone; None where that does not say.
        messages: what its decoder has said so far.
    """

    format: str
    sample_rate: int
    channels: int
    claimed: int | None
    messages: list[str]

    @abstractmethod
    def contents(self, thorough: bool) -> Contents:
        """What it holds, see :func:`gdist.pipeline.audio.containers.contents`."""

    @abstractmethod
    def ends(self, found: Contents) -> list[int]:
        """Where each of its streams ends, in samples; the last is its length."""

    @abstractmethod
    def blocks(self, start: int, stop: int, found: Contents, dtype: str) -> Generator[NDArray[Any], None, None]:
        """Decode what is there from ``start`` to ``stop``, some ``[S, C]`` at a time.

        Args:
            dtype: ``float64``, where full scale is 1, or ``int16`` for a 16-bit file.
        """
