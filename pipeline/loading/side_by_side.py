"""The padded tensors of a batch from several caches: each is read as if it were alone, and its frames are aligned.

Axes: B batch, L layers, T frames, D features of the widest layer that is read.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from gdist.pipeline.cache.by_name import Span
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.loading.batch import Buffers, Selection
from gdist.pipeline.loading.in_memory import Tensors
from gdist.pipeline.loading.joined import Joined, Part
from gdist.pipeline.loading.matching import require_same_audio


class Reader(Protocol):
    """:class:`gdist.pipeline.loading.in_memory.InMemory`, and what reads like it."""

    def read(
        self, spans: Sequence[Span], selection: Selection, num_frames: Sequence[int], num_samples: Sequence[int]
    ) -> Tensors: ...


class SideBySide:
    """Reads each cache by a reader of its own.

    Args:
        caches: at least two.
        reader: makes the reader of a cache.
        buffers: how many batches' memory is reused.
    """

    def __init__(self, caches: Joined, reader: Callable[[Cache], Reader], device: str, buffers: int) -> None:
        self.caches, self.device = caches, torch.device(device)
        self._readers = [(part, reader(part.cache)) for part in caches.parts]
        self._buffers = Buffers(buffers)
        self._compared: set[str] = set()  # utterances whose audio was compared, where checksums did not do it

    def read(
        self, spans: Sequence[Span], selection: Selection, num_frames: Sequence[int], num_samples: Sequence[int]
    ) -> Tensors:
        """Do what :meth:`InMemory.read` does.

        Raises:
            CacheDamagedError: a row is damaged in one of the caches.
            CacheMismatchError: its audio differs between them.
        """
        self._compare(spans)
        width = max((self.caches.teacher_of(number).dim for number in selection.layers), default=0)
        hidden_BLTD = self._empty(len(num_frames), len(selection.layers), max(num_frames), width)
        first: Tensors | None = None
        for part, reader in self._readers:
            own = part.selection(selection)
            if not (own.layers or part.leads):
                continue
            aligned = [part.span(span) for span in spans]
            found = reader.read(aligned, own, [n for _, _, n in aligned] or num_frames, num_samples)
            if part.leads:
                first = found
            states_BLTD = self._on_our_frames(part, spans, found, num_frames)
            dim = states_BLTD.shape[-1]
            for place, layer in enumerate(own.layers):
                number = next(number for number in selection.layers if part.layers.get(number) == layer)
                at = selection.layers.index(number)
                hidden_BLTD[:, at, :, :dim] = states_BLTD[:, place]
                hidden_BLTD[:, at, :, dim:] = 0
        assert first is not None, "the first cache is always read"
        return first._replace(hidden_BLTD=hidden_BLTD)

    def _empty(self, rows: int, layers: int, frames: int, width: int) -> Tensor:
        """Memory for a batch, laid out as if it were read from one cache."""
        if self.device.type == "cpu":
            return self._buffers.take((rows, layers, frames, width))
        return torch.empty(layers, rows, frames, width, device=self.device).transpose(0, 1)

    def _on_our_frames(self, part: Part, spans: Sequence[Span], found: Tensors, num_frames: Sequence[int]) -> Tensor:
        """The states that belong to the frames of the first cache, with zeros past each length: [B, L, T, D]."""
        frames = max(num_frames)
        if part.leads or not spans:
            return found.hidden_BLTD
        place_BT = torch.zeros(len(num_frames), frames, dtype=torch.long)
        padding_BT = torch.ones(len(num_frames), frames, dtype=torch.bool)
        for row, (entry, first, n) in enumerate(spans):
            aligned_T = torch.from_numpy(part.aligned(part.cache.utterances[entry.id], first, n))
            place_BT[row, :n] = aligned_T - aligned_T[0]
            padding_BT[row, :n] = False
        if found.hidden_BLTD.shape[2] == frames and bool((place_BT == torch.arange(frames))[~padding_BT].all()):
            return found.hidden_BLTD  # as where both have the same framing
        device = found.hidden_BLTD.device
        row_B1 = torch.arange(len(num_frames), device=device)[:, None]
        states_BTLD = found.hidden_BLTD.transpose(1, 2)[row_B1, place_BT.to(device)]
        return states_BTLD.masked_fill_(padding_BT.to(device)[:, :, None, None], 0).transpose(1, 2)

    def _compare(self, spans: Sequence[Span]) -> None:
        new = [span for span in spans if span[0].id not in self._compared]
        for part in self.caches.unsettled if new else ():
            require_same_audio(self.caches.first, new, part.cache)
        if self.caches.unsettled:
            self._compared.update(entry.id for entry, _, _ in new)
