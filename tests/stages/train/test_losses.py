"""Losses: worked examples, and padding has no effect."""

import math

import pytest
import torch
import torch.nn.functional as F

from gdist.stages.testing import LossSuite
from gdist.stages.train.config import OptimConfig
from gdist.stages.train.losses import LOSSES, cosine, masked_mean
from gdist.stages.train.schedule import learning_rate

# One utterance, one layer, one frame of two values: prediction (1, 0) for the target (0, 1).
#   L1 = (1 + 1) / 2 = 1      cos = 0      −log σ(0) = log 2      MSE = (1 + 1) / 2 = 1


class TestL1LogCos(LossSuite):
    loss, by_hand = LOSSES.own["l1_logcos"], 1 + 0.5 * math.log(2)


class TestL1Cos(LossSuite):
    loss, by_hand = LOSSES.own["l1_cos"], 1 + 0.5 * 1


class TestL1(LossSuite):
    loss, by_hand = LOSSES.own["l1"], 1.0


class TestMSE(LossSuite):
    loss, by_hand = LOSSES.own["mse"], 1.0


def test_every_loss_has_a_worked_example() -> None:
    tested = [TestL1LogCos, TestL1Cos, TestL1, TestMSE]
    assert [suite().function for suite in tested] == list(LOSSES.own.values())
    assert all(suite.by_hand is not None for suite in tested)


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
    # Six steps follow the peak. The rate falls by sevenths, so that the last step still changes the weights.
    assert [learning_rate(config, step) for step in (5, 10)] == pytest.approx([6 / 7, 1 / 7])
    assert learning_rate(OptimConfig(steps=10, warmup_steps=0, lr=1.0, schedule="constant"), 10) == 1.0
