"""WavLM, Base and Large (arXiv 2110.13900), with scaled-dot-product attention.

Hugging Face's attention always returns its weights. Here the gated relative position bias becomes the additive mask
of ``F.scaled_dot_product_attention``, and the weights are never computed.

Axes: B batch, T frames (queries, then keys), N frames of all utterances, D features, H heads, E features of a head.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import WavLMModel

from gdist.stages.teachers.base import Teacher

# The bias has B·H·T² numbers per layer, so a few utterances are processed at a time: on a CPU, as fit its caches.
BIAS_ELEMENTS = {"cpu": 2**21, "cuda": 2**28}

# On a GPU, rows of the bias begin at multiples of this many numbers; attention would copy others to such places.
ROW = 16

# Where calling an operator costs little, frames of padding are left out and utterances processed one by one.
UNPADDED = ("cpu",)


class WavLMTeacher(Teacher):
    """WavLM's layers around our own attention."""

    model_class = WavLMModel
    attention = "eager"  # Hugging Face has no other for WavLM; only the weights of its attention modules are used

    def prepare(self, num_frames: int, mask_BT: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The ungated position bias ``[H, T, T]``, computed by layer 0 and shared by all layers; and the mask. On a
        GPU the mask is as :func:`gated` adds it."""
        attention = self._layers[0].attention
        # It depends on (key − query) only: look up 2T − 1 distances, and give every query its window of them.
        distance = torch.arange(1 - num_frames, num_frames, device=attention.rel_attn_embed.weight.device)
        bias_HR = attention.rel_attn_embed(attention._relative_positions_bucket(distance)).T
        bias_HTT = bias_HR.unfold(1, num_frames, 1).flip(1).contiguous()
        if mask_BT is not None and mask_BT.device.type not in UNPADDED:
            mask_BT = additive(mask_BT)
        return bias_HTT, mask_BT

    def run_layer(self, layer: Any, hidden_BTD: Tensor, shared: tuple[Tensor, Tensor | None]) -> Tensor:
        bias_HTT, mask_BT = shared
        if mask_BT is None or hidden_BTD.device.type not in UNPADDED:
            return self._run(layer, hidden_BTD, lambda queries_BTD: attend(layer.attention, queries_BTD, *shared))
        counts = mask_BT.sum(1).tolist()

        def attend_each(hidden_ND: Tensor) -> Tensor:
            parts = [
                attend(layer.attention, rows_TD[None], bias_HTT[:, : len(rows_TD), : len(rows_TD)], None)[0]
                for rows_TD in torch.split(hidden_ND, counts)
            ]
            return torch.cat(parts)

        output_ND = self._run(layer, hidden_BTD[mask_BT], attend_each)
        output_BTD = output_ND.new_zeros(*mask_BT.shape, self.dim)
        output_BTD[mask_BT] = output_ND
        return output_BTD

    def _run(self, layer: Any, hidden: Tensor, attention: Callable[[Tensor], Tensor]) -> Tensor:
        if self.config["do_stable_layer_norm"]:
            hidden = hidden + attention(layer.layer_norm(hidden))
            output: Tensor = hidden + layer.feed_forward(layer.final_layer_norm(hidden))
        else:
            hidden = layer.layer_norm(hidden + attention(hidden))
            output = layer.final_layer_norm(hidden + layer.feed_forward(hidden))
        return output


def additive(mask_BT: Tensor) -> Tensor:
    """0 for an utterance's own frames and −∞ for padding, in float32."""
    return torch.zeros_like(mask_BT, dtype=torch.float32).masked_fill_(~mask_BT, -torch.inf)


def gated(gate_BHT1: Tensor, bias_HTT: Tensor, additive_BT: Tensor | None, dtype: torch.dtype) -> Tensor:
    """gate · bias, −∞ for keys of padding: ``[B, H, T, T]`` in the attention's own dtype.

    On a GPU these numbers are a layer's largest tensor, so they are written once, as they will be read: rounded, and
    each row at a multiple of :data:`ROW` numbers.
    """
    frames = bias_HTT.shape[-1]
    room = torch.empty(
        *gate_BHT1.shape[:3], -(-frames // ROW) * ROW, dtype=dtype, device=bias_HTT.device
    )[..., :frames]  # fmt: skip
    if additive_BT is None:
        return torch.mul(gate_BHT1, bias_HTT, out=room)
    return torch.addcmul(additive_BT[:, None, None, :], gate_BHT1, bias_HTT, out=room)


def attend(attention: Any, hidden_BTD: Tensor, bias_HTT: Tensor, additive_BT: Tensor | None) -> Tensor:
    """What ``WavLMAttention`` computes, without forming the attention weights.

    The gate comes from each layer's own input (section 3.1 of the paper); the bias it gates is layer 0's.
    """
    device = hidden_BTD.device.type
    if torch.is_autocast_enabled(device):  # which would cast it four times
        hidden_BTD = hidden_BTD.to(torch.get_autocast_dtype(device))

    def heads(features_BTD: Tensor) -> Tensor:
        return features_BTD.view(*features_BTD.shape[:2], attention.num_heads, -1).transpose(1, 2)

    logits_BHT8 = attention.gru_rel_pos_linear(heads(hidden_BTD)).float()
    gates_BHT2 = logits_BHT8.view(*logits_BHT8.shape[:3], 2, 4).sum(-1).sigmoid()
    update_BHT1, reset_BHT1 = gates_BHT2.chunk(2, dim=-1)
    gate_BHT1 = update_BHT1 * (reset_BHT1 * attention.gru_rel_pos_const - 1.0) + 2.0

    query_BHTE = heads(attention.q_proj(hidden_BTD))
    key_BHTE = heads(attention.k_proj(hidden_BTD))
    value_BHTE = heads(attention.v_proj(hidden_BTD))
    few = max(1, BIAS_ELEMENTS.get(device, 2**24) // bias_HTT.numel())
    parts = []
    for start in range(0, len(hidden_BTD), few):
        rows = slice(start, start + few)
        if device in UNPADDED:  # without a mask, and a product and a cast are faster here than `out`
            bias_BHTT = (gate_BHT1[rows] * bias_HTT).to(query_BHTE.dtype)
        else:
            hidden_keys_BT = None if additive_BT is None else additive_BT[rows]
            bias_BHTT = gated(gate_BHT1[rows], bias_HTT, hidden_keys_BT, query_BHTE.dtype)
        parts.append(
            F.scaled_dot_product_attention(query_BHTE[rows], key_BHTE[rows], value_BHTE[rows], attn_mask=bias_BHTT)
        )
    output_BHTE = parts[0] if len(parts) == 1 else torch.cat(parts)
    output: Tensor = attention.out_proj(output_BHTE.transpose(1, 2).flatten(2))
    return output
