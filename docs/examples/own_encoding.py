"""An encoding of one's own: 8-bit floating point, and for each frame the scale that its largest value wants.

gdist extract --teacher TEACHER --manifest m.parquet --cache CACHE --encoding own_encoding.py:Fp8
gdist train --cache CACHE --out runs/fp8 --use own_encoding.py:Fp8

Axes: B batch, T frames, D features.
"""

import torch
from torch import Tensor

from gdist.pipeline.cache.encodings import LAYERS, SCALES, Encoding, Part, Stored, Tables

LARGEST, NAN = 448.0, 0x7F  # of float8_e4m3, which has no infinity and this one NaN, or with a sign 0xFF


class Fp8(Encoding):
    """8-bit floating point (e4m3) and a scale for each frame: 1 byte a value, and 4 bytes a frame."""

    name, bytes_per_value = "fp8", 1 + 4 / 768
    relative_error = 0.03  # of a value, half of the last of its 4 bits at most: 2⁻⁴
    largest = torch.finfo(torch.float32).max

    def parts(self, dim: int) -> dict[str, Part]:
        """NumPy has no such type: the bits are stored as uint8. Both arrays have a row for each frame."""
        return {LAYERS: Part(dim, "uint8", NAN), SCALES: Part(1, "float32", float("nan"))}

    def encode(self, hidden_BTD: Tensor, num_frames_B: Tensor, tables: Tables) -> Stored:
        """A frame of zeros has the least scale there is."""
        scale_BT1 = (hidden_BTD.abs().amax(2, keepdim=True) / LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
        return {LAYERS: (hidden_BTD / scale_BT1).to(torch.float8_e4m3fn).view(torch.uint8), SCALES: scale_BT1}

    def decode(self, stored: Stored, chunk_T: Tensor, tables: Tables) -> Tensor:
        """Rows that were never written hold NaN, and stay it."""
        return stored[LAYERS].view(torch.float8_e4m3fn).float() * stored[SCALES]
