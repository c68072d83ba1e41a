"""What is reported of a signal: how loud it is, how much of it is clipped, and what that means for a teacher.

Axes: S samples, C channels.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdist.pipeline.audio.segment import MAX_GAIN_BITS

FULL_SCALE = 32_768
PEAK = 32_767  # the cache writes −32,768 where a waveform is missing, so no sample may have that value

MAX_CLIPPED = 0.001  # the share of samples at full scale or beyond it that is not worth a word
OVERSHOOT = 1.25  # a lossy codec decodes what was limited to full scale to at most so much
INT16_SCALE = 256.0  # no recording is 48 dB beyond full scale
QUIET = 64 / FULL_SCALE  # a peak below this leaves at most 127 levels
CANCELS = 0.25  # channels cancel where their mix has less than this share of the energy of a mix of unrelated ones


@dataclass(frozen=True)
class Signal:
    """One utterance's signal, at the file's own rate, after its gain.

    Attributes:
        peak: the largest absolute value; 1 is full scale.
        clipped: the share of samples at full scale or beyond it.
        mixed: how many channels were mixed down; 1 where there was nothing to mix.
        mix_energy: the energy of the mix over the mean energy of its channels.
        messages: what the decoder said.
        gain_bits: the gain.
    """

    peak: float
    clipped: float
    mixed: int = 1
    mix_energy: float = 1.0
    messages: tuple[str, ...] = ()
    gain_bits: int = 0

    @property
    def peak_dbfs(self) -> float:
        """The peak in dB below full scale; −inf for silence."""
        return decibels(self.peak, 20)

    @property
    def refusal(self) -> str | None:
        """Why it cannot be stored in 16 bits, and what to type."""
        advice = (
            f"give it gain_bits = {self.best_gain} (gdist manifest build --gain auto does), or write it between ±1"
        )
        if self.peak > INT16_SCALE:
            return f"floats in the scale of 16-bit integers (peak {self.peak:.4g}, where 1 is full scale): {advice}"
        if self.clipped > MAX_CLIPPED and self.peak > OVERSHOOT:
            return f"{self.clipped:.2%} of its samples are beyond full scale (peak {self.peak:.4g}): {advice}"
        return None

    @property
    def remarks(self) -> dict[str, str]:
        """What the user should know of it, though it can be used: kind → words with the figure."""
        found = {} if self.peak else {"silent": "silent: every sample is 0"}
        if self.clipped > MAX_CLIPPED:
            found["clipped"] = f"{self.clipped:.2%} of its samples are at full scale: clipped"
        if 0 < self.peak < QUIET:
            found["quiet"] = (
                f"quiet: {2 * int(self.peak * FULL_SCALE) + 1} levels of 16 bits, {self.peak_dbfs:.0f} dBFS"
            )
        if self.mixed > 1 and self.mix_energy * self.mixed < CANCELS:
            found["cancels"] = (
                f"its {self.mixed} channels cancel: their mix has {decibels(self.mix_energy):.0f} dB of their energy"
            )
        if self.messages:
            more = f" (and {len(self.messages) - 1} more)" if len(self.messages) > 1 else ""
            found["decoder"] = f"the decoder says: {self.messages[0]}{more}"
        return found

    @property
    def best_gain(self) -> int:
        """The gain in bits that brings the peak of a quiet or a clipped signal between 1/4 and 1; that of any other
        stays as it is. Integers that were written as floats become what they were."""
        if self.peak > INT16_SCALE:
            return self.gain_bits - 15
        if self.clipped > MAX_CLIPPED and self.peak > OVERSHOOT:
            return self.gain_bits - math.ceil(math.log2(self.peak))
        if 0 < self.peak < QUIET:
            return min(self.gain_bits - math.ceil(math.log2(self.peak)) - 1, MAX_GAIN_BITS)
        return self.gain_bits


class Meter:
    """Measures a signal as it is decoded, some samples at a time.

    Args:
        full: full scale.

    Attributes:
        peak: the largest absolute value, where 1 is full scale.
        bad, first_bad: how many samples are not finite, and which is the first.
    """

    def __init__(self, full: int) -> None:
        self._full, self._limit = full, PEAK * full / FULL_SCALE
        self._high = self._low = 0.0
        self._samples = self._clipped = self.bad = self.first_bad = 0
        self._of_mix = self._of_channels = 0.0

    def hear(self, wave_S: NDArray[Any]) -> None:
        """Measure some more samples."""
        if not len(wave_S):
            return
        high, low = float(wave_S.max()), float(wave_S.min())  # either is NaN if one is
        if not (math.isfinite(high) and math.isfinite(low)):
            found = np.flatnonzero(~np.isfinite(wave_S))
            self.first_bad = self.first_bad if self.bad else self._samples + int(found[0])
            self.bad += len(found)
        elif max(high, -low) >= self._limit:
            self._clipped += int(np.count_nonzero(wave_S >= self._limit) + np.count_nonzero(wave_S <= -self._limit))
        self._high, self._low = max(self._high, high), min(self._low, low)
        self._samples += len(wave_S)

    def mix(self, wave_S: NDArray[np.float64], block_SC: NDArray[np.float64]) -> None:
        """Measure what is left of the energy of some channels in their mix."""
        self._of_mix += float(wave_S @ wave_S)
        self._of_channels += float(np.vdot(block_SC, block_SC)) / block_SC.shape[1]

    @property
    def peak(self) -> float:
        return max(self._high, -self._low) / self._full

    @property
    def clipped(self) -> float:
        """The share of samples at full scale or beyond it."""
        return float(self._clipped) / self._samples if self._clipped else 0.0

    @property
    def mix_energy(self) -> float:
        """The energy of the mix over the mean of its channels, 1 where nothing is mixed."""
        return self._of_mix / self._of_channels if self._of_channels else 1.0


def decibels(ratio: float, factor: int = 10) -> float:
    """A ratio of powers, or with the factor 20 of amplitudes, in dB."""
    return factor * math.log10(ratio) if ratio > 0 else -math.inf
