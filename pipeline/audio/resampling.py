"""Resampling to 16 kHz by torchaudio's sinc filter, in double precision.

Axes: S samples.
"""

from collections.abc import Iterator
from functools import lru_cache
from math import ceil, gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdist.pipeline.audio.bounds import MAX_FILTER, RESAMPLED
from gdist.pipeline.errors import AudioError
from gdist.pipeline.framing import SAMPLE_RATE, resampled_length


class Resampler:
    """Resamples a waveform to 16 kHz in double precision, ten seconds at a time, as its samples arrive.

    In single precision, torchaudio's filter itself is off by more than one int16 step at some rates (11,025 Hz), and
    its output is sometimes one sample shorter than the exact length (441,102 samples at 44.1 kHz). In one piece it
    needs up to 14 times the waveform's memory. Blocks that start on the filter's period, with the filter's width as
    context on either side, give the same values.

    Args:
        sample_rate: of the waveform, in Hz.

    Raises:
        AudioError: the filter would be too large.
    """

    def __init__(self, sample_rate: int) -> None:
        self._rate, common = sample_rate, gcd(sample_rate, SAMPLE_RATE)
        # ``period`` samples in give ``phases`` samples out.
        self._period, self._phases = sample_rate // common, SAMPLE_RATE // common
        if self._period * self._phases > MAX_FILTER:
            why = f"it would need a filter of {self._period * self._phases:,} values"
            raise AudioError(f"cannot resample {sample_rate} Hz to {SAMPLE_RATE} Hz: {why}")
        self._filter = _resampler(sample_rate)
        self._context = ceil(self._filter.width / self._period) * self._period
        self._block = ceil(min(10 * sample_rate, RESAMPLED) / self._period) * self._period
        self._waiting = [np.zeros(self._context)]
        self._count = self._context  # of the samples that wait
        self._taken = self._given = 0  # samples that arrived, and that were given

    def push(self, wave_S: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
        """Take some more samples; yield what they complete."""
        self._taken += len(wave_S)
        yield from self._moved(wave_S)

    def end(self) -> Iterator[NDArray[np.float64]]:
        """Yield the rest, after the last samples: ``resampled_length`` samples in all."""
        yield from self._moved(np.zeros(self._context + self._block))

    def _moved(self, wave_S: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
        import torch

        self._waiting.append(wave_S)
        self._count += len(wave_S)
        if self._count < (whole := self._block + 2 * self._context):
            return
        held_S = np.concatenate(self._waiting)
        at = 0
        while len(held_S) - at >= whole and (left := resampled_length(self._taken, self._rate) - self._given) > 0:
            with torch.inference_mode():
                piece = self._filter(torch.from_numpy(held_S[at : at + whole]))
            first = self._context // self._period * self._phases
            found = piece.numpy()[first:][: min(self._block // self._period * self._phases, left)]
            self._given, at = self._given + len(found), at + self._block
            yield found
        self._waiting = [held_S[at:].copy()]
        self._count = len(held_S) - at


@lru_cache(maxsize=4)
def _resampler(sample_rate: int) -> Any:
    import torch
    from torchaudio.transforms import Resample

    return Resample(sample_rate, SAMPLE_RATE, dtype=torch.float64)
