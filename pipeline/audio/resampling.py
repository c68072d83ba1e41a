"""Resampling to 16 kHz by torchaudio's sinc filter, in double precision.

Axes: S samples.
"""

from functools import lru_cache
from math import ceil, gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdist.pipeline.errors import AudioError
from gdist.pipeline.framing import SAMPLE_RATE, resampled_length

MAX_FILTER = 1 << 24  # values in a resampling filter; rates without a common factor need one phase per sample


def resample(wave_S: NDArray[np.float64], sample_rate: int) -> NDArray[np.float64]:
    """Resample to 16 kHz in double precision, ten seconds at a time.

    In single precision, torchaudio's filter itself is off by more than one int16 step at some rates (11,025 Hz), and
    its output is sometimes one sample shorter than the exact length (441,102 samples at 44.1 kHz). In one piece it
    needs up to 14 times the waveform's memory. Blocks that start on the filter's period, with the filter's width as
    context on either side, give the same values.
    """
    import torch

    common = gcd(sample_rate, SAMPLE_RATE)
    period, phases = sample_rate // common, SAMPLE_RATE // common  # ``period`` samples in give ``phases`` samples out
    if period * phases > MAX_FILTER:
        why = f"it would need a filter of {period * phases:,} values"
        raise AudioError(f"cannot resample {sample_rate} Hz to {SAMPLE_RATE} Hz: {why}")
    filter_ = _resampler(sample_rate)
    context = ceil(filter_.width / period) * period
    block = ceil(10 * sample_rate / period) * period
    padded_S = np.pad(wave_S, (context, context + block))
    pieces = [np.zeros(0)]
    with torch.inference_mode():
        for start in range(0, len(wave_S), block):
            piece = filter_(torch.from_numpy(padded_S[start : start + block + 2 * context]))
            pieces.append(piece.numpy()[context // period * phases :][: block // period * phases])
    return np.concatenate(pieces)[: resampled_length(len(wave_S), sample_rate)]


@lru_cache(maxsize=8)
def _resampler(sample_rate: int) -> Any:
    import torch
    from torchaudio.transforms import Resample

    return Resample(sample_rate, SAMPLE_RATE, dtype=torch.float64)
