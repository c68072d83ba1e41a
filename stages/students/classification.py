"""A student with a head that classifies utterances, for fine-tuning with Hugging Face's tools.

The head does what wav2vec 2.0's does with ``use_weighted_layer_sum``, as in SUPERB: a learned sum over hidden states
→ a projection → the mean over an utterance's frames → a linear layer. Layers start with equal weights.

Axes: B batch, S samples, L teacher layers, T frames, D features, P features of the projection, C classes.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput

from gdist.stages.frontend.padding import frame_mask, zero_padding
from gdist.stages.students.base import Student, StudentConfig

PROJECTION = 256  # P; as in SUPERB's heads


class StudentForAudioClassification(PreTrainedModel):  # type: ignore[misc]
    """The student ``student_class`` and its head; each student has its own subclass, next to it.

    ``config.num_labels``, ``id2label`` and ``label2id`` are Hugging Face's.
    """

    base_model_prefix = "student"
    main_input_name = "input_values"
    config_class: ClassVar[type[StudentConfig]]
    student_class: ClassVar[type[Student]]
    config: Any

    def __init__(self, config: StudentConfig) -> None:
        super().__init__(config)
        self.student = self.student_class(config)
        self.layer_weights = nn.Parameter(torch.zeros(config.num_teacher_layers + 1))
        self.projector = nn.Linear(config.hidden_size, PROJECTION)
        self.classifier = nn.Linear(PROJECTION, config.num_labels)
        self.post_init()

    def freeze_base_model(self) -> None:
        """Freeze the student, so that only the head learns."""
        self.student.requires_grad_(False)

    def freeze_feature_encoder(self) -> None:
        """Freeze the front-end."""
        self.student.frontend.requires_grad_(False)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return ``logits_BC``, and the cross-entropy with ``labels`` ``[B]`` if they are given."""
        states = self.student(input_values, attention_mask).hidden_states
        weights_L = self.layer_weights.softmax(-1)
        hidden_BTD = torch.stack([weight * state for weight, state in zip(weights_L, states, strict=True)]).sum(0)
        batch, samples = input_values.shape
        samples_B = torch.full((batch,), samples) if attention_mask is None else attention_mask.sum(-1)
        frames_B = self.student.frontend.num_frames(samples_B)
        mask_BT = frame_mask(frames_B, hidden_BTD.shape[1], hidden_BTD.device)
        sum_BP = zero_padding(self.projector(hidden_BTD), mask_BT).sum(1)
        logits_BC = self.classifier(sum_BP / frames_B.to(sum_BP.device).clamp(min=1)[:, None])
        loss = None if labels is None else F.cross_entropy(logits_BC, labels.view(-1))
        if return_dict is False:
            return (logits_BC,) if loss is None else (loss, logits_BC)
        return SequenceClassifierOutput(loss, logits_BC, states if output_hidden_states else None)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # only for the head: transformers uses the student's method for its own modules
        if module is self:
            init.zeros_(self.layer_weights)


def classifier_of(student: type[Student]) -> type[StudentForAudioClassification]:
    """Return the class of ``student`` with a head; an export writes the same three lines into a separate file."""
    fields = {"config_class": student.config_class, "student_class": student, "__module__": student.__module__}
    return type(classifier_name(student), (StudentForAudioClassification,), fields)


def classifier_name(student: type[Student]) -> str:
    """``LSTMStudent`` → ``LSTMStudentForAudioClassification``; ``GenDistillerModel`` → ``GenDistillerFor…``."""
    return f"{student.__name__.removesuffix('Model')}ForAudioClassification"
