"""Hugging Face's audiofolder: audio files, and a metadata file that labels them."""

from collections.abc import Iterator

import pyarrow.parquet as pq

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.sources.arrow import schema_of, undamaged
from gdist.pipeline.manifest.sources.base import (
    ManifestRow,
    Source,
    below,
    head,
    is_folder,
    lines,
    near,
    relative,
    walk,
)
from gdist.pipeline.manifest.sources.cells import Table, columns
from gdist.pipeline.manifest.sources.labels import Labels, without_suffix
from gdist.pipeline.manifest.sources.lhotse import keys, parsed
from gdist.pipeline.storage.paths import Place
from gdist.pipeline.storage.ranged import opened

_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_SPLITS = {"train": "train", "training": "train", "validation": "valid", "valid": "valid", "val": "valid"}
_SPLITS |= {"dev": "valid", "test": "test", "testing": "test", "eval": "test", "evaluation": "test"}


class AudioFolder(Source):
    """metadata.csv, .jsonl or .parquet with file_name."""

    name = "audiofolder"
    reads_both = True
    binary = True
    summary = "Hugging Face's audiofolder, or its metadata.csv, .jsonl or .parquet with file_name"

    def rows(self, src: Place) -> Iterator[ManifestRow]:
        """One row per line of each metadata file; ``file_name`` starts from the file's folder.

        The id is the path below ``src``, without its suffix. ``split`` is the folder's name at the top, where that
        is one of a split: validation and dev become valid.
        """
        files = [path for path in walk(src) if path.name in _NAMES] if is_folder(src) else [src]
        if not files:
            raise ManifestError(
                f"there is no {', '.join(_NAMES)} in {src}", "for audio without labels: --kind folder"
            )
        folder = src if is_folder(src) else src.parent
        listed = [(file, number, row) for file in files for number, row in enumerate(_rows(file), start=1)]
        splits = {file: _SPLITS.get(relative(file, folder).parts[0].lower()) for file in files}
        labels = Labels({key for *_, row in listed for key in row}, skip={"file_name"})
        for file, number, row in listed:
            name = row.get("file_name")
            if not isinstance(name, str) or not name:
                raise ManifestError(f"{file}, entry {number}: it has no file_name", "name the audio of every entry")
            place = below(file.parent, name)
            id = without_suffix(relative(file.parent / name, folder))
            split: ManifestRow = {"split": splits[file]} if any(splits.values()) else {}
            yield {"id": str(id), "path": place} | split | labels.of(row)
        labels.report()

    def recognizes(self, src: Place, first: str, second: str) -> bool:
        if is_folder(src):
            return any(path.name in _NAMES for path in near(src))
        if not first and head(src, 4) == b"PAR1":
            try:
                return "file_name" in schema_of(src).names
            except ManifestError:
                return False  # cut short
        return "file_name" in (keys(first) or columns(first))


def _rows(file: Place) -> Iterator[dict[str, object]]:
    if file.suffix == ".parquet":
        if "file_name" not in schema_of(file).names:
            return
        with undamaged(file), opened(file) as source:
            for batch in pq.ParquetFile(source).iter_batches():
                yield from batch.to_pylist()
    elif file.name.endswith((".jsonl", ".jsonl.gz")):
        yield from (parsed(line, f"{file}, line {number}") for number, line in enumerate(lines(file), start=1))
    else:
        for row in Table(file):
            yield dict(row)
