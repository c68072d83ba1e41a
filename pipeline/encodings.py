"""How hidden states are stored: the contract, each encoding, the table of names.

To add one: write a subclass of :class:`Encoding` and a row in ``ENCODINGS``; the conformance tests run over it.

Axes: T frames, D features.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdist.pipeline.config import did_you_mean
from gdist.pipeline.errors import ConfigError


class Encoding(ABC):
    """One way of turning a float32 hidden state into stored numbers and back.

    Attributes:
        name: what ``--encoding`` takes.
        dtype: NumPy dtype of the stored array.
        fill_value: a stored number that decodes to NaN, so that what was never written cannot pass for data.
        bytes_per_value: stored bytes a hidden-state value, before lossless compression.
        relative_error: bound on |decoded − x| / |x| for normal values of x, for the tests and for ``gdist plan``.
        largest: the largest |x| that can be stored.
    """

    name: str
    dtype: str
    fill_value: float | int
    bytes_per_value: float
    relative_error: float
    largest: float

    @abstractmethod
    def encode(self, hidden_TD: Tensor) -> np.ndarray[Any, Any]:
        """float32 [T, D] on any device → the stored [T, D] array on the host."""

    @abstractmethod
    def decode(self, stored: np.ndarray[Any, Any]) -> Tensor:
        """The stored array → float32 [T, D] on the host. Exact inverse of what was rounded in :meth:`encode`."""


class Float32(Encoding):
    """As computed: 4 bytes a value."""

    name, dtype, fill_value, bytes_per_value = "fp32", "float32", float("nan"), 4
    relative_error, largest = 0.0, torch.finfo(torch.float32).max

    def encode(self, hidden_TD: Tensor) -> np.ndarray[Any, Any]:
        return hidden_TD.float().cpu().numpy()

    def decode(self, stored: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(stored)


class Float16(Encoding):
    """IEEE half precision: 11 bits of mantissa, overflows past 65,504."""

    name, dtype, fill_value, bytes_per_value = "fp16", "float16", float("nan"), 2
    relative_error, largest = 2.0**-11, 65_504.0

    def encode(self, hidden_TD: Tensor) -> np.ndarray[Any, Any]:
        return hidden_TD.half().cpu().numpy()

    def decode(self, stored: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(stored).float()


class BFloat16(Encoding):
    """bfloat16: float32's range with 8 bits of mantissa. Zarr has no such type: the bits are stored as uint16."""

    name, dtype, fill_value, bytes_per_value = "bf16", "uint16", 0x7FC0, 2  # 0x7FC0 is bfloat16's NaN
    relative_error, largest = 2.0**-8, torch.finfo(torch.bfloat16).max

    def encode(self, hidden_TD: Tensor) -> np.ndarray[Any, Any]:
        return hidden_TD.bfloat16().cpu().view(torch.uint16).numpy()

    def decode(self, stored: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(stored).view(torch.bfloat16).float()


ENCODINGS: dict[str, Encoding] = {
    "fp32": Float32(),
    "fp16": Float16(),
    "bf16": BFloat16(),
}


def encoding(name: str) -> Encoding:
    """The encoding called ``name``; ConfigError with the nearest name otherwise."""
    if name not in ENCODINGS:
        raise ConfigError(f"unknown encoding {name!r}", did_you_mean(name, ENCODINGS))
    return ENCODINGS[name]


def unstorable(hidden_TD: Tensor, encoding: Encoding) -> str | None:
    """Why ``hidden_TD`` cannot be stored (non-finite values, or too large for the encoding), or None."""
    largest = hidden_TD.abs().amax()
    if not torch.isfinite(largest):
        return f"{int((~torch.isfinite(hidden_TD)).sum())} non-finite values"
    if largest > encoding.largest:
        return f"values up to {float(largest):.0f} overflow {encoding.name} (largest {encoding.largest:.0f})"
    return None
