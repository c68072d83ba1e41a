"""A loss of your own: squared where the error is small, absolute where it is large, plus a cosine term.

gdist train --cache CACHE --out runs/huber --set loss.name=own_loss.py:huber --set loss.cosine_weight=0.5
"""

import torch.nn.functional as F
from torch import Tensor

from gdist.stages.train.losses import cosine, masked_mean

DELTA = 0.5  # where the parabola ends and the line begins


def huber(prediction_BKTD: Tensor, target_BKTD: Tensor, mask_BT: Tensor, cosine_weight: float) -> Tensor:
    """Huber loss, averaged over D, plus λ·(1 − cos): one number for each of K layers, without padding.

    Args:
        mask_BT: True for frames that belong to their utterance.
        cosine_weight: λ, ``loss.cosine_weight``; every loss takes it, even one that does not use it.
    """
    huber_BKT = F.huber_loss(prediction_BKTD, target_BKTD, reduction="none", delta=DELTA).mean(-1)
    return masked_mean(huber_BKT + cosine_weight * (1 - cosine(prediction_BKTD, target_BKTD)), mask_BT)
