"""Whisper's front-end: log-mel spectrum → two convolutions → positions (arXiv 2212.04356, section 2.2).

Axes: B batch, S samples, N samples of a window, P mel frames (10 ms), T frames (20 ms), M mel bands, D features.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdist.pipeline.framing import Framing
from gdist.stages.frontend.interface import AudioFrontend, Augment
from gdist.stages.frontend.limits import MAX_POSITIONS, MAX_WIDTH, require_positive, require_whole
from gdist.stages.frontend.mel import Spectrum, exact, frames_of, hann, slaney_filters
from gdist.stages.frontend.padding import frame_mask, is_symbolic, on_device, zero_padding

WINDOW, MEL_HOP = 400, 160  # 25 ms every 10 ms, at 16 kHz
HOP = 2 * MEL_HOP  # the second convolution has a stride of 2
WINDOWS = ("exact", "short")
FLOOR, RANGE = 1e-10, 8.0  # the least power, and decades below the utterance's loudest band
# As many samples of silence follow an utterance where its last frames would be the same in a window of 30 s.
SILENCE = 4 * MEL_HOP
EXTRA_POSITIONS = 4500  # in an exported graph, for utterances of up to two minutes


@dataclasses.dataclass(frozen=True)
class LogMelConfig:
    """Everything that shapes Whisper's front-end.

    Args:
        num_mel_bins: M; 80, or 128 in large-v3.
        hidden_size: D.
        num_positions: frames in Whisper's window, 1500 of 20 ms.
        window: what follows an utterance. "exact": silence, as in the window of 30 seconds that Whisper was trained
            on. "short": nothing; its end is mirrored, as ``WhisperFeatureExtractor`` does without padding.
        eps: of the LayerNorms that follow; the front-end has none.

    Raises:
        ValueError: a field has a value that no front-end can have; the message begins with the field's name.
    """

    kind: ClassVar[str] = "log-mel"

    num_mel_bins: int = 80
    hidden_size: int = 512
    num_positions: int = 1500
    window: Literal["exact", "short"] = "exact"
    eps: float = 1e-5

    def __post_init__(self) -> None:
        require_whole(self, 1, "num_mel_bins", "num_positions", most=MAX_POSITIONS)
        require_whole(self, 1, "hidden_size", most=MAX_WIDTH)
        require_positive(self, "eps")
        if self.hidden_size % 2:
            raise ValueError(f"hidden_size is {self.hidden_size}; it must be even, for the positions")
        if self.window not in WINDOWS:
            raise ValueError(f"window is {self.window!r}; it must be 'exact' or 'short'")

    @classmethod
    def from_teacher_config(cls, config: dict[str, Any]) -> "LogMelConfig":
        """The front-end that a ``WhisperConfig`` (as a dictionary) describes."""
        return cls(
            num_mel_bins=config.get("num_mel_bins", cls.num_mel_bins),
            hidden_size=config.get("d_model", config.get("hidden_size", cls.hidden_size)),
            num_positions=config.get("max_source_positions", cls.num_positions),
            window=config.get("window", cls.window),
        )

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that survives JSON."""
        return {"kind": self.kind} | dataclasses.asdict(self)

    @property
    def framing(self) -> Framing:
        """Frame t is centered on sample 320 t: three mel frames of 400 samples, seen by two convolutions of three."""
        # A frame sees the mel frames 2 t − 2 … 2 t + 2. There are half as many frames as mel frames of the utterance,
        # rounded up: (n // 160 + 1) // 2.
        left = 2 * MEL_HOP + WINDOW // 2
        return Framing(
            hop=HOP,
            window=4 * MEL_HOP + WINDOW,
            left=left,
            right=left - MEL_HOP,
            least=0 if self.window == "exact" else WINDOW // 2 + 1,  # fewer samples cannot be mirrored
            longest=self.num_positions * HOP,
        )


class LogMelFrontend(AudioFrontend):
    """Log-mel spectrum → two convolutions → positions, which are not trained.

    With ``window`` "exact", layer 0 is that of Whisper's own window of 30 seconds, in an utterance's frames.
    """

    positions: Tensor

    def __init__(self, config: LogMelConfig) -> None:
        super().__init__(config)
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.hidden_size, 3, padding=1)
        self.conv2 = nn.Conv1d(config.hidden_size, config.hidden_size, 3, stride=2, padding=1)
        self.register_buffer("positions", sinusoids(0, config.num_positions, config.hidden_size))
        self.spectrum = Spectrum(hann(WINDOW), WINDOW, slaney_filters(config.num_mel_bins, WINDOW))
        self.more_positions = sinusoids(config.num_positions, EXTRA_POSITIONS, config.hidden_size, device="cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights and of the output."""
        return self.positions.dtype

    def feature_encoder(self) -> Iterable[nn.Module]:
        return (self.conv1, self.conv2)

    def with_mask(
        self, waveform_BS: Tensor, num_samples_B: Tensor, augment: Augment | None = None
    ) -> tuple[Tensor, Tensor | None]:
        if not is_symbolic():
            waveform_BS = waveform_BS[:, : int(num_samples_B.max())]
        frames_B, frames = self.num_frames(num_samples_B), self.framing.num_frames(waveform_BS.shape[1])
        if self.config.window == "exact":
            mask_BS = frame_mask(num_samples_B, waveform_BS.shape[1], waveform_BS.device)
            if mask_BS is not None:
                waveform_BS = waveform_BS.masked_fill(~mask_BS, 0)
            waveform_BS = F.pad(waveform_BS, (0, SILENCE))
            # An utterance that nearly fills the window is followed by the rest of it. Longer ones, which only a
            # student may get, are followed by silence too.
            longest = self.framing.longest
            num_samples_B = torch.where(
                num_samples_B > longest, num_samples_B + SILENCE, (num_samples_B + SILENCE).clamp(max=longest)
            )
        mel_BPM, mask_BP = self.log_mel(waveform_BS, num_samples_B)
        hidden_BTD = self._convolve(mel_BPM.to(self.dtype), mask_BP)[:, :frames].to(self.dtype)
        mask_BT = frame_mask(frames_B, frames, hidden_BTD.device)
        if augment is not None:
            hidden_BTD = augment(hidden_BTD, mask_BT)
        hidden_BTD = hidden_BTD + self._positions(hidden_BTD.shape[1])
        return zero_padding(hidden_BTD, mask_BT), mask_BT

    def log_mel(self, waveform_BS: Tensor, num_samples_B: Tensor) -> tuple[Tensor, Tensor | None]:
        """What ``WhisperFeatureExtractor`` computes of each utterance alone, in float32, and zero beyond its end.

        Returns:
            ``[B, P, M]`` and the mask ``[B, P]`` of each utterance's own mel frames, or None.
        """
        own_BN = _mirrored(exact(waveform_BS), on_device(num_samples_B, waveform_BS.device), WINDOW // 2)
        frames_BPN = self._frames(own_BN, waveform_BS.shape[1] // MEL_HOP)  # one more would fit; Whisper drops it
        log_BPM = self.spectrum.mel(frames_BPN).clamp(min=FLOOR).log10()
        mask_BP = frame_mask(num_samples_B // MEL_HOP, log_BPM.shape[1], log_BPM.device)
        heard_BPM = log_BPM if mask_BP is None else log_BPM.masked_fill(~mask_BP[:, :, None], -math.inf)
        loudest_B11 = heard_BPM.amax((1, 2), keepdim=True)
        mel_BPM = (torch.maximum(log_BPM, loudest_B11 - RANGE) + 4) / 4
        mel_BPM = zero_padding(mel_BPM, mask_BP).to(waveform_BS.device, torch.float32)
        return mel_BPM, None if mask_BP is None else mask_BP.to(waveform_BS.device)

    def _frames(self, own_BN: Tensor, count: int) -> Tensor:
        """The first ``count`` overlapping frames, ``[B, P, N]``."""
        return frames_of(own_BN, WINDOW, MEL_HOP)[:, :count]

    def _convolve(self, mel_BPM: Tensor, mask_BP: Tensor | None) -> Tensor:
        """Both convolutions, ``[B, (P + 1) // 2, D]``. Alone, an utterance is followed by their own zeros; in a batch
        it must be too."""
        hidden_BDP = F.gelu(self.conv1(mel_BPM.transpose(1, 2)))
        if mask_BP is not None:
            hidden_BDP = hidden_BDP.masked_fill(~mask_BP[:, None], 0)
        return F.gelu(self.conv2(hidden_BDP)).transpose(1, 2)

    def _positions(self, frames: int) -> Tensor:
        if not is_symbolic() and frames <= len(self.positions):
            return self.positions[:frames]
        more_TD = self.more_positions
        if not is_symbolic() and frames > len(self.positions) + len(more_TD):
            more_TD = sinusoids(len(self.positions), frames - len(self.positions), self.config.hidden_size)
        return torch.cat([self.positions, more_TD.to(self.positions)])[:frames]


def _mirrored(waveform_BS: Tensor, num_samples_B: Tensor, margin: int) -> Tensor:
    """Each utterance with its first and last ``margin`` samples mirrored before and after it: [B, S + 2 · margin].

    Example: a b c d with a margin of 2 → c b a b c d c b.
    """
    samples = waveform_BS.shape[1]
    place_N = torch.arange(-margin, samples + margin, device=waveform_BS.device).abs()
    last_B1 = num_samples_B.to(waveform_BS.device)[:, None] - 1
    place_BN = torch.where(place_N > last_B1, 2 * last_B1 - place_N, place_N)
    return waveform_BS.gather(1, place_BN.clamp(0, samples - 1))


def sinusoids(first: int, count: int, dim: int, device: str | None = None) -> Tensor:
    """Sine and cosine of the positions from ``first`` on, float32 ``[count, dim]``, as Whisper's encoder has them."""
    step = math.log(10_000) / (dim // 2 - 1) if dim > 2 else 0.0
    rate_E = torch.exp(-step * torch.arange(dim // 2, device=device))
    angle_TE = torch.arange(first, first + count, device=device)[:, None] * rate_E
    return torch.cat([angle_TE.sin(), angle_TE.cos()], dim=1)
