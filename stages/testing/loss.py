"""What every loss must guarantee.

Axes: B batch, K layers, T frames, D features.
"""

import inspect
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from gdist.stages.testing.suite import Suite, skip
from gdist.stages.train.losses import LOSSES, Loss


class LossSuite(Suite):
    """A loss ignores padding, keeps layers separate, and decreases as the prediction approaches the target.

    Attributes:
        loss: the function of (prediction_BKTD, target_BKTD, mask_BT, cosine_weight).
        by_hand: its value for the prediction (1, 0), the target (0, 1) and a cosine weight of ½, calculated by hand.
    """

    loss: ClassVar[Any]
    by_hand: ClassVar[float | None] = None

    @property
    def function(self) -> Loss:
        """Return the loss itself, which Python would otherwise bind as a method."""
        found = inspect.getattr_static(self, "loss")
        return cast(Loss, found.__func__ if isinstance(found, staticmethod) else found)

    def of(self, prediction_BKTD: Tensor, target_BKTD: Tensor, mask_BT: Tensor, cosine_weight: float = 1.0) -> Tensor:
        return self.function(prediction_BKTD, target_BKTD, mask_BT, cosine_weight)

    def test_gdist_takes_it(self) -> None:
        with LOSSES.lent("tested", self.function) as row:
            assert LOSSES["tested"] is row
        assert self.function.__doc__, "its docstring must say what it computes, and where it was published"

    def test_by_hand(self) -> None:
        prediction, target = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
        (value,) = self.of(prediction, target, torch.tensor([[True]]), 0.5).tolist()
        if self.by_hand is None:
            skip(f"calculate it for (1, 0), (0, 1) and a cosine weight of ½, and set `by_hand`: it returns {value}")
        assert abs(value - self.by_hand) <= 1e-6 * abs(self.by_hand)

    def test_padding_is_ignored(self) -> None:
        torch.manual_seed(0)
        prediction, target = torch.randn(2, 3, 5, 4, requires_grad=True), torch.randn(2, 3, 5, 4)
        mask_BT = torch.arange(5) < torch.tensor([5, 2])[:, None]
        loss_K = self.of(prediction, target, mask_BT)
        assert loss_K.shape == (3,), "one loss for each layer"
        (gradient,) = torch.autograd.grad(loss_K.sum(), prediction)
        assert (gradient[1, :, 2:] == 0).all() and (gradient[1, :, :2] != 0).any()
        disturbed = torch.where(mask_BT[:, None, :, None], prediction, 1e3)
        assert torch.equal(self.of(disturbed, target, mask_BT), loss_K)
        # … and an utterance is weighted by its number of frames, whatever length it was padded to.
        alone_K = [
            self.of(prediction[b : b + 1, :, :n], target[b : b + 1, :, :n], mask_BT[b : b + 1, :n])
            for b, n in ((0, 5), (1, 2))
        ]
        assert torch.allclose(loss_K, (5 * alone_K[0] + 2 * alone_K[1]) / 7)

    def test_layers_are_separate(self) -> None:
        torch.manual_seed(0)
        prediction, target = torch.randn(1, 3, 4, 8, requires_grad=True), torch.randn(1, 3, 4, 8)
        loss_K = self.of(prediction, target, torch.ones(1, 4, dtype=torch.bool))
        (gradient,) = torch.autograd.grad(loss_K[1], prediction)
        assert (gradient[:, [0, 2]] == 0).all()

    def test_falls_towards_the_target(self) -> None:
        torch.manual_seed(0)
        target = torch.randn(1, 1, 4, 8)
        far = target + torch.randn_like(target)
        mask_BT = torch.ones(1, 4, dtype=torch.bool)
        losses = [float(self.of(torch.lerp(far, target, t), target, mask_BT)) for t in (0.0, 0.5, 0.9)]
        assert losses == sorted(losses, reverse=True)
