"""A student with a head for classes, as Hugging Face's models for audio classification have it: a learned weighted sum
over hidden states, a projection, the mean over time, a linear layer. It is what `pipeline("audio-classification")`
and their trainer take.

Axes: B batch, S samples, K hidden states, T frames, D features, C classes.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from gdist.stages.students.base import Student

PROJECTION = 256


class AudioClassification(PreTrainedModel):  # type: ignore[misc]
    """The head over a student; ``config.num_labels`` classes. Each student's file has a class of its own from it."""

    base_model_prefix = "student"  # so that a student's own folder loads, with a fresh head
    main_input_name = "input_values"
    student_class: ClassVar[type[Student]]
    config: Any

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.student = self.student_class(config)
        self.mix_K = nn.Parameter(torch.zeros(config.num_teacher_layers + 1))
        self.projector = nn.Linear(config.hidden_size, PROJECTION)
        self.classifier = nn.Linear(PROJECTION, config.num_labels)
        self.post_init()

    def forward(
        self, input_values: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """Logits ``[B, C]``, and the cross entropy where ``labels`` are given."""
        states = self.student(input_values, attention_mask=attention_mask).hidden_states
        mixed_BTD = torch.einsum("kbtd,k->btd", torch.stack(states), self.mix_K.softmax(0))
        samples_B = (
            attention_mask.sum(-1)
            if attention_mask is not None
            else torch.full(input_values.shape[:1], input_values.shape[1], device=input_values.device)
        )
        frames_B = self.student.frontend.num_frames(samples_B).to(mixed_BTD.device)
        mask_BT1 = (torch.arange(mixed_BTD.shape[1], device=mixed_BTD.device) < frames_B[:, None])[:, :, None]
        projected_BTP = self.projector(mixed_BTD) * mask_BT1
        logits_BC = self.classifier(projected_BTP.sum(1) / frames_B[:, None])
        loss = None if labels is None else F.cross_entropy(logits_BC, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits_BC)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        Student._init_weights(self, module)  # type: ignore[arg-type]

    def freeze_student(self) -> None:
        """Train the head alone, as probes do."""
        self.student.requires_grad_(False)
