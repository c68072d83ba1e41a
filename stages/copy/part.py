"""What is copied: all of a cache, or a part of it, which is planned as a cache of its own.

Its identity says what its bytes are. Fewer layers, and another encoding of fp32, have the bytes that `gdist extract`
gives with those options, so they have its identity too: extraction may resume and extend them, and a repair may run
the teacher. Everything else is recorded under ``copied``, and only another copy can make it again: fewer utterances
(they would share other batches, which changes last bits), what was rounded twice, and tables learned from a cache.
"""

import fnmatch
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.torch

from gdist.pipeline.cache import layout
from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.cache.encodings import ENCODINGS, encoding
from gdist.pipeline.cache.entries import Numbers, label
from gdist.pipeline.cache.plan import Plan
from gdist.pipeline.errors import UsageError
from gdist.pipeline.framing import SAMPLE_RATE
from gdist.pipeline.storage.locations import in_shell
from gdist.stages.extract.plan import parse_layers


@dataclass(frozen=True)
class Chosen:
    """What of a source is copied.

    Attributes:
        layers: in ascending order.
        rows: the positions of the utterances in the source's index; None for all.
        options: as they are typed, for people and for the provenance.
    """

    layers: list[int]
    encoding: str
    rows: Numbers | None
    where: tuple[str, ...]
    options: str

    @classmethod
    def of(cls, source: Cache, layers: str, encoding_name: str | None, where: Sequence[str]) -> "Chosen":
        """Read the options.

        Raises:
            UsageError: the source does not have what they ask for, or they contradict each other.
        """
        wanted = source.layers
        if layers != "all":
            wanted = parse_layers(layers, source.identity["teacher"]["num_layers"])
            if missing := [layer for layer in wanted if layer not in source.layers]:
                raise UsageError(
                    f"--layers {layers}: {source.uri} has the layers {source.layers}, not {missing}",
                    "choose among these, or extract the others into it first",
                )
        own = source.identity["encoding"]
        name = encoding_name or own
        if name != own:
            _require_coarser(source, name)
        typed = [f"--layers {layers}"] * (wanted != source.layers) + [f"--encoding {name}"] * (name != own)
        typed += [f"--where {in_shell(each)}" for each in where]
        return cls(wanted, name, rows_of(source, where) if where else None, tuple(sorted(where)), " ".join(typed))

    def is_whole(self, source: Cache) -> bool:
        """Whether this is everything, as it is."""
        return self.rows is None and self.keeps_bytes(source) and self.layers == source.layers

    def keeps_bytes(self, source: Cache) -> bool:
        """Whether the shards of these layers are those of the source."""
        return self.rows is None and self.encoding == source.identity["encoding"]


def _require_coarser(source: Cache, name: str) -> None:
    own, wanted = source.encoding, encoding(name)
    if own.lossless or wanted.relative_error > own.relative_error:
        return
    raise UsageError(
        f"--encoding {name}: {source.uri} is stored in {source.identity['encoding']}, which has lost what {name} "
        f"would keep (relative error {own.relative_error:.2g}, and {wanted.relative_error:.2g})",
        f"leave out --encoding, or extract again: gdist extract --encoding {name}",
    )


def rows_of(source: Cache, where: Sequence[str]) -> Numbers:
    """Return the positions of the utterances that ``COLUMN=VALUE`` choose: several values of a column are
    alternatives, and several columns must all match. A value may be a pattern, such as ``train*``.

    Raises:
        UsageError: there is no such column, or nothing matches.
    """
    wanted: dict[str, list[str]] = {}
    for text in where:
        column, equals, value = text.partition("=")
        if not equals or column not in source.entries.labels:
            columns = ", ".join(source.entries.labels) or "none"
            raise UsageError(
                f"--where {text}: it is not COLUMN=VALUE with a label of {source.uri} (which has: {columns})",
                "for example --where split=train",
            )
        wanted.setdefault(column, []).append(value)
    keep = np.ones(len(source.entries), bool)
    for column, patterns in wanted.items():
        codes, values = label(source.entries, column)
        found = [value is not None and any(fnmatch.fnmatchcase(str(value), p) for p in patterns) for value in values]
        if not any(found):
            known = sorted({str(value) for value in values if value is not None})
            some = ", ".join(known[:9]) + ", …" * (len(known) > 9)
            raise UsageError(f"--where {column}={patterns[0]}: nothing in {source.uri} matches; it has {some}")
        keep &= np.array(found, bool)[codes]
    if not keep.any():
        raise UsageError(f"no utterance of {source.uri} matches all of --where {' --where '.join(where)}")
    return np.flatnonzero(keep)


def plan_of(source: Cache, chosen: Chosen, tables: bytes | None = None) -> Plan:
    """Plan a cache of what was chosen.

    Args:
        tables: those that the encoding learned, where it is another one that learns.
    """
    identity = dict(source.identity) | {"layers": chosen.layers}
    step: dict[str, Any] = {"where": list(chosen.where)} if chosen.rows is not None else {}
    if chosen.encoding != identity["encoding"]:
        kind = encoding(chosen.encoding)
        if kind.calibrated or not source.encoding.lossless:
            step["encoding"] = identity["encoding"]
        identity["encoding"] = chosen.encoding
        identity.pop("encoding_sha256", None)
        if extension := ENCODINGS.extension(chosen.encoding):
            identity["encoding_sha256"] = extension.sha256
    if step:
        step["checksum"] = source.gdist["checksum"]
        identity["copied"] = [*identity.get("copied", []), step]
    about = dict(source.gdist["about"]) | {
        "copied_from": source.uri,
        "copied_checksum": source.gdist["checksum"],
        "copied_options": chosen.options,
        "copied_with": f"gdist {importlib.metadata.version('gdist')}",
    }
    labels = _labels(source)
    if chosen.rows is None:
        return Plan(identity, about, source.entries, labels, _teacher_files(source, chosen, tables))
    entries = source.entries.take(chosen.rows)
    problems = {row: why for row, why in enumerate(entries.texts("problem").to_pylist()) if why is not None}
    placed = layout.place(
        layout.Lengths(entries.texts("id"), entries.numbers("num_samples"), problems),
        int(identity["max_seconds"] * SAMPLE_RATE),
        identity["chunk_frames"],
        identity["pack_frames"],
        framing=source.framing,
    )
    labels = None if labels is None else labels.take(pa.array(chosen.rows))
    return Plan(identity, about, placed, labels, _teacher_files(source, chosen, tables))


def _labels(source: Cache) -> pa.Table | None:
    names = list(source.entries.labels)
    return pa.table({name: source.entries.texts(name) for name in names}) if names else None


def _teacher_files(source: Cache, chosen: Chosen, tables: bytes | None) -> dict[str, bytes]:
    """Return the files under ``teacher/``: the source's, with the tables and the code of the new encoding."""
    own, family = (source.identity["encoding"], source.identity["teacher"]["family"])
    dropped = {own.partition(":")[0]} - {family.partition(":")[0]} if chosen.encoding != own else set()
    names = [key.removeprefix("teacher/") for key in source.gdist["objects"] if key.startswith("teacher/")]
    files = {name: source.document(name) for name in names if not name.startswith("tables") and name not in dropped}
    if chosen.encoding != own:
        if extension := ENCODINGS.extension(chosen.encoding):
            files[extension.file_name] = extension.source
        return files | ({"tables-0.safetensors": tables} if tables else {})
    kept = {
        f"{layer:02d}.{name}": table.contiguous()
        for layer in chosen.layers
        for name, table in source.tables[layer].items()
    }
    return files | ({"tables-0.safetensors": safetensors.torch.save(kept)} if kept else {})
