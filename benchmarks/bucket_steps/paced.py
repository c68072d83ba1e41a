"""A student that learns at a given pace and leaves the cores to whoever reads, as a GPU would.

It reads all layers that are stored, predicts the last one by scaling layer 0, and waits for as long as a device of
that pace would take: ``student.pace`` in seconds of audio per second.
"""

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from gdist.pipeline import framing
from gdist.stages.frontend.padding import frame_mask, zero_padding
from gdist.stages.students.base import StepPlan, Student, StudentConfig


class PacedConfig(StudentConfig):
    """Fields in addition to the common ones."""

    model_type = "gdist-paced"

    pace: float = 300.0


class Paced(Student):
    """One number per feature."""

    config_class = PacedConfig

    def __init__(self, config: PacedConfig) -> None:
        super().__init__(config)
        self.scale_D = nn.Parameter(torch.ones(config.hidden_size))
        self.post_init()

    def plan(self, count: int, rng: np.random.Generator) -> StepPlan:
        return StepPlan(self.predicted_layers[-1:], (0, *self.predicted_layers))

    def learn(
        self, plan: StepPlan, given: Mapping[int, Tensor], num_frames_B: Tensor, forced_BK: Tensor | None = None
    ) -> Tensor:
        time.sleep(int(num_frames_B.sum()) / framing.WAV2VEC2.frames_per_second / self.config.pace)
        return self.predict(given[0], num_frames_B, plan.answers)

    def predict(self, h0_BTD: Tensor, num_frames_B: Tensor, layers: Sequence[int] | None = None) -> Tensor:
        mask_BT = frame_mask(num_frames_B, h0_BTD.shape[1], h0_BTD.device)
        hidden_BTD = zero_padding(h0_BTD * self.scale_D, mask_BT)
        return torch.stack([hidden_BTD] * len(layers or self.predicted_layers), dim=1)
