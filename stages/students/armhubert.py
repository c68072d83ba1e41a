"""A thin and deep student that reuses attention maps, in the style of ARMHuBERT (arXiv 2305.11685).

Neighboring layers attend to nearly the same frames. Here, one block of each group computes the map, softmax(QKᵀ/√E),
and the other blocks of the group apply that map to their own values. They have no queries and keys, and the
parameters that this saves go into a wider feed-forward network.

The paper's other half, a second pass over masked audio, concerns training and not architecture, as does the scaling
of gradients block by block in the published code. Neither is included: the cache contains the teacher's hidden states
of the whole waveform.

Axes: B batch, T frames, S frames attended to, D features, H heads, E features of a head, W features of a block.
"""

from typing import Any, ClassVar

from torch import Tensor

from gdist.stages.frontend.limits import require_whole
from gdist.stages.students.base import StudentConfig
from gdist.stages.students.fithubert import FitHubertConfig, FitHubertModel
from gdist.stages.students.layer import Attention, TransformerLayer, attention_map


class ArmHubertConfig(FitHubertConfig):
    """Fields in addition to FitHuBERT's; here None for ``intermediate_size`` means 9/5 of ``width``, 864 for 480.

    Args:
        reuse: the number of blocks that share a map, which the first of them computes; 1 means one map per block.
    """

    # Shapes are from github.com/sungnyun/ARMHuBERT, conf/armhubert/armhubert-960.yaml: 12 layers, 12 heads, 480 and
    # 864, with every second layer's map reused. The S model of armhubert-s-960.yaml has width = 432 and
    # intermediate_size = 816.
    model_type = "gdist-armhubert"
    intermediate_ratio: ClassVar[float] = 1.8

    reuse: int = 2

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        require_whole(self, 1, "reuse")


class ArmHubertModel(FitHubertModel):
    """FitHuBERT's student with shared attention maps."""

    config_class = ArmHubertConfig

    def new_block(self, place: int) -> TransformerLayer:
        return MapLayer(self.config, makes_map=place % self.config.reuse == 0)

    def walk(self, hidden_BTW: Tensor, mask_BT: Tensor | None, count: int) -> list[Tensor]:
        states = []
        map_BHTS: Tensor | None = None
        for place, block in enumerate(self.blocks[:count]):
            if place % self.config.reuse == 0:
                map_BHTS = block.attention_map(hidden_BTW, mask_BT)  # type: ignore[operator]
            hidden_BTW = block(hidden_BTW, mask_BT, map_BHTS)
            states.append(hidden_BTW)
        return states


class MapLayer(TransformerLayer):
    """A Transformer layer whose attention map can be read, or supplied from outside.

    Args:
        config: the student's config, for its shapes.
        makes_map: whether it can compute its own map.
    """

    attention: "MapAttention"

    def __init__(self, config: StudentConfig, makes_map: bool) -> None:
        super().__init__(**config.layer_shape)
        dropout = config.layer_shape["attention_dropout"]
        self.attention = MapAttention(config.layer_width, config.num_attention_heads, dropout, makes_map)

    def attention_map(self, hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        """Return how much each frame T attends to each frame S, ``[B, H, T, S]``; padding gets no attention."""
        return self.attention.map(self._attention_input(hidden_BTD), mask_BT)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor | None, map_BHTS: Tensor | None = None) -> Tensor:
        """``[B, T, D]`` → the same, with a given map or its own."""
        if self.is_skipped():
            return hidden_BTD
        return self.recomputed(self._with_map, hidden_BTD, mask_BT, map_BHTS)

    def _with_map(self, hidden_BTD: Tensor, mask_BT: Tensor | None, map_BHTS: Tensor | None) -> Tensor:
        if map_BHTS is None:
            map_BHTS = self.attention_map(hidden_BTD, mask_BT)
        return self._finish(hidden_BTD, self.attention.apply_map(self._attention_input(hidden_BTD), map_BHTS))


class MapAttention(Attention):
    """Attention in two halves: computing the map, and applying it. A block that makes no map has only the second."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float, makes_map: bool) -> None:
        super().__init__(hidden_size, num_heads, dropout)
        if not makes_map:
            del self.q_proj, self.k_proj

    def map(self, hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        """Return the map, with its dropout: all blocks that share it drop the same frames.

        In the published code, the block that made the map drops some frames and the others drop none. The map is
        materialized because it is shared: H · T² numbers per utterance, 12 MB for 10 s and 12 heads in fp32.
        """
        query_BHTE, key_BHSE = self._heads(self.q_proj(hidden_BTD)), self._heads(self.k_proj(hidden_BTD))
        mask_B11S = None if mask_BT is None else mask_BT[:, None, None, :]
        return attention_map(query_BHTE, key_BHSE, mask_B11S, self.dropout if self.training else 0.0)

    def apply_map(self, hidden_BTD: Tensor, map_BHTS: Tensor) -> Tensor:
        """Apply a map to the values of ``hidden_BTD``, ``[B, T, D]``."""
        attended_BHTE = map_BHTS @ self._heads(self.v_proj(hidden_BTD))
        output_BTD: Tensor = self.out_proj(attended_BHTE.transpose(1, 2).flatten(2))
        return output_BTD
