"""Masks of an utterance's own frames, and normalization over each utterance alone: padding must change nothing.

Axes: B batch, S samples, T frames, D features.
"""

import torch
from torch import Tensor

NORMALIZE_EPS = 1e-7  # Hugging Face's Wav2Vec2FeatureExtractor


def normalize(waveform_BS: Tensor, num_samples_B: Tensor) -> Tensor:
    """Zero mean and unit variance over each utterance alone; padding becomes zero.

    This is what Hugging Face's feature extractor does for checkpoints with ``do_normalize``. Teachers, students and
    training all use this function, so a student receives exactly the input that its teacher received.

    Args:
        waveform_BS: float samples, padded to the longest.
        num_samples_B: samples of each utterance.
    """
    waveform_BS = waveform_BS.float()
    count_B1 = on_device(num_samples_B, waveform_BS.device).clamp(min=1)[:, None]
    valid_BS = torch.arange(waveform_BS.shape[1], device=waveform_BS.device) < count_B1
    mean_B1 = torch.where(valid_BS, waveform_BS, 0).sum(1, keepdim=True) / count_B1
    centered_BS = torch.where(
        valid_BS, waveform_BS - mean_B1, 0
    )  # two passes, so that a DC offset costs no precision
    variance_B1 = centered_BS.square().sum(1, keepdim=True) / count_B1
    return centered_BS * torch.rsqrt(variance_B1 + NORMALIZE_EPS)


def on_device(lengths: Tensor, device: torch.device) -> Tensor:
    """A copy of ``lengths`` on ``device``. From the CPU to a GPU it takes its turn after what the GPU has yet to do,
    and nothing waits for it: that needs page-locked memory."""
    if device.type != "cuda" or lengths.device.type != "cpu" or is_symbolic():
        return lengths.to(device, non_blocking=device.type != "cpu")
    pinned = torch.empty(lengths.shape, dtype=lengths.dtype, pin_memory=True).copy_(lengths)
    return pinned.to(device, non_blocking=True)


def frame_mask(
    num_frames_B: Tensor, num_frames: int, device: torch.device, copied_B: Tensor | None = None
) -> Tensor | None:
    """True where a frame belongs to its utterance, ``[B, T]``; None when no frame is padding.

    Finding out whether anything is padded reads the lengths, which costs a synchronization when they are on a
    GPU: keep them on the CPU. While compiling or exporting, nothing is read and there is always a mask.

    Args:
        copied_B: a copy of ``num_frames_B`` that is already on ``device``.
    """
    if not is_symbolic() and min(num_frames_B.tolist(), default=num_frames) >= num_frames:
        return None
    copied_B = on_device(num_frames_B, device) if copied_B is None else copied_B
    return torch.arange(num_frames, device=device) < copied_B[:, None]


def zero_padding(hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
    """``hidden_BTD`` with the frames outside the mask set to zero."""
    if mask_BT is None:
        return hidden_BTD
    if hidden_BTD.device.type == "cuda":  # one pass instead of two
        return torch.where(mask_BT[:, :, None], hidden_BTD, 0)
    return hidden_BTD.masked_fill(~mask_BT[:, :, None], 0)


def is_symbolic() -> bool:
    """Whether the lengths' values are unknown: under torch.compile, torch.export or tracing."""
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]
