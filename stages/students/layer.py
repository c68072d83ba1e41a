"""The Transformer layer that students are made of: plain attention, no position bias.

Parameter names are those of Hugging Face's wav2vec 2.0 layers, so that a teacher's layer can be loaded into it.

Axes: B batch, N utterances times places, T frames, D features, H heads, E features of a head, R places.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdist.stages.frontend.interface import Checkpointed
from gdist.stages.frontend.norms import LayerNorm
from gdist.stages.frontend.padding import is_symbolic


class TransformerLayer(Checkpointed):
    """Self-attention and a GELU feed-forward network, each with its residual and LayerNorm.

    Args:
        hidden_size: D.
        num_heads: H, a divisor of D.
        intermediate_size: width of the feed-forward network.
        eps: of the LayerNorms.
        dropout: on attention weights, on the feed-forward network's middle, and on both residual branches.
        attention_dropout, activation_dropout: on attention weights and on the middle, where they differ from it.
        layerdrop: the probability that a call skips the layer in training.
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
        attention_dropout: float | None = None,
        activation_dropout: float | None = None,
        layerdrop: float = 0.0,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.layerdrop = layerdrop
        self.pre_norm = pre_norm
        self.attention = Attention(
            hidden_size, num_heads, dropout if attention_dropout is None else attention_dropout
        )
        self.layer_norm = LayerNorm(hidden_size, eps=eps)
        self.feed_forward = FeedForward(
            hidden_size, intermediate_size, dropout if activation_dropout is None else activation_dropout
        )
        self.final_layer_norm = LayerNorm(hidden_size, eps=eps)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        """``[B, T, D]`` → the same; frames outside the mask are not attended to, and their output is arbitrary."""
        return hidden_BTD if self.is_skipped() else self.recomputed(self._whole, hidden_BTD, mask_BT)

    def _whole(self, hidden_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        return self._finish(hidden_BTD, self.attention(self._attention_input(hidden_BTD), mask_BT))

    def is_skipped(self) -> bool:
        """Draw whether this call skips the layer."""
        return self.training and self.layerdrop > 0 and float(torch.rand(())) < self.layerdrop

    def with_memory(
        self,
        hidden_NTD: Tensor,
        mask_BT: Tensor | None,
        memory: "Memory",
        places: Sequence[int],
        wanted: Sequence[int],
    ) -> Tensor:
        """Attention in two dimensions (arXiv 2310.13418): over all frames of a state and of every state before it.

        Args:
            hidden_NTD: R new states of B utterances, state by state.
            memory: this layer's memory of earlier states; the new ones are added to it.
            places: the positions of the R states in the order of states.
            wanted: the subset of ``places`` to compute outputs for.

        Returns:
            ``[len(wanted) · B, T, D]``.
        """
        input_NTD = self._attention_input(hidden_NTD)
        memory.remember(places, *self.attention.keys_values(input_NTD))
        rows = [list(places).index(place) for place in wanted]
        kept_NTD = _pick(hidden_NTD, rows, len(places))
        if self.is_skipped():
            return kept_NTD
        attended_NTD = self.attention.recall(_pick(input_NTD, rows, len(places)), mask_BT, memory, wanted)
        return self.recomputed(self._finish, kept_NTD, attended_NTD)

    def _attention_input(self, hidden_BTD: Tensor) -> Tensor:
        return self.layer_norm(hidden_BTD) if self.pre_norm else hidden_BTD

    def _finish(self, hidden_BTD: Tensor, attended_BTD: Tensor) -> Tensor:
        hidden_BTD = hidden_BTD + self._drop(attended_BTD)
        if self.pre_norm:
            return hidden_BTD + self._drop(self.feed_forward(self.final_layer_norm(hidden_BTD)))
        hidden_BTD = self.layer_norm(hidden_BTD)
        normed_BTD: Tensor = self.final_layer_norm(hidden_BTD + self._drop(self.feed_forward(hidden_BTD)))
        return normed_BTD

    def _drop(self, branch_BTD: Tensor) -> Tensor:
        return drop(branch_BTD, self.dropout if self.training else 0.0)


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
        query_BHTE = self._heads(self.q_proj(hidden_BTD))
        return self._attend(query_BHTE, *self.keys_values(hidden_BTD), mask_BT)

    def keys_values(self, hidden_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return a state's keys and values, which other states attend to, [B, H, T, E] each."""
        return self._heads(self.k_proj(hidden_BTD)), self._heads(self.v_proj(hidden_BTD))

    def recall(self, hidden_NTD: Tensor, mask_BT: Tensor | None, memory: "Memory", places: Sequence[int]) -> Tensor:
        """Let each state at its place attend to all remembered states up to that place."""
        query_NHTE = self._heads(self.q_proj(hidden_NTD))
        attended = []
        for query_BHTE, place in zip(chunked(query_NHTE, len(places)), places, strict=True):
            keys, values, seen = memory.up_to(place)
            mask_BS = None if mask_BT is None else mask_BT.repeat(1, seen)
            attended.append(self._attend(query_BHTE, keys, values, mask_BS))
        return torch.cat(attended)

    def _attend(self, query_BHTE: Tensor, key_BHSE: Tensor, value_BHSE: Tensor, mask_BS: Tensor | None) -> Tensor:
        mask_B11S = None if mask_BS is None else mask_BS[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        if dropout and draws_fast(query_BHTE):
            # On a CPU, the operator does not use its fast path with dropout anyway.
            attended_BHTE = attention_map(query_BHTE, key_BHSE, mask_B11S, dropout) @ value_BHSE
        else:
            attended_BHTE = F.scaled_dot_product_attention(
                query_BHTE, key_BHSE, value_BHSE, attn_mask=mask_B11S, dropout_p=dropout
            )
        output_BTD: Tensor = self.out_proj(attended_BHTE.transpose(1, 2).flatten(2))
        return output_BTD

    def _heads(self, features_BTD: Tensor) -> Tensor:
        batch, frames, dim = features_BTD.shape
        return features_BTD.view(batch, frames, self.num_heads, dim // self.num_heads).transpose(1, 2)


class Memory:
    """Keys and values of the states that one layer has seen, by place, so that none is computed twice."""

    def __init__(self, seen: "dict[int, tuple[Tensor, Tensor]] | None" = None) -> None:
        self._seen = seen or {}

    def remember(self, places: Sequence[int], key_NHTE: Tensor, value_NHTE: Tensor) -> None:
        """Add the states at ``places``, which come after the states that are already there."""
        parts = zip(chunked(key_NHTE, len(places)), chunked(value_NHTE, len(places)), strict=True)
        self._seen |= dict(zip(places, parts, strict=True))

    def up_to(self, place: int) -> tuple[Tensor, Tensor, int]:
        """Return keys and values [B, H, S, E] of all states up to ``place``, concatenated, and their number."""
        seen = [pair for at, pair in sorted(self._seen.items()) if at <= place]
        keys, values = zip(*seen, strict=True)
        return torch.cat(keys, dim=2), torch.cat(values, dim=2), len(seen)

    def fork(self, place: int) -> "Memory":
        """Return a separate memory with the states of this one up to ``place``."""
        return Memory({at: pair for at, pair in self._seen.items() if at <= place})


class FeedForward(nn.Module):
    """Linear → GELU → linear."""

    def __init__(self, hidden_size: int, intermediate_size: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.intermediate_dense = nn.Linear(hidden_size, intermediate_size)
        self.output_dense = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = drop(F.gelu(self.intermediate_dense(hidden)), self.dropout if self.training else 0.0)
        output: Tensor = self.output_dense(hidden)
        return output


def attention_map(query_BHTE: Tensor, key_BHSE: Tensor, mask_B11S: Tensor | None, dropout: float) -> Tensor:
    """Return how much each frame T attends to each frame S, ``[B, H, T, S]``; padding gets no attention."""
    score_BHTS = query_BHTE * query_BHTE.shape[-1] ** -0.5 @ key_BHSE.transpose(2, 3)
    if mask_B11S is not None:
        score_BHTS = score_BHTS.masked_fill(~mask_B11S, torch.finfo(score_BHTS.dtype).min)
    # Under autocast the softmax is in float32, but the product that follows is not.
    return drop(score_BHTS.softmax(-1).to(query_BHTE.dtype), dropout)


def drop(hidden: Tensor, probability: float) -> Tensor:
    """Apply dropout.

    On a CPU it uses 16 random bits per value, so the probability is rounded to a multiple of 2⁻¹⁶. torch draws these
    ten times as fast as Bernoulli samples, which took a seventh of a training step.
    """
    if not probability:
        return hidden
    if not draws_fast(hidden):
        return F.dropout(hidden, probability)
    count = hidden.numel()
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    dropped = round(probability * 2**16)
    kept = words.view(torch.int16)[:count] >= dropped - 2**15
    return hidden * kept.view(hidden.shape).to(hidden.dtype).mul_(2**16 / (2**16 - dropped))


def draws_fast(hidden: Tensor) -> bool:
    """Return whether :func:`drop` uses random bits instead of ``F.dropout``."""
    return hidden.device.type == "cpu" and not is_symbolic()


def chunked(hidden: Tensor, count: int) -> Sequence[Tensor]:
    """Split ``hidden`` into ``count`` equal parts; one part needs no operator, which would be a sequence in ONNX."""
    return hidden.chunk(count) if count > 1 else (hidden,)


def _pick(hidden_NTD: Tensor, rows: list[int], count: int) -> Tensor:
    """Return the states at ``rows``, out of ``count`` places."""
    if rows == list(range(count)):
        return hidden_NTD
    parts = hidden_NTD.chunk(count)
    return torch.cat([parts[row] for row in rows])


def tensors_of(layer_tensors: Mapping[str, Tensor], place: int) -> dict[str, Tensor]:
    """Return the tensors of one layer, by their names within the layer."""
    prefix = f"{place}."
    return {name.removeprefix(prefix): tensor for name, tensor in layer_tensors.items() if name.startswith(prefix)}


def difference(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    """Describe the first tensor whose shape differs between two layers."""

    def shape(tensors: Mapping[str, Tensor], name: str) -> str:
        return " × ".join(map(str, tensors[name].shape)) if name in tensors else "absent"

    for name in sorted(own.keys() | given.keys()):
        if (theirs := shape(given, name)) != (ours := shape(own, name)):
            return f"{name} is {theirs} in the teacher, but {ours} in the student"
    return None
