"""What a student is trained on: which layers a step reads and answers for, and the loss of a batch.

Axes: B batch, K predicted layers, T frames, D features, S samples.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from gdist.pipeline.errors import ConfigError
from gdist.pipeline.loading.batch import Batch, Selection
from gdist.stages.frontend.padding import normalize
from gdist.stages.students import Student
from gdist.stages.students.base import StepPlan
from gdist.stages.train.augment import Augment
from gdist.stages.train.config import TrainConfig
from gdist.stages.train.losses import LOSSES, cosine, masked_mean


@dataclass(frozen=True)
class Lesson(Selection):
    """A training step's plan, and what it therefore reads."""

    plan: StepPlan = field(kw_only=True)

    @classmethod
    def of(cls, plan: StepPlan, hears: bool) -> "Lesson":
        """``hears``: whether the student's layer 0 comes from its own front-end, and not from the cache."""
        layers = set(plan.answers) | set(plan.inputs) - ({0} if hears else set())
        return cls(tuple(sorted(layers)), hears and 0 in plan.inputs, plan=plan)


class Objective(nn.Module):
    """A student and its loss, as one module: what is distributed over ranks.

    Attributes:
        hears: whether layer 0 is computed from audio; a frozen front-end's comes from the cache.
    """

    def __init__(self, student: Student, config: TrainConfig) -> None:
        super().__init__()
        self.student, self.config = student, config
        self.hears = config.student["frontend"] == "trained"
        self.loss = LOSSES[config.loss.name]
        self.augment = Augment(config.augment)
        self.augment.prepare()
        self.weights = layer_weights(student, config)

    def lesson(self, rng: np.random.Generator) -> Lesson:
        """What one training step reads and answers for; a step that needs no layer 0 hears nothing."""
        return Lesson.of(self.student.plan(self.config.train.layers_per_step, rng), self.hears)

    def examination(self) -> Lesson:
        """All layers, generated freely: what the student is for."""
        return Lesson.of(StepPlan(self.student.predicted_layers), self.hears)

    def forward(
        self, batch: Batch, forced_BK: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """(weighted loss, mean cosine), each by layer answered for [K], of one batch.

        Args:
            forced_BK: see :meth:`Student.learn`.
            generator: draws what is mixed into the audio; None leaves it clean.
        """
        lesson = batch.selection
        assert isinstance(lesson, Lesson)
        plan, device = lesson.plan, self.student.device
        given = {layer: batch.hidden(layer).to(device, non_blocking=True) for layer in lesson.layers}
        precision = self.config.train.precision
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            if lesson.waveforms:
                given[0] = self.hear(batch, generator)
            prediction_BKTD = self.student.learn(plan, given, batch.num_frames_B, forced_BK).float()
        target_BKTD = torch.stack([given[layer] for layer in plan.answers], dim=1)
        mask_BT = (torch.arange(target_BKTD.shape[2]) < batch.num_frames_B[:, None]).to(device, non_blocking=True)
        loss_K = self.loss(prediction_BKTD, target_BKTD, mask_BT, self.config.loss.cosine_weight)
        weight_K = loss_K.new_tensor([self.weights[layer] for layer in plan.answers])
        cosine_BKT = cosine(prediction_BKTD.detach(), target_BKTD)
        return loss_K * weight_K, masked_mean(cosine_BKT, mask_BT)

    def hear(self, batch: Batch, generator: torch.Generator | None) -> Tensor:
        """The student's layer 0 of the audio, normalised first where the teacher's was."""
        assert batch.waveform_BS is not None
        waveform_BS = batch.waveform_BS
        if generator is not None and self.config.augment.enabled and not batch.idle:
            waveform_BS = self.augment(waveform_BS, batch.num_samples_B, generator, batch.speakers)
        waveform_BS = waveform_BS.to(self.student.device, non_blocking=True)
        if self.student.config.do_normalize:
            waveform_BS = normalize(waveform_BS, batch.num_samples_B)
        h0_BTD: Tensor = self.student.frontend(waveform_BS, batch.num_samples_B)
        return h0_BTD


def layer_weights(student: Student, config: TrainConfig) -> dict[int, float]:
    """Predicted layer → the weight of its loss; 1 on average.

    Raises:
        ConfigError: not one weight for each predicted layer.
    """
    layers, weights = student.predicted_layers, config.loss.layer_weights or (1.0,) * len(student.predicted_layers)
    if len(weights) != len(layers):
        raise ConfigError(
            f"loss.layer_weights has {len(weights)} numbers for the {len(layers)} predicted layers {list(layers)}",
            "one number for each, in their order",
        )
    mean = sum(weights) / len(weights)
    return {layer: weight / mean for layer, weight in zip(layers, weights, strict=True)}
