"""The baseline, in the style of DistilHuBERT (arXiv 2110.01900): two layers, and a linear head for each of 3 targets.

Axes: B batch, T frames, K predicted layers, L teacher layers, D features.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gdist.stages.frontend.limits import require_whole
from gdist.stages.frontend.padding import frame_mask, zero_padding
from gdist.stages.students.base import Student, StudentConfig
from gdist.stages.students.layer import TransformerLayer


class DistilHubertConfig(StudentConfig):
    """Fields in addition to the common ones.

    Args:
        num_layers: Transformer layers of the student.
        predict_layers: the teacher layers with a head; None means thirds of L: 4, 8 and 12 of 12. Each of several
            teachers has heads of its own, in its own width.
    """

    model_type = "gdist-distilhubert"

    num_layers: int = 2

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        require_whole(self, 1, "num_layers")

    def own_layers(self) -> Iterable[int]:
        return sorted({max(1, round(self.num_teacher_layers * third / 3)) for third in (1, 2, 3)})


class DistilHubertModel(Student):
    """Front-end, layers, heads. The heads are thrown away after distillation."""

    config_class = DistilHubertConfig
    several_teachers = True

    def __init__(self, config: DistilHubertConfig) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList(TransformerLayer(**config.layer_shape) for _ in range(config.num_layers))
        self.heads = nn.ModuleList(
            nn.Linear(config.hidden_size, teacher.config.hidden_size)
            for teacher in self.teachers
            for _ in teacher.numbers
        )
        self.post_init()

    def predict(self, h0_BTD: Tensor, num_frames_B: Tensor, layers: Sequence[int] | None = None) -> Tensor:
        """Predict the layers with a head, all from the last block."""
        return torch.stack(self.predict_each(h0_BTD, num_frames_B, layers or self.first_layers), dim=1)

    def predict_each(self, h0_BTD: Tensor, num_frames_B: Tensor, layers: Sequence[int]) -> list[Tensor]:
        mask_BT = frame_mask(num_frames_B, h0_BTD.shape[1], h0_BTD.device)
        hidden_BTD = h0_BTD
        for block in self.blocks:
            hidden_BTD = block(hidden_BTD, mask_BT)
        heads = [self.heads[self.predicted_layers.index(layer)] for layer in layers]
        return [zero_padding(head(hidden_BTD).to(h0_BTD.dtype), mask_BT) for head in heads]

    def layers(self) -> Iterable[TransformerLayer]:
        return self.blocks  # type: ignore[return-value]  # a ModuleList's elements have no more specific type

    def throwaway(self) -> Iterable[nn.Parameter]:
        return self.heads.parameters()
