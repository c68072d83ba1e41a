"""Sample ↔ frame arithmetic, in one place: how the frames of a teacher's hidden states lie on its samples.

A teacher's front-end decides it. The convolutions of wav2vec 2.0, HuBERT and WavLM have a total stride of 320 samples
and a receptive field of 400 at 16 kHz, without padding; :data:`WAV2VEC2` is their framing. Worked by hand:

    400 samples → 1 frame      719 samples → 1 frame      720 samples → 2 frames      399 samples → 0 frames

``num_samples // 320`` is the usual mistake: it gives one frame too many for a quarter of all lengths. Whisper pads,
so that frame t is centered on sample 320 t (window 1040, 520 samples before the utterance and 360 after it):

    159 samples → 0 frames     160 samples → 1 frame      479 samples → 1 frame       480 samples → 2 frames
"""

import reprlib
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # students are exported with this file, and need no numpy
    import numpy as np

    Lengths = np.ndarray[Any, np.dtype[np.int64]]

SAMPLE_RATE = 16_000
HOUR = 3600 * SAMPLE_RATE  # no teacher's numbers are larger, but what is read from a cache may be anything


@dataclass(frozen=True)
class Framing:
    """Frame t depends on the samples [t · hop − left, t · hop − left + window); outside the utterance is padding.

    Attributes:
        hop: samples from one frame to the next; a row of the cache's waveform has as many, so that it is aligned with
            frames.
        window: samples that a frame depends on, before the first Transformer layer.
        left, right: samples of padding before and after an utterance.
        least: the fewest samples that a teacher can process, where one frame has fewer; 0 where it does not matter.
            There is one frame of so many samples: a crop of one frame must not turn out to be two.
        longest: the most samples that a teacher can process; 0 means that there is no limit.

    Raises:
        ValueError: a number is impossible; the message begins with its name.
    """

    hop: int = 320
    window: int = 400
    left: int = 0
    right: int = 0
    least: int = 0
    longest: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            low = 1 if name in ("hop", "window") else 0
            if type(value) is not int or not low <= value <= HOUR:
                raise ValueError(f"{name} is {reprlib.repr(value)}; it must be a whole number from {low} to {HOUR}")
        # Otherwise an utterance could have more frames than rows of its waveform.
        if self.window - self.left - self.right < 1:
            raise ValueError(
                f"left and right are {self.left} and {self.right}; the window, {self.window}, is no larger"
            )
        if self.least and (frames := self.num_frames(self.least)) > 1:
            raise ValueError(f"least is {self.least}, of which there are {frames} frames; it must be at most one")
        if 0 < self.longest < self.fewest:
            raise ValueError(f"longest is {self.longest}, and one frame takes {self.fewest} samples")

    @classmethod
    def from_dict(cls, stored: Any) -> "Framing":
        """Read what :meth:`to_dict` returned. Raises ValueError for anything else: a cache may be anybody's."""
        names = [field.name for field in fields(cls)]
        if not isinstance(stored, dict) or sorted(map(str, stored)) != sorted(names):
            raise ValueError(f"it is {reprlib.repr(stored)}; it must have exactly {', '.join(names)}")
        return cls(**stored)

    def to_dict(self) -> dict[str, int]:
        """Return it as the cache's identity stores it."""
        return asdict(self)

    @property
    def fewest(self) -> int:
        """The fewest samples of which a teacher makes frames."""
        return max(self.least, self.window - self.left - self.right)

    @property
    def fewest_of_a_tail(self) -> int:
        """The fewest frames at the end of an utterance that are not too short on their own."""
        return 1 if self.least <= self.window - self.left - self.right else 2

    @property
    def frames_per_second(self) -> float:
        """50 for most teachers, 25 for SEW."""
        return SAMPLE_RATE / self.hop

    def num_frames(self, num_samples: Any) -> Any:
        """Frames of ``num_samples`` samples at 16 kHz; 0 when these are too few.

        Takes a number, a numpy array or a tensor of whole numbers, and returns the same.
        """
        frames = (num_samples + (self.left + self.right - self.window)) // self.hop + 1
        return frames * (num_samples >= self.fewest)

    def num_samples_for(self, frames: int) -> int:
        """The fewest samples that yield ``frames`` frames."""
        return 0 if frames <= 0 else max((frames - 1) * self.hop + self.window - self.left - self.right, self.least)

    def num_rows(self, num_samples: Any) -> Any:
        """Rows of ``hop`` samples that a waveform needs: as many as it has frames or, as these overlap, a few more.

        Takes and returns what :meth:`num_frames` does.
        """
        return -(-num_samples // self.hop)

    def crop_samples(self, start_frame: int, frames: int) -> tuple[int, int]:
        """The samples ``[start, stop)`` that yield the frames ``[start_frame, start_frame + frames)``.

        Where an utterance is padded, so is the crop; frame t of the crop lies where frame ``start_frame + t`` lies.
        """
        start = start_frame * self.hop
        return start, start + self.num_samples_for(frames)

    def nearest(self, other: "Framing", frames: Any) -> Any:
        """The frames of ``other`` whose centers are nearest to those of these ``frames``; the later of two as near.

        It may be beyond the first or the last frame of an utterance. With equal framings, it is the same frame; at
        equal hops, it is always as many frames further:

            wav2vec 2.0's frame 0 is centered on sample 200, Whisper's frame 1 on sample 320, its frame 0 on 0 → 1

        Takes a number, a numpy array or a tensor of whole numbers, and returns the same.
        """
        twice = 2 * (frames * self.hop - self.left) + self.window  # the center, in half samples
        return (twice - (other.window - 2 * other.left) + other.hop) // (2 * other.hop)


WAV2VEC2 = Framing()
"""wav2vec 2.0 and most of its relatives: 50 frames per second."""


def resampled_length[N: (int, "Lengths")](num_samples: N, sample_rate: N) -> N:
    """Samples at 16 kHz after resampling ``num_samples`` at ``sample_rate``: rounded up, as torchaudio does.
    Takes numbers, or int64 arrays of them."""
    return -(-num_samples * SAMPLE_RATE // sample_rate)
