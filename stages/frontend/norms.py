"""Norms: over features, in float32 even under autocast, and over time, without a pass over the output.

Axes: B batch, S samples, T frames, K kernel, C channels.
"""

import torch
from torch import Tensor, nn

from gdist.stages.frontend.padding import frame_mask, on_device, zero_padding


class LayerNorm(nn.LayerNorm):
    """LayerNorm in the dtype of its weights even under autocast; the output has the input's dtype."""

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden.to(self.weight.dtype)).to(hidden.dtype)


class TimeNorm(nn.GroupNorm):
    """GroupNorm with one group per channel, folded into the convolution of one input channel before it.

    A channel is a product with windows of the waveform, so its mean and variance over time follow from the windows'
    mean and covariance: ``w·m`` and ``w·Σw``. These are K and K² numbers; otherwise the convolution's output, the
    largest tensor of the model, would be read twice. Only an utterance's own windows are counted, not padding.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def fold(
        self, conv: nn.Conv1d, waveform_BS: Tensor, num_frames_B: Tensor, copied_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Kernels ``[B, K, C]`` and shifts ``[B, 1, C]`` that convolve and normalize each utterance in one step.

        Args:
            copied_B: a copy of ``num_frames_B`` that is already on the waveform's device.
        """
        # A filter may pass only a millionth of its input's power; in float64 the product is still precise then, and
        # in float32 its variance would be noise. Apple's GPUs have no float64.
        exact_BS = waveform_BS.to("cpu" if waveform_BS.device.type == "mps" else None, torch.float64)
        windows_BTK = exact_BS.unfold(1, conv.kernel_size[0], conv.stride[0])
        if copied_B is None or copied_B.device != exact_BS.device:
            copied_B = on_device(num_frames_B, exact_BS.device)
        mask_BT = frame_mask(num_frames_B, windows_BTK.shape[1], exact_BS.device, copied_B)
        count_B11 = copied_B.clamp(min=1)[:, None, None]
        mean_B1K = zero_padding(windows_BTK, mask_BT).sum(1, keepdim=True) / count_B11
        centered_BTK = zero_padding(windows_BTK - mean_B1K, mask_BT)
        covariance_BKK = centered_BTK.transpose(1, 2) @ centered_BTK / count_B11
        weight_KC = conv.weight[:, 0].T.to(exact_BS)
        variance_B1C = (weight_KC * (covariance_BKK @ weight_KC)).sum(1, keepdim=True).clamp(min=0)
        scale_B1C = self.weight.to(exact_BS) * torch.rsqrt(variance_B1C + self.eps)
        shift_B1C = self.bias.to(exact_BS) - mean_B1K @ weight_KC * scale_B1C
        if conv.bias is not None:  # removed with the mean; added here so that it has a gradient, of zero
            shift_B1C = shift_B1C + 0 * conv.bias.to(exact_BS)
        return (weight_KC * scale_B1C).to(conv.weight), shift_B1C.to(conv.weight)


class Scale(nn.Module):
    """A scale and a shift for each feature."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * self.weight + self.bias
