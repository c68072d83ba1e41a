"""Attention in pieces gives what it gives whole, and forms no larger tensor than it may.

Axes: B batch, T frames, Q queries of a piece, W distances, D features, H heads, E features of a head.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.wav2vec2_bert.configuration_wav2vec2_bert import Wav2Vec2BertConfig
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import (
    Wav2Vec2BertRelPositionalEmbedding,
    Wav2Vec2BertRotaryPositionalEmbedding,
    Wav2Vec2BertSelfAttention,
)

from gdist.stages.teachers import attention
from gdist.stages.teachers.attention import (
    additive,
    attend,
    by_projection,
    by_table,
    distances,
    rotate,
    sinusoids,
    skew,
)

HEADS, SIZE = 2, 8


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the numbers of the largest tensor that any operator returns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, Tensor) and not func.is_view:
                self.numbers = max(self.numbers, tensor.numel())
        return result


def heads(batch: int, frames: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query_BHTE, key_BHTE, value_BHTE = torch.randn(3, batch, HEADS, frames, SIZE, generator=generator)
    return query_BHTE, key_BHTE, value_BHTE


def table(query_BHTE: Tensor, additive_BT: Tensor | None) -> Callable[[slice, slice], Tensor]:
    generator = torch.Generator().manual_seed(1)
    return by_table(query_BHTE, torch.randn(6, SIZE, generator=generator), 3, 2, additive_BT, 0.5)


def projection(query_BHTE: Tensor, additive_BT: Tensor | None) -> Callable[[slice, slice], Tensor]:
    generator = torch.Generator().manual_seed(1)
    positions_HRE = torch.randn(HEADS, 2 * query_BHTE.shape[2] - 1, SIZE, generator=generator)
    return by_projection(query_BHTE, positions_HRE, additive_BT, 0.5)


@pytest.mark.parametrize("make", [table, projection])
@pytest.mark.parametrize("most", [1, HEADS * 70 * 200, 2 * HEADS * 200**2])
@pytest.mark.parametrize("padded", [False, True])
def test_pieces_change_nothing(make: Any, most: int, padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    query_BHTE, key_BHTE, value_BHTE = heads(3, 200)
    lengths = torch.tensor([200, 130, 1])
    mask_BT = torch.arange(200) < lengths[:, None] if padded else None
    if padded:
        monkeypatch.setattr(attention, "UNPADDED", ())
    bias = make(query_BHTE, None if mask_BT is None else additive(mask_BT))
    everything = bias(slice(0, 3), slice(0, 200))
    expected_BHTE = F.scaled_dot_product_attention(query_BHTE, key_BHTE, value_BHTE, attn_mask=everything)
    monkeypatch.setattr(attention, "ELEMENTS", {"cpu": most})
    found_BTD = attend(query_BHTE, key_BHTE, value_BHTE, bias)
    torch.testing.assert_close(found_BTD, expected_BHTE.transpose(1, 2).flatten(2), atol=1e-6, rtol=0)
    if padded:  # what padding contains does not matter
        key_BHTE[1, :, 130:], value_BHTE[1, :, 130:] = 1e4, 1e4
        again_BTD = attend(query_BHTE, key_BHTE, value_BHTE, bias)
        assert torch.equal(again_BTD, found_BTD)


@pytest.mark.parametrize("make", [table, projection])
def test_no_tensor_is_larger_than_it_may_be(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = 900
    most = HEADS * 128 * frames
    monkeypatch.setattr(attention, "ELEMENTS", {"cpu": most})
    query_BHTE, key_BHTE, value_BHTE = heads(2, frames)
    bias = make(query_BHTE, None)
    with Largest() as largest:
        attend(query_BHTE, key_BHTE, value_BHTE, bias)
    assert most / 2 < largest.numbers <= 2 * most < HEADS * frames**2


def test_skewed_scores_are_those_of_every_key() -> None:
    frames, piece = 7, slice(2, 5)
    score_W = torch.arange(1 - frames, frames)[distances(piece, frames)]
    found_QT = skew(score_W.expand(1, 1, 3, -1), frames)[0, 0]
    assert torch.equal(found_QT, torch.arange(frames)[None] - torch.arange(2, 5)[:, None])


@pytest.mark.parametrize("kind", ["relative", "relative_key", "rotary"])
def test_positions_are_hugging_faces(kind: Any) -> None:
    torch.manual_seed(0)
    fields: dict[str, Any] = {"left_max_position_embeddings": 4, "right_max_position_embeddings": 2}
    config = Wav2Vec2BertConfig(
        hidden_size=HEADS * SIZE, num_attention_heads=HEADS, position_embeddings_type=kind, max_source_positions=20,
        attn_implementation="eager", **fields,
    )  # fmt: skip
    theirs = Wav2Vec2BertSelfAttention(config).eval()
    hidden_BTD = torch.randn(2, 50, HEADS * SIZE)  # longer than max_source_positions
    positions = None
    if kind == "relative":
        for parameter in (theirs.pos_bias_u, theirs.pos_bias_v):
            torch.nn.init.normal_(parameter)
        positions = Wav2Vec2BertRelPositionalEmbedding(config)(hidden_BTD)
        assert torch.equal(positions[0], sinusoids(50, HEADS * SIZE, hidden_BTD.device))
    if kind == "rotary":
        positions = Wav2Vec2BertRotaryPositionalEmbedding(config)(hidden_BTD)
        expected = theirs._apply_rotary_embedding(hidden_BTD, positions)
        torch.testing.assert_close(rotate(hidden_BTD, HEADS, config.rotary_embedding_base), expected)
        return
    with torch.no_grad():
        expected_BTD = theirs(hidden_BTD, relative_position_embeddings=positions)[0]
        query, key, value = (
            attention.split_heads(project(hidden_BTD), HEADS)
            for project in (theirs.linear_q, theirs.linear_k, theirs.linear_v)
        )
        if kind == "relative_key":
            bias = by_table(query, theirs.distance_embedding.weight, 4, 2, None, SIZE**-0.5)
        else:
            assert positions is not None
            projected = attention.split_heads(theirs.linear_pos(positions), HEADS)[0]
            bias = by_projection(query + theirs.pos_bias_v[:, None], projected, None, SIZE**-0.5)
            query = query + theirs.pos_bias_u[:, None]
        found_BTD = theirs.linear_out(attend(query, key, value, bias))
    torch.testing.assert_close(found_BTD, expected_BTD, atol=1e-5, rtol=0)
