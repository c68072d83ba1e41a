"""Sample ↔ frame arithmetic, in one place.

Every supported teacher has the wav2vec 2.0 front-end: convolutions with a total stride of 320 samples and a
receptive field of 400 samples at 16 kHz, without padding. Worked by hand:

    400 samples → 1 frame      719 samples → 1 frame      720 samples → 2 frames      399 samples → 0 frames

``num_samples // 320`` is the usual mistake: it gives one frame too many for a quarter of all lengths.
"""

from typing import Any

import numpy as np

Lengths = np.ndarray[Any, np.dtype[np.int64]]

SAMPLE_RATE = 16_000
HOP = 320
RECEPTIVE_FIELD = 400
FRAMES_PER_SECOND = SAMPLE_RATE // HOP


def num_frames(num_samples: int) -> int:
    """Frames the front-end yields for ``num_samples`` samples at 16 kHz; 0 when these are too few for one frame."""
    return 0 if num_samples < RECEPTIVE_FIELD else (num_samples - RECEPTIVE_FIELD) // HOP + 1


def num_samples_for(frames: int) -> int:
    """The fewest samples that yield ``frames`` frames."""
    return 0 if frames <= 0 else (frames - 1) * HOP + RECEPTIVE_FIELD


def num_rows(num_samples: int) -> int:
    """Rows of 320 samples that a waveform needs; up to two more than its frames, since frames overlap."""
    return -(-num_samples // HOP)


def resampled_length[N: (int, Lengths)](num_samples: N, sample_rate: N) -> N:
    """Samples at 16 kHz after resampling ``num_samples`` at ``sample_rate``: rounded up, as torchaudio does.
    Takes numbers, or int64 arrays of them."""
    return -(-num_samples * SAMPLE_RATE // sample_rate)


def crop_samples(start_frame: int, frames: int) -> tuple[int, int]:
    """The samples ``[start, stop)`` that yield exactly the frames ``[start_frame, start_frame + frames)``."""
    start = start_frame * HOP
    return start, start + num_samples_for(frames)
