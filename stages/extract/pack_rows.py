"""Where a pack's rows are collected while the teacher computes them: in memory, or on a GPU and then in memory.

Both have the same three steps: a batch's waveforms, a place for what each layer of it is encoded as, and the rows.

Axes: B batch, S samples, T frames or chunks, W numbers stored per row, N lengths, U utterances of the pack.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gdist.pipeline import audio
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.cache.plan import layer_arrays
from gdist.stages.extract.pack_audio import PackAudio
from gdist.stages.frontend.padding import on_device

Array = np.ndarray[Any, Any]


class PackRows(Protocol):
    """The rows of a pack; see :class:`HostRows` and :class:`DeviceRows`."""

    def waveform(self, batch: int) -> Tensor:
        """float32 samples [B, S] of a batch on the teacher's device; later samples of an utterance are zero."""

    def num_frames(self, batch: int) -> Tensor:
        """The frames of each utterance of a batch, [B], on the teacher's device."""

    def place(self, batch: int, stored: Mapping[str, Tensor]) -> None:
        """Keep what a layer of a batch is encoded as: array name → [B, T, W]."""

    def queue(self, measured: Sequence[Tensor]) -> None:
        """All is computed, or about to be. Starts to fetch the rows, and the measures of each batch."""

    def fetched(self) -> tuple[dict[str, Array], list[Tensor]]:
        """Waits for all of it. Rows of which no utterance was placed contain anything: see :func:`fill_others`."""


class HostRows:
    """Rows in memory, for a teacher on a CPU. Each layer is put in place at once: keeping all of them until the last
    one would need fresh memory, which costs more than this copy."""

    def __init__(self, cache: Cache, layers: Sequence[int], heard: PackAudio, cut: Sequence[Sequence[Entry]]) -> None:
        self._heard, self._cut, self._pack_frames = heard, cut, cache.identity["pack_frames"]
        specs = {name: cache.specs[name] for name in layer_arrays(cache.identity, layers)}
        self._rows = {name: np.empty((spec.pack_rows, spec.width), spec.dtype) for name, spec in specs.items()}
        self._measured: list[Tensor] = []

    def waveform(self, batch: int) -> Tensor:
        members = self._cut[batch]
        waveform_BS = torch.zeros(len(members), max(entry.num_samples for entry in members), dtype=torch.int16)
        for row, entry in enumerate(members):
            waveform_BS[row, : entry.num_samples] = self._heard.of(entry)
        return waveform_BS.float() / audio.FULL_SCALE

    def num_frames(self, batch: int) -> Tensor:
        return torch.tensor([entry.num_frames for entry in self._cut[batch]])

    def place(self, batch: int, stored: Mapping[str, Tensor]) -> None:
        for name, part in stored.items():
            for row, entry in enumerate(self._cut[batch]):
                place = place_of(entry, len(self._rows[name]), self._pack_frames)
                self._rows[name][place] = part[row, : place.stop - place.start].numpy()

    def queue(self, measured: Sequence[Tensor]) -> None:
        self._measured = list(measured)

    def fetched(self) -> tuple[dict[str, Array], list[Tensor]]:
        return self._rows, self._measured


class DeviceRows:
    """Rows on a GPU. The pack's samples and lengths go there in one copy each, from which every batch is gathered;
    every array comes back in one copy, complete and in order, while the GPU computes the next pack.

    Page-locked memory is reused from pack to pack by torch's allocator, once a pack is written and its arrays are
    dropped; so is the GPU's own, once the copies are done.
    """

    def __init__(
        self,
        cache: Cache,
        layers: Sequence[int],
        heard: PackAudio,
        cut: Sequence[Sequence[Entry]],
        device: torch.device,
        copies: torch.cuda.Stream,
    ) -> None:
        self._pack_frames, self._device, self._copies = cache.identity["pack_frames"], device, copies
        self._specs = {name: cache.specs[name] for name in layer_arrays(cache.identity, layers)}
        self._samples = heard.samples.to(device, non_blocking=True)
        chunks = self._pack_frames // cache.identity["chunk_frames"]
        lengths_UN = []
        for entry in (entry for members in cut for entry in members):
            rows, per_chunk = (place_of(entry, total, self._pack_frames) for total in (self._pack_frames, chunks))
            places = (rows.start, entry.num_frames, per_chunk.start, per_chunk.stop - per_chunk.start)
            lengths_UN.append((rows.start * heard.hop, entry.num_samples, *places))
        sizes = [len(members) for members in cut]
        lengths_NU = on_device(torch.tensor(lengths_UN).T.contiguous(), device)
        self._lengths_NB = torch.split(lengths_NU, sizes, dim=1)
        self._longest = [max(entry.num_samples for entry in members) for members in cut]
        # The last row takes what belongs nowhere: the frames of padding.
        self._rows = {
            name: torch.empty(spec.pack_rows + 1, spec.width, dtype=_bits(spec.dtype), device=device)
            for name, spec in self._specs.items()
        }
        self._places: dict[tuple[int, int], Tensor] = {}
        self._fetched: tuple[dict[str, Tensor], list[Tensor], torch.cuda.Event] | None = None

    def waveform(self, batch: int) -> Tensor:
        start_B, count_B = self._lengths_NB[batch][:2]
        offset_S = torch.arange(self._longest[batch], device=self._device)
        place_BS = (start_B[:, None] + offset_S).clamp_(max=len(self._samples) - 1)
        waveform_BS = self._samples[place_BS].float().div_(audio.FULL_SCALE)
        return waveform_BS.where(offset_S < count_B[:, None], 0)

    def num_frames(self, batch: int) -> Tensor:
        return self._lengths_NB[batch][3]

    def place(self, batch: int, stored: Mapping[str, Tensor]) -> None:
        for name, part in stored.items():
            rows = self._rows[name]
            rows.index_copy_(
                0, self._place_of(batch, part.shape[1], len(rows) - 1), part.flatten(0, 1).view(rows.dtype)
            )

    def _place_of(self, batch: int, length: int, rows: int) -> Tensor:
        """The row of every frame of a batch, or of every chunk: [B · T]."""
        if (batch, rows) not in self._places:
            start_B, count_B = (
                self._lengths_NB[batch][2:4] if rows == self._pack_frames else self._lengths_NB[batch][4:]
            )
            offset_T = torch.arange(length, device=self._device)
            place_BT = torch.where(offset_T < count_B[:, None], start_B[:, None] + offset_T, rows)
            # Those of the other batches are done.
            self._places = {key: place for key, place in self._places.items() if key[0] == batch}
            self._places[batch, rows] = place_BT.flatten()
        return self._places[batch, rows]

    def queue(self, measured: Sequence[Tensor]) -> None:
        self._copies.wait_stream(torch.cuda.current_stream(self._device))
        # A thread that waits for this event sleeps; for others, the driver would keep a core busy.
        arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._copies):
            rows = {name: self._copied(rows[:-1]) for name, rows in self._rows.items()}
            self._fetched = rows, [self._copied(each) for each in measured], arrived
            arrived.record(self._copies)
        self._rows, self._places = {}, {}

    def _copied(self, tensor: Tensor) -> Tensor:
        tensor.record_stream(self._copies)
        return _pinned(tensor.shape, tensor.dtype).copy_(tensor, non_blocking=True)

    def fetched(self) -> tuple[dict[str, Array], list[Tensor]]:
        assert self._fetched is not None, "queued first"
        rows, measured, arrived = self._fetched
        arrived.synchronize()
        return {name: each.numpy().view(self._specs[name].dtype) for name, each in rows.items()}, measured


def place_of(entry: Entry, rows: int, pack_frames: int) -> slice:
    """An utterance's rows within its pack, in an array of ``rows`` rows per pack: one per frame or per chunk."""
    frames = pack_frames // rows  # per row
    start = entry.start_frame % pack_frames // frames
    return slice(start, start - (-entry.num_frames // frames))


def fill_others(rows: Array, owned: Sequence[slice], fill_value: float) -> None:
    """Mark the rows outside ``owned``, which is in ascending order, as never written."""
    end = 0
    for place in (*owned, slice(len(rows), len(rows))):
        rows[end : place.start] = fill_value
        end = place.stop


def _pinned(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(*shape, dtype=dtype, pin_memory=True)


def _bits(dtype: str) -> torch.dtype:
    """torch's name of a type, or of one with the same bits that can be indexed on a GPU, where uint16 cannot."""
    return torch.int16 if dtype == "uint16" else torch.from_numpy(np.empty(0, dtype)).dtype
