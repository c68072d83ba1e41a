"""One block of memory that holds several arrays: filled by the CPU, and sent to a GPU in a single copy."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ALIGNMENT = 256  # bytes; a GPU reads aligned arrays fastest, and torch accepts no array between two of its numbers

Shapes = Mapping[str, tuple[tuple[int, ...], str]]
"""Name → shape, and NumPy's name of the type."""


class Stage:
    """Uninitialized arrays, next to each other.

    In page-locked memory, a copy to a GPU neither occupies nor waits for this thread. The block may be dropped at
    once: torch reuses page-locked memory only when an event, recorded after the copy, has occurred. So the blocks of
    successive batches form a ring without any waiting here.

    Attributes:
        arrays: name → the array to fill.
    """

    def __init__(self, shapes: Shapes, device: str) -> None:
        self.device, self._places, size = torch.device(device), {}, 0
        for name, (shape, dtype) in shapes.items():
            count = math.prod(shape) * np.dtype(dtype).itemsize
            self._places[name] = slice(size, size + count)
            size += -(-count // _ALIGNMENT) * _ALIGNMENT
        self._block = memory(size, self.device)
        block: np.ndarray[Any, Any] = self._block.numpy()
        self.arrays = {name: block[self._places[name]].view(dtype).reshape(s) for name, (s, dtype) in shapes.items()}

    def send(self) -> dict[str, Tensor]:
        """Return all arrays on the device; the copy is queued on the current stream."""
        there = self._block.to(self.device, non_blocking=True)
        return {
            name: there[self._places[name]].view(torch.from_numpy(array[:0]).dtype).view(array.shape)
            for name, array in self.arrays.items()
        }


def memory(size: int, device: torch.device) -> Tensor:
    """Allocate so many bytes, from which ``device`` copies without this thread."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
