"""HuBERT's token files, as fairseq reads them: the nearest centroid of every frame.

    SPLIT.km        a line per utterance: its tokens, separated by spaces
    SPLIT.tsv       a first line for the root, which is "."; then id and samples at 16 kHz, in the same order
    dict.km.txt     all tokens
    centroids.npy   [K, D]

SPLIT is the manifest's column ``split``; without one, all utterances are in ``all.km``.
"""

import itertools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import BinaryIO

from gdist.pipeline.errors import UsageError
from gdist.stages.features.folder import RECORDS
from gdist.stages.features.formats.base import Export, Row, require_ids
from gdist.stages.features.kmeans import Nearest
from gdist.stages.features.names import file_name
from gdist.stages.features.selection import Utterance

MOST_SPLITS = 200  # two open files each


def check(export: Export) -> None:
    selection = export.selection
    if len(selection.names) > 1:
        raise UsageError(
            f"k-means is of one layer or one sum of layers, and these are chosen: {selection.layers}",
            "choose one, for example --layers 9, or add --average",
        )
    require_ids(export, r"[\t\r\n]", "the files of k-means have an id on each line, up to a tab")


def write(export: Export, piece: int, utterances: Iterator[Utterance]) -> list[Row]:
    assert export.centroids is not None, "fitted or read before"
    nearest, rows = Nearest(export.centroids), []
    with export.out.writing(_tokens(piece)) as file:
        for utterance in utterances:
            (matrix_TD,) = utterance.matrices.values()
            file.write((" ".join(map(str, nearest(matrix_TD).tolist())) + "\n").encode())
            entry = utterance.entry
            split = str(entry.labels.get("split") or "all")
            rows.append({"id": entry.id, "samples": entry.num_samples, "split": split})
    return rows


def finish(export: Export, rows: Iterable[tuple[int, Row]]) -> None:
    assert export.centroids is not None, "fitted or read before"
    with export.out.replacing("dict.km.txt") as file:
        file.writelines(f"{token} 1\n".encode() for token in range(len(export.centroids)))
    with ExitStack() as stack:
        files: dict[str, tuple[BinaryIO, BinaryIO]] = {}
        for row, tokens in _with_tokens(export, rows):
            if row["split"] not in files:
                if len(files) == MOST_SPLITS:
                    raise UsageError(f"the column split has over {MOST_SPLITS} values", "choose some with --where")
                name = file_name(row["split"])
                km, tsv = (stack.enter_context(export.out.replacing(f"{name}.{suffix}")) for suffix in ("km", "tsv"))
                files[row["split"]] = km, tsv
                tsv.write(b".\n")
            km, tsv = files[row["split"]]
            km.write(tokens)
            tsv.write(f"{row['id']}\t{row['samples']}\n".encode())


def _with_tokens(export: Export, rows: Iterable[tuple[int, Row]]) -> Iterator[tuple[Row, bytes]]:
    """Yield each row, and its line of tokens."""
    for piece, of_piece in itertools.groupby(rows, key=lambda found: found[0]):
        with export.out.at(_tokens(piece)).open("rb") as lines:
            yield from ((row, tokens) for (_, row), tokens in zip(of_piece, lines, strict=True))


def usage(export: Export) -> str:
    return f"a line of {export.out.folder}/SPLIT.km has the tokens of the same line of SPLIT.tsv, after its first"


def _tokens(piece: int) -> str:
    return f"{RECORDS}/{piece:05d}.km"
