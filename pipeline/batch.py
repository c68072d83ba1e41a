"""What a loader gives: some utterances' hidden states and audio, padded, and what was asked for.

Axes: B batch, L layers, T frames, D features, S samples.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from gdist.pipeline import framing


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

    def hidden(self, layer: int) -> Tensor:
        """One of the layers read, [B, T, D]."""
        return self.hidden_BLTD[:, self.selection.layers.index(layer)]
