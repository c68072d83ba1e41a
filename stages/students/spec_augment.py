"""SpecAugment on a student's features, as Hugging Face's speech models do it in fine-tuning (arXiv 1904.08779).

What the front-end's feature encoder gives is changed before positions are added: dropout, then spans of frames that a
learned vector replaces, then spans of features that become zero. It happens in training mode only.

Axes: B batch, T frames, D features, N places along the axis that spans lie on.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from gdist.stages.students.fine_tuning import FineTuningConfig


class SpecAugment:
    """What one forward pass does to the features; a front-end calls it.

    Args:
        embed_D: replaces masked frames; None where the config masks nothing.
        time_BT: the frames to mask, instead of drawing them; also outside training.
    """

    def __init__(
        self, config: FineTuningConfig, training: bool, embed_D: Tensor | None, time_BT: Tensor | None = None
    ) -> None:
        self.config, self.training, self.embed_D, self.time_BT = config, training, embed_D, time_BT

    @property
    def changes(self) -> bool:
        """Whether it does anything at all."""
        config = self.config
        drawn = self.training and (config.feat_proj_dropout > 0 or (config.apply_spec_augment and config.masks))
        return drawn or (config.apply_spec_augment and self.time_BT is not None)

    def __call__(self, features_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        """``[B, T, D]`` → the same; frames outside ``mask_BT`` are padding and are not counted as masked.

        Raises:
            ValueError: ``time_BT`` has another shape, or there is no vector to put in its place.
        """
        config = self.config
        batch, frames, dim = features_BTD.shape
        if self.training and config.feat_proj_dropout:
            features_BTD = F.dropout(features_BTD, config.feat_proj_dropout)
        if not config.apply_spec_augment:
            return features_BTD
        lengths = [frames] * batch if mask_BT is None else mask_BT.sum(-1).tolist()
        time_BT = self.time_BT
        if time_BT is None and self.training and config.mask_time_prob:
            share, length, least = config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks
            time_BT = spans(lengths, frames, share, length, least)
        if time_BT is not None:
            features_BTD = self._mask_frames(features_BTD, time_BT)
        if self.training and config.mask_feature_prob:
            share, length, least = config.mask_feature_prob, config.mask_feature_length, config.mask_feature_min_masks
            dims_BD = spans([dim] * batch, dim, share, length, least).to(features_BTD.device)
            features_BTD = features_BTD.masked_fill(dims_BD[:, None, :], 0)
        return features_BTD

    def _mask_frames(self, features_BTD: Tensor, time_BT: Tensor) -> Tensor:
        if self.embed_D is None:
            raise ValueError("mask_time_indices needs a model with mask_time_prob or mask_feature_prob above 0")
        if time_BT.shape != features_BTD.shape[:2]:
            given, wanted = (" × ".join(map(str, shape)) for shape in (time_BT.shape, features_BTD.shape[:2]))
            raise ValueError(f"mask_time_indices is {given}; the frames of this batch are {wanted}")
        masked_BT1 = time_BT.to(features_BTD.device, torch.bool)[:, :, None]
        return torch.where(masked_BT1, self.embed_D.to(features_BTD.dtype), features_BTD)


def spans(lengths: Sequence[int], size: int, share: float, length: int, least: int) -> Tensor:
    """Draw spans of masked places, ``[B, N]`` booleans on the CPU; spans may overlap.

    There are ``share · N / length`` spans in a row of N places, rounded up or down at random, the same way for the
    whole batch, and at least ``least``; never more than fit into the longest row beside one another. A row that is
    shorter than a span has none.

    Args:
        lengths: of each row, the places that are not padding.
        size: N of the longest row.
    """
    rounding = float(torch.rand(()))
    masked_BN = torch.zeros(len(lengths), size, dtype=torch.bool)
    for row, places in enumerate(lengths):
        starts = places - length + 1
        if starts < 1:
            continue
        count = min(max(int(share * places / length + rounding), least), size // length, starts)
        for start in torch.randperm(starts)[:count].tolist():
            masked_BN[row, start : start + length] = True
    return masked_BN
