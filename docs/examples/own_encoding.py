"""An encoding of your own: 8-bit floating point, with one scale per frame that fits the frame's largest value.

gdist extract --teacher TEACHER --manifest m.parquet --cache CACHE --encoding own_encoding.py:Fp8
gdist train --cache CACHE --out runs/fp8 --use own_encoding.py:Fp8

Axes: B batch, T frames, D features.
"""

import torch
from torch import Tensor

from gdist.pipeline.cache.encodings import LAYERS, SCALES, Encoding, Part, Stored, Tables

LARGEST, NAN = 448.0, 0x7F  # of float8_e4m3, which has no infinity and a single NaN (0xFF with the sign bit)


class Fp8(Encoding):
    """8-bit floating point (e4m3) and a scale for each frame: 1 byte per value, and 4 bytes per frame."""

    name, bytes_per_value = "fp8", 1 + 4 / 768
    relative_error = 0.03  # for a single value, at most half of the last of its 4 bits: 2⁻⁴
    largest = torch.finfo(torch.float32).max

    def parts(self, dim: int) -> dict[str, Part]:
        """NumPy has no such type, so the bits are stored as uint8. Both arrays have one row per frame."""
        return {LAYERS: Part(dim, "uint8", NAN), SCALES: Part(1, "float32", float("nan"))}

    def encode(self, hidden_BTD: Tensor, num_frames_B: Tensor, tables: Tables) -> Stored:
        """A frame of zeros gets the smallest possible scale."""
        scale_BT1 = (hidden_BTD.abs().amax(2, keepdim=True) / LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
        return {LAYERS: (hidden_BTD / scale_BT1).to(torch.float8_e4m3fn).view(torch.uint8), SCALES: scale_BT1}

    def decode(self, stored: Stored, chunk_T: Tensor, tables: Tables) -> Tensor:
        """Rows that were never written contain NaN and decode to NaN."""
        return stored[LAYERS].view(torch.float8_e4m3fn).float() * stored[SCALES]
