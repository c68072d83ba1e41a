"""A thin and deep student in the style of FitHuBERT (arXiv 2207.00555): as many layers as the teacher, 5/8 as wide.

    h_0 = frontend(waveform)
    b_0 = narrow(h_0),  b_i = block_i(b_{i-1}),  h_l = head_l(b_{block of l})

The published model is also narrower before its blocks: thinner convolutions, the positional convolution at the
blocks' width, and a convolution that halves the number of frames, which is undone before each head. Here the
front-end has the teacher's form, as for every student, so that it can be copied from the teacher, frozen, or skipped
in favor of the cached layer 0.

A recipe can choose the published loss: mean squared error, with weight 1 for the last layer and 0.1 for the others.

Axes: B batch, T frames, K predicted layers, L teacher layers, D features, W features of a block.
"""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gdist.stages.frontend.padding import frame_mask, zero_padding
from gdist.stages.students.base import Student, StudentConfig
from gdist.stages.students.layer import TransformerLayer


class FitHubertConfig(StudentConfig):
    """Fields in addition to the common ones; here None for ``intermediate_size`` means ``width``.

    Args:
        num_layers: blocks; None means as many as the teacher has layers.
        width: W; None means 5/8 of the teacher's, rounded to a multiple of the heads: 480 of 768.
    """

    # Shapes are from github.com/glory20h/FitHuBERT, data/conf/fithubert.yaml: 12 layers, 12 heads, 480 and 480.
    model_type = "gdist-fithubert"
    own_fields = frozenset({"intermediate_size"})
    intermediate_ratio: ClassVar[float] = 1.0

    intermediate_size: int | None = None  # type: ignore[assignment]  # a number from __post_init__ on
    num_layers: int | None = None
    width: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.check_sizes()
        if self.width is None:
            heads = self.num_attention_heads
            self.width = heads * max(1, round(self.hidden_size * 5 / 8 / heads))
        if self.intermediate_size is None:
            self.intermediate_size = round(self.width * self.intermediate_ratio)
        super().__post_init__(**kwargs)
        if self.num_layers is None:
            self.num_layers = self.num_teacher_layers

    @property
    def layer_width(self) -> int:
        return self.hidden_size if self.width is None else self.width

    def block_of(self, layer: int, depth: int | None = None) -> int:
        """Return the block, from 1, that predicts a teacher layer: the one that covers its stretch of the teacher.

        Args:
            depth: how many layers the teacher has, where it is not the first one.

        With as many blocks as layers, each block predicts its own layer; with 6 blocks for 12 layers, block 1
        predicts layers 1 and 2, and so on. The last block predicts the last layer.
        """
        return -(-layer * (self.num_layers or self.num_teacher_layers) // (depth or self.num_teacher_layers))


class FitHubertModel(Student):
    """Front-end, projection, thin blocks, and one head per layer. The heads are thrown away after distillation."""

    config_class = FitHubertConfig
    several_teachers = True

    def __init__(self, config: FitHubertConfig) -> None:
        super().__init__(config)
        self.narrow = nn.Linear(config.hidden_size, config.layer_width)
        self.block_of = {
            teacher.offset + layer: config.block_of(layer, teacher.config.num_teacher_layers)
            for teacher in self.teachers
            for layer in teacher.config.predict_layers or ()
        }
        # Blocks after the last one that predicts a layer would never learn.
        self.blocks = nn.ModuleList(self.new_block(i) for i in range(max(self.block_of.values())))
        self.heads = nn.ModuleList(
            nn.Linear(config.layer_width, teacher.config.hidden_size)
            for teacher in self.teachers
            for _ in teacher.numbers
        )
        self.post_init()

    def new_block(self, place: int) -> TransformerLayer:
        """Make the block at a place, from 0."""
        return TransformerLayer(**self.config.layer_shape)

    def predict(self, h0_BTD: Tensor, num_frames_B: Tensor, layers: Sequence[int] | None = None) -> Tensor:
        """Predict each layer from its own block and head."""
        return torch.stack(self.predict_each(h0_BTD, num_frames_B, layers or self.first_layers), dim=1)

    def predict_each(self, h0_BTD: Tensor, num_frames_B: Tensor, layers: Sequence[int]) -> list[Tensor]:
        mask_BT = frame_mask(num_frames_B, h0_BTD.shape[1], h0_BTD.device)
        blocks = [self.block_of[layer] for layer in layers]
        # The residual stream keeps its precision under autocast.
        states = self.walk(self.narrow(h0_BTD).to(h0_BTD.dtype), mask_BT, max(blocks))
        heads = [self.heads[self.predicted_layers.index(layer)] for layer in layers]
        predicted = [head(states[block - 1]).to(h0_BTD.dtype) for head, block in zip(heads, blocks, strict=True)]
        return [zero_padding(hidden_BTD, mask_BT) for hidden_BTD in predicted]

    def walk(self, hidden_BTW: Tensor, mask_BT: Tensor | None, count: int) -> list[Tensor]:
        """Return the output of each of the first ``count`` blocks, ``[B, T, W]``."""
        states = []
        for block in self.blocks[:count]:
            hidden_BTW = block(hidden_BTW, mask_BT)
            states.append(hidden_BTW)
        return states

    def layers(self) -> Iterable[TransformerLayer]:
        return self.blocks  # type: ignore[return-value]  # a ModuleList's elements have no more specific type

    def throwaway(self) -> Iterable[nn.Parameter]:
        return self.heads.parameters()
