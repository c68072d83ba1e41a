"""Hugging Face datasets: Parquet shards, each a piece of the export, and the card that says which files these are.

    README.md                           the card: datasets.load_dataset(DIR) reads its list of files
    data/part-00000-of-00012.parquet    id, frames, seconds, the labels, and a column per layer, Array2D [T, D]

Axes: T frames, D features.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gdist.pipeline.cache.entries import Entry
from gdist.pipeline.framing import SAMPLE_RATE
from gdist.stages.features.formats.base import Export, Row
from gdist.stages.features.selection import Matrix, Utterance

GROUP_BYTES = 32_000_000  # of hidden states in a row group, which is in memory as a whole
ARRAY2D = "datasets.features.features.Array2DExtensionType"
OWN = {"id": pa.string(), "frames": pa.int32(), "seconds": pa.float64()}
# What datasets calls a type; labels of any other type become text.
NAMES = {
    pa.string(): "string",
    pa.int32(): "int32",
    pa.int64(): "int64",
    pa.float32(): "float32",
    pa.float64(): "float64",
    pa.bool_(): "bool",
}


def check(export: Export) -> None:
    pass


def write(export: Export, piece: int, utterances: Iterator[Utterance]) -> list[Row]:
    name = f"data/part-{piece:05d}-of-{len(export.selection):05d}.parquet"
    schema, waiting, size = _schema(export), list[Utterance](), 0
    with (
        export.out.writing(name) as file,
        pq.ParquetWriter(file, schema, compression="none", use_dictionary=list(schema.names[:1])) as writer,
    ):
        for utterance in utterances:
            waiting.append(utterance)
            size += sum(matrix_TD.nbytes for matrix_TD in utterance.matrices.values())
            if size >= GROUP_BYTES:
                writer.write_table(_table(schema, waiting))
                waiting, size = [], 0
        if waiting:
            writer.write_table(_table(schema, waiting))
    return []


def finish(export: Export, rows: Iterable[tuple[int, Row]]) -> None:
    card = f"""---
configs:
- config_name: default
  data_files: data/part-*-of-{len(export.selection):05d}.parquet
tags:
- speech
- gdist
---

Hidden states of {export.about["teacher"]}: {", ".join(export.selection.names)}, {export.selection.dim} features,
a frame every {export.selection.frame_shift * 1000:g} ms. Written by `gdist export-features`.
"""
    with export.out.replacing("README.md") as file:
        file.write(card.encode())


def usage(export: Export) -> str:
    return f'datasets.load_dataset("{export.out.folder}", split="train")'


def _schema(export: Export) -> pa.Schema:
    labels = export.selection.entries(0)
    types = dict(OWN)
    for name in export.selection.cache.entries.labels:
        if name not in types:
            found = labels.texts(name).type
            types[name] = found if found in NAMES else pa.string()
    features: dict[str, Any] = {name: {"dtype": NAMES[kind], "_type": "Value"} for name, kind in types.items()}
    values = pa.from_numpy_dtype(np.dtype(export.selection.dtype))
    fields = [pa.field(name, kind) for name, kind in types.items() if name not in export.selection.names]
    shape, dtype = (None, export.selection.dim), export.selection.dtype
    # What datasets itself writes into the schema of a Parquet file: of an Array2D, its name as Arrow's extension too.
    array = {"ARROW:extension:name": ARRAY2D, "ARROW:extension:metadata": json.dumps((shape, dtype))}
    for name in export.selection.names:
        fields.append(pa.field(name, pa.list_(pa.list_(values)), metadata=array))
        features[name] = {"shape": shape, "dtype": dtype, "_type": "Array2D"}
    return pa.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})


def _table(schema: pa.Schema, utterances: list[Utterance]) -> pa.Table:
    columns = {
        field.name: _column(field, [each.entry for each in utterances])
        if field.name not in utterances[0].matrices
        else _matrices(field.type, [each.matrices[field.name] for each in utterances])
        for field in schema
    }
    return pa.table(columns, schema)


def _column(field: pa.Field, entries: list[Entry]) -> pa.Array:
    if field.name == "seconds":
        values: list[Any] = [entry.num_samples / SAMPLE_RATE for entry in entries]
    elif field.name in OWN:
        values = [entry.id if field.name == "id" else entry.num_frames for entry in entries]
    else:
        values = [entry.labels[field.name] for entry in entries]
    if pa.types.is_string(field.type):
        values = [value if value is None else str(value) for value in values]
    return pa.array(values, field.type)


def _matrices(kind: pa.DataType, matrices: list[Matrix]) -> pa.Array:
    """Return one list of rows per utterance, without a Python object per number."""
    values = np.concatenate([matrix_TD.reshape(-1) for matrix_TD in matrices])
    dim, frames = matrices[0].shape[1], [len(matrix_TD) for matrix_TD in matrices]
    rows = pa.ListArray.from_arrays(np.arange(0, len(values) + 1, dim, dtype=np.int32), pa.array(values))
    return pa.ListArray.from_arrays(np.cumsum([0, *frames], dtype=np.int32), rows).cast(kind)
