"""w2v-BERT 2.0's front-end (arXiv 2312.05187): Kaldi's filter bank → neighbours stacked → LayerNorm → projection.

Axes: B batch, S samples, N samples of a window, P fbank frames (10 ms), T frames (20 ms), M mel bands,
X features of stacked frames, D features.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gdist.pipeline.framing import Framing
from gdist.stages.frontend.interface import AudioFrontend, Augment
from gdist.stages.frontend.limits import MAX_POSITIONS, require_positive, require_whole
from gdist.stages.frontend.mel import Spectrum, exact, frames_of, kaldi_filters, povey
from gdist.stages.frontend.norms import LayerNorm
from gdist.stages.frontend.padding import frame_mask, is_symbolic, on_device, zero_padding

WINDOW, FBANK_HOP, SIZE = 400, 160, 512  # 25 ms every 10 ms, at 16 kHz, filled up with zeros to 512 samples
SCALE = 2**15  # Kaldi's samples are whole numbers of 16 bits
EMPHASIS = 0.97
FLOOR = 1.192092955078125e-07  # the least power in a band, as in Kaldi: float32's epsilon
EPS = 1e-7  # added to the variance over time


@dataclasses.dataclass(frozen=True)
class FbankConfig:
    """Everything that shapes w2v-BERT 2.0's front-end.

    Args:
        hidden_size: D.
        num_mel_bins: M.
        stride: fbank frames that are stacked to one frame.
        eps: the epsilon of the LayerNorm.

    Raises:
        ValueError: a field has a value that no front-end can have; the message begins with the field's name.
    """

    kind: ClassVar[str] = "fbank"

    hidden_size: int = 1024
    num_mel_bins: int = 80
    stride: int = 2
    eps: float = 1e-5

    def __post_init__(self) -> None:
        require_whole(self, 1, "hidden_size", "num_mel_bins", most=MAX_POSITIONS)
        require_whole(self, 2, "stride")  # the variance over time needs two fbank frames in the shortest utterance
        require_positive(self, "eps")

    @classmethod
    def from_teacher_config(cls, config: dict[str, Any]) -> "FbankConfig":
        """The front-end that a ``Wav2Vec2BertConfig`` (as a dictionary) describes."""
        stride = config.get("stride", cls.stride)
        width = config.get("feature_projection_input_dim", cls.num_mel_bins * stride)
        if type(width) is not int or width < stride or width % stride:
            raise ValueError(
                f"feature_projection_input_dim is {width!r}; it must be {stride} times the number of mel bands"
            )
        return cls(
            hidden_size=config.get("hidden_size", cls.hidden_size),
            num_mel_bins=width // stride,
            stride=stride,
            eps=config.get("layer_norm_eps", cls.eps),
        )

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that survives JSON."""
        return {"kind": self.kind} | dataclasses.asdict(self)

    @property
    def framing(self) -> Framing:
        """Without padding: 50 frames per second of 560 samples each, with the usual stride.

        The variance over time of a single fbank frame is not defined, and Hugging Face gives NaN; one frame has two.
        """
        return Framing(hop=FBANK_HOP * self.stride, window=WINDOW + FBANK_HOP * (self.stride - 1))


class FbankFrontend(AudioFrontend):
    """Log-mel filter bank, normalized over the utterance, stacked → LayerNorm → projection.

    Only the LayerNorm and the projection have weights. The features are float64 up to the logarithm and float32 from
    there on, also under autocast; so the output for each utterance of a batch equals Hugging Face's
    ``hidden_states[0]`` of what its ``SeamlessM4TFeatureExtractor`` gives for that utterance alone.
    """

    def __init__(self, config: FbankConfig) -> None:
        super().__init__(config)
        width = config.num_mel_bins * config.stride
        self.feature_norm = LayerNorm(width, eps=config.eps)
        self.projection = nn.Linear(width, config.hidden_size)
        self.spectrum = Spectrum(povey(WINDOW), SIZE, kaldi_filters(config.num_mel_bins, SIZE), emphasis(WINDOW))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights and of the output."""
        return self.feature_norm.weight.dtype

    def feature_encoder(self) -> Iterable[nn.Module]:
        return ()  # the filter bank has no weights

    def with_mask(
        self, waveform_BS: Tensor, num_samples_B: Tensor, augment: Augment | None = None
    ) -> tuple[Tensor, Tensor | None]:
        if not is_symbolic():
            waveform_BS = waveform_BS[:, : int(num_samples_B.max())]
        stride = self.config.stride
        stacked_BTX = self.fbank(waveform_BS, num_samples_B).unfold(1, stride, stride).transpose(2, 3).flatten(2)
        hidden_BTX = self.feature_norm(stacked_BTX).to(self.dtype)
        hidden_BTD = self.projection(hidden_BTX).to(self.dtype)
        mask_BT = frame_mask(self.num_frames(num_samples_B), hidden_BTD.shape[1], hidden_BTD.device)
        if augment is not None:
            hidden_BTD = augment(hidden_BTD, mask_BT)
        return zero_padding(hidden_BTD, mask_BT), mask_BT

    def fbank(self, waveform_BS: Tensor, num_samples_B: Tensor) -> Tensor:
        """What ``SeamlessM4TFeatureExtractor`` computes of each utterance alone, before it stacks frames:
        ``[B, P, M]`` in float32, and zero beyond its end."""
        frames_BPN = frames_of(exact(waveform_BS) * SCALE, WINDOW, FBANK_HOP)
        log_BPM = self.spectrum.mel(frames_BPN).clamp(min=FLOOR).log()
        log_BPM = log_BPM.float().double()  # Hugging Face's are rounded here too
        num_frames_B = (num_samples_B - WINDOW) // FBANK_HOP + 1
        copied_B = on_device(num_frames_B, log_BPM.device)
        mask_BP = frame_mask(num_frames_B, log_BPM.shape[1], log_BPM.device, copied_B)
        count_B11 = copied_B[:, None, None]
        mean_B1M = zero_padding(log_BPM, mask_BP).sum(1, keepdim=True) / count_B11
        centered_BPM = zero_padding(log_BPM - mean_B1M, mask_BP)
        variance_B1M = centered_BPM.square().sum(1, keepdim=True) / (count_B11 - 1).clamp(min=1)
        return (centered_BPM / (variance_B1M + EPS).sqrt()).to(waveform_BS.device, torch.float32)


def emphasis(length: int) -> Tensor:
    """What Kaldi does to a frame before the window: its mean is removed, and of every sample the one before it, times
    0.97. As a matrix, ``[N, N]`` in float64, from which a frame's samples are ``frame @ matrix``."""
    centered_NN = torch.eye(length, dtype=torch.float64, device="cpu") - 1 / length
    # The sample before the first one is taken to be equal to it.
    before_NN = torch.cat([centered_NN[:, :1], centered_NN[:, :-1]], 1)
    return centered_NN - EMPHASIS * before_NN
