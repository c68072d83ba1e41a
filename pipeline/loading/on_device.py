"""The padded tensors of a batch on a GPU. What is stored is copied there, and decoded there.

The rows of all layers, the audio as int16, and the few numbers that say which row goes where are read into one
page-locked block, and sent in one copy. On the device, all layers are decoded at once (as many as fit into
``DECODE_BYTES``; one by one with an encoding that has tables for each layer). One gather then puts every frame where
it belongs in the batch, and one more operation zeros the padding. So the number of launches depends neither on the
rows of a batch nor, mostly, on its layers, and nothing waits for the device:

    copy → [rows as stored] → decode → [frames of all layers] → gather → [L, B, T, D] → padding

A loader's readers work on a stream of their own (:class:`SideStream`), so that copying and decoding overlap with the
training step. The stream of the training step waits on the device, for the batch that it is about to use.

Axes: B batch, L layers, G layers decoded at once, T frames of the batch, N frames of all rows, D features, S samples.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdist.pipeline.audio import FULL_SCALE
from gdist.pipeline.cache.by_name import Span
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.stage import Stage
from gdist.pipeline.cache.wanted import Wanted
from gdist.pipeline.loading.batch import Batch, Selection
from gdist.pipeline.loading.in_memory import Tensors, padded_audio

DECODE_BYTES = 256_000_000  # of float32 that are decoded at once, before they are put into the batch


class OnDevice:
    """Reads what is stored, all layers of a batch into one block.

    Args:
        resident: keep every utterance that was read, in this machine's memory and as it is stored.
        audio_on_cpu: leave the audio in this machine's memory, as float32 and page-locked.
    """

    def __init__(self, cache: Cache, resident: bool, device: str, audio_on_cpu: bool) -> None:
        self.cache, self.device, self.audio_on_cpu = cache, device, audio_on_cpu
        self._stored = Resident(cache).stored if resident else cache.stored

    def read(
        self, spans: Sequence[Span], selection: Selection, num_frames: Sequence[int], num_samples: Sequence[int]
    ) -> Tensors:
        """Do what :meth:`InMemory.read` does, queueing the device's work on the current stream."""
        layers, wanted = selection.layers, self.cache.wanted(spans)
        stage = self.stage(wanted, selection, num_frames, num_samples)
        there = stage.send()
        hidden_BLTD = self._decode(layers, there, wanted)
        num_frames_B, num_samples_B = there["lengths"].clone()  # without it, the whole block would be kept
        waveform_BS = None
        if selection.waveforms and self.audio_on_cpu:
            waveform_BS = padded_audio(self.cache, spans, num_samples, pinned=self.device.startswith("cuda"))
        elif selection.waveforms:
            waveform_BS = there["audio"] / FULL_SCALE
        return Tensors(hidden_BLTD, waveform_BS, num_frames_B, num_samples_B)

    def stage(
        self, wanted: Wanted, selection: Selection, num_frames: Sequence[int], num_samples: Sequence[int]
    ) -> Stage:
        """Read all that the device needs to know of a batch into one block."""
        layers, parts = selection.layers, self.cache.encoding.parts(self.cache.identity["dim"])
        rows, at_once = len(num_frames), self._at_once(len(wanted.chunk_T), len(layers))
        shapes: dict[str, tuple[tuple[int, ...], str]] = {
            folder: ((len(layers), *wanted.shape(part)), part.dtype) for folder, part in parts.items()
        }
        shapes["chunk"] = (at_once, len(wanted.chunk_T)), "int64"
        shapes["frame"] = (at_once, rows, max(num_frames)), "int64"
        shapes["padding"] = (rows, max(num_frames)), "bool"
        shapes["lengths"] = (2, rows), "int64"
        if selection.waveforms and not self.audio_on_cpu:
            shapes["audio"] = (rows, max(num_samples)), "int16"
        stage = Stage(shapes, self.device)
        arrays = stage.arrays
        for place, layer in enumerate(layers if wanted.spans else ()):
            self._stored(layer, wanted, {folder: arrays[folder][place] for folder in parts})
        arrays["lengths"][:] = num_frames, num_samples
        frames_B1, group_G = arrays["lengths"][0][:, None], np.arange(at_once)
        place_T = np.arange(max(num_frames))
        arrays["padding"][:] = place_T >= (frames_B1 if wanted.spans else 0)
        # The frames decoded at once are those of the first layer, row after row, then those of the second, …
        frame_BT = np.minimum(place_T, frames_B1 - 1) + np.cumsum(frames_B1)[:, None] - frames_B1
        arrays["frame"][:] = frame_BT + len(wanted.chunk_T) * group_G[:, None, None]
        arrays["chunk"][:] = wanted.chunk_T + sum(stop - start for start, stop in wanted.chunks) * group_G[:, None]
        if "audio" in arrays:
            arrays["audio"].fill(0)
            for row, piece in enumerate(self.cache.waveform(wanted.spans) if wanted.spans else ()):
                arrays["audio"][row, : len(piece)] = piece
        return stage

    def _at_once(self, frames: int, layers: int) -> int:
        """How many layers are decoded at once."""
        if self.cache.encoding.calibrated:  # each layer has tables of its own
            return 1
        layer_bytes = 4 * frames * int(self.cache.identity["dim"])
        return max(min(layers, DECODE_BYTES // max(layer_bytes, 1)), 1)

    def _decode(self, layers: Sequence[int], there: dict[str, Tensor], wanted: Wanted) -> Tensor:
        """Return the batch's hidden states, with zeros past each row's length: [B, L, T, D]."""
        encoding, dim = self.cache.encoding, self.cache.identity["dim"]
        padding_BT, frame_GBT, chunk_GN = there["padding"], there["frame"], there["chunk"]
        shape = (len(layers), *padding_BT.shape, dim)
        if not wanted.spans:
            return torch.zeros(shape, device=self.device).transpose(0, 1)
        hidden_LBTD = torch.empty(shape, device=self.device)
        for first in range(0, len(layers), len(frame_GBT)):
            some = slice(first, min(first + len(frame_GBT), len(layers)))
            count = some.stop - first
            stored = {folder: there[folder][some].flatten(0, 1) for folder in encoding.parts(dim)}
            tables = self.cache.tables_on(layers[first], self.device)
            frames_ND = encoding.decode(stored, chunk_GN[:count].flatten(), tables)
            out = hidden_LBTD[some].view(-1, dim)
            torch.index_select(frames_ND, 0, frame_GBT[:count].flatten(), out=out)
        return hidden_LBTD.masked_fill_(padding_BT[:, :, None], 0).transpose(0, 1)


class Resident:
    """Keeps what it reads, as it is stored: a GPU decodes it in less time than it would take to copy float32."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.parts = cache.encoding.parts(cache.identity["dim"])
        self._kept: dict[tuple[str, int], dict[str, np.ndarray[Any, Any]]] = {}

    def stored(self, layer: int, wanted: Wanted, into: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Do what :meth:`Cache.stored` does."""
        absent = [entry for entry, _, _ in wanted.spans if (entry.id, layer) not in self._kept]
        if absent:
            self._keep(layer, self.cache.wanted([(entry, 0, entry.num_frames) for entry in absent]))
        for folder, part in self.parts.items():
            unit = self.cache.identity["chunk_frames"] if part.per_chunk else 1
            pieces = []
            for (entry, _, _), (start, stop) in zip(wanted.spans, wanted.rows(part), strict=True):
                before = entry.start_frame // unit
                pieces.append(self._kept[entry.id, layer][folder][start - before : stop - before])
            np.concatenate(pieces, out=into[folder])

    def _keep(self, layer: int, whole: Wanted) -> None:
        read = {folder: np.empty(whole.shape(part), part.dtype) for folder, part in self.parts.items()}
        self.cache.stored(layer, whole, read)
        pieces = {}
        for folder, part in self.parts.items():
            ends = np.cumsum([stop - start for start, stop in whole.rows(part)])
            pieces[folder] = np.split(read[folder], ends[:-1])
        for place, (entry, _, _) in enumerate(whole.spans):
            self._kept[entry.id, layer] = {folder: pieces[folder][place] for folder in self.parts}


class SideStream:
    """A loader's readers queue their work on one stream, and the consumer of the batches uses another.

    Args:
        device: on any other than a GPU, this does nothing.
    """

    def __init__(self, device: str) -> None:
        on_gpu = torch.device(device).type == "cuda"
        self._stream = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]

    def run(self, read: Callable[..., Batch | None], *args: Any) -> tuple[Batch | None, torch.cuda.Event | None]:
        """Return what ``read`` returns, and the event that occurs once the device has it; called by a reader."""
        if self._stream is None:
            return read(*args), None
        with torch.cuda.stream(self._stream):
            return read(*args), self._stream.record_event()

    def receive(self, batch: Batch | None, event: torch.cuda.Event | None) -> Batch | None:
        """Return a batch that the caller's current stream may use. The device waits for it; the caller does not."""
        if batch is not None and event is not None and self._stream is not None:
            stream = torch.cuda.current_stream(self._stream.device)
            stream.wait_event(event)
            for tensor in batch.on_device:
                tensor.record_stream(stream)  # so that its memory is not reused before this stream has used it
        return batch
