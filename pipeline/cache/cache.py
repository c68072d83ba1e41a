"""The cache, format 1: everything that training needs, in one store. See docs/cache-format.md.

    plan    → every offset, shape and metadata document, written before the teacher runs; the root document last
    commit  → one task: its shards, whole, then its receipt, create-only
    read    → ranges of rows of a few layers; what is missing or torn is an error, never zeros

Axes: T frames (rows), C chunks, D features, S samples, W numbers stored per row.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gdist.pipeline.cache import arrays, planning
from gdist.pipeline.cache.by_name import ByName, Span
from gdist.pipeline.cache.encodings import Tables
from gdist.pipeline.cache.near import Near
from gdist.pipeline.cache.pieces import Rows
from gdist.pipeline.cache.plan import NO_SAMPLE, ROOT, WAVEFORM, Plan, layer_name, plan_key
from gdist.pipeline.cache.records import Records
from gdist.pipeline.cache.stage import Stage
from gdist.pipeline.cache.tensors import loaded
from gdist.pipeline.cache.wanted import Wanted, samples_of
from gdist.pipeline.config import differences
from gdist.pipeline.errors import CacheError, CacheMismatchError
from gdist.pipeline.local.folder import LocalFolder
from gdist.pipeline.local.kept import KeptCache
from gdist.pipeline.schema import SchemaError
from gdist.pipeline.storage.failures import first_line
from gdist.pipeline.storage.locations import folder_of, in_shell, scheme_of
from gdist.pipeline.storage.objects import Storage


class Cache(ByName):
    """An open cache. Use :meth:`open` or :meth:`create` to get one.

    Its base, the ledger, keeps track of what is planned and done; this class reads what is stored.
    """

    def __init__(
        self,
        storage: Storage,
        gdist: dict[str, Any],
        index: bytes,
        local: LocalFolder | None = None,
        newest: bool = True,
    ) -> None:
        super().__init__(storage, gdist, index)
        self._local, self._newest = local, newest
        self._reader: arrays.Reader | None = None
        self._opening = Lock()
        self._tables: dict[tuple[int, str], Tables] = {}

    @classmethod
    def open(cls, uri: str, checksum: str | None = None, local: LocalFolder | None = None) -> "Cache":
        """Open for reading.

        Args:
            checksum: of the root document at an earlier time; a cache that has grown since is opened as it was then.
            local: where the shards of a cache in a bucket are kept once they are fetched. A cache in a folder is read
                where it is.

        Raises:
            CacheError: there is no cache, or it never had that root document.
            CacheDamagedError: a document that describes the cache is damaged.
        """
        storage = Storage(uri)
        gdist = planning.read_root(storage)
        if gdist is None:
            make = f"gdist extract --teacher T --manifest M --cache {in_shell(uri)}"
            raise CacheError(
                f"no cache at {uri}: it has no {ROOT}",
                f"check the address: {ROOT} must be directly below it" if storage.read_only else make,
            )
        if checksum is not None and gdist["checksum"] != checksum:
            older = (planning.read_root(storage, plan_key(generation)) for generation in range(gdist["generation"]))
            gdist = next((root for root in older if root and root["checksum"] == checksum), None)
            if gdist is None:
                raise CacheError(f"the cache at {uri} is not the requested one, and did not grow from it")
            return cls(storage, gdist, planning.read_index(storage, gdist), local, newest=False)
        return cls(storage, gdist, planning.read_index(storage, gdist), local)

    @classmethod
    def find(cls, uri: str) -> "Cache | None":
        """Open as :meth:`open` does; None where there is no cache yet."""
        if scheme_of(uri) == "file" and not folder_of(uri).is_dir():
            return None
        storage = Storage(uri)
        gdist = planning.read_root(storage)
        return None if gdist is None else cls(storage, gdist, planning.read_index(storage, gdist))

    @classmethod
    def create(cls, uri: str, planned: Plan) -> "Cache":
        """Write the plan, add to the existing cache, or open the one that the same plan created before (resume).

        Raises:
            CacheMismatchError: the existing cache was made from other inputs; the differences are printed.
            CacheError: the place contains something else, or cannot be written.
        """
        storage = Storage(uri, create=True)
        gdist = planning.read_root(storage)
        if gdist is None:
            planning.begin(storage, planned)
            return cls.open(uri)
        planning.settle(storage, gdist)
        storage.sweep_staged(planning.is_ours)
        if planned.before is None:
            require_same(uri, gdist["identity"], planned.identity)
        elif planned.before["checksum"] != gdist["checksum"]:
            raise CacheError(f"the plan of the cache at {uri} changed a moment ago", "run the same command again")
        elif not planned.adds_nothing:
            planning.extend(storage, planned)
        return cls.open(uri)

    def document(self, name: str) -> bytes:
        """Read a file of ``teacher/``, checked against the root document."""
        return planning.read_document(self.storage, self.gdist, f"teacher/{name}")

    @cached_property
    def tables(self) -> dict[int, Tables]:
        """Layer → the tables that its encoding learned when the cache was planned; empty for most encodings."""
        tables: dict[int, dict[str, Tensor]] = {layer: {} for layer in self.layers}
        for key in self.gdist["objects"]:
            if key.startswith("teacher/tables"):
                try:
                    for name, tensor in loaded(self.document(key.removeprefix("teacher/")), finite=False).items():
                        number, _, table = name.partition(".")
                        if not (
                            number.isascii() and number.isdecimal() and len(number) < 6 and int(number) in tables
                        ):
                            raise SchemaError(f"its {name!r:.80} is of no layer of the cache")
                        tables[int(number)][table] = tensor
                except SchemaError as error:
                    raise self.damaged(key, str(error)) from error
        for layer, found in tables.items():
            try:
                self.encoding.check_tables(self.identity["dim"], found)
            except ValueError as error:
                raise self.damaged(f"the tables of layer {layer}", str(error)) from error
        return dict(tables)

    def tables_on(self, layer: int, device: str) -> Tables:
        """Return one layer's :attr:`tables` on a device, where they stay."""
        if (layer, device) not in self._tables:
            self._tables[layer, device] = {name: table.to(device) for name, table in self.tables[layer].items()}
        return self._tables[layer, device]

    @cached_property
    def near(self) -> Near | None:
        """Where the shards of a cache in a bucket are read; None for a cache in a folder."""
        if self.storage.bucket is None:
            return None
        records = Records(self.packs, self.receipts_seen, self._receipts_of, lambda name: self.specs[name].pack_bytes)
        if self._local is None:
            return Near(self.storage, records, self.packs, None)
        kept = KeptCache(self._local, self.uri, {"teacher": self.gdist["about"].get("teacher")})
        return Near(self.storage, records, self.packs, kept, prunes=self._newest)

    def _receipts_of(self, pack: int) -> Iterator[dict[str, Any]]:
        return (receipt for task in self.tasks_of(pack) if (receipt := self.receipt(task)))

    # --- reading ------------------------------------------------------------------------------------------------

    def hidden(
        self, layer: int, spans: Sequence[Span], device: str = "cpu", out: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """Read hidden states of one layer.

        Args:
            layer: one of :attr:`layers`.
            spans: each is (utterance, first frame within it, number of frames).
            device: where they are decoded; only their stored form is copied there.
            out: one float32 [T, D] per span, on ``device``, to decode into, such as parts of a batch.

        Returns:
            one float32 [T, D] per span, on ``device``; ``out`` where it was given.

        Raises:
            CacheError: the layer is not stored, or the store does not answer.
            CacheDamagedError: a span is missing or torn; the message names the utterance and the layer.
        """
        if layer not in self.layers:
            raise CacheError(
                f"{self.uri} does not contain layer {layer} (it contains {self.layers})", "extract that layer too"
            )
        wanted, parts = self.wanted(spans), self.encoding.parts(self.identity["dim"])
        shapes = {folder: (wanted.shape(part), part.dtype) for folder, part in parts.items()}
        stage = Stage(shapes | {"chunk_T": (wanted.chunk_T.shape, "int64")}, device)
        self.stored(layer, wanted, stage.arrays)
        stage.arrays["chunk_T"][:] = wanted.chunk_T
        stored = stage.send()
        inputs = (stored, stored.pop("chunk_T"), self.tables_on(layer, device))
        if out is None:
            return list(torch.split(self.encoding.decode(*inputs), [n for _, _, n in spans]))
        self.encoding.decode_into(out, *inputs)
        return list(out)

    def wanted(self, spans: Sequence[Span]) -> Wanted:
        """Return which rows of this cache's arrays the spans need."""
        return Wanted.of(spans, self.identity["chunk_frames"])

    def stored(self, layer: int, wanted: Wanted, into: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Read one layer as it is stored.

        Args:
            layer: one of :attr:`layers`.
            into: for each folder of the encoding, an array of :meth:`Wanted.shape` to fill.

        Raises:
            CacheError: the store does not answer.
            CacheDamagedError: a span is missing or torn; the message names the utterance and the layer.
        """
        for folder, part in self.encoding.parts(self.identity["dim"]).items():
            name, out = layer_name(layer, folder), into[folder]
            rows = self._read(name, wanted.rows(part), wanted.spans, out)
            if rows is not out:
                out[:] = rows
            unwritten = arrays.unwritten(out, part.fill_value)  # checked here, not on a GPU
            if unwritten.any():
                entry = wanted.owner(part, int(unwritten.argmax()))
                raise self.damaged(name, f"utterance {entry.id} is missing from it")

    def waveform(self, spans: Sequence[Span]) -> list[np.ndarray[Any, Any]]:
        """Read the int16 samples at 16 kHz of the same spans: exactly those that yield a span's frames, and all up to
        the utterance's end when the span reaches its last frame.

        Raises:
            CacheError: the store does not answer.
            CacheDamagedError: a span is missing or torn; the message names the utterance.
        """
        ranges, cuts = [], []
        for entry, first, frames in spans:
            start, stop = samples_of((entry, first, frames), self.framing)
            ranges.append((entry.start_frame + first, entry.start_frame + self.framing.num_rows(stop)))
            cuts.append(stop - start)
        rows = self._read(WAVEFORM, ranges, spans)
        pieces, offset = [], 0
        for (start, stop), cut, (entry, _, _) in zip(ranges, cuts, spans, strict=True):
            piece = rows[offset : offset + stop - start].reshape(-1)[:cut]
            offset += stop - start
            if (piece == NO_SAMPLE).any():
                raise self.damaged(WAVEFORM, f"utterance {entry.id} is missing from it")
            pieces.append(piece)
        return pieces

    def _read(
        self, name: str, ranges: list[Rows], spans: Sequence[Span], into: np.ndarray[Any, Any] | None = None
    ) -> np.ndarray[Any, Any]:
        """Read rows of an array, into ``into`` where that is possible."""
        undone = self.undone(name, {entry.pack for entry, _, _ in spans})
        for entry, _, _ in spans if undone else ():
            if entry.pack in undone:
                raise self.damaged(name, f"utterance {entry.id} is missing: pack {entry.pack} has no receipt")
        try:
            with self._opening:  # many threads begin to read at once
                if self._reader is None:
                    self._reader = arrays.Reader(self.storage, self.specs, near=self.near)
            return self._reader.read(name, ranges, np.empty if into is None else lambda *_: into)
        except CacheError:  # the store does not answer, which is not damage
            raise
        except ValueError as error:
            if len(spans) > 1:  # one by one, to find which utterance is torn
                return np.concatenate(
                    [self._read(name, [rows], [span]) for rows, span in zip(ranges, spans, strict=True)]
                )
            raise self.damaged(name, f"utterance {spans[0][0].id} is torn: {first_line(error)}") from error


def require_same(uri: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise CacheMismatchError, with the differences, unless both identities are the same."""
    changed = differences(old, new)
    if changed:
        lines = "\n".join(f"  {line}" for line in changed)
        raise CacheMismatchError(
            f"the cache at {uri} was made from other inputs:\n{lines}",
            "choose another --cache, go back to the old inputs, or start over with --restart (deletes the cache)",
        )
