"""The wav2vec 2.0 front-end, once: waveform → the input of the first Transformer layer.

Teachers run it with the checkpoint's weights, students train it, and an exported student ships this file,
so it imports nothing but torch and the standard library.

Axes: B batch, S samples, C convolution channels, T frames, D features.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

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
BLOCK_FRAMES = 100  # convolved at a time on a CPU: 2 s, whose first activations are 13 MB
FOURIER_KERNEL = 64  # positional convolutions this wide go by Fourier transform on a CPU
MIN_CHANNELS = 16  # and in bfloat16 those of groups with fewer channels


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
            PositionConv(config.hidden_size, config.position_kernel, config.position_groups)
            for _ in range(config.position_layers)
        )
        self.output_norm = LayerNorm(config.hidden_size, eps=config.eps) if config.output_norm else None
        # For weights that stay as they are, on a CPU, faster forms of all convolutions but the first: of one
        # utterance, with the activation where no norm comes before it. A teacher sets them; students go without.
        self.frozen_convs: Sequence[Callable[[Tensor], Tensor]] = ()

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
        """The convolutional encoder, ``[B, T, C]``; frames of padding hold anything finite."""
        device, compute = waveform_BS.device, self.projection.weight.dtype
        if torch.is_autocast_enabled(device.type):
            compute = torch.get_autocast_dtype(device.type)
        first = cast(nn.Conv1d, self.convs[0])
        with torch.autocast(device.type, enabled=False):
            if self.config.conv_norm == "group":
                frames_B = _conv_frames(num_samples_B, self.config.conv_kernel[:1], self.config.conv_stride[:1])
                waveform_BS = _centre(waveform_BS, num_samples_B)
                first_BKC, shift_B1C = cast(TimeNorm, self.norms[0]).fold(first, waveform_BS, frames_B)
            else:
                bias_C = torch.zeros_like(first.weight[:, 0, 0]) if first.bias is None else first.bias
                first_BKC = first.weight[:, 0].T.expand(waveform_BS.shape[0], -1, -1)  # len() is no symbol
                shift_B1C = bias_C.expand(waveform_BS.shape[0], 1, -1)
        # Cast and laid out once, for all blocks.
        first_BKC, shift_B1C, waveform_BS = first_BKC.to(compute), shift_B1C.to(compute), waveform_BS.to(compute)
        kernels: list[Tensor] = []
        if not self.frozen_convs:
            weights = [cast(Tensor, conv.weight).to(compute)[:, :, None] for conv in self.convs]
            kernels = [weight.contiguous(memory_format=torch.channels_last) for weight in weights]
        if torch.is_grad_enabled() or is_symbolic() or device.type != "cpu":
            return self._encode(waveform_BS, first_BKC, shift_B1C, kernels)
        # What lies before the output is a hundred times its size. In blocks it stays in the caches, and in memory the
        # allocator keeps: pages handed back and faulted in again cost more than the first convolution itself.
        hop, overlap = self.config.hop, self.config.receptive_field - self.config.hop
        counts = self.num_frames(num_samples_B).tolist()
        hidden_BTC = waveform_BS.new_zeros(len(counts), max(counts), self.config.conv_dim[-1])
        for row, frames in enumerate(counts):
            one = slice(row, row + 1)
            for start in range(0, frames, BLOCK_FRAMES):
                stop = min(start + BLOCK_FRAMES, frames)
                samples_1S = waveform_BS[one, start * hop : stop * hop + overlap]
                hidden_BTC[one, start:stop] = self._encode(samples_1S, first_BKC[one], shift_B1C[one], kernels)
        return hidden_BTC

    def _encode(self, waveform_BS: Tensor, first_BKC: Tensor, shift_B1C: Tensor, kernels: Sequence[Tensor]) -> Tensor:
        # Channels last throughout: strided convolutions are then products of matrices without a copy, and so
        # are LayerNorm and the projection behind them. A convolution of one channel is a product of windows.
        activation = ACTIVATIONS[self.config.activation]
        windows_BTK = waveform_BS.unfold(1, self.config.conv_kernel[0], self.config.conv_stride[0])
        hidden_BTC = torch.baddbmm(shift_B1C, windows_BTK, first_BKC)
        for i, conv in enumerate(self.convs):
            if i > 0 and self.frozen_convs:
                hidden_BTC = self.frozen_convs[i - 1](hidden_BTC)
                if self.config.conv_norm == "group":
                    continue
            elif i > 0:
                bias = None if conv.bias is None else cast(Tensor, conv.bias).to(hidden_BTC.dtype)
                learning = torch.is_grad_enabled() and hidden_BTC.device.type == "cpu" and not is_symbolic()
                convolve = StridedConv.apply if learning else strided_conv
                hidden_BTC = convolve(hidden_BTC, kernels[i], bias, self.config.conv_stride[i])
            if self.config.conv_norm == "layer":
                hidden_BTC = self.norms[i](hidden_BTC)
            hidden_BTC = activation(hidden_BTC)
        return hidden_BTC

    def _position(self, hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        activation = ACTIVATIONS[self.config.activation]
        if self.position_scale is not None:
            hidden_BTD = self.position_scale(hidden_BTD)
        for conv in self.positions:
            # Alone, an utterance ends in the convolution's own zeros; in a batch it must see the same.
            hidden_BTD = zero_padding(hidden_BTD, mask_BT)
            hidden_BTD = conv(hidden_BTD)
            if self.config.position_norm:
                exact_BTD = hidden_BTD.to(self.projection.weight.dtype)
                hidden_BTD = F.layer_norm(exact_BTD, (self.config.hidden_size,)).to(hidden_BTD.dtype)
            hidden_BTD = activation(hidden_BTD)
        return hidden_BTD.to(self.projection.weight.dtype)


def strided_conv(hidden_BTC: Tensor, kernel_OC1K: Tensor, bias_O: Tensor | None, stride: int) -> Tensor:
    """A convolution over time, channels last: ``[B, T, C]`` → ``[B, (T − K) // stride + 1, O]``."""
    image_BC1T = hidden_BTC.transpose(1, 2)[:, :, None]
    return F.conv2d(image_BC1T, kernel_OC1K, bias_O, (1, stride))[:, :, 0].transpose(1, 2)


class StridedConv(torch.autograd.Function):
    """The same with a backward pass of matrix products, one a tap, which on a CPU is more than twice as fast as
    oneDNN's: every tap's rows are a strided view, and nothing is copied."""

    @staticmethod
    def forward(ctx: Any, hidden_BTC: Tensor, kernel_OC1K: Tensor, bias_O: Tensor | None, stride: int) -> Tensor:
        ctx.save_for_backward(hidden_BTC, kernel_OC1K)
        ctx.stride, ctx.biased = stride, bias_O is not None
        return strided_conv(hidden_BTC, kernel_OC1K, bias_O, stride)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden_BTC, kernel_OC1K = ctx.saved_tensors
        grad_BTO, stride = gradients[0].contiguous(), ctx.stride
        batch, frames, channels = grad_BTO.shape
        rows_NO = grad_BTO.view(batch * frames, channels)
        grad_hidden = torch.zeros_like(hidden_BTC) if ctx.needs_input_grad[0] else None
        taps: list[Tensor] = []
        for tap in range(kernel_OC1K.shape[3]):
            span = slice(tap, tap + stride * (frames - 1) + 1, stride)
            if grad_hidden is not None:
                grad_hidden[:, span] += (rows_NO @ kernel_OC1K[:, :, 0, tap]).view(batch, frames, -1)
            if ctx.needs_input_grad[1]:
                rows = zip(grad_BTO, hidden_BTC[:, span], strict=True)
                taps.append(torch.stack([grad_TO.T @ hidden_TC for grad_TO, hidden_TC in rows]).sum(0))
        grad_kernel = torch.stack(taps, dim=2)[:, :, None] if taps else None
        return grad_hidden, grad_kernel, rows_NO.sum(0) if ctx.biased else None, None


class LayerNorm(nn.LayerNorm):
    """LayerNorm in the dtype of its weights whatever autocast does; the output has the input's dtype."""

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden.to(self.weight.dtype)).to(hidden.dtype)


class TimeNorm(nn.GroupNorm):
    """GroupNorm with one group a channel after a convolution of one channel, folded into that convolution.

    A channel is a product with windows of the waveform, so its mean and variance over time follow from the windows'
    mean and covariance, ``w·m`` and ``w·Σw``: K and K² numbers, where its output, the largest tensor of the model,
    would be read twice. Only windows that an utterance really has are counted.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def fold(self, conv: nn.Conv1d, waveform_BS: Tensor, num_frames_B: Tensor) -> tuple[Tensor, Tensor]:
        """Kernels ``[B, K, C]`` and shifts ``[B, 1, C]`` that convolve and normalise each utterance at once."""
        # A filter may keep a millionth of the power it hears, and the product keeps what is left of 16 digits then.
        # Apple's GPUs have no doubles.
        exact_BS = waveform_BS.to("cpu" if waveform_BS.device.type == "mps" else None, torch.float64)
        windows_BTK = exact_BS.unfold(1, conv.kernel_size[0], conv.stride[0])
        mask_BT = frame_mask(num_frames_B, windows_BTK.shape[1], exact_BS.device)
        count_B11 = num_frames_B.to(exact_BS.device).clamp(min=1)[:, None, None]
        mean_B1K = zero_padding(windows_BTK, mask_BT).sum(1, keepdim=True) / count_B11
        centred_BTK = zero_padding(windows_BTK - mean_B1K, mask_BT)
        covariance_BKK = centred_BTK.transpose(1, 2) @ centred_BTK / count_B11
        weight_KC = conv.weight[:, 0].T.to(exact_BS)
        variance_B1C = (weight_KC * (covariance_BKK @ weight_KC)).sum(1, keepdim=True).clamp(min=0)
        scale_B1C = self.weight.to(exact_BS) * torch.rsqrt(variance_B1C + self.eps)
        shift_B1C = self.bias.to(exact_BS) - mean_B1K @ weight_KC * scale_B1C
        if conv.bias is not None:  # it leaves with the mean; said so, it has a gradient, of zero
            shift_B1C = shift_B1C + 0 * conv.bias.to(exact_BS)
        return (weight_KC * scale_B1C).to(conv.weight), shift_B1C.to(conv.weight)


class PositionConv(nn.Conv1d):
    """The positional convolution over ``[B, T, D]``, as many frames out as in.

    A wide kernel on a CPU is convolved by Fourier transform, block by block (overlap-save): 128 taps × 48 channels
    of a group are 30 times fewer multiplications there, and the rounding stays at float32's.
    """

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        super().__init__(dim, dim, kernel, padding=kernel // 2, groups=groups)
        self._known: tuple[Tensor, int, int, Tensor] | None = None

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        frames, kernel = hidden_BTD.shape[1], self.kernel_size[0]
        if is_symbolic() or hidden_BTD.device.type != "cpu" or not self._by_fourier():
            return super().forward(hidden_BTD.transpose(1, 2))[:, :, :frames].transpose(1, 2)  # even kernels add one
        with torch.autocast("cpu", enabled=False):
            size = 2 * kernel
            fresh = size - kernel + 1  # frames a block yields; the others have wrapped around
            blocks = -(-frames // fresh)
            ends = (kernel // 2, (blocks - 1) * fresh + size - frames - kernel // 2)
            padded_BTD = F.pad(hidden_BTD.to(self._exact), (0, 0, *ends))
            # Axes here: N blocks of all utterances, W frequencies, G groups, I and O channels of a group.
            heard_NDW = torch.fft.rfft(padded_BTD.unfold(1, size, fresh).flatten(0, 1))
            heard_WGNI = heard_NDW.view(len(heard_NDW), self.groups, -1, heard_NDW.shape[2]).permute(3, 1, 0, 2)
            spoken_NGOW = (heard_WGNI @ self._spectrum(size)).permute(2, 1, 3, 0)
            output_NTD = torch.fft.irfft(spoken_NGOW.flatten(1, 2), size)[:, :, :fresh].transpose(1, 2)
            output_BTD: Tensor = output_NTD.reshape(len(hidden_BTD), blocks * fresh, -1)[:, :frames]
            return (output_BTD if self.bias is None else output_BTD + self.bias).to(self.weight.dtype)

    def _by_fourier(self) -> bool:
        """Whether the kernel is wide; or torch's own operator wrong: oneDNN's convolution in bfloat16 on processors
        with AMX has been seen to be, with 8 taps and more over groups of fewer than 16 channels."""
        rough = self.weight.dtype != self._exact or torch.is_autocast_enabled("cpu")
        return self.kernel_size[0] >= FOURIER_KERNEL or (rough and self.weight.shape[1] < MIN_CHANNELS)

    @property
    def _exact(self) -> torch.dtype:
        """What Fourier transforms are taken in: there are none in half precision."""
        return torch.promote_types(self.weight.dtype, torch.float32)

    def _spectrum(self, size: int) -> Tensor:
        """The kernel's spectrum ``[W, G, I, O]``; remembered while the weight stays what it is."""
        weight, learning = self.weight, torch.is_grad_enabled() and self.weight.requires_grad
        if self._known is not None and not learning:
            known, version, address, known_WGIO = self._known
            if known is weight and (version, address) == (weight._version, weight.data_ptr()):
                return known_WGIO
        grouped_GOIK = weight.to(self._exact).view(self.groups, -1, *weight.shape[1:])
        kernel_GOIW = torch.fft.rfft(grouped_GOIK, size).conj()
        spectrum_WGIO: Tensor = kernel_GOIW.permute(3, 0, 2, 1).resolve_conj().contiguous()
        self._known = None if learning else (weight, weight._version, weight.data_ptr(), spectrum_WGIO)
        return spectrum_WGIO


class Scale(nn.Module):
    """A scale and a shift for each feature."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * self.weight + self.bias


def _centre(waveform_BS: Tensor, num_samples_B: Tensor) -> Tensor:
    # The norm over time takes a constant out again; taken out before, it costs no digits, of which bf16 has few.
    mask_BS = frame_mask(num_samples_B, waveform_BS.shape[1], waveform_BS.device)
    valid_BS = waveform_BS if mask_BS is None else waveform_BS.masked_fill(~mask_BS, 0)
    return waveform_BS - valid_BS.sum(1, keepdim=True) / num_samples_B.to(waveform_BS.device)[:, None]


def _conv_frames(num_samples_B: Tensor, kernels: Sequence[int], strides: Sequence[int]) -> Tensor:
    for kernel, stride in zip(kernels, strides, strict=True):
        num_samples_B = (num_samples_B - kernel) // stride + 1
    return num_samples_B.clamp(min=0)


def is_symbolic() -> bool:
    """Whether the lengths' values are unknown: under torch.compile, torch.export or tracing."""
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]
