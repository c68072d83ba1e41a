"""Floating point: 4 or 2 bytes per value, rounded once.

Axes: B batch, T frames, D features.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from gdist.pipeline.cache.encodings.base import LAYERS, Encoding, Part, Stored, Tables


class _Float(Encoding):
    """Value by value: one array, with one number per feature."""

    dtype: str
    fill_value: float | int

    def parts(self, dim: int) -> dict[str, Part]:
        return {LAYERS: Part(dim, self.dtype, self.fill_value)}

    def encode(self, hidden_BTD: Tensor, num_frames_B: Tensor, tables: Tables) -> Stored:
        return {LAYERS: self.to_numbers(hidden_BTD)}

    def decode(self, stored: Stored, chunk_T: Tensor, tables: Tables) -> Tensor:
        return self.typed(stored[LAYERS]).float()

    def decode_into(self, out: Sequence[Tensor], stored: Stored, chunk_T: Tensor, tables: Tables) -> None:
        typed = torch.split(self.typed(stored[LAYERS]), [len(piece_TD) for piece_TD in out])
        for piece_TD, typed_TD in zip(out, typed, strict=True):
            piece_TD.copy_(typed_TD)  # also converts to float32

    @abstractmethod
    def to_numbers(self, values: Tensor) -> Tensor: ...

    def typed(self, numbers: Tensor) -> Tensor:
        """Return the same memory as the torch type that the numbers encode."""
        return numbers


class Float32(_Float):
    """As computed: 4 bytes per value."""

    name, dtype, fill_value, bytes_per_value = "fp32", "float32", float("nan"), 4
    relative_error, largest, lossless = 0.0, torch.finfo(torch.float32).max, True

    def to_numbers(self, values: Tensor) -> Tensor:
        return values.float()


class Float16(_Float):
    """IEEE half precision: 11 bits of mantissa, overflows past 65,504."""

    name, dtype, fill_value, bytes_per_value = "fp16", "float16", float("nan"), 2
    relative_error, largest = 2.0**-11, 65_504.0

    def to_numbers(self, values: Tensor) -> Tensor:
        return values.half()


class BFloat16(_Float):
    """bfloat16: float32's range with 8 bits of mantissa. Zarr has no such type, so the bits are stored as uint16."""

    name, dtype, fill_value, bytes_per_value = "bf16", "uint16", 0x7FC0, 2  # 0x7FC0 is bfloat16's NaN
    relative_error, largest = 2.0**-8, torch.finfo(torch.bfloat16).max

    def to_numbers(self, values: Tensor) -> Tensor:
        return values.bfloat16().view(torch.uint16)

    def typed(self, numbers: Tensor) -> Tensor:
        return numbers.view(torch.bfloat16)
