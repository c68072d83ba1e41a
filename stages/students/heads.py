"""Students with a head, for fine-tuning with Hugging Face's tools: the heads of its speech models, on a student.

| Auto class | head | answers |
|---|---|---|
| AutoModelForCTC | a linear layer | characters or phones, frame by frame, trained by CTC |
| AutoModelForAudioClassification | projection, mean over time, linear layer | one class for each utterance |
| AutoModelForAudioFrameClassification | a linear layer | one class, or several, for each frame |
| AutoModelForAudioXVector | projection, TDNN, statistics over time, two linear layers | x-vectors of speakers |

Names of modules, arguments, outputs and losses are those of ``WavLMForCTC`` and the like, and on the same hidden
states they give the same numbers; but an utterance of a padded batch always gets what it gets alone.

To add a head, write a subclass of :class:`StudentWithHead` and add its row to ``HEADS``.

Axes: B batch, S samples, L teacher layers, T frames, D features, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import (
    CausalLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
    XVectorOutput,
)
from transformers.models.wav2vec2.modeling_wav2vec2 import AMSoftmaxLoss, TDNNLayer

from gdist.stages.frontend.padding import frame_mask, zero_padding
from gdist.stages.students.base import Student, StudentConfig
from gdist.stages.students.speech_model import only


class StudentWithHead(PreTrainedModel):  # type: ignore[misc]
    """The student ``student_class`` and a head; each student has its own subclass of each head.

    Attributes:
        suffix: what the names of such classes end with.
        output: what ``forward`` returns.
    """

    base_model_prefix = Student.base_model_prefix
    main_input_name = Student.main_input_name
    input_modalities = Student.input_modalities
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ("TransformerLayer",)
    suffix: ClassVar[str]
    output: ClassVar[type[Any]]
    config_class: ClassVar[type[StudentConfig]]
    student_class: ClassVar[type[Student]]
    config: Any

    def __init__(self, config: StudentConfig) -> None:
        super().__init__(config)
        self.num_labels: int = config.num_labels
        self.student = self.student_class(config)
        if config.use_weighted_layer_sum:
            states = config.num_teacher_layers + 1
            self.layer_weights = nn.Parameter(torch.full((states,), 1 / states))
        self.make_head(config)
        self.post_init()

    def make_head(self, config: StudentConfig) -> None:
        """Make the head's modules."""
        raise NotImplementedError

    def answer(self, hidden_BTD: Tensor, frames_B: Tensor, labels: Tensor | None) -> dict[str, Tensor | None]:
        """Return the fields of the output, by their names, with ``loss`` first.

        Args:
            hidden_BTD: the student's last hidden state, or the sum over all.
            frames_B: frames of each utterance; those beyond are padding.
        """
        raise NotImplementedError

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Return the head's output; arguments are as in the student's ``forward``.

        Args:
            labels: with these, the output begins with the loss.
        """
        weighted = self.config.use_weighted_layer_sum
        asked = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        inner = self.student(
            input_values,
            attention_mask,
            output_attentions=output_attentions,
            output_hidden_states=True if weighted else asked,
            return_dict=True,
        )
        hidden_BTD, states = inner.last_hidden_state, inner.hidden_states
        if weighted:
            weights_L = self.layer_weights.softmax(-1)
            hidden_BTD = (torch.stack(states, dim=1) * weights_L.view(-1, 1, 1)).sum(dim=1)
            states = only(states, asked)
        batch, samples = input_values.shape
        samples_B = torch.full((batch,), samples) if attention_mask is None else attention_mask.sum(-1)
        fields = self.answer(hidden_BTD, self._get_feat_extract_output_lengths(samples_B), labels)
        output = self.output(**fields, hidden_states=states)
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def freeze_base_model(self) -> None:
        """Train the student no more, only the head."""
        self.student.requires_grad_(False)

    def freeze_feature_encoder(self) -> None:
        """Train the feature encoder no more."""
        self.student.freeze_feature_encoder()

    def _get_feat_extract_output_lengths(self, input_lengths: Any, add_adapter: bool | None = None) -> Any:
        return self.student._get_feat_extract_output_lengths(input_lengths, add_adapter)

    def _get_feature_vector_attention_mask(
        self, feature_vector_length: int, attention_mask: Tensor, add_adapter: bool | None = None
    ) -> Tensor:
        return self.student._get_feature_vector_attention_mask(feature_vector_length, attention_mask, add_adapter)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # of the head's modules: transformers uses the student's method for its own
        if module is self and self.config.use_weighted_layer_sum:
            init.constant_(self.layer_weights, 1 / len(self.layer_weights))
        elif isinstance(module, AMSoftmaxLoss):
            init.normal_(module.weight)


class StudentForCTC(StudentWithHead):
    """A linear layer over characters or phones. The blank is ``config.pad_token_id``; labels of -100 do not count."""

    suffix = "ForCTC"
    output = CausalLMOutput

    def make_head(self, config: StudentConfig) -> None:
        self.dropout = nn.Dropout(config.final_dropout)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)

    def answer(self, hidden_BTD: Tensor, frames_B: Tensor, labels: Tensor | None) -> dict[str, Tensor | None]:
        config = self.config
        if labels is not None and labels.max() >= config.vocab_size:
            raise ValueError(
                f"labels go up to {int(labels.max())}; vocab_size is {config.vocab_size}, so they must be below it"
            )
        logits_BTC = self.lm_head(self.dropout(hidden_BTD))
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits_BTC,
                labels=labels,
                logit_lengths=frames_B.to(torch.long),
                blank_token_id=config.pad_token_id,
                reduction=config.ctc_loss_reduction,
                zero_infinity=config.ctc_zero_infinity,
            )
        return {"loss": loss, "logits": logits_BTC}


class StudentForSequenceClassification(StudentWithHead):
    """The mean over an utterance's frames → classes, as in SUPERB. Labels are numbers ``[B]``."""

    suffix = "ForSequenceClassification"
    output = SequenceClassifierOutput

    def make_head(self, config: StudentConfig) -> None:
        self.projector = nn.Linear(config.hidden_size, config.classifier_proj_size)
        self.classifier = nn.Linear(config.classifier_proj_size, config.num_labels)

    def answer(self, hidden_BTD: Tensor, frames_B: Tensor, labels: Tensor | None) -> dict[str, Tensor | None]:
        logits_BC = self.classifier(mean_over_time(self.projector(hidden_BTD), frames_B))
        return {"loss": None if labels is None else F.cross_entropy(logits_BC, labels.view(-1)), "logits": logits_BC}


class StudentForAudioFrameClassification(StudentWithHead):
    """A linear layer for each frame, such as for diarization or phones.

    Labels are one-hot rows ``[B, T, C]``, as in transformers, or numbers ``[B, T]``; -100 does not count.
    """

    suffix = "ForAudioFrameClassification"
    output = TokenClassifierOutput

    def make_head(self, config: StudentConfig) -> None:
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def answer(self, hidden_BTD: Tensor, frames_B: Tensor, labels: Tensor | None) -> dict[str, Tensor | None]:
        logits_BTC = self.classifier(hidden_BTD)
        loss = None
        if labels is not None:
            numbers = labels.flatten(0, 1).argmax(-1) if labels.dim() == 3 else labels.flatten()
            loss = F.cross_entropy(logits_BTC.flatten(0, 1), numbers)
        return {"loss": loss, "logits": logits_BTC}


class StudentForXVector(StudentWithHead):
    """X-vectors of speakers: ``embeddings``, and logits for the additive-margin softmax with labels ``[B]``."""

    suffix = "ForXVector"
    output = XVectorOutput

    def make_head(self, config: StudentConfig) -> None:
        self.projector = nn.Linear(config.hidden_size, config.tdnn_dim[0])
        self.tdnn = nn.ModuleList(TDNNLayer(config, place) for place in range(len(config.tdnn_dim)))
        self.feature_extractor = nn.Linear(config.tdnn_dim[-1] * 2, config.xvector_output_dim)
        self.classifier = nn.Linear(config.xvector_output_dim, config.xvector_output_dim)
        self.objective = AMSoftmaxLoss(config.xvector_output_dim, config.num_labels)

    def answer(self, hidden_BTD: Tensor, frames_B: Tensor, labels: Tensor | None) -> dict[str, Tensor | None]:
        config, fewest = self.config, int(frames_B.min())
        lost = sum((kernel - 1) * step for kernel, step in zip(config.tdnn_kernel, config.tdnn_dilation, strict=True))
        if fewest < lost + 2:
            raise ValueError(
                f"an utterance has {fewest} frames; an x-vector needs {lost + 2}, since its layers see {lost + 1} at "
                "once and the deviation over time needs two of their outputs"
            )
        hidden_BTC = self.projector(hidden_BTD)
        for layer in self.tdnn:
            hidden_BTC = layer(hidden_BTC)
        rows = list(zip(hidden_BTC, (frames_B - lost).tolist(), strict=True))
        mean_BC = torch.stack([row_TC[:count].mean(dim=0) for row_TC, count in rows])
        deviation_BC = torch.stack([row_TC[:count].std(dim=0) for row_TC, count in rows])
        embedding_BX = self.feature_extractor(torch.cat([mean_BC, deviation_BC], dim=-1))
        logits_BX = self.classifier(embedding_BX)
        loss = None if labels is None else self.objective(logits_BX, labels)
        return {"loss": loss, "logits": logits_BX, "embeddings": embedding_BX}


HEADS: Mapping[str, type[StudentWithHead]] = {
    "AutoModelForCTC": StudentForCTC,
    "AutoModelForAudioClassification": StudentForSequenceClassification,
    "AutoModelForAudioFrameClassification": StudentForAudioFrameClassification,
    "AutoModelForAudioXVector": StudentForXVector,
}


def mean_over_time(hidden_BTD: Tensor, frames_B: Tensor) -> Tensor:
    """The mean over each utterance's own frames, ``[B, D]``."""
    mask_BT = frame_mask(frames_B, hidden_BTD.shape[1], hidden_BTD.device)
    if mask_BT is None:
        return hidden_BTD.mean(dim=1)
    return zero_padding(hidden_BTD, mask_BT).sum(dim=1) / mask_BT.sum(dim=1).view(-1, 1)


def head_of(student: type[Student], head: type[StudentWithHead]) -> type[StudentWithHead]:
    """Return the class of ``student`` with a head; an export writes the same three lines into a separate file."""
    fields = {"config_class": student.config_class, "student_class": student, "__module__": student.__module__}
    return type(head_name(student, head), (head,), fields)


def head_name(student: type[Student], head: type[StudentWithHead]) -> str:
    """``LSTMStudent`` → ``LSTMStudentForCTC``; ``GenDistillerModel`` → ``GenDistillerForCTC``."""
    return f"{student.__name__.removesuffix('Model')}{head.suffix}"
