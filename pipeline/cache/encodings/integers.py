"""Integers of 8 or 4 bits, with a step for every channel in every chunk: an outlier channel affects no other channel.

A value is (code − levels) · step, with codes 0 … 2 · levels in ``layers/`` and steps 2^(e / 4 − 36), e = 0 … 254, in
``scales/``. The step is the smallest one that reaches the chunk's largest |x| in that channel. A scale costs one byte
per channel and chunk, which is affordable for short utterances; an additional offset, or scales in half precision,
would not be.

Axes: B batch, T frames, C chunks of 128 frames, D features, W bytes per row.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from gdist.pipeline.cache.encodings.base import LAYERS, SCALES, Encoding, Part, Stored, Tables
from gdist.pipeline.cache.layout import CHUNK_FRAMES

FILL = 255  # never written as a scale, as a byte of int8, or as two nibbles of 15 in int4


@cache  # a copy on each device, so that neither encoding nor decoding waits for a transfer
def _step_of_scale(device: torch.device) -> Tensor:
    """[256], with NaN last.

    It is a table because exp2 and log2 differ in the last bit between devices, and between lanes of one device.
    """
    steps = 2.0 ** (torch.arange(256, dtype=torch.float64) / 4 - 36)
    steps[FILL] = torch.nan
    return steps.float().to(device)


@cache
def _pair_of_byte(levels: int, device: torch.device) -> Tensor:
    """A byte → two values in steps, the first one from the low bits, as the 64 bits of both: [256]."""
    codes = torch.arange(256)[:, None] >> torch.tensor([0, 4]) & 15
    pair = (codes - levels).float().masked_fill(codes == 15, torch.nan)
    return pair.view(torch.int64)[:, 0].to(device)


class _Integers(Encoding):
    """Symmetric about zero, so that the zeros of padding change nothing."""

    bits: int
    levels: int

    def __init__(self) -> None:
        self.bytes_per_value = self.bits / 8 + 1 / CHUNK_FRAMES
        self.largest = 2.0**27 * self.levels

    def parts(self, dim: int) -> dict[str, Part]:
        width = -(-dim * self.bits // 8)
        return {LAYERS: Part(width, "uint8", FILL), SCALES: Part(dim, "uint8", FILL, per_chunk=True)}

    def encode(self, hidden_BTD: Tensor, num_frames_B: Tensor, tables: Tables) -> Stored:
        if hidden_BTD.device.type == "cpu":  # chunk by chunk, which stays in the CPU's cache
            chunks = torch.split(hidden_BTD, CHUNK_FRAMES, dim=1)
            codes, scales = zip(*(self.encode_chunks(chunk_BTD[:, None]) for chunk_BTD in chunks), strict=True)
            return {LAYERS: torch.cat([code[:, 0] for code in codes], dim=1), SCALES: torch.cat(scales, dim=1)}
        batch, frames, dim = hidden_BTD.shape
        padded_BTD = pad(hidden_BTD, (0, 0, 0, -frames % CHUNK_FRAMES))  # zeros leave every peak as it is
        code_BCTW, scale_BCD = self.encode_chunks(padded_BTD.view(batch, -1, CHUNK_FRAMES, dim))
        return {LAYERS: code_BCTW.flatten(1, 2)[:, :frames], SCALES: scale_BCD}

    def encode_chunks(self, hidden_BCTD: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, T, D] → codes [B, C, T, W] and scales [B, C, D]."""
        steps = _step_of_scale(hidden_BCTD.device)[:FILL]
        if hidden_BCTD.device.type == "cpu":
            peak_BCD = torch.maximum(hidden_BCTD.amax(dim=2), -hidden_BCTD.amin(dim=2))  # 20 times as fast
        else:
            peak_BCD = torch.linalg.vector_norm(hidden_BCTD, torch.inf, dim=2)  # the same, in one pass
        scale_BCD = torch.searchsorted(steps, peak_BCD / self.levels).clamp_(max=FILL - 1)
        code_BCTD = (hidden_BCTD / steps[scale_BCD][:, :, None]).round_().to(torch.int8)
        return self._pack((code_BCTD + self.levels).view(torch.uint8)), scale_BCD.to(torch.uint8)

    def decode(self, stored: Stored, chunk_T: Tensor, tables: Tables) -> Tensor:
        bytes_TW, scale_CD = stored[LAYERS], stored[SCALES]
        hidden_TD = torch.empty(len(bytes_TW), scale_CD.shape[1], device=bytes_TW.device)
        if hidden_TD.device.type == "cpu":
            self.decode_into([hidden_TD], stored, chunk_T, tables)
            return hidden_TD
        self._unpack(bytes_TW, hidden_TD)
        return hidden_TD.mul_(_step_of_scale(scale_CD.device)[scale_CD.int()].index_select(0, chunk_T))

    def decode_into(self, out: Sequence[Tensor], stored: Stored, chunk_T: Tensor, tables: Tables) -> None:
        bytes_TW, scale_CD = stored[LAYERS], stored[SCALES]
        if bytes_TW.device.type != "cpu":
            super().decode_into(out, stored, chunk_T, tables)
            return
        # In place and chunk by chunk, it stays in the CPU's cache: several times as fast.
        step_CD, row = _step_of_scale(scale_CD.device)[scale_CD.int()], 0
        for piece_TD in out:
            chunks, counts = torch.unique_consecutive(chunk_T[row : row + len(piece_TD)], return_counts=True)
            for chunk_TD, chunk in zip(torch.split(piece_TD, counts.tolist()), chunks.tolist(), strict=True):
                self._unpack(bytes_TW[row : row + len(chunk_TD)], chunk_TD)
                chunk_TD.mul_(step_CD[chunk])
                row += len(chunk_TD)

    def _unpack(self, bytes_TW: Tensor, out_TD: Tensor) -> None:
        """Fill ``out_TD`` with the values in steps; NaN where nothing was written."""
        if self.bits == 4:
            # index_select is used because indexing takes three times as long on a CPU.
            pairs = _pair_of_byte(self.levels, bytes_TW.device).index_select(0, bytes_TW.flatten().int())
            out_TD.copy_(pairs.view(torch.float32).view(len(bytes_TW), 2 * bytes_TW.shape[1])[:, : out_TD.shape[1]])
            return
        out_TD.copy_(bytes_TW).sub_(self.levels)
        # On a CPU, comparing takes longer than all the rest, and finding the largest takes hardly any time.
        if bytes_TW.device.type != "cpu" or (bytes_TW.numel() and int(bytes_TW.max()) == FILL):
            out_TD.masked_fill_(bytes_TW == FILL, torch.nan)

    def _pack(self, code_BCTD: Tensor) -> Tensor:
        if self.bits == 8:
            return code_BCTD
        code_BCTD = pad(code_BCTD, (0, code_BCTD.shape[3] % 2))
        return code_BCTD[..., 0::2] | code_BCTD[..., 1::2] << 4


class Int8(_Integers):
    """8-bit integers, with one step per channel and 128 frames: error at most 1 / 161 of its peak."""

    # With the full ±127, codes have no redundancy left to compress, and take 0.27 of fp32's compressed bytes.
    name, bits, levels = "int8", 8, 96
    relative_error = 0.009


class Int4(_Integers):
    """4-bit integers, two per byte, with one step per channel and 128 frames: error at most 1 / 11 of its peak."""

    name, bits, levels = "int4", 4, 7
    relative_error = 0.13
