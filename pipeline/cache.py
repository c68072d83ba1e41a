"""The cache, format 1: everything stage two needs, in one store. See docs/cache-format.md.

    plan    → every offset, shape and metadata document, written before the teacher runs; the root document last
    commit  → one pack: its shard of every array, whole, then its receipt, create-only
    read    → ranges of rows of a few layers; what is missing or torn is an error, never zeros

Axes: T frames (rows), D features, S samples.
"""

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from gdist.pipeline import arrays, framing, layout
from gdist.pipeline.arrays import Rows, shard_key
from gdist.pipeline.config import differences
from gdist.pipeline.encodings import Encoding, encoding
from gdist.pipeline.errors import CacheDamagedError, CacheError, CacheMismatchError
from gdist.pipeline.layout import Entry
from gdist.pipeline.plan import (
    INDEX,
    NO_SAMPLE,
    PLANNING,
    ROOT,
    WAVEFORM,
    Plan,
    array_specs,
    begin,
    is_ours,
    layer_name,
    read_document,
    read_root,
    receipt_key,
)
from gdist.pipeline.storage import Storage, first_line, seal, sha256, unseal

Span = tuple[Entry, int, int]
"""(utterance, first frame within it, number of frames)"""


class Cache:
    """An open cache. Made by :meth:`open` or :meth:`create`.

    Attributes:
        gdist: the root document's description (format, identity, about, packs, objects, …).
        entries: one an utterance, in the manifest's order.
    """

    def __init__(self, storage: Storage, gdist: dict[str, Any], index: bytes) -> None:
        self.storage, self.gdist, self.index_bytes = storage, gdist, index
        self.identity: dict[str, Any] = gdist["identity"]
        self.entries = layout.from_table(pq.read_table(io.BytesIO(index)))
        self.specs = array_specs(self.identity)
        self.encoding: Encoding = encoding(self.identity["encoding"])
        self._reader: arrays.Reader | None = None
        self._known_done: set[int] = set()
        self._by_pack: dict[int, list[Entry]] = {}
        for entry in self.entries:
            self._by_pack.setdefault(entry.pack, []).append(entry)

    @property
    def uri(self) -> str:
        return self.storage.uri

    @property
    def layers(self) -> list[int]:
        """Layers stored, ascending."""
        return list(self.identity["layers"])

    @property
    def packs(self) -> int:
        return int(self.gdist["packs"])

    @classmethod
    def open(cls, uri: str) -> "Cache":
        """Open for reading. CacheError when there is none, CacheDamagedError when what describes it is damaged."""
        storage = Storage(uri)
        gdist = read_root(storage)
        if gdist is None:
            raise CacheError(
                f"no cache at {uri}: it has no {ROOT}",
                f"gdist extract --teacher T --manifest M --cache {uri}",
            )
        index = read_document(storage, gdist, INDEX)
        return cls(storage, gdist, index)

    @classmethod
    def create(cls, uri: str, plan: Plan) -> "Cache":
        """Write the plan, or open the cache that the same plan made before (resume).

        Raises:
            CacheMismatchError: a cache is there and was made from other inputs; the differences are printed.
            CacheError: the place holds something else, or cannot be written.
        """
        storage = Storage(uri, create=True)
        gdist = read_root(storage)
        if gdist is None:
            begin(storage, plan)
            return cls.open(uri)
        require_same(uri, gdist, plan)
        storage.sweep_staged(is_ours)
        storage.delete([PLANNING])
        return cls.open(uri)

    # --- packs and receipts -------------------------------------------------------------------------------------

    def pack_entries(self, pack: int) -> list[Entry]:
        """The utterances of one pack."""
        return self._by_pack.get(pack, [])

    def done(self) -> set[int]:
        """Packs that have a receipt. One listing, no object is read."""
        keys = self.storage.objects("receipts")
        return {pack for pack in range(self.packs) if receipt_key(pack) in keys}

    def commit(
        self,
        pack: int,
        rows: Mapping[str, np.ndarray[Any, Any]],
        quarantine: Mapping[str, str],
        statistics: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Write one pack: every shard whole, then the receipt. Returns the receipt.

        Args:
            rows: array name → the pack's rows [pack_frames, width], encoded.
            quarantine: utterance id → why it cannot be used.
            statistics: what ``gdist inspect`` shows of the pack; free-form, JSON-able and deterministic.
        """
        assert set(rows) == set(self.specs), "a pack is written whole"
        written = self.receipt(pack)  # a pack that is done is compared, never written again
        objects = {}
        for name, spec in self.specs.items():
            shard = arrays.encode_shard(spec, rows[name])
            if written is None:
                self.storage.put(shard_key(name, pack), shard)
            objects[shard_key(name, pack)] = {"bytes": len(shard), "sha256": sha256(shard)}
        # No times in here: the same inputs give the same receipt, byte for byte.
        receipt = {
            "pack": pack,
            "utterances": len(self.pack_entries(pack)),
            "objects": objects,
            "quarantine": dict(sorted(quarantine.items())),
            "statistics": dict(statistics),
        }
        sealed = seal(receipt, receipt)
        if written is None and not self.storage.put_new(receipt_key(pack), sealed):
            written = self.receipt(pack)
        if written is not None and written != receipt:
            raise CacheError(
                f"pack {pack} of {self.uri} was written by another process with different bytes",
                f"stop the other process, then: gdist verify {self.uri}",
            )
        return receipt

    def receipt(self, pack: int) -> dict[str, Any] | None:
        """What was committed for ``pack``; None when it is not done."""
        try:
            data = self.storage.get(receipt_key(pack))
        except FileNotFoundError:
            return None
        try:
            receipt = unseal(data)
        except CacheDamagedError as error:
            raise self._damaged(receipt_key(pack), error.message) from error
        if receipt.get("pack") != pack:
            raise self._damaged(receipt_key(pack), f"it is the receipt of pack {receipt.get('pack')}")
        return receipt

    def receipts(self) -> list[dict[str, Any]]:
        """The receipts of all packs that are done, read in parallel."""
        with ThreadPoolExecutor(16) as pool:
            return [receipt for receipt in pool.map(self.receipt, sorted(self.done())) if receipt is not None]

    def document(self, name: str) -> bytes:
        """A file of ``teacher/``, checked against the root document."""
        return read_document(self.storage, self.gdist, f"teacher/{name}")

    # --- reading ------------------------------------------------------------------------------------------------

    def hidden(self, layer: int, spans: Sequence[Span]) -> list[Tensor]:
        """Hidden states of one layer.

        Args:
            spans: (utterance, first frame within it, number of frames) each.

        Returns:
            one float32 [T, D] a span.

        Raises:
            CacheDamagedError: a span is missing or torn; the message names the utterance and the layer.
        """
        if layer not in self.layers:
            raise CacheError(
                f"{self.uri} does not hold layer {layer} (it holds {self.layers})", "extract that layer too"
            )
        stored = self._read(
            layer_name(layer), [(e.start_frame + t, e.start_frame + t + n) for e, t, n in spans], spans
        )
        hidden = self.encoding.decode(stored)
        pieces = list(torch.split(hidden, [n for _, _, n in spans]))
        if not torch.isfinite(hidden.sum()):  # rows never written decode to NaN
            for piece, (entry, _, _) in zip(pieces, spans, strict=True):
                if not torch.isfinite(piece).all():
                    raise self._damaged(layer_name(layer), f"utterance {entry.id} is missing from it")
        return pieces

    def waveform(self, spans: Sequence[Span]) -> list[np.ndarray[Any, Any]]:
        """The int16 samples at 16 kHz behind the same spans: exactly those that yield the span's frames, and up to
        the utterance's very end when the span reaches its last frame."""
        ranges, cuts = [], []
        for entry, first, frames in spans:
            start, stop = framing.crop_samples(first, frames)
            stop = entry.num_samples if first + frames == entry.num_frames else stop
            ranges.append((entry.start_frame + first, entry.start_frame + framing.num_rows(stop)))
            cuts.append(stop - start)
        rows = self._read(WAVEFORM, ranges, spans)
        pieces, offset = [], 0
        for (start, stop), cut, (entry, _, _) in zip(ranges, cuts, spans, strict=True):
            piece = rows[offset : offset + stop - start].reshape(-1)[:cut]
            offset += stop - start
            if (piece == NO_SAMPLE).any():
                raise self._damaged(WAVEFORM, f"utterance {entry.id} is missing from it")
            pieces.append(piece)
        return pieces

    def _read(self, name: str, ranges: list[Rows], spans: Sequence[Span]) -> np.ndarray[Any, Any]:
        if not self._known_done.issuperset(entry.pack for entry, _, _ in spans):
            self._known_done = self.done()
            for entry, _, _ in spans:
                if entry.pack not in self._known_done:
                    raise self._damaged(name, f"utterance {entry.id} is missing: pack {entry.pack} has no receipt")
        if self._reader is None:
            self._reader = arrays.Reader(self.storage)
        try:
            return self._reader.read(name, ranges)
        # zarr raises ValueError, RuntimeError and codec errors of its own; all mean that these rows cannot be had.
        except Exception as error:
            if len(spans) > 1:  # one by one, to find whose they are
                return np.concatenate(
                    [self._read(name, [rows], [span]) for rows, span in zip(ranges, spans, strict=True)]
                )
            raise self._damaged(name, f"utterance {spans[0][0].id} is torn: {first_line(error)}") from error

    def _damaged(self, what: str, why: str) -> CacheDamagedError:
        return CacheDamagedError(f"cannot read {what} of the cache {self.uri}: {why}", f"gdist verify {self.uri}")


def require_same(uri: str, gdist: Mapping[str, Any], plan: Plan) -> None:
    """Raise CacheMismatchError, with the differences, unless ``plan`` is the one the cache was made from."""
    changed = differences(gdist["identity"], plan.identity)
    if changed:
        lines = "\n".join(f"  {line}" for line in changed)
        raise CacheMismatchError(
            f"the cache at {uri} was made from other inputs:\n{lines}",
            "choose another --cache, go back to the old inputs, or start over with --restart (deletes the cache)",
        )
