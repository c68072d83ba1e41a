"""What a loader gives: some utterances' hidden states and audio, padded, and what was asked for.

Axes: B batch, L layers, T frames, D features, S samples.
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gdist.pipeline import framing
from gdist.pipeline.errors import UsageError


@dataclass(frozen=True)
class Selection:
    """What is read of each utterance of a batch: cached layers, ascending, and whether the audio too."""

    layers: tuple[int, ...]
    waveforms: bool = True


Choose = Callable[[np.random.Generator], Selection]
"""Decides what a batch reads, by a generator that depends on (seed, epoch, position) alone."""


@dataclass(frozen=True)
class Batch:
    """Utterances or crops of them, padded at the end: this rank's rows of the batch.

    Attributes:
        ids, speakers: of the rows here; ``all_ids``: of the rows of all ranks.
        waveform_BS: float32 in [−1, 1), zeros past each length; None when only hidden states were asked for.
        hidden_BLTD: float32, the layers of ``selection``, in its order; zeros past each length.
        rows: where the rows here stand among those of all ranks.
        total_frames: of the rows of all ranks, the damaged ones too.
        idle: there was no row for this rank. It holds one of silence, so that every rank takes the same steps, and
            ``num_frames_B`` counts it as one frame; whoever averages must leave it out, by ``frames``.
        position: (epoch, batches of that epoch consumed when this one is), the loader's state after it.
    """

    ids: tuple[str, ...]
    waveform_BS: Tensor | None
    num_samples_B: Tensor
    num_frames_B: Tensor
    hidden_BLTD: Tensor
    selection: Selection
    all_ids: tuple[str, ...]
    rows: tuple[int, ...]
    total_frames: int
    speakers: tuple[str | None, ...] = ()
    idle: bool = False
    position: tuple[int, int] = (0, 0)

    @property
    def frames(self) -> int:
        """Frames to learn from in the rows here."""
        return 0 if self.idle else int(self.num_frames_B.sum())

    @property
    def audio_seconds(self) -> float:
        """Of all ranks."""
        return self.total_frames / framing.FRAMES_PER_SECOND

    @property
    def mask_BT(self) -> Tensor:  # noqa: N802  axes of a tensor, as everywhere
        """True where a frame belongs to its utterance."""
        return torch.arange(self.hidden_BLTD.shape[2]) < self.num_frames_B[:, None]

    def hidden(self, layer: int) -> Tensor:
        """One of the layers read, [B, T, D]."""
        if layer not in self.selection.layers:
            raise UsageError(f"the batch does not hold layer {layer}, only {list(self.selection.layers)}")
        return self.hidden_BLTD[:, self.selection.layers.index(layer)]


class Buffers:
    """Memory of batches that nobody holds any more, for the next ones: its pages are there already, where fresh
    memory of that size is faulted in page by page, which took a third of reading.

    Args:
        count: kept at most; what is asked for beyond that is fresh, and goes again.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._kept: list[Tensor] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], device: str) -> Tensor:
        """A float32 tensor of any content. It is free again once no tensor, view or gradient refers to it."""
        size = math.prod(shape)
        if torch.device(device).type != "cpu":  # CUDA's allocator keeps what is freed
            return torch.empty(shape, device=device)
        with self._lock:
            free = [place for place, buffer in enumerate(self._kept) if _holders(buffer) == 1]
            fitting = [self._kept[place] for place in free if len(self._kept[place]) >= size]
            if fitting:
                return min(fitting, key=len)[:size].view(shape)
            fresh = torch.empty(size)
            if len(self._kept) < self.count:
                self._kept.append(fresh)
            elif free:  # all are too small
                self._kept[free[0]] = fresh
            return fresh.view(shape)


def _holders(tensor: Tensor) -> int:
    """How many tensors, views and gradients' saved ones among them, share its memory."""
    storage = tensor.untyped_storage()
    return int(torch._C._storage_Use_Count(storage._cdata)) - 1  # less the one that is asked here
