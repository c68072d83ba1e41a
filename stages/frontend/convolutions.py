"""The front-end's convolutions, in the forms that are fast on a CPU.

Axes: B batch, N blocks of all utterances, T frames, C and O channels in and out, K kernel, D features.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdist.stages.frontend.padding import is_symbolic

# On a CPU, these positional convolutions are computed by Fourier transform:
FOURIER_KERNEL = 64  # those with at least this many taps
MIN_CHANNELS = 16  # and, in half precision, those whose groups have fewer channels than this


def strided_conv(hidden_BTC: Tensor, kernel_OC1K: Tensor, bias_O: Tensor | None, stride: int) -> Tensor:
    """A convolution over time, channels last: ``[B, T, C]`` → ``[B, (T − K) // stride + 1, O]``."""
    image_BC1T = hidden_BTC.transpose(1, 2)[:, :, None]
    return F.conv2d(image_BC1T, kernel_OC1K, bias_O, (1, stride))[:, :, 0].transpose(1, 2)


class StridedConv(torch.autograd.Function):
    """``strided_conv`` with a backward pass made of matrix products over strided views, from which nothing is copied.

    On a CPU this is more than twice as fast as oneDNN's. Taps that lie within one stride share a product: their views
    are next to each other, so their gradients are written to where they belong without being added up.
    """

    @staticmethod
    def forward(ctx: Any, hidden_BTC: Tensor, kernel_OC1K: Tensor, bias_O: Tensor | None, stride: int) -> Tensor:
        ctx.save_for_backward(hidden_BTC, kernel_OC1K)
        ctx.stride, ctx.biased = stride, bias_O is not None
        return strided_conv(hidden_BTC, kernel_OC1K, bias_O, stride)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden_BTC, kernel_OC1K = ctx.saved_tensors
        hidden_BTC, grad_BTO, stride = hidden_BTC.contiguous(), gradients[0].contiguous(), ctx.stride
        kernel_OKC = kernel_OC1K[:, :, 0].transpose(1, 2)
        _, frames, channels = grad_BTO.shape
        taps = kernel_OKC.shape[1]
        grad_hidden = torch.empty_like(hidden_BTC) if ctx.needs_input_grad[0] else None
        if grad_hidden is not None:  # no product writes to these
            grad_hidden[:, 0 if taps < stride else frames * stride :] = 0
        grads_OKC: list[Tensor] = []
        for first in range(0, taps, stride):
            together = range(first, min(first + stride, taps))
            weight_OX = kernel_OKC[:, together.start : together.stop].flatten(1)
            if grad_hidden is not None:
                for grad_TO, out_TC in zip(grad_BTO, grad_hidden, strict=True):
                    out_TX = _windows(out_TC, together, frames, stride)
                    if first == 0:
                        torch.mm(grad_TO, weight_OX, out=out_TX)
                    else:
                        out_TX += grad_TO @ weight_OX
            if ctx.needs_input_grad[1]:
                views = [_windows(hidden_TC, together, frames, stride) for hidden_TC in hidden_BTC]
                products = [grad_TO.T @ view_TX for grad_TO, view_TX in zip(grad_BTO, views, strict=True)]
                grads_OKC.append(torch.stack(products).sum(0).view(channels, len(together), -1))
        grad_kernel = torch.cat(grads_OKC, dim=1).transpose(1, 2)[:, :, None] if grads_OKC else None
        return grad_hidden, grad_kernel, grad_BTO.flatten(0, 1).sum(0) if ctx.biased else None, None


def _windows(hidden_TC: Tensor, taps: range, frames: int, stride: int) -> Tensor:
    """What neighbouring taps see at every frame, as a view: ``[frames, len(taps) · C]``."""
    channels = hidden_TC.shape[1]
    return hidden_TC[taps.start :].as_strided((frames, len(taps) * channels), (stride * channels, 1))


class PositionConv(nn.Conv1d):
    """The positional convolution: ``[B, T, D]`` → ``[B, T // stride, D]``.

    On a CPU, a wide kernel is applied by Fourier transform, block by block (overlap-save). For 128 taps × 48 channels
    per group this takes 30 times fewer multiplications, and the rounding error stays that of float32.
    """

    def __init__(self, dim: int, kernel: int, groups: int, stride: int = 1) -> None:
        super().__init__(dim, dim, kernel, stride, padding=kernel // 2, groups=groups)
        self._cached: tuple[Tensor, int, int, Tensor] | None = None

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        frames, kernel, stride = hidden_BTD.shape[1], self.kernel_size[0], self.stride[0]
        if is_symbolic() or hidden_BTD.device.type != "cpu" or not self._by_fourier():
            # An even kernel adds a frame, and so does a stride where it leaves frames over.
            return super().forward(hidden_BTD.transpose(1, 2))[:, :, : frames // stride].transpose(1, 2)
        with torch.autocast("cpu", enabled=False):
            size = 2 * kernel
            fresh = size - kernel + 1  # valid frames per block; the others have wrapped around
            blocks = -(-frames // fresh)
            ends = (kernel // 2, (blocks - 1) * fresh + size - frames - kernel // 2)
            padded_BTD = F.pad(hidden_BTD.to(self._exact), (0, 0, *ends))
            # Axes here: N blocks of all utterances, W frequencies, G groups, I and O channels of a group.
            input_NDW = torch.fft.rfft(padded_BTD.unfold(1, size, fresh).flatten(0, 1))
            input_WGNI = input_NDW.view(len(input_NDW), self.groups, -1, input_NDW.shape[2]).permute(3, 1, 0, 2)
            product_NGOW = (input_WGNI @ self._spectrum(size)).permute(2, 1, 3, 0)
            output_NTD = torch.fft.irfft(product_NGOW.flatten(1, 2), size)[:, :, :fresh].transpose(1, 2)
            output_BTD: Tensor = output_NTD.reshape(len(hidden_BTD), blocks * fresh, -1)[:, :frames]
            if stride > 1:
                output_BTD = output_BTD[:, ::stride][:, : frames // stride]
            return (output_BTD if self.bias is None else output_BTD + self.bias).to(self.weight.dtype)

    def _by_fourier(self) -> bool:
        """Whether to use the Fourier transform: the kernel is wide, or torch's own operator may be wrong.

        On processors with AMX, oneDNN's convolution in bfloat16 has given wrong results with 8 or more taps over
        groups of fewer than 16 channels.
        """
        reduced = self.weight.dtype != self._exact or torch.is_autocast_enabled("cpu")
        return self.kernel_size[0] >= FOURIER_KERNEL or (reduced and self.weight.shape[1] < MIN_CHANNELS)

    @property
    def _exact(self) -> torch.dtype:
        """The dtype of the Fourier transforms, which do not exist in half precision."""
        return torch.promote_types(self.weight.dtype, torch.float32)

    def _spectrum(self, size: int) -> Tensor:
        """The kernel's spectrum ``[W, G, I, O]``, cached until the weight changes."""
        weight, learning = self.weight, torch.is_grad_enabled() and self.weight.requires_grad
        if self._cached is not None and not learning:
            cached_weight, version, address, cached_WGIO = self._cached
            if cached_weight is weight and (version, address) == (weight._version, weight.data_ptr()):
                return cached_WGIO
        grouped_GOIK = weight.to(self._exact).view(self.groups, -1, *weight.shape[1:])
        kernel_GOIW = torch.fft.rfft(grouped_GOIK, size).conj()
        spectrum_WGIO: Tensor = kernel_GOIW.permute(3, 0, 2, 1).resolve_conj().contiguous()
        self._cached = None if learning else (weight, weight._version, weight.data_ptr(), spectrum_WGIO)
        return spectrum_WGIO
