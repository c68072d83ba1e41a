"""Zarr v3: one array per layer, the utterances one after another, and where each of them is.

    layer_04/       [rows, D]; chunks of CHUNK rows, not compressed
    offsets/        int64 [N]: the first row of each utterance, in every layer's array
    frames/         int64 [N]: how many rows it has
    index.jsonl     id, offset, frames, seconds and labels of each utterance, in this order

A piece of the export begins with a chunk of its own, so that no chunk has two writers. The rows before it that belong
to no utterance are NaN.

Axes: N utterances, T frames, D features.
"""

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from gdist.pipeline.cache.entries import Numbers
from gdist.stages.features.formats.base import Export, Row, described, line
from gdist.stages.features.selection import Matrix, Utterance

CHUNK = 2048  # rows: 41 s of speech
NUMBERS = 1 << 16  # of offsets and of frames in a chunk


def check(export: Export) -> None:
    pass


def write(export: Export, piece: int, utterances: Iterator[Utterance]) -> list[Row]:
    first, rows = int(_firsts(export)[piece]), []
    chunks = {name: _Chunks(export, name, first) for name in export.selection.names}
    offset = first * CHUNK
    for utterance in utterances:
        for name, matrix_TD in utterance.matrices.items():
            chunks[name].add(matrix_TD)
        rows.append({"offset": offset} | described(utterance.entry))
        offset += utterance.entry.num_frames
    for each in chunks.values():
        each.flush()
    return rows


class _Chunks:
    """One array's chunks, filled one after another."""

    def __init__(self, export: Export, name: str, first: int) -> None:
        self.export, self.name, self.number, self.filled = export, name, first, 0
        self.rows = np.full((CHUNK, export.selection.dim), np.nan, _little(export.selection.dtype))

    def add(self, matrix_TD: Matrix) -> None:
        while len(matrix_TD):
            part_TD = matrix_TD[: CHUNK - self.filled]
            self.rows[self.filled : self.filled + len(part_TD)] = part_TD
            self.filled += len(part_TD)
            if self.filled == CHUNK:
                self.flush()
            matrix_TD = matrix_TD[len(part_TD) :]

    def flush(self) -> None:
        if self.filled:
            with self.export.out.writing(f"{self.name}/c/{self.number}/0") as file:
                file.write(self.rows.tobytes())
            self.number, self.filled = self.number + 1, 0
            self.rows[:] = np.nan


def finish(export: Export, rows: Iterable[tuple[int, Row]]) -> None:
    selection, out = export.selection, export.out
    count, total = len(selection.positions), int(_firsts(export)[-1]) * CHUNK
    with out.replacing("index.jsonl") as index:
        for number, some in enumerate(itertools.batched(rows, NUMBERS)):
            for name, key in (("offsets", "offset"), ("frames", "frames")):
                values = np.zeros(NUMBERS, "<i8")
                values[: len(some)] = [row[key] for _, row in some]
                with out.replacing(f"{name}/c/{number}") as file:
                    file.write(values.tobytes())
            for _, row in some:
                index.write(line({"id": row.pop("id"), **row}))
    documents = {name: _array((count,), (NUMBERS,), "int64", 0) for name in ("offsets", "frames")}
    for name in selection.names:
        documents[name] = _array((total, selection.dim), (CHUNK, selection.dim), selection.dtype, "NaN")
    for name, document in documents.items():
        _put(export, f"{name}/zarr.json", document)
    about = {"gdist_features": {**export.about, "frame_shift": selection.frame_shift, "matrices": selection.names}}
    _put(export, "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": about})


def usage(export: Export) -> str:
    return f'zarr.open_group("{export.out.folder}", mode="r")["{export.selection.names[0]}"]'


def _firsts(export: Export) -> Numbers:
    """Return the first chunk of each piece, and how many there are: [P + 1]."""
    return np.concatenate([[0], np.cumsum(-(-export.selection.frames() // CHUNK))])


def _little(dtype: str) -> str:
    return np.dtype(dtype).newbyteorder("<").str


def _array(shape: tuple[int, ...], chunk: tuple[int, ...], dtype: str, fill: Any) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {},
    }


def _put(export: Export, name: str, document: dict[str, Any]) -> None:
    with export.out.replacing(name) as file:
        file.write(json.dumps(document, indent=2).encode() + b"\n")
