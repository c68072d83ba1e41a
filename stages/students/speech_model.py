"""What code written for Hugging Face's speech models touches in a student: it does what it does in ``WavLMModel``.

What a student cannot do is refused in words. ``tests/stages/students/test_contract.py`` has the table, one row for
each argument and attribute, and tries it on both.

Axes: B batch, S samples, T frames, D features, L teacher layers.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

from gdist.stages.frontend.interface import AudioFrontend
from gdist.stages.frontend.kinds import build_frontend, frontend_config
from gdist.stages.frontend.padding import frame_mask, is_symbolic
from gdist.stages.students.configuration import StudentConfig
from gdist.stages.students.fine_tuning import REFUSED
from gdist.stages.students.layer import drop
from gdist.stages.students.spec_augment import SpecAugment

ELSEWHERE = {
    "feature_extractor": "its convolutions are a part of .frontend, and .freeze_feature_encoder() freezes them",
    "feature_projection": "it is a part of .frontend",
    "encoder": "its Transformer layers are in .layers()",
    "adapter": REFUSED["add_adapter"],
    "extract_features": "a student returns no features from before layer 0",
    "attentions": REFUSED["output_attentions"],
}


class SpeechModel(PreTrainedModel):  # type: ignore[misc]
    """A front-end, and hidden states of a teacher's layers, with the interface of Hugging Face's speech models."""

    config_class = StudentConfig
    base_model_prefix = "student"
    main_input_name = "input_values"
    input_modalities = "audio"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ("TransformerLayer",)
    config: Any

    def __init__(self, config: StudentConfig) -> None:
        super().__init__(config)
        config.require_fine_tuning()
        self.frontend: AudioFrontend = build_frontend(frontend_config(config.frontend))
        if config.masks:
            self.masked_spec_embed = nn.Parameter(torch.zeros(config.hidden_size))

    def states(
        self, h0_BTD: Tensor, num_frames_B: Tensor, layers: Sequence[int], teacher: str | None = None
    ) -> list[Tensor]:
        """Hidden states ``[B, T, D]`` of a teacher's layers, ascending; 0 is that teacher's layer 0."""
        raise NotImplementedError

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        return_dict: bool | None = None,
        last_layer: int | None = None,
        teacher: str | None = None,
    ) -> Any:
        """Return what the teacher's ``forward`` does, free-running: ``last_hidden_state`` and ``hidden_states``.

        A layer that is not predicted gets the prediction of the nearest predicted layer, and of the lower one in a
        tie. No more is computed than the states that are asked for need.

        Args:
            input_values: ``[B, S]`` samples at 16 kHz, normalized when ``config.do_normalize`` is set.
            attention_mask: ``[B, S]``, 1 for samples and 0 for padding at the end; None when nothing is padded.
            mask_time_indices: ``[B, T]``, frames to mask instead of those that SpecAugment draws in training.
            output_attentions: refused, since there are none.
            output_hidden_states: True for L + 1 tensors ``[B, T, D]``; numbers for those alone, with None in place of
                the others; by default what ``config.output_hidden_states`` says.
            return_dict: False for a tuple; by default what ``config.return_dict`` says.
            last_layer: the student ends there: its hidden states are then ``last_layer`` + 1.
            teacher: whose layers; None for the first teacher's, a name for those of another one that it has learned
                from. The latter's layer 0 is treated as one that is not predicted.

        Raises:
            ValueError: an argument is impossible, or is something that a student does not have; or an utterance is
                shorter than ``frontend.framing.fewest`` samples.
        """
        config = self.config
        depth = self.teacher(teacher).config.num_teacher_layers
        last = depth if last_layer is None else last_layer
        if type(last) is not int or not 0 <= last <= depth:
            raise ValueError(f"last_layer is {last_layer!r}; it must be a whole number from 0 to {depth}")
        if config.output_attentions if output_attentions is None else output_attentions:
            raise ValueError(f"output_attentions: {REFUSED['output_attentions']}")
        asked = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        wanted = selected(asked, last + 1)
        batch, samples = input_values.shape
        if attention_mask is not None and attention_mask.shape != input_values.shape:
            given = " × ".join(map(str, attention_mask.shape))
            raise ValueError(f"attention_mask is {given}, and input_values {batch} × {samples}")
        num_samples_B = torch.full((batch,), samples) if attention_mask is None else attention_mask.sum(-1)
        num_samples_B = self.frontend.enough(num_samples_B)
        augment = SpecAugment(config, self.training, getattr(self, "masked_spec_embed", None), mask_time_indices)
        h0_BTD = self.frontend(input_values, num_samples_B, augment if augment.changes else None)
        if self.training and config.hidden_dropout:
            h0_BTD = drop(h0_BTD, config.hidden_dropout)
        num_frames_B = self.frontend.num_frames(num_samples_B)
        layers = sorted({last, *wanted})
        found = self.states(h0_BTD, num_frames_B, layers, teacher)
        if attention_mask is not None and not is_symbolic():
            # A batch padded beyond its longest utterance keeps its length, as the teacher's would.
            frames = int(self.frontend.num_frames(torch.tensor(samples)))
            found = [F.pad(h, (0, 0, 0, frames - h.shape[1])) for h in found]
        by_layer = dict(zip(layers, found, strict=True))
        states = only([by_layer.get(layer) for layer in range(last + 1)], asked)
        if not (config.return_dict if return_dict is None else return_dict):
            return (by_layer[last],) if states is None else (by_layer[last], states)
        return BaseModelOutput(last_hidden_state=by_layer[last], hidden_states=states)

    def teacher(self, name: str | None) -> Any:
        """Return what belongs to the teacher of this name, or to the first one."""
        raise NotImplementedError

    def freeze_feature_encoder(self) -> None:
        """Train the feature encoder, the part of the front-end before its projection, no more."""
        for module in self.frontend.feature_encoder():
            module.requires_grad_(False)

    def _get_feat_extract_output_lengths(self, input_lengths: Any, add_adapter: bool | None = None) -> Any:
        """Frames of each utterance, of so many samples; a number, or a tensor of them."""
        if add_adapter:
            raise ValueError(f"add_adapter: {REFUSED['add_adapter']}")
        if isinstance(input_lengths, Tensor):
            return self.frontend.num_frames(input_lengths)
        return int(self.frontend.num_frames(torch.tensor(input_lengths)))

    def _get_feature_vector_attention_mask(
        self, feature_vector_length: int, attention_mask: Tensor, add_adapter: bool | None = None
    ) -> Tensor:
        """True where a frame belongs to its utterance, ``[B, T]``."""
        frames_B = self._get_feat_extract_output_lengths(attention_mask.sum(-1), add_adapter)
        mask_BT = frame_mask(frames_B, feature_vector_length, attention_mask.device)
        if mask_BT is None:
            return torch.ones(len(frames_B), feature_vector_length, dtype=torch.bool, device=attention_mask.device)
        return mask_BT

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            if name in ELSEWHERE:
                raise AttributeError(f"{type(self).__name__} has no {name}: {ELSEWHERE[name]}") from error
            raise

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self and self.config.masks:
            init.uniform_(self.masked_spec_embed)


def selected(asked: bool | int | Sequence[int] | None, count: int) -> list[int]:
    """Return the numbers of the hidden states that ``output_hidden_states`` asks for, of ``count``, ascending.

    As in transformers, a negative number counts from the end, and one out of range selects nothing.

    >>> selected(True, 3), selected(None, 3), selected(-1, 3), selected([0, 2, 7], 3)
    ([0, 1, 2], [], [2], [0, 2])
    """
    if asked is None or isinstance(asked, bool):
        return list(range(count)) if asked else []
    numbers = [asked] if isinstance(asked, int) else list(asked)
    return sorted({number % count for number in numbers if -count <= number < count})


def only(
    states: Sequence[Tensor | None], asked: bool | int | Sequence[int] | None
) -> tuple[Tensor | None, ...] | None:
    """Return what ``hidden_states`` of an output is: the states that are asked for, each at its own place."""
    wanted = selected(asked, len(states))
    return tuple(state if layer in wanted else None for layer, state in enumerate(states)) if wanted else None
