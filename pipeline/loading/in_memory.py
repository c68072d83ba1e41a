"""The padded tensors of a batch in this machine's memory.

Axes: B batch, L layers, T frames, D features, S samples.
"""

import threading
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gdist.pipeline.audio import FULL_SCALE
from gdist.pipeline.cache.by_name import Span
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.loading.batch import Buffers, Selection


class Tensors(NamedTuple):
    """What is read for a batch, and the lengths of its rows in the same memory."""

    hidden_BLTD: Tensor
    waveform_BS: Tensor | None
    num_frames_B: Tensor
    num_samples_B: Tensor


class InMemory:
    """Reads layer by layer, and decodes every row to its place in the batch.

    Args:
        resident: keep every utterance that was read, as float32.
        buffers: how many batches' memory is reused.
    """

    def __init__(self, cache: Cache, resident: bool, buffers: int) -> None:
        self.cache = cache
        self._buffers = Buffers(buffers)
        self._resident: dict[tuple[str, int], Tensor] | None = {} if resident else None
        self._reading = threading.Lock()  # what another thread is just reading is not read, and fetched, once more

    def read(
        self, spans: Sequence[Span], selection: Selection, num_frames: Sequence[int], num_samples: Sequence[int]
    ) -> Tensors:
        """Read the rows of a batch; without any spans, one row of silence.

        Args:
            num_frames, num_samples: of each row.

        Raises:
            CacheDamagedError: a row is damaged.
        """
        shape = (len(num_frames), len(selection.layers), max(num_frames), self.cache.identity["dim"])
        hidden_BLTD = self._buffers.take(shape)
        for row, frames in enumerate(num_frames if spans else [0]):
            hidden_BLTD[row, :, frames:] = 0
        for place, layer in enumerate(selection.layers if spans else ()):
            self._hidden(layer, spans, [h[:n] for h, (_, _, n) in zip(hidden_BLTD[:, place], spans, strict=True)])
        waveform_BS = padded_audio(self.cache, spans, num_samples) if selection.waveforms else None
        return Tensors(hidden_BLTD, waveform_BS, torch.tensor(num_frames), torch.tensor(num_samples))

    def _hidden(self, layer: int, spans: Sequence[Span], out: Sequence[Tensor]) -> None:
        """Read one layer of each span into the batch."""
        if self._resident is None:
            self.cache.hidden(layer, spans, "cpu", out)
            return
        with self._reading:
            absent = [entry for entry, _, _ in spans if (entry.id, layer) not in self._resident]
            whole = self.cache.hidden(layer, [(entry, 0, entry.num_frames) for entry in absent]) if absent else []
            self._resident |= {(entry.id, layer): hidden.clone() for entry, hidden in zip(absent, whole, strict=True)}
        for (entry, first, frames), hidden_TD in zip(spans, out, strict=True):
            hidden_TD.copy_(self._resident[entry.id, layer][first : first + frames])


def padded_audio(cache: Cache, spans: Sequence[Span], num_samples: Sequence[int], pinned: bool = False) -> Tensor:
    """Read the audio of the spans: float32 [B, S], zeros past each length; without any spans, all zeros."""
    waveform_BS = torch.zeros(len(num_samples), max(num_samples), pin_memory=pinned)
    for row, piece in enumerate(cache.waveform(spans) if spans else ()):
        waveform_BS[row, : len(piece)] = torch.from_numpy(piece)
    return waveform_BS.div_(FULL_SCALE)
