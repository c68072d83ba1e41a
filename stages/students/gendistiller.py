"""GenDistiller (arXiv 2406.09444): one shared layer generates the teacher's layers one after another.

    h_0 = frontend(waveform)
    h_l = skip(h_{l-1}) + out(layer(h_{l-1} + embedding_l)),  l = 1 … L

The skip connection and the output layer are the paper's. The layer embedding and the output layer that begins
at zero are ours: the student then begins as the copy of h_0, which is what it has to improve on.

Axes: B batch, T frames, K predicted layers, L teacher layers, D features.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import initialization as init

from gdist.stages.frontend import frame_mask, zero_padding
from gdist.stages.students.base import HISTORIES, History, Student, StudentConfig
from gdist.stages.students.layer import TransformerLayer


class GenDistillerConfig(StudentConfig):
    """Beside the common fields:

    Args:
        skip: add h_{l-1} to each step's output.
        output_layer: "linear" after the Transformer layer, or "none".
        output_init: how the output layer begins, at "zero" or at "random".
        layer_embedding: tell the shared layer which layer it generates.
        history: what a training step starts from: the "student"'s own previous layer, the "teacher"'s cached
            one, or "mixed", a coin for each utterance and layer.
        mixed_teacher_ratio: the coin's probability of the teacher's.
    """

    model_type = "gendistiller"

    skip: bool = True
    output_layer: Literal["linear", "none"] = "linear"
    output_init: Literal["zero", "random"] = "zero"
    layer_embedding: bool = True
    history: History = "student"
    mixed_teacher_ratio: float = 0.5

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name, choices in (
            ("output_layer", ("linear", "none")),
            ("output_init", ("zero", "random")),
            ("history", HISTORIES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}")
        if not 0 <= self.mixed_teacher_ratio <= 1:
            raise ValueError(f"mixed_teacher_ratio is {self.mixed_teacher_ratio}; it must be from 0 to 1")


class GenDistillerModel(Student):
    """The student of the paper, with each of its parts a config field."""

    config_class = GenDistillerConfig

    def __init__(self, config: GenDistillerConfig) -> None:
        super().__init__(config)
        self.layer = config.new_layer()
        linear = config.output_layer == "linear"
        self.output = nn.Linear(config.hidden_size, config.hidden_size) if linear else None
        self.layer_embedding = (
            nn.Embedding(config.num_teacher_layers, config.hidden_size) if config.layer_embedding else None
        )
        self.post_init()

    def predict(
        self,
        h0_BTD: Tensor,
        num_frames_B: Tensor,
        targets_BLTD: Tensor | None = None,
        history: History | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, tuple[int, ...]]:
        """All L layers. With the history "teacher" they are one batch of L·B; layer 1 starts from ``h0_BTD``."""
        history = history or self.config.history
        layers = tuple(range(1, self.config.num_teacher_layers + 1))
        if history == "student":
            return self._generate(h0_BTD, num_frames_B), layers
        if targets_BLTD is None:
            raise ValueError(f"the history {history!r} needs the teacher's layers")
        targets_BLTD = targets_BLTD.to(h0_BTD.dtype)
        if history == "teacher":
            previous_BLTD = torch.cat([h0_BTD[:, None], targets_BLTD[:, :-1]], dim=1)
            return self.predict_from(previous_BLTD, num_frames_B, layers), layers
        # The coins are drawn where the generator lives, so that CPU and GPU runs toss the same.
        where = "cpu" if generator is None else generator.device
        tosses_BL = torch.rand(len(h0_BTD), len(layers), generator=generator, device=where)
        coins_BL = (tosses_BL < self.config.mixed_teacher_ratio).to(h0_BTD.device)
        return self._generate(h0_BTD, num_frames_B, targets_BLTD, coins_BL), layers

    def predict_from(self, previous_BKTD: Tensor, num_frames_B: Tensor, layers: Sequence[int]) -> Tensor:
        """One step for each of K layers (1 … L, in any order), each from its own previous state, as one batch.

        Training on a few layers a step reads only those and the ones before them; feeding the result back with
        every layer one higher lets the student go on by itself from where the teacher left it.
        """
        batch, count, frames, dim = previous_BKTD.shape
        mask_BT = frame_mask(num_frames_B, frames, previous_BKTD.device)
        if mask_BT is not None:
            mask_BT = mask_BT.repeat_interleave(count, dim=0)
        embedding = None
        if self.layer_embedding is not None:
            rows_K = torch.tensor([layer - 1 for layer in layers], device=previous_BKTD.device)
            embedding = self.layer_embedding(rows_K).repeat(batch, 1)[:, None, :]
        hidden = self._step(previous_BKTD.reshape(batch * count, frames, dim), embedding, mask_BT)
        return hidden.view(batch, count, frames, dim)

    def layers(self) -> Iterable[TransformerLayer]:
        return (self.layer,)

    def _generate(
        self,
        h0_BTD: Tensor,
        num_frames_B: Tensor,
        targets_BLTD: Tensor | None = None,
        coins_BL: Tensor | None = None,
    ) -> Tensor:
        mask_BT = frame_mask(num_frames_B, h0_BTD.shape[1], h0_BTD.device)
        hidden_BTD, generated = h0_BTD, []
        for i in range(self.config.num_teacher_layers):
            if i > 0 and targets_BLTD is not None and coins_BL is not None:
                hidden_BTD = torch.where(coins_BL[:, i, None, None], targets_BLTD[:, i - 1], hidden_BTD)
            embedding = None if self.layer_embedding is None else self.layer_embedding.weight[i]
            hidden_BTD = self._step(hidden_BTD, embedding, mask_BT)
            generated.append(hidden_BTD)
        return torch.stack(generated, dim=1)

    def _step(self, previous_BTD: Tensor, embedding: Tensor | None, mask_BT: Tensor | None) -> Tensor:
        hidden_BTD = previous_BTD if embedding is None else previous_BTD + embedding
        hidden_BTD = self.layer(hidden_BTD, mask_BT)
        if self.output is not None:
            hidden_BTD = self.output(hidden_BTD)
        hidden_BTD = hidden_BTD.to(previous_BTD.dtype)
        if self.config.skip:
            hidden_BTD = hidden_BTD + previous_BTD
        return zero_padding(hidden_BTD, mask_BT)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.output and self.config.output_init == "zero":
            init.zeros_(module.weight)
