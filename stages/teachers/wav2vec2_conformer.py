"""wav2vec 2.0 with conformer blocks (arXiv 2010.05171, 2005.08100): rotary, relative or no positions in attention.

Each block's convolution reaches into the frames beside its own, so frames of padding are zero before it. Hugging
Face leaves in them what the norm before the convolution makes of them: that changes an utterance's last frames.

Axes: B batch, T frames (queries, then keys), P relative positions, D features, H heads, E features of a head.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Wav2Vec2ConformerModel

from gdist.stages.frontend.norms import Scale
from gdist.stages.frontend.padding import zero_padding
from gdist.stages.teachers.attention import (
    Apart,
    attend_without_bias,
    by_projection,
    hidden_keys,
    over_own_frames,
    split_heads,
)
from gdist.stages.teachers.attention import attend as attend_in_pieces
from gdist.stages.teachers.base import Teacher
from gdist.stages.teachers.wav2vec2_bert import depthwise


class Shared(NamedTuple):
    """What all blocks of a batch share.

    Attributes:
        mask_BT: the utterances' own frames; None when no frame is padding.
        additive_BT: what attention adds for keys of padding, where these are not left out.
        positions: cosines and sines ``[2, T, 1, 1, E]`` of rotary positions, the embeddings ``[1, 2T − 1, D]`` of
            relative ones from the farthest before a frame to the farthest after it, or None.
    """

    mask_BT: Tensor | None
    additive_BT: Tensor | None
    positions: Tensor | None


class Wav2Vec2ConformerTeacher(Teacher):
    """Conformer blocks, written out in their order. There is no positional convolution."""

    model_class = Wav2Vec2ConformerModel
    used = (
        "feature_extractor.conv_layers.", "feature_projection.", "encoder.embed_positions.", "encoder.layer_norm.",
        "encoder.layers.",
    )  # fmt: skip
    identity_fields = (
        *Teacher.identity_fields, "position_embeddings_type", "rotary_embedding_base", "conv_depthwise_kernel_size",
    )  # fmt: skip
    frontend_names = tuple(row for row in Teacher.frontend_names if "pos_conv_embed" not in row[0].pattern)
    layer_names = ()  # a student's plain layers cannot start from conformer blocks

    @classmethod
    def describe(cls, config: dict[str, Any]) -> dict[str, Any]:
        return config | {"do_stable_layer_norm": True}

    @classmethod
    def blocks(cls, model: Any) -> tuple[Any, Any]:
        return model.encoder.layers, model.encoder.layer_norm

    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__(model, **options)
        for layer in self._layers:
            layer.conv_module.batch_norm = folded(layer.conv_module.batch_norm)
        embed = model.encoder.embed_positions
        self._embed_positions: Any = None if embed is None else embed.to(self.device)

    def prepare(self, num_frames: int, mask_BT: Tensor | None) -> Shared:
        positions = None
        if self._embed_positions is not None:  # it looks at nothing but the frames, the dtype and the device
            positions = self._embed_positions(torch.empty(1, num_frames, 1, device=self.device))
        return Shared(mask_BT, hidden_keys(mask_BT), positions)

    def run_layer(self, layer: Any, hidden_BTD: Tensor, shared: Shared) -> Tensor:
        positions_HPE = None
        if shared.positions is not None and layer.self_attn.position_embeddings_type == "relative":
            projected_1PD = layer.self_attn.linear_pos(shared.positions)  # once for all utterances
            positions_HPE = split_heads(projected_1PD, layer.self_attn.num_heads)[0]
        # Where padding is left out, there is none to be zeroed.
        padded_BT = None if shared.additive_BT is None else shared.mask_BT

        def attended(whole_BTD: Tensor) -> Tensor:
            return attend(layer.self_attn, whole_BTD, shared, positions_HPE)

        def convolved(whole_BTD: Tensor) -> Tensor:
            return convolve(layer.conv_module, whole_BTD, padded_BT)

        def run(hidden: Tensor, apart: Apart) -> Tensor:
            hidden = hidden + 0.5 * layer.ffn1(layer.ffn1_layer_norm(hidden))
            hidden = hidden + apart(attended, layer.self_attn_layer_norm(hidden))
            hidden = hidden + apart(convolved, hidden)
            hidden = hidden + 0.5 * layer.ffn2(layer.ffn2_layer_norm(hidden))
            output: Tensor = layer.final_layer_norm(hidden)
            return output

        return over_own_frames(hidden_BTD, shared.mask_BT, run)


def convolve(module: Any, hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
    """What ``Wav2Vec2ConformerConvolutionModule`` computes of each utterance alone."""
    hidden_BTD = module.layer_norm(hidden_BTD)
    gated_BTD = F.glu(F.linear(hidden_BTD, module.pointwise_conv1.weight[:, :, 0]), dim=-1)
    gated_BDT = zero_padding(gated_BTD, mask_BT).transpose(1, 2)
    output_BTD = module.activation(module.batch_norm(depthwise(module.depthwise_conv, gated_BDT).transpose(1, 2)))
    return F.linear(output_BTD, module.pointwise_conv2.weight[:, :, 0])


@torch.no_grad()
def folded(norm: Any) -> Scale:
    """A batch norm whose statistics no longer change, as a scale and a shift for each feature."""
    scale = Scale(norm.num_features).to(norm.weight.device).requires_grad_(False)
    scale.weight.copy_(norm.weight * (norm.running_var + norm.eps).rsqrt())
    scale.bias.copy_(norm.bias - norm.running_mean * scale.weight)
    return scale.eval()


def attend(attention: Any, hidden_BTD: Tensor, shared: Shared, positions_HPE: Tensor | None) -> Tensor:
    """What ``Wav2Vec2ConformerSelfAttention`` computes, without forming the attention weights.

    Args:
        hidden_BTD: of the whole batch, or of one of its utterances.
        positions_HPE: the batch's relative positions, projected.
    """
    frames = hidden_BTD.shape[1]
    placed_BTD = hidden_BTD
    if attention.position_embeddings_type == "rotary":
        assert shared.positions is not None
        placed_BTD = rotate(hidden_BTD, shared.positions[:, :frames], attention.num_heads)
    query_BHTE = split_heads(attention.linear_q(placed_BTD), attention.num_heads)
    key_BHTE = split_heads(attention.linear_k(placed_BTD), attention.num_heads)
    value_BHTE = split_heads(attention.linear_v(hidden_BTD), attention.num_heads)
    if positions_HPE is not None:
        further = (positions_HPE.shape[1] + 1) // 2 - frames  # the batch's frames beyond these, in each direction
        positions_HPE = positions_HPE[:, further : positions_HPE.shape[1] - further]
        content_BHTE = query_BHTE + attention.pos_bias_u[:, None].to(query_BHTE.dtype)
        placed_BHTE = query_BHTE + attention.pos_bias_v[:, None].to(query_BHTE.dtype)
        bias = by_projection(placed_BHTE, positions_HPE, shared.additive_BT, attention.scaling)
        output_BTD = attend_in_pieces(content_BHTE, key_BHTE, value_BHTE, bias)
    else:
        output_BTD = attend_without_bias(query_BHTE, key_BHTE, value_BHTE, shared.additive_BT)
    output: Tensor = attention.linear_out(output_BTD)
    return output


def rotate(hidden_BTD: Tensor, positions: Tensor, heads: int) -> Tensor:
    """Turn each head's features, before they are projected, by angles that grow with the frame's number."""
    cosines_T1E, sines_T1E = positions[:, :, 0]
    hidden_BTHE = hidden_BTD.view(*hidden_BTD.shape[:2], heads, -1)
    first, second = hidden_BTHE.chunk(2, dim=-1)
    turned_BTHE: Tensor = hidden_BTHE * cosines_T1E + torch.cat((-second, first), dim=-1) * sines_T1E
    return turned_BTHE.flatten(2)
