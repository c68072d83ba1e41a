"""What a student is trained on: the layers that a step reads and predicts, and the loss of a batch.

Axes: B batch, K predicted layers, T frames, D features, S samples.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from gdist.pipeline.errors import ConfigError
from gdist.pipeline.loading.batch import Batch, Selection
from gdist.stages.device import pinned, to_device
from gdist.stages.frontend.padding import normalize
from gdist.stages.students import Student
from gdist.stages.students.base import StepPlan
from gdist.stages.train.augment import Augment
from gdist.stages.train.config import TrainConfig
from gdist.stages.train.losses import LOSSES, cosine, masked_mean


@dataclass(frozen=True)
class StepSelection(Selection):
    """A step's plan, and what it therefore reads."""

    plan: StepPlan = field(kw_only=True)

    @classmethod
    def of(cls, plan: StepPlan, reads_audio: bool) -> "StepSelection":
        """``reads_audio``: whether the student's layer 0 comes from its own front-end, not from the cache."""
        layers = set(plan.answers) | set(plan.inputs) - ({0} if reads_audio else set())
        return cls(tuple(sorted(layers)), reads_audio and 0 in plan.inputs, plan=plan)


class Objective(nn.Module):
    """A student and its loss as one module, which is distributed over ranks.

    Attributes:
        reads_audio: whether layer 0 is computed from audio; with a frozen front-end it comes from the cache.
    """

    def __init__(self, student: Student, config: TrainConfig) -> None:
        super().__init__()
        self.student, self.config = student, config
        self.reads_audio = config.student["frontend"] == "trained"
        self.loss = LOSSES[config.loss.name]
        self.augment = Augment(config.augment)
        self.augment.prepare()
        self.weights = layer_weights(student, config)

    def training_selection(self, epoch: int, place: int) -> StepSelection:
        """What a step reads of a batch and predicts; a step that does not need layer 0 reads no audio."""
        rng = np.random.default_rng([self.config.train.seed, epoch, place, 1])
        return StepSelection.of(self.student.plan(self.config.train.layers_per_step, rng), self.reads_audio)

    def validation_selection(self) -> StepSelection:
        """All layers in free-running generation, as the student is used."""
        return StepSelection.of(StepPlan(self.student.predicted_layers), self.reads_audio)

    def forward(self, batch: Batch, forced_BK: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(weighted loss, mean cosine) of one batch, each ``[K]``, one value per predicted layer.

        Those of several teachers come teacher by teacher, as in the plan.

        Args:
            forced_BK: see :meth:`Student.learn`.
        """
        selection = batch.selection
        assert isinstance(selection, StepSelection)
        plan, device = selection.plan, self.student.device
        given = {layer: batch.hidden(layer).to(device, non_blocking=True) for layer in selection.layers}
        precision = self.config.train.precision
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            if selection.waveforms:
                given[0] = self.encode(batch)
            predictions = self._predictions(plan, given, batch, forced_BK)
        mask_BT = batch.mask_BT.to(device, non_blocking=True)
        losses: list[Tensor] = []
        cosines: list[Tensor] = []
        answers = iter(plan.answers)
        for prediction_BKTD in predictions:  # of one teacher each, since teachers may differ in width
            layers = itertools.islice(answers, prediction_BKTD.shape[1])
            target_BKTD = torch.stack([given[layer] for layer in layers], dim=1)
            losses.append(self.loss(prediction_BKTD, target_BKTD, mask_BT, self.config.loss.cosine_weight))
            cosines.append(masked_mean(cosine(prediction_BKTD.detach(), target_BKTD), mask_BT))
        loss_K, cosine_K = (found[0] if len(found) == 1 else torch.cat(found) for found in (losses, cosines))
        weight_K = torch.tensor([self.weights[layer] for layer in plan.answers], dtype=loss_K.dtype)
        return loss_K * to_device(weight_K, device), cosine_K

    def _predictions(
        self, plan: StepPlan, given: Mapping[int, Tensor], batch: Batch, forced_BK: Tensor | None
    ) -> list[Tensor]:
        """Return the predictions of the plan's answers, those of each teacher as one tensor: float32 [B, K, T, D]."""
        student = self.student
        if len(student.teachers) == 1:
            return [student.learn(plan, given, batch.num_frames_B, forced_BK).float()]
        each = student.learn_each(plan, given, batch.num_frames_B, forced_BK)
        found: list[Tensor] = []
        for teacher in student.teachers:
            own = [h for layer, h in zip(plan.answers, each, strict=True) if layer in teacher.numbers]
            found += [torch.stack(own, dim=1).float()] if own else []
        return found

    def encode(self, batch: Batch) -> Tensor:
        """The student's layer 0, computed from the audio, which is normalized first if the teacher's was."""
        assert batch.waveform_BS is not None
        waveform_BS = batch.waveform_BS.to(self.student.device, non_blocking=True)
        if self.student.config.do_normalize:
            waveform_BS = normalize(waveform_BS, batch.num_samples_B)
        h0_BTD: Tensor = self.student.frontend(waveform_BS, batch.num_samples_B)
        return h0_BTD

    @property
    def augments(self) -> bool:
        """Whether the audio of training batches is augmented."""
        return self.reads_audio and self.config.augment.enabled

    def augmented(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with its audio augmented by the draws of ``generator``, in pinned memory if it goes to a GPU."""
        if batch.waveform_BS is None or batch.idle:
            return batch
        waveform_BS = self.augment(batch.waveform_BS, batch.num_samples_B, generator, batch.speakers)
        return replace(batch, waveform_BS=pinned(waveform_BS, self.student.device))


def layer_weights(student: Student, config: TrainConfig) -> dict[int, float]:
    """Predicted layer → the weight of its loss; the mean weight is 1.

    Raises:
        ConfigError: there is not exactly one weight per predicted layer.
    """
    layers, weights = student.predicted_layers, config.loss.layer_weights or (1.0,) * len(student.predicted_layers)
    shares = config.loss.teacher_weights or (1.0,) * len(student.teachers)
    if len(shares) != len(student.teachers):
        raise ConfigError(
            f"loss.teacher_weights has {len(shares)} numbers, and the student has {len(student.teachers)} teachers",
            "give one number for each, in the order of --cache",
        )
    if len(weights) != len(layers):
        raise ConfigError(
            f"loss.layer_weights has {len(weights)} numbers for the {len(layers)} predicted layers {list(layers)}",
            "give one number for each, in this order",
        )
    found: dict[int, float] = {}
    given = dict(zip(layers, weights, strict=True))
    for teacher, share in zip(student.teachers, shares, strict=True):
        own = [given[layer] for layer in teacher.numbers]
        if not sum(own):
            raise ConfigError(f"loss.layer_weights is 0 for all layers of {teacher.name or 'the first teacher'}")
        # Of each teacher, the mean over its own layers counts, as much as the share says.
        scale = 1.0 if len(shares) == 1 else share / sum(shares) * len(layers) / len(own)
        mean = sum(own) / len(own)
        found |= {layer: given[layer] / mean * scale for layer in teacher.numbers}
    return found
