"""NumPy: a file per utterance, and an index in JSON lines.

    index.jsonl            id, file, frames, seconds and labels of each utterance
    features/00000/ID.npy  [T, D]; of several layers [L, T, D], in the order of the option --layers

Axes: L layers, T frames, D features.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from gdist.stages.features.formats.base import Export, Row, as_npy, described, line
from gdist.stages.features.names import file_name
from gdist.stages.features.selection import Utterance


def check(export: Export) -> None:
    pass


def write(export: Export, piece: int, utterances: Iterator[Utterance]) -> list[Row]:
    rows = []
    for utterance in utterances:
        matrices = list(utterance.matrices.values())
        name = f"features/{piece:05d}/{file_name(utterance.entry.id)}.npy"
        with export.out.writing(name) as file:
            file.write(as_npy(matrices[0] if len(matrices) == 1 else np.stack(matrices)))
        rows.append({"file": name} | described(utterance.entry))
    return rows


def finish(export: Export, rows: Iterable[tuple[int, Row]]) -> None:
    with export.out.replacing("index.jsonl") as file:
        for _, row in rows:
            file.write(line({"id": row.pop("id"), **row}))


def usage(export: Export) -> str:
    return f'numpy.load("{export.out.folder}/" + row["file"]) for each row of {export.out.folder}/index.jsonl'
