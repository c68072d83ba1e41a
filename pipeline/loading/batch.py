"""What a loader yields: hidden states and audio of some utterances, padded, and the selection that was read.

Axes: B batch, L layers, T frames, D features, S samples.
"""

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gdist.pipeline.errors import UsageError
from gdist.pipeline.framing import WAV2VEC2, Framing


@dataclass(frozen=True)
class Selection:
    """What is read of each utterance in a batch: cached layers, ascending, and whether its audio is read too."""

    layers: tuple[int, ...]
    waveforms: bool = True


Choose = Callable[[int, int], Selection]
"""Decides what is read for a batch, from its epoch and its place in that epoch."""


@dataclass(frozen=True)
class Batch:
    """Utterances or crops of them, padded at the end: this rank's rows of the batch.

    Attributes:
        ids, speakers: of this rank's rows; ``all_ids``: of the rows of all ranks.
        waveform_BS: float32 in [−1, 1), zeros past each length; None when the selection has no waveforms. It is where
            ``hidden_BLTD`` is, unless the loader was asked to leave it on the CPU.
        num_samples_B, num_frames_B: the length of each row, without padding; always on the CPU.
        hidden_BLTD: float32, the layers of ``selection``, in its order; zeros past each length.
        num_samples_on_device_B, num_frames_on_device_B: the lengths again, where ``hidden_BLTD`` is. Whoever computes
            with them there need not copy them.
        rows: the positions of this rank's rows among those of all ranks.
        total_frames: of the rows of all ranks, damaged ones included.
        idle: there was no row for this rank. The batch has one row of silence instead, so that every rank takes the
            same steps. ``num_frames_B`` counts it as one frame; averages must leave it out by using ``frames``.
        framing: how the frames lie on the samples.
        widths: the number of features of each layer, where teachers differ in it: past it, ``hidden_BLTD`` has zeros.
        position: (epoch, batches of that epoch consumed once this batch is): the loader's state after it.
    """

    ids: tuple[str, ...]
    waveform_BS: Tensor | None
    num_samples_B: Tensor
    num_frames_B: Tensor
    hidden_BLTD: Tensor
    num_samples_on_device_B: Tensor
    num_frames_on_device_B: Tensor
    selection: Selection
    all_ids: tuple[str, ...]
    rows: tuple[int, ...]
    total_frames: int
    speakers: tuple[str | None, ...] = ()
    idle: bool = False
    framing: Framing = WAV2VEC2
    widths: Mapping[int, int] = field(default_factory=dict)
    position: tuple[int, int] = (0, 0)

    @property
    def frames(self) -> int:
        """Frames to learn from in this rank's rows."""
        return 0 if self.idle else int(self.num_frames_B.sum())

    @property
    def audio_seconds(self) -> float:
        """Seconds of audio in the rows of all ranks."""
        return self.total_frames / self.framing.frames_per_second

    @property
    def mask_BT(self) -> Tensor:  # noqa: N802  named by its axes, like every tensor
        """True where a frame belongs to its utterance, False where it is padding: [B, T], beside ``hidden_BLTD``."""
        place_T = torch.arange(self.hidden_BLTD.shape[2], device=self.hidden_BLTD.device)
        return place_T < self.num_frames_on_device_B[:, None]

    @property
    def on_device(self) -> list[Tensor]:
        """The tensors that are not on the CPU."""
        found = (self.hidden_BLTD, self.waveform_BS, self.num_samples_on_device_B, self.num_frames_on_device_B)
        return [tensor for tensor in found if tensor is not None and tensor.device.type != "cpu"]

    def hidden(self, layer: int) -> Tensor:
        """Return one of the layers that were read, [B, T, D]; UsageError when it was not read."""
        if layer not in self.selection.layers:
            raise UsageError(f"the batch does not contain layer {layer}, only {list(self.selection.layers)}")
        hidden_BTD = self.hidden_BLTD[:, self.selection.layers.index(layer)]
        return hidden_BTD[..., : self.widths[layer]] if self.widths else hidden_BTD

    def part(self, selection: Selection) -> "Batch":
        """The batch that would have been read for ``selection``, of which this one has all.

        Its tensors are laid out as if they had been read alone: what a kernel adds up first may depend on strides.
        """
        hidden_BLTD = self.hidden_BLTD
        if selection.layers != self.selection.layers:
            layers = [hidden_BLTD[:, self.selection.layers.index(layer)] for layer in selection.layers]
            on_cpu = hidden_BLTD.device.type == "cpu"
            hidden_BLTD = torch.stack(layers, dim=1) if on_cpu else torch.stack(layers).transpose(0, 1)
        waveform_BS = self.waveform_BS if selection.waveforms else None
        return replace(self, selection=selection, hidden_BLTD=hidden_BLTD, waveform_BS=waveform_BS)


class Buffers:
    """Memory of batches that are no longer in use, for the next batches. Its pages are already mapped, whereas fresh
    memory of that size is faulted in page by page, which took a third of the reading time.

    Args:
        count: how many buffers are kept at most; further ones are allocated and freed each time.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._kept: list[Tensor] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """Return an uninitialized float32 tensor. It is free again once no tensor, view or gradient refers to it."""
        size = math.prod(shape)
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
    """Count the tensors that share this memory, including views and tensors saved for gradients."""
    storage = tensor.untyped_storage()
    return int(torch._C._storage_Use_Count(storage._cdata)) - 1  # without ``storage`` itself
