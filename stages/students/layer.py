"""The Transformer layer students are made of: plain attention, no position bias.

Parameter names are those of Hugging Face's wav2vec 2.0 layers, so that a teacher's layer can be loaded into it.

Axes: B batch, T frames, D features, H heads, E features of a head.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from gdist.stages.frontend import LayerNorm


class TransformerLayer(nn.Module):
    """Self-attention and a GELU feed-forward network, each with its residual and LayerNorm.

    Args:
        hidden_size: D.
        num_heads: H, a divisor of D.
        intermediate_size: width of the feed-forward network.
        eps: of the LayerNorms.
        dropout: on attention weights, on the feed-forward network's middle, and on both residual branches.
        pre_norm: LayerNorm before each branch (Large teachers) instead of after each sum (Base).
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        *,
        eps: float = 1e-5,
        dropout: float = 0.1,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.pre_norm = pre_norm
        self.attention = Attention(hidden_size, num_heads, dropout)
        self.layer_norm = LayerNorm(hidden_size, eps=eps)
        self.feed_forward = FeedForward(hidden_size, intermediate_size, dropout)
        self.final_layer_norm = LayerNorm(hidden_size, eps=eps)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        """``[B, T, D]`` → the same; frames outside the mask are not attended to, and hold anything finite."""
        if self.pre_norm:
            hidden_BTD = hidden_BTD + self._drop(self.attention(self.layer_norm(hidden_BTD), mask_BT))
            return hidden_BTD + self._drop(self.feed_forward(self.final_layer_norm(hidden_BTD)))
        hidden_BTD = self.layer_norm(hidden_BTD + self._drop(self.attention(hidden_BTD, mask_BT)))
        normed_BTD: Tensor = self.final_layer_norm(hidden_BTD + self._drop(self.feed_forward(hidden_BTD)))
        return normed_BTD

    def _drop(self, branch_BTD: Tensor) -> Tensor:
        return F.dropout(branch_BTD, self.dropout, self.training)


class Attention(nn.Module):
    """Multi-head self-attention by ``F.scaled_dot_product_attention``."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        attended_BHTE = F.scaled_dot_product_attention(
            self._heads(self.q_proj(hidden_BTD)),
            self._heads(self.k_proj(hidden_BTD)),
            self._heads(self.v_proj(hidden_BTD)),
            attn_mask=None if mask_BT is None else mask_BT[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        output_BTD: Tensor = self.out_proj(attended_BHTE.transpose(1, 2).flatten(2))
        return output_BTD

    def _heads(self, features_BTD: Tensor) -> Tensor:
        batch, frames, dim = features_BTD.shape
        return features_BTD.view(batch, frames, self.num_heads, dim // self.num_heads).transpose(1, 2)


class FeedForward(nn.Module):
    """Linear → GELU → linear."""

    def __init__(self, hidden_size: int, intermediate_size: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.intermediate_dense = nn.Linear(hidden_size, intermediate_size)
        self.output_dense = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = F.dropout(F.gelu(self.intermediate_dense(hidden)), self.dropout, self.training)
        output: Tensor = self.output_dense(hidden)
        return output
