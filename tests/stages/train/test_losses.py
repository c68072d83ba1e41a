"""Losses: worked by hand, blind to padding."""

import math

import pytest
import torch
import torch.nn.functional as F

from gdist.stages.train.config import OptimConfig
from gdist.stages.train.learner import learning_rate
from gdist.stages.train.losses import LOSSES, cosine, masked_mean

# One utterance, one layer, one frame of two values: prediction (1, 0) for the target (0, 1).
#   L1 = (1 + 1) / 2 = 1      cos = 0      −log σ(0) = log 2      MSE = (1 + 1) / 2 = 1
BY_HAND = {"l1_logcos": 1 + 0.5 * math.log(2), "l1_cos": 1 + 0.5 * 1, "l1": 1.0, "mse": 1.0}


def test_every_loss_has_a_worked_example() -> None:
    assert BY_HAND.keys() == LOSSES.keys()


@pytest.mark.parametrize("name", LOSSES)
class TestConformance:
    def test_by_hand(self, name: str) -> None:
        prediction, target = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
        loss_K = LOSSES[name](prediction, target, torch.tensor([[True]]), 0.5)
        assert loss_K.tolist() == pytest.approx([BY_HAND[name]])

    def test_padding_counts_for_nothing(self, name: str) -> None:
        prediction, target = torch.randn(2, 3, 5, 4, requires_grad=True), torch.randn(2, 3, 5, 4)
        mask_BT = torch.arange(5) < torch.tensor([5, 2])[:, None]
        loss_K = LOSSES[name](prediction, target, mask_BT, 1.0)
        (gradient,) = torch.autograd.grad(loss_K.sum(), prediction)
        assert (gradient[1, :, 2:] == 0).all() and (gradient[1, :, :2] != 0).any()
        disturbed = torch.where(mask_BT[:, None, :, None], prediction, 1e3)
        assert torch.equal(LOSSES[name](disturbed, target, mask_BT, 1.0), loss_K)
        # … and an utterance weighs as many frames as it has, whatever it was padded to.
        alone_K = [
            LOSSES[name](prediction[b : b + 1, :, :n], target[b : b + 1, :, :n], mask_BT[b : b + 1, :n], 1.0)
            for b, n in ((0, 5), (1, 2))
        ]
        assert torch.allclose(loss_K, (5 * alone_K[0] + 2 * alone_K[1]) / 7)

    def test_layers_are_apart(self, name: str) -> None:
        prediction, target = torch.randn(1, 3, 4, 8, requires_grad=True), torch.randn(1, 3, 4, 8)
        loss_K = LOSSES[name](prediction, target, torch.ones(1, 4, dtype=torch.bool), 1.0)
        (gradient,) = torch.autograd.grad(loss_K[1], prediction)
        assert (gradient[:, [0, 2]] == 0).all()

    def test_falls_towards_the_target(self, name: str) -> None:
        target = torch.randn(1, 1, 4, 8)
        far = target + torch.randn_like(target)
        losses = [
            float(LOSSES[name](torch.lerp(far, target, t), target, torch.ones(1, 4, dtype=torch.bool), 1.0))
            for t in (0.0, 0.5, 0.9)
        ]
        assert losses == sorted(losses, reverse=True)


def test_masked_mean_by_hand() -> None:
    value_BKT = torch.tensor([[[1.0, 2.0, 99.0]], [[6.0, 99.0, 99.0]]])
    mask_BT = torch.tensor([[True, True, False], [True, False, False]])
    assert masked_mean(value_BKT, mask_BT).tolist() == [3.0]


def test_cosine_is_torchs_own() -> None:
    prediction, target = torch.randn(2, 3, 5, 8, requires_grad=True), torch.randn(2, 3, 5, 8)
    with torch.no_grad():
        prediction[0, 0, 0], target[1, 1, 1] = 0, 0  # as padding is
    own, theirs = cosine(prediction, target), F.cosine_similarity(prediction, target, dim=-1)
    assert torch.allclose(own, theirs, atol=1e-6) and own[0, 0, 0] == own[1, 1, 1] == 0
    somewhere = torch.ones(2, 3, 5, dtype=torch.bool)
    somewhere[0, 0, 0] = False  # no gradient is defined there
    gradients = [torch.autograd.grad(value[somewhere].sum(), prediction)[0] for value in (own, theirs)]
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6) and all(g.isfinite().all() for g in gradients)


def test_learning_rate_by_hand() -> None:
    config = OptimConfig(steps=10, warmup_steps=4, lr=1.0)
    assert [learning_rate(config, step) for step in (1, 2, 4)] == [0.25, 0.5, 1.0]
    # Six steps follow the peak; they fall by sevenths, so that the last one still moves the weights.
    assert [learning_rate(config, step) for step in (5, 10)] == pytest.approx([6 / 7, 1 / 7])
    assert learning_rate(OptimConfig(steps=10, warmup_steps=0, lr=1.0, schedule="constant"), 10) == 1.0
