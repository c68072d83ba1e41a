"""The wav2vec 2.0 front-end, once: waveform → the input of the first Transformer layer.

Teachers run it with the checkpoint's weights, students train it, and an exported student ships this file,
so it imports nothing but torch and the standard library.

Axes: B batch, S samples, C convolution channels, T frames, D features.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda hidden: F.gelu(hidden, approximate="tanh"),
    "gelu_pytorch_tanh": lambda hidden: F.gelu(hidden, approximate="tanh"),
    "relu": F.relu,
    "selu": F.selu,
    "silu": F.silu,
    "swish": F.silu,
}

NORMALIZE_EPS = 1e-7  # Hugging Face's Wav2Vec2FeatureExtractor


@dataclasses.dataclass(frozen=True)
class FrontendConfig:
    """Everything that shapes the front-end. JSON-able: ``FrontendConfig(**json.loads(...))`` restores it.

    Args:
        conv_dim, conv_kernel, conv_stride: the convolutional encoder, one entry a layer.
        conv_norm: "group" normalises the first layer over time (Base), "layer" all over channels (Large).
        feature_norm: LayerNorm before the projection (off in a few HuBERT checkpoints).
        hidden_size: D, the width of the Transformer behind.
        position_layers, position_kernel, position_groups: the positional convolution; one layer of 128
            in most families, five of 19 with LayerNorms between them in data2vec-audio.
        position_norm: those LayerNorms.
        position_scale: a scale and shift before the positional convolution (HuBERT's batch norm, folded).
        output_norm: LayerNorm at the end (post-norm Transformers; absent before pre-norm ones).
        eps: of ``feature_norm`` and ``output_norm``; the others have torch's default, as in Hugging Face.
    """

    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    conv_norm: Literal["group", "layer"] = "group"
    activation: str = "gelu"
    feature_norm: bool = True
    hidden_size: int = 768
    position_layers: int = 1
    position_kernel: int = 128
    position_groups: int = 16
    position_norm: bool = False
    position_scale: bool = False
    output_norm: bool = True
    eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("conv_dim", "conv_kernel", "conv_stride"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON gives lists
        if not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride) > 0:
            raise ValueError("conv_dim, conv_kernel and conv_stride need one entry for each convolution")
        if self.conv_norm not in ("group", "layer"):
            raise ValueError(f"conv_norm is {self.conv_norm!r}; it must be 'group' or 'layer'")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation {self.activation!r} is not one of {', '.join(ACTIVATIONS)}")

    @classmethod
    def from_teacher_config(cls, config: dict[str, Any]) -> "FrontendConfig":
        """The front-end that a Hugging Face config (as a dictionary) of any supported family describes."""
        data2vec = config.get("model_type") == "data2vec-audio"
        width = config.get("num_conv_pos_embeddings")  # a kernel's width, but data2vec-audio's number of layers
        return cls(
            conv_dim=config.get("conv_dim", cls.conv_dim),
            conv_kernel=config.get("conv_kernel", cls.conv_kernel),
            conv_stride=config.get("conv_stride", cls.conv_stride),
            conv_bias=config.get("conv_bias", cls.conv_bias),
            conv_norm="layer" if data2vec else config.get("feat_extract_norm", cls.conv_norm),
            activation=config.get("feat_extract_activation", cls.activation),
            feature_norm=config.get("feat_proj_layer_norm", True),
            hidden_size=config.get("hidden_size", cls.hidden_size),
            position_layers=(width or 5) if data2vec else 1,
            position_kernel=config.get("conv_pos_kernel_size", 19) if data2vec else (width or 128),
            position_groups=config.get("num_conv_pos_embedding_groups", cls.position_groups),
            position_norm=data2vec,
            position_scale=config.get("conv_pos_batch_norm", False),
            output_norm=data2vec or not config.get("do_stable_layer_norm", False),
            eps=config.get("layer_norm_eps", cls.eps),
        )

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that survives JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        hop = 1
        for stride in self.conv_stride:
            hop *= stride
        return hop

    @property
    def receptive_field(self) -> int:
        """Samples one frame sees."""
        field = 1
        for kernel, stride in zip(reversed(self.conv_kernel), reversed(self.conv_stride), strict=True):
            field = (field - 1) * stride + kernel
        return field


def normalize(waveform_BS: Tensor, num_samples_B: Tensor) -> Tensor:
    """Zero mean and unit variance over each utterance alone; padding becomes zero.

    What Hugging Face's feature extractor does for checkpoints with ``do_normalize``. Teachers, students and
    training all use this one, so a student hears exactly what its teacher heard.

    Args:
        waveform_BS: float samples, padded to the longest.
        num_samples_B: samples of each utterance.
    """
    waveform_BS = waveform_BS.float()
    count_B1 = num_samples_B.to(waveform_BS.device).clamp(min=1)[:, None]
    valid_BS = torch.arange(waveform_BS.shape[1], device=waveform_BS.device) < count_B1
    mean_B1 = torch.where(valid_BS, waveform_BS, 0).sum(1, keepdim=True) / count_B1
    centred_BS = torch.where(valid_BS, waveform_BS - mean_B1, 0)  # two passes: a DC offset must not cancel digits
    variance_B1 = centred_BS.square().sum(1, keepdim=True) / count_B1
    return centred_BS * torch.rsqrt(variance_B1 + NORMALIZE_EPS)


def frame_mask(num_frames_B: Tensor, num_frames: int, device: torch.device) -> Tensor | None:
    """True where a frame belongs to its utterance, ``[B, T]``; None when no frame is padding.

    Finding out that nothing is padded reads the lengths, which costs a synchronisation when they are on a
    GPU: keep them on the CPU. While compiling or exporting nothing is read and the mask is always there.
    """
    if not is_symbolic() and min(num_frames_B.tolist(), default=num_frames) >= num_frames:
        return None
    return torch.arange(num_frames, device=device) < num_frames_B.to(device, non_blocking=True)[:, None]


def zero_padding(hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
    """``hidden_BTD`` with the frames outside the mask set to zero."""
    return hidden_BTD if mask_BT is None else hidden_BTD.masked_fill(~mask_BT[:, :, None], 0)


class Frontend(nn.Module):
    """Convolutions → LayerNorm → projection → positional convolution (→ LayerNorm), without dropout.

    The output for each utterance of a batch equals Hugging Face's ``hidden_states[0]`` for that utterance
    alone: Base models normalise their first convolution over time, so those statistics are taken over the
    utterance's own frames, and frames of padding are zeroed before every convolution that could see them.
    The weight norm of the positional convolution is folded into a plain weight.
    """

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__()
        self.config = config
        channels = (1, *config.conv_dim)
        self.convs = nn.ModuleList(
            nn.Conv1d(channels[i], channels[i + 1], kernel, stride, bias=config.conv_bias)
            for i, (kernel, stride) in enumerate(zip(config.conv_kernel, config.conv_stride, strict=True))
        )
        self.norms: nn.ModuleList
        if config.conv_norm == "group":
            self.norms = nn.ModuleList([TimeNorm(channels[1])])
        else:
            self.norms = nn.ModuleList(LayerNorm(dim) for dim in config.conv_dim)
        self.feature_norm = LayerNorm(config.conv_dim[-1], eps=config.eps) if config.feature_norm else None
        self.projection = nn.Linear(config.conv_dim[-1], config.hidden_size)
        self.position_scale = Scale(config.hidden_size) if config.position_scale else None
        self.positions = nn.ModuleList(
            nn.Conv1d(
                config.hidden_size,
                config.hidden_size,
                config.position_kernel,
                padding=config.position_kernel // 2,
                groups=config.position_groups,
            )
            for _ in range(config.position_layers)
        )
        self.output_norm = LayerNorm(config.hidden_size, eps=config.eps) if config.output_norm else None

    def forward(self, waveform_BS: Tensor, num_samples_B: Tensor) -> Tensor:
        """The input of the first Transformer layer, ``[B, T, D]``; frames of padding are zero.

        It has the dtype of the weights, so float32 under autocast too.

        Args:
            waveform_BS: samples at 16 kHz, as the checkpoint wants them (see :func:`normalize`).
            num_samples_B: samples of each utterance, at least one receptive field; best kept on the CPU.
        """
        if not is_symbolic():
            waveform_BS = waveform_BS[:, : int(num_samples_B.max())]
        hidden_BTC = self._convolve(waveform_BS, num_samples_B)
        if self.feature_norm is not None:
            hidden_BTC = self.feature_norm(hidden_BTC)
        # The residual stream keeps its digits under autocast, on every device.
        hidden_BTD = self.projection(hidden_BTC).to(self.projection.weight.dtype)
        mask_BT = frame_mask(self.num_frames(num_samples_B), hidden_BTD.shape[1], hidden_BTD.device)
        hidden_BTD = zero_padding(hidden_BTD, mask_BT)
        hidden_BTD = hidden_BTD + self._position(hidden_BTD, mask_BT)
        if self.output_norm is not None:
            hidden_BTD = self.output_norm(hidden_BTD)
        return zero_padding(hidden_BTD, mask_BT)

    def num_frames(self, num_samples_B: Tensor) -> Tensor:
        """Frames of each utterance: ``(n - 400) // 320 + 1`` for the usual front-end, 0 when too short."""
        # The arithmetic of gdist.pipeline.framing, from this config: the file has to stand alone.
        return _conv_frames(num_samples_B, self.config.conv_kernel, self.config.conv_stride)

    def _convolve(self, waveform_BS: Tensor, num_samples_B: Tensor) -> Tensor:
        activation = ACTIVATIONS[self.config.activation]
        hidden_BCT = waveform_BS[:, None]
        for i, conv in enumerate(self.convs):
            hidden_BCT = conv(hidden_BCT)
            if self.config.conv_norm == "layer":
                hidden_BCT = self.norms[i](hidden_BCT.transpose(1, 2)).transpose(1, 2)
            elif i == 0:
                frames_B = _conv_frames(num_samples_B, self.config.conv_kernel[:1], self.config.conv_stride[:1])
                mask_BT = frame_mask(frames_B, hidden_BCT.shape[2], hidden_BCT.device)
                hidden_BCT = self.norms[0](hidden_BCT, mask_BT)
            hidden_BCT = activation(hidden_BCT)
        return hidden_BCT.transpose(1, 2)

    def _position(self, hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        activation = ACTIVATIONS[self.config.activation]
        if self.position_scale is not None:
            hidden_BTD = self.position_scale(hidden_BTD)
        for conv in self.positions:
            # Alone, an utterance ends in the convolution's own zeros; in a batch it must see the same.
            hidden_BTD = zero_padding(hidden_BTD, mask_BT)
            frames = hidden_BTD.shape[1]
            hidden_BTD = conv(hidden_BTD.transpose(1, 2))[:, :, :frames].transpose(1, 2)  # an even kernel adds one
            if self.config.position_norm:
                exact_BTD = hidden_BTD.to(self.projection.weight.dtype)
                hidden_BTD = F.layer_norm(exact_BTD, (self.config.hidden_size,)).to(hidden_BTD.dtype)
            hidden_BTD = activation(hidden_BTD)
        return hidden_BTD.to(self.projection.weight.dtype)


class LayerNorm(nn.LayerNorm):
    """LayerNorm in the dtype of its weights whatever autocast does; the output has the input's dtype."""

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden.to(self.weight.dtype)).to(hidden.dtype)


class TimeNorm(nn.GroupNorm):
    """GroupNorm with one group a channel, over the frames each utterance really has.

    Without padding it is ``F.group_norm``. With padding, the statistics leave the padded frames out; what
    those frames then hold is no matter, since no later convolution mixes them into a frame that counts.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, hidden_BCT: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        with torch.autocast(hidden_BCT.device.type, enabled=False):
            exact_BCT = hidden_BCT.to(self.weight.dtype)
            if mask_BT is None:
                return super().forward(exact_BCT).to(hidden_BCT.dtype)
            exact_BCT = exact_BCT.to(torch.promote_types(exact_BCT.dtype, torch.float32))
            valid_B1T = mask_BT[:, None].to(exact_BCT.dtype)
            count_B11 = valid_B1T.sum(2, keepdim=True).clamp(min=1)
            # A product with the mask sums in one pass without a copy: on a CPU it all costs 1.2 F.group_norm.
            mean_BC1 = exact_BCT @ valid_B1T.transpose(1, 2) / count_B11
            centred_BCT = (exact_BCT - mean_BC1) * valid_B1T
            variance_BC1 = torch.linalg.vector_norm(centred_BCT, dim=2, keepdim=True).square() / count_B11
            scale_BC1 = self.weight[:, None] * torch.rsqrt(variance_BC1 + self.eps)
            return torch.addcmul(self.bias[:, None], centred_BCT, scale_BC1).to(hidden_BCT.dtype)


class Scale(nn.Module):
    """A scale and a shift for each feature."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * self.weight + self.bias


def _conv_frames(num_samples_B: Tensor, kernels: Sequence[int], strides: Sequence[int]) -> Tensor:
    for kernel, stride in zip(kernels, strides, strict=True):
        num_samples_B = (num_samples_B - kernel) // stride + 1
    return num_samples_B.clamp(min=0)


def is_symbolic() -> bool:
    """Whether the lengths' values are unknown: under torch.compile, torch.export or tracing."""
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]
