"""lhotse: a FeatureSet, and the files that its ``numpy_files`` storage reads.

    features.jsonl.gz      with several layers, NAME.jsonl.gz for each
    NAME/00000/ID.npy      [T, D]

The duration of features is frames × frame shift, which lhotse requires. It is a few milliseconds less than that of
the recording. Paths are absolute.
"""

import gzip
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

from gdist.pipeline.framing import SAMPLE_RATE
from gdist.stages.features.formats.base import Export, Row, as_npy, line
from gdist.stages.features.names import file_name
from gdist.stages.features.selection import Utterance

STORAGE = "numpy_files"  # lhotse.features.io.NumpyFilesWriter


def check(export: Export) -> None:
    pass


def write(export: Export, piece: int, utterances: Iterator[Utterance]) -> list[Row]:
    rows = []
    for utterance in utterances:
        key = f"{piece:05d}/{file_name(utterance.entry.id)}.npy"
        for name, matrix_TD in utterance.matrices.items():
            with export.out.writing(f"{name}/{key}") as file:
                file.write(as_npy(matrix_TD))
        rows.append({"id": utterance.entry.id, "frames": utterance.entry.num_frames, "key": key})
    return rows


def finish(export: Export, rows: Iterable[tuple[int, Row]]) -> None:
    selection, shift = export.selection, export.selection.frame_shift
    with ExitStack() as stack:
        files = {}
        for name in selection.names:
            plain = stack.enter_context(export.out.replacing(_manifest(export, name)))
            # Without a name and a time, the same rows give the same bytes.
            files[name] = stack.enter_context(gzip.GzipFile("", "wb", 6, plain, mtime=0))
        for _, row in rows:
            for name, file in files.items():
                features = {
                    "type": f"gdist-{name}",
                    "num_frames": row["frames"],
                    "num_features": selection.dim,
                    "frame_shift": shift,
                    "sampling_rate": SAMPLE_RATE,
                    "start": 0,
                    "duration": round(row["frames"] * shift, 8),
                    "storage_type": STORAGE,
                    "storage_path": f"{export.out.absolute}/{name}",
                    "storage_key": row["key"],
                    "recording_id": row["id"],
                    "channels": 0,
                }
                file.write(line(features))


def usage(export: Export) -> str:
    manifest = _manifest(export, export.selection.names[0])
    return f'lhotse.FeatureSet.from_file("{export.out.folder}/{manifest}")'


def _manifest(export: Export, name: str) -> str:
    return f"{'features' if len(export.selection.names) == 1 else name}.jsonl.gz"
