"""Attention of a pretended GPU: the operators that torch would choose on one, computed on the CPU.

torch chooses by the device's properties, which only a real device has. Without a mask, half precision goes to flash
attention, and everything else to the memory-efficient operator. Dropout is left out.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pretend.counts import COUNTS, here

real_attention = F.scaled_dot_product_attention


def _weights(query: Tensor, key: Tensor, bias: Tensor | None, scale: float | None) -> tuple[Tensor, Tensor]:
    scores = query.float() @ key.float().transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias.float()
    return scores.softmax(-1), torch.logsumexp(scores, -1)


def forward(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, with_logsumexp: bool, dropout: float = 0.0,
    causal: bool = False, *, scale: float | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """``aten::_scaled_dot_product_efficient_attention`` on CPU tensors."""
    weights, logsumexp = _weights(query, key, bias, scale)
    seed = torch.zeros((), dtype=torch.int64)
    return (weights @ value.float()).to(query.dtype), logsumexp, seed, seed.clone()


def backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    *_: Any,
    scale: float | None = None,
) -> tuple[Tensor | None, ...]:
    """Its gradients, for the query, the key and the value."""
    weights, _logsumexp = _weights(query, key, bias, scale)
    by_weights = gradient.float() @ value.float().transpose(-2, -1)
    by_scores = weights * (by_weights - (by_weights * weights).sum(-1, keepdim=True))
    by_scores = by_scores * (query.shape[-1] ** -0.5 if scale is None else scale)
    by_query, by_key = by_scores @ key.float(), by_scores.transpose(-2, -1) @ query.float()
    by_value = weights.transpose(-2, -1) @ gradient.float()
    return by_query.to(query.dtype), by_key.to(key.dtype), by_value.to(value.dtype), None


def attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """What ``F.scaled_dot_product_attention`` is."""
    if query.device.type != "cuda":
        return real_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    assert not is_causal and not enable_gqa, "not pretended, since nothing here uses them"
    if torch.is_autocast_enabled("cuda"):  # attention is one of the operators that it casts
        lower = torch.get_autocast_dtype("cuda")
        query, key, value = (x.to(lower) if x.dtype == torch.float32 else x for x in (query, key, value))
        if attn_mask is not None and attn_mask.dtype == torch.float32:
            attn_mask = attn_mask.to(lower)
    _note(query, attn_mask, dropout_p)
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, -torch.inf)
        if attn_mask.dtype != query.dtype or not query.dtype == key.dtype == value.dtype:
            raise RuntimeError(f"attention of {query.dtype} with a mask of {attn_mask.dtype}")
        if surplus := attn_mask.shape[-1] % 8:  # the kernel needs rows that begin at multiples of 16 bytes
            attn_mask = F.pad(attn_mask, (0, 8 - surplus))[..., : attn_mask.shape[-1]]
        attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    grad = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    attended: Tensor = efficient(query, key, value, attn_mask, grad, dropout_p, False, scale=scale)[0]
    return attended


def _note(query: Tensor, mask: Tensor | None, dropout: float) -> None:
    half = query.dtype in (torch.float16, torch.bfloat16)
    kernel = "flash" if mask is None and half else "efficient"
    kind = "no mask" if mask is None else f"mask {str(mask.dtype)[6:]} {'of any width' if mask.shape[-1] % 8 else ''}"
    COUNTS.attention[f"{kernel} {str(query.dtype)[6:]} {kind.strip()} @ {here()}"] += 1
