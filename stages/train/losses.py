"""Distillation losses: pure functions of prediction, target and mask, and the table of their names.

Each returns one loss per layer; padding is ignored. To add one, write a function and add a row to ``LOSSES``.

Axes: B batch, K layers, T frames, D features.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from gdist.pipeline.config import require
from gdist.pipeline.extensions import Registry

COSINE_EPS = 1e-8  # F.cosine_similarity's
Loss = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""(prediction_BKTD, target_BKTD, mask_BT, cosine_weight) → loss_K"""


def l1_logcos(prediction_BKTD: Tensor, target_BKTD: Tensor, mask_BT: Tensor, cosine_weight: float) -> Tensor:
    """L1 + λ·(−log σ(cos)), DistilHuBERT's (arXiv 2110.01900, eq. 1), here averaged over D and without padding."""
    l1_BKT = (prediction_BKTD - target_BKTD).abs().mean(-1)
    cosine_BKT = cosine(prediction_BKTD, target_BKTD)
    return masked_mean(l1_BKT - cosine_weight * F.logsigmoid(cosine_BKT), mask_BT)


def l1_cos(prediction_BKTD: Tensor, target_BKTD: Tensor, mask_BT: Tensor, cosine_weight: float) -> Tensor:
    """L1 + λ·(1 − cos): DPHuBERT's (arXiv 2305.17651) except for the constant that keeps it positive."""
    l1_BKT = (prediction_BKTD - target_BKTD).abs().mean(-1)
    cosine_BKT = cosine(prediction_BKTD, target_BKTD)
    return masked_mean(l1_BKT + cosine_weight * (1 - cosine_BKT), mask_BT)


def l1(prediction_BKTD: Tensor, target_BKTD: Tensor, mask_BT: Tensor, cosine_weight: float) -> Tensor:
    """Mean absolute error; the cosine weight is not used."""
    return masked_mean((prediction_BKTD - target_BKTD).abs().mean(-1), mask_BT)


def mse(prediction_BKTD: Tensor, target_BKTD: Tensor, mask_BT: Tensor, cosine_weight: float) -> Tensor:
    """Mean squared error, FitHuBERT's (arXiv 2207.00555); the cosine weight is not used."""
    return masked_mean((prediction_BKTD - target_BKTD).square().mean(-1), mask_BT)


def _accept(found: Any) -> Loss:
    """Check a row of ``LOSSES``: a function of prediction, target, mask and the weight of the cosine."""
    wanted = "a loss is a function of (prediction_BKTD, target_BKTD, mask_BT, cosine_weight)"
    if not callable(found) or isinstance(found, type):
        raise TypeError(wanted)
    try:
        inspect.signature(found).bind(*range(4))
    except (TypeError, ValueError) as error:  # ValueError: it is not written in Python and has no signature
        raise TypeError(f"{wanted}; with these four: {error}") from error
    return cast(Loss, found)


LOSSES: Registry[Loss] = Registry(
    "loss", "gdist.losses", {"l1_logcos": l1_logcos, "l1_cos": l1_cos, "l1": l1, "mse": mse}, _accept
)


@dataclass(frozen=True)
class LossConfig:
    """Which loss is used.

    Attributes:
        name: a row of ``LOSSES``.
        cosine_weight: λ, the weight of the cosine term in the losses that have one.
        layer_weights: relative weights, one for each predicted layer; equal weights when empty. Of several teachers,
            those of the first one's layers come first, and each teacher's are relative to one another.
        teacher_weights: relative weights, one for each of several teachers; None for equal weights, however many
            layers of each are predicted.
    """

    name: str = "l1_logcos"
    cosine_weight: float = 1.0
    layer_weights: tuple[float, ...] = ()
    teacher_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        LOSSES.find(self.name, f"loss.name = {self.name}")
        require(self.cosine_weight >= 0, f"loss.cosine_weight = {self.cosine_weight}: must be 0 or more")
        weights = self.layer_weights
        require(
            not weights or (min(weights) >= 0 and sum(weights) > 0),
            f"loss.layer_weights = {list(weights)}: must be 0 or more, and not all 0",
        )
        shares = self.teacher_weights
        require(
            shares is None or (len(shares) > 0 and min(shares) >= 0 and sum(shares) > 0),
            f"loss.teacher_weights = {list(shares or ())}: must be 0 or more, and not all 0",
        )


def cosine(prediction_BKTD: Tensor, target_BKTD: Tensor) -> Tensor:
    """Cosine similarity of each frame, [B, K, T]; 0 where either is zero.

    ``F.cosine_similarity`` first divides both by their norms, which means two more tensors of this size to write and,
    in training, to keep. It took 1.6 times as long with the loss around it, and twice as long without gradients.
    """
    norms_BKT = [torch.linalg.vector_norm(h, dim=-1).clamp(min=COSINE_EPS) for h in (prediction_BKTD, target_BKTD)]
    cosine_BKT: Tensor = torch.linalg.vecdot(prediction_BKTD, target_BKTD) / (norms_BKT[0] * norms_BKT[1])
    return cosine_BKT


def masked_mean(value_BKT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over the frames that belong to an utterance, for each of K layers."""
    mask_B1T = mask_BT[:, None, :]
    return torch.where(mask_B1T, value_BKT, 0).sum((0, 2)) / mask_B1T.sum()
