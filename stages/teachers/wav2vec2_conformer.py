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
from gdist.stages.teachers.base import Teacher

# Scores of relative positions that are computed at a time, B·H·queries·positions.
SCORES = {"cpu": 2**22, "cuda": 2**28}


class Shared(NamedTuple):
    """What all blocks of a batch share.

    Attributes:
        mask_BT: the utterances' own frames; None when no frame is padding.
        positions: cosines and sines ``[2, T, 1, 1, E]`` of rotary positions, the embeddings ``[1, 2T − 1, D]`` of
            relative ones from the farthest before a frame to the farthest after it, or None.
    """

    mask_BT: Tensor | None
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
        if self._embed_positions is None:
            return Shared(mask_BT, None)
        # It looks at nothing but the frames, the dtype and the device.
        return Shared(mask_BT, self._embed_positions(torch.empty(1, num_frames, 1, device=self.device)))

    def run_layer(self, layer: Any, hidden_BTD: Tensor, shared: Shared) -> Tensor:
        hidden_BTD = hidden_BTD + 0.5 * layer.ffn1(layer.ffn1_layer_norm(hidden_BTD))
        hidden_BTD = hidden_BTD + attend(layer.self_attn, layer.self_attn_layer_norm(hidden_BTD), shared)
        hidden_BTD = hidden_BTD + convolve(layer.conv_module, hidden_BTD, shared.mask_BT)
        hidden_BTD = hidden_BTD + 0.5 * layer.ffn2(layer.ffn2_layer_norm(hidden_BTD))
        output_BTD: Tensor = layer.final_layer_norm(hidden_BTD)
        return output_BTD


def convolve(module: Any, hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
    """What ``Wav2Vec2ConformerConvolutionModule`` computes of each utterance alone."""
    hidden_BTD = module.layer_norm(hidden_BTD)
    gated_BTD = F.glu(F.linear(hidden_BTD, module.pointwise_conv1.weight[:, :, 0]), dim=-1)
    gated_BDT = zero_padding(gated_BTD, mask_BT).transpose(1, 2)
    output_BTD = module.activation(module.batch_norm(module.depthwise_conv(gated_BDT).transpose(1, 2)))
    return F.linear(output_BTD, module.pointwise_conv2.weight[:, :, 0])


@torch.no_grad()
def folded(norm: Any) -> Scale:
    """A batch norm whose statistics no longer change, as a scale and a shift for each feature."""
    scale = Scale(norm.num_features).to(norm.weight.device).requires_grad_(False)
    scale.weight.copy_(norm.weight * (norm.running_var + norm.eps).rsqrt())
    scale.bias.copy_(norm.bias - norm.running_mean * scale.weight)
    return scale.eval()


def attend(attention: Any, hidden_BTD: Tensor, shared: Shared) -> Tensor:
    """What ``Wav2Vec2ConformerSelfAttention`` computes, without forming the attention weights."""

    def heads(features_BTD: Tensor) -> Tensor:
        return features_BTD.view(*features_BTD.shape[:2], attention.num_heads, -1).transpose(1, 2)

    placed_BTD = hidden_BTD
    if attention.position_embeddings_type == "rotary":
        assert shared.positions is not None
        placed_BTD = rotate(hidden_BTD, shared.positions, attention.num_heads)
    query_BHTE = heads(attention.linear_q(placed_BTD))
    key_BHTE, value_BHTE = heads(attention.linear_k(placed_BTD)), heads(attention.linear_v(hidden_BTD))
    mask_B11T = None if shared.mask_BT is None else shared.mask_BT[:, None, None]
    if attention.position_embeddings_type == "relative":
        assert shared.positions is not None
        positions_1PD = attention.linear_pos(shared.positions)
        output_BHTE = attend_relative(attention, query_BHTE, key_BHTE, value_BHTE, heads(positions_1PD), mask_B11T)
    else:
        output_BHTE = F.scaled_dot_product_attention(query_BHTE, key_BHTE, value_BHTE, attn_mask=mask_B11T)
    output: Tensor = attention.linear_out(output_BHTE.transpose(1, 2).flatten(2))
    return output


def rotate(hidden_BTD: Tensor, positions: Tensor, heads: int) -> Tensor:
    """Turn each head's features, before they are projected, by angles that grow with the frame's number."""
    cosines_T1E, sines_T1E = positions[:, :, 0]
    hidden_BTHE = hidden_BTD.view(*hidden_BTD.shape[:2], heads, -1)
    first, second = hidden_BTHE.chunk(2, dim=-1)
    turned_BTHE: Tensor = hidden_BTHE * cosines_T1E + torch.cat((-second, first), dim=-1) * sines_T1E
    return turned_BTHE.flatten(2)


def attend_relative(
    attention: Any,
    query_BHTE: Tensor,
    key_BHTE: Tensor,
    value_BHTE: Tensor,
    positions_1HPE: Tensor,
    mask_B11T: Tensor | None,
) -> Tensor:
    """Attention with Transformer-XL's scores of relative positions (arXiv 1901.02860), some queries at a time.

    ``positions_1HPE`` begins with a key T − 1 frames before its query. So the queries from ``start`` to ``stop`` meet
    the T + stop − start − 1 positions that begin at T − stop; each query's window of them begins one position earlier
    than that of the query before it.
    """
    batch, heads, frames, _ = query_BHTE.shape
    some = max(1, SCORES.get(query_BHTE.device.type, 2**24) // (batch * heads * 2 * frames))
    content_BHTE = query_BHTE + attention.pos_bias_u[:, None].to(query_BHTE.dtype)
    placed_BHTE = (query_BHTE + attention.pos_bias_v[:, None].to(query_BHTE.dtype)) * attention.scaling
    parts = []
    for start in range(0, frames, some):
        stop = min(start + some, frames)
        near_1HPE = positions_1HPE[:, :, frames - stop : 2 * frames - start - 1]
        scores_BHQP = (placed_BHTE[:, :, start:stop] @ near_1HPE.transpose(2, 3)).contiguous()
        width = scores_BHQP.shape[-1]
        strides = (*scores_BHQP.stride()[:2], width - 1, 1)
        bias_BHQT = scores_BHQP.as_strided((batch, heads, stop - start, frames), strides, stop - start - 1)
        if mask_B11T is not None:
            bias_BHQT = bias_BHQT.masked_fill(~mask_B11T, -torch.inf)
        parts.append(
            F.scaled_dot_product_attention(content_BHTE[:, :, start:stop], key_BHTE, value_BHTE, attn_mask=bias_BHQT)
        )
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
