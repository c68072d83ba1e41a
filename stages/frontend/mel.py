"""Mel spectra as matrix products, in float64.

Where speech is quiet, the logarithm of a float32 spectrum is partly rounding noise: it would depend on the batch, and
on the library that computed it. Products with the matrix of the Fourier transform are exact enough and cheap, and
every exporter can express them.

Axes: B batch, S samples, T frames, N samples of a frame, F frequencies, M mel bands.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from gdist.pipeline.framing import SAMPLE_RATE
from gdist.stages.frontend.padding import is_symbolic


class Spectrum:
    """Power spectra of windowed frames, and their mel bands. Its constants are not weights, and are never saved.

    Args:
        window_N: float64, by which frames are multiplied.
        size: of the Fourier transform; longer than a frame means that frames are filled up with zeros.
        filters_FM: float64, see :func:`slaney_filters` and :func:`kaldi_filters`.
        before_NN: float64, what is done to a frame before the window, as a matrix that follows it in a product.
    """

    def __init__(self, window_N: Tensor, size: int, filters_FM: Tensor, before_NN: Tensor | None = None) -> None:
        place_N = torch.arange(len(window_N), dtype=torch.float64, device="cpu")
        frequency_F = torch.arange(size // 2 + 1, dtype=torch.float64, device="cpu")
        angle_NF = 2 * math.pi / size * torch.outer(place_N, frequency_F).remainder(size)
        self.basis_NX = torch.cat([angle_NF.cos(), angle_NF.sin()], 1) * window_N[:, None]
        if before_NN is not None:
            self.basis_NX = before_NN @ self.basis_NX
        self.filters_FM = filters_FM
        self._copies: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def mel(self, frames_BTN: Tensor) -> Tensor:
        """Frames in float64 → the power in each mel band, ``[B, T, M]``."""
        basis_NX, filters_FM = self._on(frames_BTN.device)
        parts_BTX = frames_BTN @ basis_NX
        real_BTF, imaginary_BTF = parts_BTX.chunk(2, -1)
        mel_BTM: Tensor = (real_BTF.square() + imaginary_BTF.square()) @ filters_FM
        return mel_BTM

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device.type == "cpu" or is_symbolic():
            return self.basis_NX.to(device), self.filters_FM.to(device)
        if device not in self._copies:
            self._copies[device] = (self.basis_NX.to(device), self.filters_FM.to(device))
        return self._copies[device]

    def __deepcopy__(self, memo: object) -> "Spectrum":
        return self  # constants


def exact(waveform_BS: Tensor) -> Tensor:
    """The waveform in float64, on its device, or on the CPU if the device has no float64, as Apple's GPUs."""
    return waveform_BS.to("cpu" if waveform_BS.device.type == "mps" else waveform_BS.device, torch.float64)


def frames_of(waveform_BS: Tensor, length: int, hop: int) -> Tensor:
    """Overlapping frames, as a view: ``[B, (S − length) // hop + 1, length]``."""
    return waveform_BS.unfold(1, length, hop)


def hann(length: int) -> Tensor:
    """The periodic Hann window, float64."""
    return 0.5 - 0.5 * torch.cos(2 * math.pi / length * torch.arange(length, dtype=torch.float64, device="cpu"))


def povey(length: int) -> Tensor:
    """Kaldi's window, float64: the symmetric Hann window to the power of 0.85."""
    place_N = torch.arange(length, dtype=torch.float64, device="cpu")
    window_N: Tensor = (0.5 - 0.5 * torch.cos(2 * math.pi / (length - 1) * place_N)) ** 0.85
    return window_N


@lru_cache
def slaney_filters(bands: int, size: int) -> Tensor:
    """Triangles on Slaney's mel scale from 0 to 8000 Hz, each of area 1: ``[F, M]``, float64.

    As in librosa, and as ``transformers.audio_utils.mel_filter_bank`` with ``norm`` and ``mel_scale`` "slaney".
    """
    highest = _slaney_mel(SAMPLE_RATE / 2)
    edge_E = torch.tensor(
        [_slaney_hertz(highest * i / (bands + 1)) for i in range(bands + 2)], dtype=torch.float64, device="cpu"
    )
    frequency_F = torch.arange(size // 2 + 1, dtype=torch.float64, device="cpu") * (SAMPLE_RATE / size)
    filters_FM = _triangles(edge_E, frequency_F)
    return filters_FM * (2 / (edge_E[2:] - edge_E[:-2]))


@lru_cache
def kaldi_filters(bands: int, size: int, lowest: float = 20.0) -> Tensor:
    """Triangles of height 1 on Kaldi's mel scale from ``lowest`` to 8000 Hz, straight in mel: ``[F, M]``, float64.

    As ``transformers.audio_utils.mel_filter_bank`` with ``mel_scale`` "kaldi" and ``triangularize_in_mel_space``.
    """
    low, high = _kaldi_mel(lowest), _kaldi_mel(SAMPLE_RATE / 2)
    edges = [low + (high - low) * i / (bands + 1) for i in range(bands + 2)]
    places = [_kaldi_mel(SAMPLE_RATE / size * i) for i in range(size // 2 + 1)]
    edge_E, place_F = (torch.tensor(values, dtype=torch.float64, device="cpu") for values in (edges, places))
    return _triangles(edge_E, place_F)


def _triangles(edge_E: Tensor, place_F: Tensor) -> Tensor:
    """Filter m rises from edge m to 1 at edge m + 1, and falls to edge m + 2."""
    width_E = edge_E.diff()
    distance_FE = edge_E[None] - place_F[:, None]
    rising_FM = -distance_FE[:, :-2] / width_E[:-1]
    falling_FM = distance_FE[:, 2:] / width_E[1:]
    return torch.minimum(rising_FM, falling_FM).clamp(min=0)


def _kaldi_mel(hertz: float) -> float:
    return 1127 * math.log(1 + hertz / 700)


def _slaney_mel(hertz: float) -> float:
    """Linear below 1000 Hz, logarithmic above."""
    return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def _slaney_hertz(mel: float) -> float:
    return 200 * mel / 3 if mel < 15 else 1000 * math.exp(math.log(6.4) / 27 * (mel - 15))
