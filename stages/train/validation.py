"""Loss and cosine on held-out utterances, in free-running generation, as the student is used.

Axes: K predicted layers.
"""

from typing import TYPE_CHECKING, Any

import torch

from gdist.pipeline.loading.batch import Batch

if TYPE_CHECKING:
    from gdist.stages.train.learner import Learner


class Validation:
    """One validation of one student, batch by batch."""

    def __init__(self, learner: "Learner") -> None:
        self.learner = learner
        self.layers = learner.student.predicted_layers
        self.selection = learner.objective.validation_selection()
        learner.result.eval()
        device = learner.ranks.device
        self._ones = torch.ones(1, dtype=torch.float64, device=device)
        self._sums = torch.zeros(1 + 2 * len(self.layers), dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, batch: Batch) -> None:
        """Add a batch, in which there may be more than this student needs."""
        loss_K, cosine_K = self.learner.validated(batch.part(self.selection))
        self._sums += torch.cat([self._ones, loss_K.double(), cosine_K.double()]) * batch.frames

    def means(self) -> dict[str, Any]:
        """The fields for metrics.jsonl: means over the frames of all ranks."""
        weight, *means = self.learner.ranks.add(self._sums).tolist()
        count = len(self.layers)
        losses, cosines = means[:count], means[count:]
        found: dict[str, Any] = {
            "loss": sum(losses) / weight / count,
            "cosine": sum(cosines) / weight / count,
            "cosine_by_layer": {
                self.learner.layer_name(layer): c / weight for layer, c in zip(self.layers, cosines, strict=True)
            },
        }
        teachers = self.learner.student.teachers
        if len(teachers) > 1:
            found["cosine_by_teacher"] = {
                name: sum(c for layer, c in zip(self.layers, cosines, strict=True) if layer in teacher.numbers)
                / (weight * len(teacher.numbers))
                for name, teacher in zip(self.learner.names, teachers, strict=True)
            }
        return found
