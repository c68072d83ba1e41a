"""Attention whose bias is computed for a few utterances, or for a few queries of one, at a time.

A position bias that depends on the queries has B·H·T² numbers per layer: 0.14 GB for 30 seconds of a Large model in
float32, and as much again for each step of its computation. Here no tensor of that kind has more than
:data:`ELEMENTS` numbers (one that is skewed may have twice as many, of which half are used), however long the batch.

Axes: B batch, T frames (queries, then keys), N frames of all utterances, Q queries and W distances of a piece,
D features, H heads, E features of a head, R distances of a table.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gdist.stages.frontend.padding import on_device

# The most numbers of a bias at a time: 8 MB in float32 on a CPU, which stay in its caches, and 1 GB on a GPU, which
# runs fewer and larger kernels. A GPU so takes one utterance of a Large model whole up to 82 s.
ELEMENTS = {"cpu": 2**21, "cuda": 2**28}
QUERIES = 64  # pieces are multiples of it, as attention on a CPU takes that many queries at a time

# On a GPU, rows of the bias begin at multiples of this many numbers; attention would copy others to such places.
ROW = 16

# Where calling an operator costs little, frames of padding are left out and utterances processed one by one.
UNPADDED = ("cpu",)

Bias = Callable[[slice, slice], Tensor]
"""Utterances and queries → their bias ``[B, H, Q, T]``, in the dtype of the queries and with padding hidden."""
Apart = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
"""Applies a function of whole utterances, ``[B, T, D]``, to what :func:`over_own_frames` hands out."""


def most_elements(device: torch.device) -> int:
    """The most numbers of a bias at a time on this device."""
    return ELEMENTS.get(device.type, 2**24)


def leaves_padding_out(device: torch.device) -> bool:
    """Whether :func:`over_own_frames` leaves frames of padding out on this device."""
    return device.type in UNPADDED


def over_own_frames(hidden_BTD: Tensor, mask_BT: Tensor | None, layer: Callable[[Tensor, Apart], Tensor]) -> Tensor:
    """A layer over a batch; on the devices in :data:`UNPADDED` over the utterances' own frames only.

    Args:
        layer: of ``hidden`` and ``apart``. What it does frame by frame, it does to ``hidden``, which may be the
            frames of all utterances, ``[N, D]``; ``apart(function, hidden)`` is for what looks at other frames.
    """
    if mask_BT is None or not leaves_padding_out(hidden_BTD.device):
        return layer(hidden_BTD, lambda function, whole_BTD: function(whole_BTD))
    counts = mask_BT.sum(1).tolist()

    def apart(function: Callable[[Tensor], Tensor], hidden_ND: Tensor) -> Tensor:
        return torch.cat([function(rows_TD[None])[0] for rows_TD in torch.split(hidden_ND, counts)])

    output_ND = layer(hidden_BTD[mask_BT], apart)
    output_BTD = output_ND.new_zeros(*mask_BT.shape, output_ND.shape[-1])
    output_BTD[mask_BT] = output_ND
    return output_BTD


def attend(query_BHTE: Tensor, key_BHTE: Tensor, value_BHTE: Tensor, bias: Bias) -> Tensor:
    """``softmax(q·k / √E + bias) · v`` as ``[B, T, D]``, without forming the attention weights.

    As many utterances as fit are taken at a time; of one that does not fit, as many queries.
    """
    batch, heads, frames, _ = query_BHTE.shape
    most = most_elements(query_BHTE.device)
    few = max(1, most // (heads * frames**2))
    queries = frames
    if heads * frames**2 > most:
        queries = max(1, most // (heads * frames) // QUERIES) * QUERIES
    rows_parts = []
    for row in range(0, batch, few):
        rows = slice(row, min(row + few, batch))
        parts = []
        for start in range(0, frames, queries):
            piece = slice(start, min(start + queries, frames))
            output_BHQE = F.scaled_dot_product_attention(
                query_BHTE[rows, :, piece], key_BHTE[rows], value_BHTE[rows], attn_mask=bias(rows, piece)
            )
            parts.append(output_BHQE.transpose(1, 2))
        rows_parts.append(parts[0] if len(parts) == 1 else torch.cat(parts, 1))
    output_BTHE = rows_parts[0] if len(rows_parts) == 1 else torch.cat(rows_parts)
    return output_BTHE.flatten(2)


def attend_without_bias(
    query_BHTE: Tensor, key_BHTE: Tensor, value_BHTE: Tensor, additive_BT: Tensor | None
) -> Tensor:
    """``softmax(q·k / √E) · v`` as ``[B, T, D]``, with −∞ for keys of padding (see :func:`hidden_keys`)."""
    mask_BHTT = None
    if additive_BT is not None:
        batch, frames = additive_BT.shape
        row_B11T = room(torch.Size((batch, 1, 1, frames)), query_BHTE.dtype, additive_BT.device)
        mask_BHTT = row_B11T.copy_(additive_BT[:, None, None, :]).expand(-1, -1, frames, -1)
    output_BHTE = F.scaled_dot_product_attention(query_BHTE, key_BHTE, value_BHTE, attn_mask=mask_BHTT)
    return output_BHTE.transpose(1, 2).flatten(2)


def split_heads(features_BTD: Tensor, heads: int) -> Tensor:
    """``[B, T, D]`` → ``[B, H, T, E]``."""
    return features_BTD.view(*features_BTD.shape[:2], heads, -1).transpose(1, 2)


# --- padding --------------------------------------------------------------------------------------------------------


def additive(mask_BT: Tensor) -> Tensor:
    """0 for an utterance's own frames and −∞ for padding, in float32."""
    return torch.zeros_like(mask_BT, dtype=torch.float32).masked_fill_(~mask_BT, -torch.inf)


def hidden_keys(mask_BT: Tensor | None) -> Tensor | None:
    """:func:`additive`, or None where no frame is padding, or where :func:`over_own_frames` leaves padding out."""
    return None if mask_BT is None or leaves_padding_out(mask_BT.device) else additive(mask_BT)


def room(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An empty tensor for a bias, with each row at a multiple of :data:`ROW` numbers."""
    wide = torch.empty(*shape[:-1], -(-shape[-1] // ROW) * ROW, dtype=dtype, device=device)
    return wide[..., : shape[-1]]


def laid_out(bias_BHQT: Tensor, additive_BT: Tensor | None, rows: slice, dtype: torch.dtype) -> Tensor:
    """The bias in the attention's own dtype, −∞ for keys of padding, where attention reads it without a copy."""
    if leaves_padding_out(bias_BHQT.device):
        return bias_BHQT.to(dtype)
    out_BHQT = room(bias_BHQT.shape, dtype, bias_BHQT.device)
    if additive_BT is None:
        return out_BHQT.copy_(bias_BHQT)
    return torch.add(bias_BHQT, additive_BT[rows, None, None, :], out=out_BHQT)


# --- biases of distances --------------------------------------------------------------------------------------------


def distances(piece: slice, frames: int) -> slice:
    """Which of the 2T − 1 distances, from 1 − T to T − 1, the queries of a piece have to any key: W = T + Q − 1."""
    return slice(frames - piece.stop, 2 * frames - 1 - piece.start)


def skew(scores_BHQW: Tensor, frames: int) -> Tensor:
    """Scores of every distance that :func:`distances` names → those of every key, ``[B, H, Q, T]``, as a view.

    Example, of two queries and three keys: the rows ``[−1, 0, 1, 2]`` of distances become ``[0, 1, 2]`` for query 0
    and ``[−1, 0, 1]`` for query 1.
    """
    scores_BHQW = scores_BHQW.contiguous()
    batch, heads, queries, wide = scores_BHQW.shape
    strides = (heads * queries * wide, queries * wide, wide - 1, 1)
    start = scores_BHQW.storage_offset() + queries - 1
    return scores_BHQW.as_strided((batch, heads, queries, frames), strides, start)


def by_table(
    query_BHTE: Tensor, table_RE: Tensor, left: int, right: int, additive_BT: Tensor | None, scale: float
) -> Bias:
    """Shaw's relative positions (arXiv 1803.02155): q · table[distance], distances limited to −left … right.

    The products with the table are computed once; a piece of the bias gathers them.
    """
    scores_BHTR = (query_BHTE @ table_RE.to(query_BHTE.dtype).T) * scale
    frames = query_BHTE.shape[2]

    def bias(rows: slice, piece: slice) -> Tensor:
        scores_BHQR = scores_BHTR[rows, :, piece]
        place_T = torch.arange(frames, device=scores_BHQR.device)
        index_QT = (place_T[None] - place_T[piece, None]).clamp(-left, right) + left
        index_BHQT = index_QT.expand(*scores_BHQR.shape[:2], -1, -1)
        bias_BHQT = room(index_BHQT.shape, scores_BHQR.dtype, scores_BHQR.device)
        torch.gather(scores_BHQR, 3, index_BHQT, out=bias_BHQT)
        return bias_BHQT if additive_BT is None else bias_BHQT.add_(additive_BT[rows, None, None, :])

    return bias


def by_projection(query_BHTE: Tensor, positions_HRE: Tensor, additive_BT: Tensor | None, scale: float) -> Bias:
    """Transformer-XL's relative positions (arXiv 1901.02860): q · positions[distance].

    Args:
        query_BHTE: queries, with the bias that only positions see.
        positions_HRE: a projection for each of the 2T − 1 distances (key − query), from 1 − T to T − 1.
    """
    frames = query_BHTE.shape[2]

    def bias(rows: slice, piece: slice) -> Tensor:
        scores_BHQW = query_BHTE[rows, :, piece] @ positions_HRE[:, distances(piece, frames)].mT
        return laid_out(skew(scores_BHQW * scale, frames), additive_BT, rows, query_BHTE.dtype)

    return bias


def sinusoids(frames: int, dim: int, device: torch.device) -> Tensor:
    """Sines and cosines of the 2T − 1 distances (key − query), from 1 − T to T − 1, as Hugging Face's conformers
    compute them: ``[2T − 1, dim]`` in float32, of positions that are positive for keys before the query."""
    position_R1 = torch.arange(frames - 1, -frames, -1, device="cpu").float()[:, None]
    rate_E = torch.exp(torch.arange(0, dim, 2, device="cpu").float() * -(math.log(10_000.0) / dim))
    sine_RE, cosine_RE = torch.sin(position_R1 * rate_E), torch.cos(position_R1 * rate_E)
    return on_device(torch.stack([sine_RE, cosine_RE], -1).flatten(1)[:, :dim], device)


def rotate(hidden_BTD: Tensor, heads: int, base: float) -> Tensor:
    """Rotary positions (arXiv 2104.09864) as Hugging Face's conformers apply them: to the input of the projections
    to queries and keys, not to their output."""
    size = hidden_BTD.shape[2] // heads
    # On the CPU, as Hugging Face does: a rate's last bit is multiplied by the frame's number.
    rate_E = on_device(1.0 / (base ** (torch.arange(0, size, 2, device="cpu").float() / size)), hidden_BTD.device)
    angle_TE = torch.outer(torch.arange(hidden_BTD.shape[1], device=hidden_BTD.device).to(rate_E), rate_E)
    cosine_T1E, sine_T1E = (f(angle_TE).repeat(1, 2)[:, None].to(hidden_BTD.dtype) for f in (torch.cos, torch.sin))
    heads_BTHE = hidden_BTD.view(*hidden_BTD.shape[:2], heads, size)
    first, second = heads_BTHE.chunk(2, -1)
    rotated_BTHE = torch.cat([-second, first], -1)
    return (heads_BTHE * cosine_T1E + rotated_BTHE * sine_T1E).flatten(2)
