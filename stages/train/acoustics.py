"""The signals that augmentation needs: noise, room responses, recordings of both, and levels. No batches here.

Every random choice takes a generator, so equal generators give equal samples.

Axes: S samples at 16 kHz, N blocks of them.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from gdist.pipeline.audio import load_utterance, to_float
from gdist.pipeline.errors import AudioError, ManifestError
from gdist.pipeline.framing import SAMPLE_RATE
from gdist.pipeline.manifest.table import Manifest, Utterance
from gdist.pipeline.storage.locations import in_shell

LOWEST_HZ = 50.0  # colored noise has no power below this, where brown noise would have nearly all of its power
RESPONSES_KEPT = 1024  # decoded impulse responses kept in memory; 64 KB per second of response


class Recordings:
    """The audio of a manifest; each recording is equally likely to be drawn.

    Args:
        field: the config field that names the manifest, for messages.

    Raises:
        ManifestError: the manifest or the header of a recording cannot be read.
    """

    def __init__(self, path: str, field: str) -> None:
        manifest = Manifest.read(path).measured()
        self.utterances = manifest.utterances()
        reasons = {problem.id: problem.reason for problem in manifest.problems}
        reasons |= {u.id: "no samples" for u in self.utterances if u.num_samples == 0}
        for name, reason in reasons.items():
            raise ManifestError(
                f"{field} = {path}: {name}: {reason}", f"see them all: gdist manifest check {in_shell(path)}"
            )
        self.response = lru_cache(RESPONSES_KEPT)(self._response)

    def __len__(self) -> int:
        return len(self.utterances)

    def excerpt(self, length: int, draw: Generator) -> Tensor:
        """``length`` samples from a random place in a random recording, which alone are decoded.

        A recording that is too short is repeated.
        """
        u = self.utterances[below(len(self), draw)]
        available, rate = _measured(u)
        wanted = min(-(-length * rate // SAMPLE_RATE), available)
        part = u.segment.part(u.start + below(available - wanted + 1, draw), wanted)
        piece_S = to_float(load_utterance(part))
        if len(piece_S) < length:
            piece_S = piece_S.roll(below(len(piece_S), draw)).repeat(-(-length // len(piece_S)))
        return piece_S[:length]

    def _response(self, index: int) -> Tensor:
        """A room's impulse response from its peak on, scaled to a peak of 1, so that it delays no sound."""
        u = self.utterances[index]
        response_S = to_float(load_utterance(u.segment))
        peak = int(response_S.abs().argmax())
        if not response_S[peak]:
            raise AudioError(f"silent, so it is not a room's impulse response: {u.path}")
        return response_S[peak:] / response_S[peak]


def colored_noise(length: int, exponent: int, draw: Generator) -> Tensor:
    """Gaussian noise whose power falls with frequency to the ``exponent``: 0 is white, 1 pink, 2 brown."""
    if exponent == 0:
        return torch.randn(length, generator=draw)
    # Drawn as a spectrum, whose values are independent, as white noise's samples are.
    step = 1 << max(length.bit_length() - 4, 0)
    size = -(-length // step) * step  # without large prime factors, which would make it five times slower
    spectrum = torch.randn(size // 2 + 1, dtype=torch.complex64, generator=draw)
    frequency = torch.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    spectrum *= (frequency >= LOWEST_HZ) * frequency.clamp(min=LOWEST_HZ) ** (-exponent / 2)
    noise_S: Tensor = torch.fft.irfft(spectrum, size)
    return noise_S[:length]


def room_response(rt60: float, drr_db: float, draw: Generator) -> Tensor:
    """A direct sound of 1 at sample 0, then noise that falls by 60 dB in ``rt60`` seconds and then ends.

    Args:
        rt60: the reverberation time in seconds.
        drr_db: the direct sound's energy over that of the rest, in dB.
    """
    time_S = torch.arange(1, max(round(rt60 * SAMPLE_RATE), 2)) / SAMPLE_RATE
    tail_S = torch.randn(len(time_S), generator=draw) * 10 ** (-3 * time_S / rt60)
    tail_S *= 10 ** (-drr_db / 20) / tail_S.norm()
    return torch.cat([torch.ones(1), tail_S])


def convolve(wave_S: Tensor, response_S: Tensor) -> Tensor:
    """The first ``len(wave_S)`` samples of the convolution, in blocks: seven times as fast as in one piece."""
    over = len(response_S) - 1  # samples by which a block's result extends into the next block
    size = 1 << (4 * max(over, 1024)).bit_length()
    hop = size - over
    block_NS = F.pad(wave_S, (0, -len(wave_S) % hop)).view(-1, hop)
    wet_NS: Tensor = torch.fft.irfft(torch.fft.rfft(block_NS, size) * torch.fft.rfft(response_S, size), size)
    wet_NS[1:, :over] += wet_NS[:-1, hop:]
    return wet_NS[:, :hop].reshape(-1)[: len(wave_S)]


def gain(own_S: Tensor, other_S: Tensor, snr_db: float) -> Tensor:
    """The factor for ``other_S`` that puts it ``snr_db`` below ``own_S`` in mean power; 0 where either is silent.

    Example: own power 4, other power 1, 0 dB → 2; at 20 dB → 0.2.
    """
    own, other = own_S.square().mean(), other_S.square().mean()
    factor = (own / other).sqrt() * 10 ** (-snr_db / 20)
    return torch.where((own > 0) & (other > 0), factor, 0.0)


def uniform(bounds: Sequence[float], draw: Generator) -> float:
    """A number in [lowest, highest)."""
    low, high = bounds
    return low + (high - low) * float(torch.rand((), dtype=torch.float64, generator=draw))


def below(limit: int, draw: Generator) -> int:
    """A whole number in [0, limit)."""
    return int(torch.randint(limit, (), generator=draw))


def _measured(u: Utterance) -> tuple[int, int]:
    """The utterance's length in samples and its rate, which a measured manifest has."""
    assert u.num_samples and u.sample_rate
    return u.num_samples, u.sample_rate
