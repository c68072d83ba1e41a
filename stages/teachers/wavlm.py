"""WavLM, Base and Large (arXiv 2110.13900), with scaled-dot-product attention.

Hugging Face's attention always returns its weights. Here the gated relative position bias becomes the additive mask
of ``F.scaled_dot_product_attention``, and the weights are never computed. The bias of a long utterance is computed
for a few queries at a time (see :mod:`gdist.stages.teachers.attention`).

Axes: B batch, T frames (queries, then keys), M frames of the longest utterance whose bias is computed whole,
Q queries and W distances of a piece, D features, H heads, E features of a head.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import WavLMModel

from gdist.stages.teachers import attention as attentions
from gdist.stages.teachers.attention import Apart, attend, distances, hidden_keys, laid_out, skew, split_heads
from gdist.stages.teachers.base import Teacher


class PositionBias(NamedTuple):
    """The ungated position bias, which layer 0 computes and all layers share.

    Attributes:
        by_distance_HW: for every distance (key − query) from 1 − T to T − 1.
        whole_HMM: for every query and key of utterances whose bias fits.
    """

    by_distance_HW: Tensor
    whole_HMM: Tensor

    def longest(self, frames: int) -> Tensor:
        """:attr:`by_distance_HW` for an utterance of ``frames`` frames, at most T."""
        beyond = (self.by_distance_HW.shape[1] + 1) // 2 - frames
        return self.by_distance_HW[:, beyond : self.by_distance_HW.shape[1] - beyond]


class WavLMTeacher(Teacher):
    """WavLM's layers around our own attention."""

    model_class = WavLMModel
    attention = "eager"  # Hugging Face has no other for WavLM; only the weights of its attention modules are used

    def prepare(self, num_frames: int, mask_BT: Tensor | None) -> tuple[PositionBias, Tensor | None, Tensor | None]:
        """The position bias; the mask; and what the bias adds for padding, where that is not left out."""
        attention = self._layers[0].attention
        # It depends on (key − query) only: look up 2T − 1 distances, and give every query its window of them.
        device = attention.rel_attn_embed.weight.device
        distance = torch.arange(1 - num_frames, num_frames, device=device)
        bias_HW = attention.rel_attn_embed(attention._relative_positions_bucket(distance)).T
        whole = min(num_frames, math.isqrt(attentions.most_elements(device) // attention.num_heads))
        beyond = num_frames - whole
        near_HW = bias_HW[:, beyond : bias_HW.shape[1] - beyond]
        whole_HMM = near_HW.unfold(1, whole, 1).flip(1).contiguous()
        return PositionBias(bias_HW, whole_HMM), mask_BT, hidden_keys(mask_BT)

    def run_layer(
        self, layer: Any, hidden_BTD: Tensor, shared: tuple[PositionBias, Tensor | None, Tensor | None]
    ) -> Tensor:
        bias, mask_BT, additive_BT = shared

        def attention(whole_BTD: Tensor) -> Tensor:
            return attend_gated(layer.attention, whole_BTD, bias, additive_BT)

        def run(hidden: Tensor, apart: Apart) -> Tensor:
            return self._run(layer, hidden, lambda queries: apart(attention, queries))

        return attentions.over_own_frames(hidden_BTD, mask_BT, run)

    def _run(self, layer: Any, hidden: Tensor, attention: Callable[[Tensor], Tensor]) -> Tensor:
        if self.config["do_stable_layer_norm"]:
            hidden = hidden + attention(layer.layer_norm(hidden))
            output: Tensor = hidden + layer.feed_forward(layer.final_layer_norm(hidden))
        else:
            hidden = layer.layer_norm(hidden + attention(hidden))
            output = layer.final_layer_norm(hidden + layer.feed_forward(hidden))
        return output


def attend_gated(attention: Any, hidden_BTD: Tensor, shared: PositionBias, additive_BT: Tensor | None) -> Tensor:
    """What ``WavLMAttention`` computes, without forming the attention weights.

    The gate comes from each layer's own input (section 3.1 of the paper); the bias it gates is layer 0's.
    """
    device = hidden_BTD.device.type
    if torch.is_autocast_enabled(device):  # which would cast it four times
        hidden_BTD = hidden_BTD.to(torch.get_autocast_dtype(device))
    heads, frames = attention.num_heads, hidden_BTD.shape[1]

    logits_BHT8 = attention.gru_rel_pos_linear(split_heads(hidden_BTD, heads)).float()
    gates_BHT2 = logits_BHT8.view(*logits_BHT8.shape[:3], 2, 4).sum(-1).sigmoid()
    update_BHT1, reset_BHT1 = gates_BHT2.chunk(2, dim=-1)
    gate_BHT1 = update_BHT1 * (reset_BHT1 * attention.gru_rel_pos_const - 1.0) + 2.0

    query_BHTE = split_heads(attention.q_proj(hidden_BTD), heads)
    key_BHTE = split_heads(attention.k_proj(hidden_BTD), heads)
    value_BHTE = split_heads(attention.v_proj(hidden_BTD), heads)

    def bias(rows: slice, piece: slice) -> Tensor:
        gate_BHQ1 = gate_BHT1[rows, :, piece]
        if frames <= shared.whole_HMM.shape[1]:
            bias_HQT = shared.whole_HMM[:, piece, :frames]
            if not attentions.leaves_padding_out(gate_BHQ1.device):
                return gated(
                    gate_BHQ1, bias_HQT, None if additive_BT is None else additive_BT[rows], query_BHTE.dtype
                )
            gated_BHQT: Tensor = gate_BHQ1 * bias_HQT  # a product and a cast are faster here than `out`
            return gated_BHQT.to(query_BHTE.dtype)
        bias_BHQW = gate_BHQ1 * shared.longest(frames)[:, None, distances(piece, frames)]
        return laid_out(skew(bias_BHQW, frames), additive_BT, rows, query_BHTE.dtype)

    output: Tensor = attention.out_proj(attend(query_BHTE, key_BHTE, value_BHTE, bias))
    return output


def gated(gate_BHQ1: Tensor, bias_HQT: Tensor, additive_BT: Tensor | None, dtype: torch.dtype) -> Tensor:
    """gate · bias, −∞ for keys of padding: ``[B, H, Q, T]`` in the attention's own dtype.

    On a GPU these numbers are a layer's largest tensor, so they are written once, as they will be read.
    """
    shape = torch.Size((*gate_BHQ1.shape[:3], bias_HQT.shape[-1]))
    out_BHQT = attentions.room(shape, dtype, bias_HQT.device)
    if additive_BT is None:
        return torch.mul(gate_BHQ1, bias_HQT, out=out_BHQT)
    return torch.addcmul(additive_BT[:, None, None, :], gate_BHQ1, bias_HQT, out=out_BHQT)
