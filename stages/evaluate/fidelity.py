"""How close predictions are to the teacher's hidden states, layer by layer, over the frames of many utterances.

Axes: B batch, L layers, T frames, D features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gdist.stages.device import to_device


class Fidelity:
    """Running sums of cosine, L1 and squared error for each of L layers; every frame has the same weight.

    Args:
        device: where the hidden states are; nothing is copied from there before :meth:`rows`.
    """

    def __init__(self, layers: list[int], device: torch.device | None = None) -> None:
        self.layers = layers
        self.frames = 0
        self.cosine_L = torch.zeros(len(layers), dtype=torch.float64, device=device)
        self.l1_L = torch.zeros_like(self.cosine_L)
        self.error_L = torch.zeros_like(self.cosine_L)
        self.energy_L = torch.zeros_like(self.cosine_L)

    def add(self, prediction_BLTD: Tensor, target_BLTD: Tensor, mask_BT: Tensor) -> None:
        """Add a batch. The prediction may broadcast over B, L and T (a mean frame, or one state for all layers)."""
        prediction_BLTD = prediction_BLTD.expand_as(target_BLTD)
        mask_B1T = to_device(mask_BT, target_BLTD.device)[:, None, :].expand(target_BLTD.shape[:3])
        difference_BLTD = prediction_BLTD - target_BLTD

        def total(value_BLT: Tensor) -> Tensor:
            return torch.where(mask_B1T, value_BLT, 0).double().sum((0, 2))

        self.frames += int(mask_BT.sum())
        self.cosine_L += total(F.cosine_similarity(prediction_BLTD, target_BLTD, dim=-1))
        self.l1_L += total(difference_BLTD.abs().mean(-1))
        self.error_L += total(difference_BLTD.square().sum(-1))
        self.energy_L += total(target_BLTD.square().sum(-1))

    def rows(self) -> list[dict[str, float]]:
        """``{layer, cosine, l1, relative_error}`` for each layer.

        These are the mean cosine per frame, the mean absolute difference per value, and the norm of all errors over
        the norm of all targets.
        """
        return [
            {
                "layer": layer,
                "cosine": float(self.cosine_L[place]) / self.frames,
                "l1": float(self.l1_L[place]) / self.frames,
                "relative_error": float((self.error_L[place] / self.energy_L[place]).sqrt()),
            }
            for place, layer in enumerate(self.layers)
        ]


def mean_cosine(rows: list[dict[str, float]]) -> float:
    """The mean over layers 1 to L."""
    return sum(row["cosine"] for row in rows) / len(rows)
