"""The wav2vec 2.0 front-end: waveform → the input of the first Transformer layer.

Axes: B batch, S samples, C convolution channels, T frames, D features.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdist.stages.frontend.config import ACTIVATIONS, FrontendConfig
from gdist.stages.frontend.convolutions import PositionConv, StridedConv, strided_conv
from gdist.stages.frontend.interface import AudioFrontend, Augment
from gdist.stages.frontend.norms import LayerNorm, Scale, TimeNorm
from gdist.stages.frontend.padding import frame_mask, is_symbolic, on_device, zero_padding

BLOCK_FRAMES = 100  # convolved at a time on a CPU: 2 s, for which the first activations are 13 MB


class Frontend(AudioFrontend):
    """Convolutions → LayerNorm → projection → positional convolution (→ LayerNorm), without dropout.

    The output for each utterance of a batch equals Hugging Face's ``hidden_states[0]`` for that utterance
    alone. Base models normalize their first convolution over time, so those statistics are taken over the
    utterance's own frames. Frames of padding are set to zero before every convolution that could see them.
    The weight norm of the positional convolution is folded into a plain weight.
    """

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__(config)
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
        self.projection = nn.Linear(config.conv_dim[-1], config.hidden_size) if config.project else None
        self.position_scale = Scale(config.hidden_size) if config.position_scale else None
        self.positions = nn.ModuleList(
            PositionConv(config.hidden_size, config.position_kernel, config.position_groups, config.squeeze)
            for _ in range(config.position_layers)
        )
        self.output_norm = LayerNorm(config.hidden_size, eps=config.eps) if config.output_norm else None
        # Faster forms, for frozen weights on a CPU, of all convolutions except the first. Each takes one utterance,
        # and includes the activation where no norm precedes it. A teacher sets them; students do not use them.
        self.frozen_convs: Sequence[Callable[[Tensor], Tensor]] = ()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights and of the output. A frozen teacher on a GPU keeps some of its weights in the
        dtype that autocast would cast them to (see gdist.stages.teachers.casting), but never those of this layer."""
        return cast(Tensor, self.convs[0].weight).dtype

    def feature_encoder(self) -> Iterable[nn.Module]:
        return (self.convs, self.norms)

    def with_mask(
        self, waveform_BS: Tensor, num_samples_B: Tensor, augment: Augment | None = None
    ) -> tuple[Tensor, Tensor | None]:
        if not is_symbolic():
            waveform_BS = waveform_BS[:, : int(num_samples_B.max())]
        lengths_NB = self._lengths(num_samples_B)
        copied_NB = on_device(lengths_NB, waveform_BS.device)  # all that a device needs of them, in one copy
        hidden_BTC = self._convolve(waveform_BS, lengths_NB, copied_NB)
        if self.feature_norm is not None:
            hidden_BTC = self.feature_norm(hidden_BTC)
        if self.projection is not None:
            hidden_BTC = self.projection(hidden_BTC)
        hidden_BTD = hidden_BTC.to(self.dtype)  # the residual stream keeps full precision under autocast, everywhere
        inner_BT = frame_mask(lengths_NB[2], hidden_BTD.shape[1], hidden_BTD.device, copied_NB[2])
        if augment is not None:
            hidden_BTD = augment(hidden_BTD, inner_BT)
        hidden_BTD, mask_BT = zero_padding(hidden_BTD, inner_BT), inner_BT
        positions_BTD = self._position(hidden_BTD, inner_BT) if self.positions else None
        if (squeeze := self.config.squeeze) > 1:
            hidden_BTD = F.avg_pool1d(hidden_BTD.transpose(1, 2), squeeze).transpose(1, 2)
            mask_BT = frame_mask(lengths_NB[3], hidden_BTD.shape[1], hidden_BTD.device, copied_NB[3])
        if positions_BTD is not None:
            hidden_BTD = hidden_BTD + positions_BTD
        if self.output_norm is not None:
            hidden_BTD = self.output_norm(hidden_BTD)
        return zero_padding(hidden_BTD, mask_BT), mask_BT

    def _lengths(self, num_samples_B: Tensor) -> Tensor:
        """Samples, frames after the first convolution and after the last, and frames, ``[4, B]``."""
        first_B = _conv_frames(num_samples_B, self.config.conv_kernel[:1], self.config.conv_stride[:1])
        last_B = _conv_frames(num_samples_B, self.config.conv_kernel, self.config.conv_stride)
        return torch.stack([num_samples_B, first_B, last_B, last_B // self.config.squeeze])

    def _convolve(self, waveform_BS: Tensor, lengths_NB: Tensor, copied_NB: Tensor) -> Tensor:
        """The convolutional encoder, ``[B, T, C]``; frames of padding contain arbitrary finite values.

        Args:
            lengths_NB: from :meth:`_lengths`; ``copied_NB`` is its copy on the waveform's device.
        """
        device, compute = waveform_BS.device, self.dtype
        if torch.is_autocast_enabled(device.type):
            compute = torch.get_autocast_dtype(device.type)
        first = cast(nn.Conv1d, self.convs[0])
        with torch.autocast(device.type, enabled=False):
            if self.config.conv_norm == "group":
                waveform_BS = _center(waveform_BS, lengths_NB[0], copied_NB[0])
                norm = cast(TimeNorm, self.norms[0])
                first_BKC, shift_B1C = norm.fold(first, waveform_BS, lengths_NB[1], copied_NB[1])
            else:
                bias_C = torch.zeros_like(first.weight[:, 0, 0]) if first.bias is None else first.bias
                first_BKC = first.weight[:, 0].T.expand(waveform_BS.shape[0], -1, -1)  # len() is not symbolic
                shift_B1C = bias_C.expand(waveform_BS.shape[0], 1, -1)
        # Cast and reordered once, for all blocks.
        first_BKC, shift_B1C, waveform_BS = first_BKC.to(compute), shift_B1C.to(compute), waveform_BS.to(compute)
        kernels: list[Tensor] = []
        if not self.frozen_convs:
            weights = [cast(Tensor, conv.weight).to(compute)[:, :, None] for conv in list(self.convs)[1:]]
            kernels = [weight.contiguous(memory_format=torch.channels_last) for weight in weights]
        if torch.is_grad_enabled() or is_symbolic() or device.type != "cpu":
            return self._encode(waveform_BS, first_BKC, shift_B1C, kernels)
        # The intermediate activations are a hundred times the size of the output. In blocks they stay in the CPU's
        # caches, and in memory that the allocator keeps: returning pages and faulting them in again costs more than
        # the first convolution itself.
        hop, overlap = self.config.hop, self.config.receptive_field - self.config.hop
        counts = lengths_NB[2].tolist()
        hidden_BTC = waveform_BS.new_zeros(len(counts), max(counts), self.config.conv_dim[-1])
        for row, frames in enumerate(counts):
            one = slice(row, row + 1)
            for start in range(0, frames, BLOCK_FRAMES):
                stop = min(start + BLOCK_FRAMES, frames)
                samples_1S = waveform_BS[one, start * hop : stop * hop + overlap]
                hidden_BTC[one, start:stop] = self._encode(samples_1S, first_BKC[one], shift_B1C[one], kernels)
        return hidden_BTC

    def _encode(self, waveform_BS: Tensor, first_BKC: Tensor, shift_B1C: Tensor, kernels: Sequence[Tensor]) -> Tensor:
        # Channels last throughout: strided convolutions are then matrix products without a copy, and the LayerNorm
        # and projection after them need no copy either. A convolution of one channel is a product with windows.
        def first(first_BKC: Tensor, shift_B1C: Tensor) -> Tensor:
            windows_BTK = waveform_BS.unfold(1, self.config.conv_kernel[0], self.config.conv_stride[0])
            return self._activated(0, torch.baddbmm(shift_B1C, windows_BTK, first_BKC))

        def later(i: int, hidden_BTC: Tensor) -> Tensor:
            bias = cast(nn.Conv1d, self.convs[i]).bias
            bias = None if bias is None else bias.to(hidden_BTC.dtype)
            training = torch.is_grad_enabled() and hidden_BTC.device.type == "cpu" and not is_symbolic()
            convolve = StridedConv.apply if training else strided_conv
            return self._activated(i, convolve(hidden_BTC, kernels[i - 1], bias, self.config.conv_stride[i]))

        hidden_BTC = self.recomputed(first, first_BKC, shift_B1C)
        for i in range(1, len(self.convs)):
            if not self.frozen_convs:
                hidden_BTC = self.recomputed(later, i, hidden_BTC)
            elif self.config.conv_norm == "group":  # with its activation
                hidden_BTC = self.frozen_convs[i - 1](hidden_BTC)
            else:
                hidden_BTC = self._activated(i, self.frozen_convs[i - 1](hidden_BTC))
        return hidden_BTC

    def _activated(self, i: int, hidden_BTC: Tensor) -> Tensor:
        """What follows the ``i``-th convolution."""
        if self.config.conv_norm == "layer":
            hidden_BTC = self.norms[i](hidden_BTC)
        return ACTIVATIONS[self.config.activation](hidden_BTC)

    def _position(self, hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        activation = ACTIVATIONS[self.config.activation]
        if self.position_scale is not None:
            hidden_BTD = self.position_scale(hidden_BTD)
        for conv in self.positions:
            # Alone, an utterance is followed by the convolution's own zeros; in a batch it must be too.
            hidden_BTD = zero_padding(hidden_BTD, mask_BT)
            hidden_BTD = conv(hidden_BTD)
            if self.config.position_norm:
                exact_BTD = hidden_BTD.to(self.dtype)
                hidden_BTD = F.layer_norm(exact_BTD, (self.config.hidden_size,)).to(hidden_BTD.dtype)
            hidden_BTD = activation(hidden_BTD)
        return hidden_BTD.to(self.dtype)


def _center(waveform_BS: Tensor, num_samples_B: Tensor, copied_B: Tensor) -> Tensor:
    # The norm over time removes a constant anyway. Removed beforehand, it costs no precision: bf16 has little.
    mask_BS = frame_mask(num_samples_B, waveform_BS.shape[1], waveform_BS.device, copied_B)
    valid_BS = waveform_BS if mask_BS is None else waveform_BS.masked_fill(~mask_BS, 0)
    return waveform_BS - valid_BS.sum(1, keepdim=True) / copied_B[:, None]


def _conv_frames(num_samples_B: Tensor, kernels: Sequence[int], strides: Sequence[int]) -> Tensor:
    for kernel, stride in zip(kernels, strides, strict=True):
        num_samples_B = (num_samples_B - kernel) // stride + 1
    return num_samples_B.clamp(min=0)
