"""WebDataset: tar shards, in which the files of an utterance are next to each other.

    features-000000.tar    KEY.layer_04.npy and so on, [T, D] each, and KEY.json with id, frames, seconds and labels

KEY is the id, where dots and what is no plain character are written as in a web address. The members have no times
and no owners, so the same utterances give the same bytes.
"""

import io
import tarfile
from collections.abc import Iterable, Iterator

from gdist.stages.features.formats.base import Export, Row, as_npy, described, line
from gdist.stages.features.names import file_name
from gdist.stages.features.selection import Utterance


def check(export: Export) -> None:
    pass


def write(export: Export, piece: int, utterances: Iterator[Utterance]) -> list[Row]:
    with (
        export.out.writing(f"features-{piece:06d}.tar") as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as shard,
    ):
        for utterance in utterances:
            key = file_name(utterance.entry.id, dots=False)
            for name, matrix_TD in utterance.matrices.items():
                _add(shard, f"{key}.{name}.npy", as_npy(matrix_TD))
            _add(shard, f"{key}.json", line(described(utterance.entry)))
    return []


def _add(shard: tarfile.TarFile, name: str, data: bytes | memoryview) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    shard.addfile(member, io.BytesIO(data))


def finish(export: Export, rows: Iterable[tuple[int, Row]]) -> None:
    pass


def usage(export: Export) -> str:
    last = len(export.selection) - 1
    shards = f"features-{{000000..{last:06d}}}.tar" if last else "features-000000.tar"
    return f'webdataset.WebDataset("{export.out.folder}/{shards}", shardshuffle=False).decode()'
