"""Conformer blocks (arXiv 2005.08100), as wav2vec2-conformer and w2v-BERT 2.0 have them: Hugging Face's modules, in
their order, around attention whose position bias is computed in pieces (:mod:`gdist.stages.teachers.attention`).

Axes: B batch, T frames, R distances, D features, H heads, E features of a head.
"""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from gdist.stages.teachers.attention import (
    Apart,
    attend,
    attend_without_bias,
    by_projection,
    by_table,
    hidden_keys,
    over_own_frames,
    rotate,
    sinusoids,
    split_heads,
)
from gdist.stages.teachers.base import Names, Teacher


class Shared(NamedTuple):
    """What all blocks of a batch share.

    Attributes:
        mask_BT: the utterances' own frames; None when no frame is padding.
        additive_BT: what attention adds for keys of padding, where that is not left out.
        sinusoids_RD: of every distance, for positions of type "relative".
    """

    mask_BT: Tensor | None
    additive_BT: Tensor | None
    sinusoids_RD: Tensor | None


class ConformerTeacher(Teacher):
    """Half a feed-forward network, attention, convolution, the other half, LayerNorm; with every kind of position."""

    layer_names: ClassVar[Names] = ()  # a student's plain layers cannot start from conformer blocks

    def convolve(self, module: Any, hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        """What a block's convolution module computes of each utterance alone; the mask is None without padding."""
        raise NotImplementedError

    @classmethod
    def blocks(cls, model: Any) -> tuple[Any, Any]:
        """With convolutions of one tap as the linear layers that they are: products without a copy."""
        for layer in model.encoder.layers:
            for name in ("pointwise_conv1", "pointwise_conv2"):
                setattr(layer.conv_module, name, _linear(getattr(layer.conv_module, name)))
        return model.encoder.layers, None

    def prepare(self, num_frames: int, mask_BT: Tensor | None) -> Shared:
        relative = self.config["position_embeddings_type"] == "relative"
        positions_RD = sinusoids(num_frames, self.dim, self.device) if relative else None
        return Shared(mask_BT, hidden_keys(mask_BT), positions_RD)

    def run_layer(self, layer: Any, hidden_BTD: Tensor, shared: Shared) -> Tensor:
        attention, positions_HRE = layer.self_attn, None
        if shared.sinusoids_RD is not None:  # projected once for all utterances
            positions_HRE = split_heads(attention.linear_pos(shared.sinusoids_RD)[None], attention.num_heads)[0]
        # Where padding is left out, there is none to be zeroed.
        padded_BT = None if shared.additive_BT is None else shared.mask_BT

        def attended(whole_BTD: Tensor) -> Tensor:
            return self._attend(attention, whole_BTD, positions_HRE, shared.additive_BT)

        def convolved(whole_BTD: Tensor) -> Tensor:
            return self.convolve(layer.conv_module, whole_BTD, padded_BT)

        def run(hidden: Tensor, apart: Apart) -> Tensor:
            hidden = hidden + 0.5 * layer.ffn1(layer.ffn1_layer_norm(hidden))
            hidden = hidden + apart(attended, layer.self_attn_layer_norm(hidden))
            hidden = hidden + apart(convolved, hidden)
            hidden = hidden + 0.5 * layer.ffn2(layer.ffn2_layer_norm(hidden))
            output: Tensor = layer.final_layer_norm(hidden)
            return output

        return over_own_frames(hidden_BTD, shared.mask_BT, run)

    def _attend(
        self, attention: Any, hidden_BTD: Tensor, positions_HRE: Tensor | None, additive_BT: Tensor | None
    ) -> Tensor:
        heads, kind = attention.num_heads, self.config["position_embeddings_type"]
        seen_BTD = hidden_BTD
        if kind == "rotary":
            seen_BTD = rotate(hidden_BTD, heads, self.config["rotary_embedding_base"])
        query_BHTE = split_heads(attention.linear_q(seen_BTD), heads)
        key_BHTE = split_heads(attention.linear_k(seen_BTD), heads)
        value_BHTE = split_heads(attention.linear_v(hidden_BTD), heads)
        scale = attention.head_size**-0.5
        if kind == "relative_key":
            left, right = attention.left_max_position_embeddings, attention.right_max_position_embeddings
            table_RE = attention.distance_embedding.weight
            bias = by_table(query_BHTE, table_RE, left, right, additive_BT, scale)
            output_BTD = attend(query_BHTE, key_BHTE, value_BHTE, bias)
        elif positions_HRE is not None:
            beyond = (positions_HRE.shape[1] + 1) // 2 - hidden_BTD.shape[1]
            near_HRE = positions_HRE[:, beyond : positions_HRE.shape[1] - beyond]
            bias_v, bias_u = (b[:, None].to(query_BHTE.dtype) for b in (attention.pos_bias_v, attention.pos_bias_u))
            bias = by_projection(query_BHTE + bias_v, near_HRE, additive_BT, scale)
            output_BTD = attend(query_BHTE + bias_u, key_BHTE, value_BHTE, bias)
        else:
            output_BTD = attend_without_bias(query_BHTE, key_BHTE, value_BHTE, additive_BT)
        output: Tensor = attention.linear_out(output_BTD)
        return output


def depthwise(conv: nn.Conv1d, hidden_BDT: Tensor) -> Tensor:
    """A convolution of every channel by itself; on a CPU in float32 even under autocast. oneDNN's in bfloat16 has
    given wrong results on processors with AMX (see :class:`gdist.stages.frontend.convolutions.PositionConv`)."""
    if hidden_BDT.device.type != "cpu":
        output_BDT: Tensor = conv(hidden_BDT)
        return output_BDT
    with torch.autocast("cpu", enabled=False):
        exact_BDT: Tensor = conv(hidden_BDT.to(conv.weight.dtype))
        return exact_BDT.to(hidden_BDT.dtype)


def _linear(conv: nn.Conv1d) -> nn.Linear:
    """A convolution of one tap; these families' have no bias."""
    assert conv.bias is None
    linear = nn.Linear(conv.in_channels, conv.out_channels, bias=False)
    linear.weight = nn.Parameter(conv.weight[:, :, 0])
    return linear
