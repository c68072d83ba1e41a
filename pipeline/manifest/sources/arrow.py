"""A column of audio in Parquet and in Arrow: its bytes, or which bytes of the file they are."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.sources.base import head, readable
from gdist.pipeline.storage.paths import Place
from gdist.pipeline.storage.ranged import opened

_BATCH = 16  # examples in memory at a time: audio of minutes each


@dataclass(frozen=True)
class Audio:
    """The audio of an example: ``size`` bytes of the file from ``offset`` on, else ``data``, else only a ``path``."""

    path: str | None
    data: bytes | None = None
    offset: int | None = None
    size: int | None = None


def audio_column(schema: pa.Schema, file: Place, required: bool) -> str | None:
    """Return the name of the column of audio: ``audio``, or the only one.

    Raises:
        ManifestError: there is none or more than one, and one is ``required``.
    """
    columns: list[str] = [field.name for field in schema if _is_audio(field.type)]
    if "audio" in columns:
        return "audio"
    if len(columns) == 1:
        return columns[0]
    if required:
        decoded = [field.name for field in schema if _is_decoded(field.type)]
        found = f"several columns of audio: {', '.join(columns)}" if columns else "no column of audio"
        if decoded and not columns:
            found = f"decoded audio in {decoded[0]}"
        raise ManifestError(
            f"{file} has {found}; its columns are {', '.join(schema.names)}",
            'gdist reads one column of {bytes, path}: data_set.cast_column("audio", Audio()).save_to_disk(FOLDER)',
        )
    return None


def _is_audio(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    fields = {kind.field(index).name: kind.field(index).type for index in range(kind.num_fields)}
    return (
        "path" in fields and "bytes" in fields and (_is_binary(fields["bytes"]) or pa.types.is_null(fields["bytes"]))
    )


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_decoded(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind)) and any(
        kind.field(index).name in ("array", "sampling_rate") for index in range(kind.num_fields)
    )


def in_table(file: Place, column: str) -> Iterator[tuple[dict[str, object], Audio]]:
    """Yield the labels and the audio of each example of a Parquet file, a few at a time."""
    with opened(file) as source:
        parquet = pq.ParquetFile(source)
        classes = _classes(parquet.schema_arrow)
        for batch in parquet.iter_batches(batch_size=_BATCH):
            paths, data = (batch.column(column).field(name) for name in ("path", "bytes"))
            for row, labels in enumerate(_labels(batch, column, classes)):
                yield labels, Audio(paths[row].as_py(), data[row].as_py())


def in_stream(file: Place, column: str) -> Iterator[tuple[dict[str, object], Audio]]:
    """Yield the labels of each example of an Arrow file or stream, and where its audio is in it.

    The values of a batch lie in the file as they are in memory, if nothing is compressed: an address in the mapped
    file is then a place in the file. Of an object in a bucket, all bytes are fetched.
    """
    whole = mapped(file)
    classes = _classes(schema_of(file))
    for batch in batches(whole):
        paths, data = (batch.column(column).field(name) for name in ("path", "bytes"))
        starts = _offsets(data)
        base = None if starts is None else data.buffers()[2].address - whole.address
        for row, labels in enumerate(_labels(batch, column, classes)):
            path, present = paths[row].as_py(), data[row].is_valid
            if not present:
                yield labels, Audio(path)
            elif starts is not None and base is not None and 0 <= base < whole.size:
                yield labels, Audio(path, offset=base + starts[row], size=starts[row + 1] - starts[row])
            else:
                yield labels, Audio(path, data[row].as_py())


def mapped(file: Place) -> pa.Buffer:
    """Return all bytes of a file: of one on this machine, only what is used is read."""
    return pa.memory_map(str(file)).read_buffer() if isinstance(file, Path) else pa.py_buffer(file.read_bytes())


def batches(whole: pa.Buffer) -> Iterator[pa.RecordBatch]:
    """Yield the batches of an Arrow file or stream, each checked: a damaged one may point anywhere."""
    if whole.slice(0, 4).to_pybytes() == b"ARRO":
        reader = pa.ipc.open_file(whole)
        found: Iterator[pa.RecordBatch] = (reader.get_batch(index) for index in range(reader.num_record_batches))
    else:
        found = iter(pa.ipc.open_stream(whole))
    for batch in found:
        batch.validate(full=True)
        yield batch


def is_parquet(file: Place) -> bool:
    """Whether a file is Parquet rather than Arrow."""
    return head(file, 4) == b"PAR1"


def schema_of(file: Place) -> pa.Schema:
    """Return the schema of a Parquet or Arrow file."""
    with undamaged(file), opened(file) as source:
        if is_parquet(file):
            schema = pq.ParquetFile(source).schema_arrow
        else:
            schema = (pa.ipc.open_file if head(file, 4) == b"ARRO" else pa.ipc.open_stream)(source).schema
        _ = schema.names  # decoded only when they are asked for
        return schema


@contextmanager
def undamaged(file: Place) -> Iterator[None]:
    """Turn any failure to read a Parquet or Arrow file into a ManifestError that names the file."""
    try:
        with readable(file):
            yield
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise ManifestError(f"cannot read {file}: not a whole Parquet or Arrow file: {error}") from error


def _offsets(data: pa.Array) -> list[int] | None:
    """Return where each value of a binary column starts in its buffer, and where the last one ends."""
    if not _is_binary(data.type) or data.buffers()[2] is None:
        return None
    kind = pa.int64() if pa.types.is_large_binary(data.type) else pa.int32()
    found = pa.Array.from_buffers(kind, len(data) + 1, [None, data.buffers()[1]], offset=data.offset)
    return list(found.to_pylist())


def _labels(batch: pa.RecordBatch, column: str, classes: dict[str, list[str]]) -> Iterator[dict[str, Any]]:
    names = [name for name in batch.schema.names if name not in (column, "id")]
    for values in batch.select(names).to_pylist() or [{} for _ in range(batch.num_rows)]:
        for name, known in classes.items():
            if isinstance(number := values.get(name), int):
                values[name] = known[number] if 0 <= number < len(known) else None
        yield values


def _classes(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the names of the classes of each column that ``datasets`` stores as numbers."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: f["names"] for name, f in features.items() if f.get("_type") == "ClassLabel"}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
