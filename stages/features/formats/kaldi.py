"""Kaldi: archives of binary float matrices, and a script file that says where each utterance is.

    feats.scp           key, archive and position; with several layers, NAME/feats.scp for each
    ark/00000.ark       and NAME/ark/00000.ark
    utt2num_frames

Paths in feats.scp are absolute. A matrix is ``KEY \\0BFM \\4rows\\4columns`` and its values, little-endian.
"""

import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

from gdist.pipeline.errors import UsageError
from gdist.stages.features.formats.base import Export, Row, require_ids
from gdist.stages.features.selection import Utterance


def check(export: Export) -> None:
    if export.selection.dtype != "float32":
        raise UsageError("--to kaldi: Kaldi has no matrices in float16", "leave out --dtype float16")
    require_ids(export, r"\s", "Kaldi's keys end at the first space")


def write(export: Export, piece: int, utterances: Iterator[Utterance]) -> list[Row]:
    rows = []
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(export.out.writing(f"{_folder(export, name)}ark/{piece:05d}.ark"))
            for name in export.selection.names
        }
        for utterance in utterances:
            entry, places = utterance.entry, {}
            for name, matrix_TD in utterance.matrices.items():
                files[name].write(f"{entry.id} ".encode())
                places[name] = files[name].tell()
                files[name].write(b"\0BFM " + struct.pack("<bibi", 4, matrix_TD.shape[0], 4, matrix_TD.shape[1]))
                files[name].write(matrix_TD.astype("<f4").tobytes())
            rows.append({"id": entry.id, "frames": entry.num_frames, "places": places})
    return rows


def finish(export: Export, rows: Iterable[tuple[int, Row]]) -> None:
    names = export.selection.names
    with ExitStack() as stack:
        lengths = stack.enter_context(export.out.replacing("utt2num_frames"))
        scripts = {
            name: stack.enter_context(export.out.replacing(f"{_folder(export, name)}feats.scp")) for name in names
        }
        for piece, row in rows:
            lengths.write(f"{row['id']} {row['frames']}\n".encode())
            for name, script in scripts.items():
                ark = f"{export.out.absolute}/{_folder(export, name)}ark/{piece:05d}.ark"
                script.write(f"{row['id']} {ark}:{row['places'][name]}\n".encode())


def usage(export: Export) -> str:
    return f'kaldiio.load_scp("{export.out.folder}/{_folder(export, export.selection.names[0])}feats.scp")'


def _folder(export: Export, name: str) -> str:
    """Return where the files of one matrix are: a layer's own folder only where there are several."""
    return "" if len(export.selection.names) == 1 else f"{name}/"
