"""A thin and deep student that reuses attention maps, in ARMHuBERT's manner (arXiv 2305.11685).

Neighbouring layers attend to much the same frames. Here one block of each group makes the map, softmax(QKᵀ/√E), and
the others of its group see through that one with values of their own: they have no queries and keys, and what that
saves goes into a wider feed-forward network.

The paper's other half, a second pass over masked audio, is training and not architecture, as are the gradients that
the published code scales block by block: the cache holds what the teacher says of the whole waveform.

Axes: B batch, T frames, S frames attended to, D features, H heads, E features of a head, W features of a block.
"""

from typing import Any, ClassVar

from torch import Tensor

from gdist.stages.frontend.limits import require_whole
from gdist.stages.students.base import StudentConfig
from gdist.stages.students.fithubert import FitHubertConfig, FitHubertModel
from gdist.stages.students.layer import Attention, TransformerLayer, attention_map


class ArmHubertConfig(FitHubertConfig):
    """Beside FitHuBERT's fields; here None for ``intermediate_size`` is 9/5 of ``width``, 864 for 480:

    Args:
        reuse: blocks that share a map, the first of them making it; 1 is a map for every block.
    """

    # Shapes are github.com/sungnyun/ARMHuBERT's, conf/armhubert/armhubert-960.yaml: 12 layers, 12 heads, 480 and 864,
    # every second layer's map reused. The S model of armhubert-s-960.yaml is width = 432, intermediate_size = 816.
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
    """A Transformer layer whose attention map can be had, and given.

    Args:
        config: of the student, for its shapes.
        makes_map: whether it can make a map of its own.
    """

    attention: "MapAttention"

    def __init__(self, config: StudentConfig, makes_map: bool) -> None:
        super().__init__(**config.layer_shape)
        self.attention = MapAttention(config.layer_width, config.num_attention_heads, config.dropout, makes_map)

    def attention_map(self, hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        """``[B, H, T, S]``: how much of each frame S the frame T sees; nothing of padding."""
        return self.attention.map(self._attention_input(hidden_BTD), mask_BT)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor | None, map_BHTS: Tensor | None = None) -> Tensor:
        """``[B, T, D]`` → the same, by a map that is given or its own."""
        if map_BHTS is None:
            map_BHTS = self.attention_map(hidden_BTD, mask_BT)
        return self._finish(hidden_BTD, self.attention.see(self._attention_input(hidden_BTD), map_BHTS))


class MapAttention(Attention):
    """Attention in two halves, the map and what is seen through it. Those that make no map have the second only."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float, makes_map: bool) -> None:
        super().__init__(hidden_size, num_heads, dropout)
        if not makes_map:
            del self.q_proj, self.k_proj

    def map(self, hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        """The map, with its dropout: all who see through it miss the same frames. (Published, the block that made it
        drops some and the others none.)

        It is materialised because it is shared: H · T² numbers an utterance, 12 MB for 10 s and 12 heads in fp32.
        """
        query_BHTE, key_BHSE = self._heads(self.q_proj(hidden_BTD)), self._heads(self.k_proj(hidden_BTD))
        mask_B11S = None if mask_BT is None else mask_BT[:, None, None, :]
        return attention_map(query_BHTE, key_BHSE, mask_B11S, self.dropout if self.training else 0.0)

    def see(self, hidden_BTD: Tensor, map_BHTS: Tensor) -> Tensor:
        """The values of ``hidden_BTD`` through a map, ``[B, T, D]``."""
        attended_BHTE = map_BHTS @ self._heads(self.v_proj(hidden_BTD))
        output_BTD: Tensor = self.out_proj(attended_BHTE.transpose(1, 2).flatten(2))
        return output_BTD
