"""Hugging Face data sets on disk: what ``save_to_disk`` writes, and Parquet with the bytes of its audio."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.sources.arrow import (
    Audio,
    audio_column,
    batches,
    in_stream,
    in_table,
    is_parquet,
    mapped,
    schema_of,
    undamaged,
)
from gdist.pipeline.manifest.sources.base import (
    ManifestRow,
    OptionalSource,
    Options,
    children,
    has,
    head,
    is_folder,
    is_there,
    located,
    near,
    readable,
    walk,
)
from gdist.pipeline.manifest.sources.labels import Labels, ids_from_paths
from gdist.pipeline.manifest.sources.written import AudioFolder
from gdist.pipeline.storage.paths import Place
from gdist.pipeline.storage.ranged import opened

_SHARD = re.compile(r"(.+?)-\d{5}(-of-\d{5})?\.(parquet|arrow)")
_ARROW = (b"ARRO", b"\xff\xff\xff\xff")  # a file, and a stream, which is what ``datasets`` writes


class HuggingFace(OptionalSource):
    """A folder of ``datasets``, Parquet or Arrow, with a column of audio."""

    name = "huggingface"
    reads_both = True
    binary = True
    summary = "a Hugging Face data set on disk (save_to_disk, or Parquet with audio)"

    def rows_with(self, src: Place, options: Options) -> Iterator[ManifestRow]:
        """One row per example; plain columns are labels, and names of classes are labels instead of numbers.

        Audio in uncompressed Arrow stays where it is, as a range of bytes. Parquet compresses or encodes what it
        has, so its audio is written to files. The id is the column ``id``, else it is made from the file's name that
        the audio column has, else it is the example's number.
        """
        shards = _shards(src)
        if not shards:
            raise ManifestError(
                f"{src} has no Parquet or Arrow files", "save the data set again: save_to_disk(FOLDER)"
            )
        schemas = {file: schema_of(file) for file, _ in shards}
        columns = {file: str(audio_column(schema, file, True)) for file, schema in schemas.items()}
        ids = _ids(shards, schemas, columns)
        folder: AudioFolder | None = None
        names = {name for schema in schemas.values() for name in schema.names}
        splits = len({split for _, split in shards}) > 1 or any(split for _, split in shards)
        labels = Labels(names - {"audio"} | ({"split"} if splits else set()))
        row = 0
        for file, split in shards:
            for values, audio in _examples(file, columns[file]):
                found: ManifestRow = {"id": ids[row]}
                if audio.offset is not None:
                    found |= {"path": str(file), "byte_offset": audio.offset, "byte_size": audio.size}
                elif audio.data is not None:
                    folder = folder or AudioFolder(options.audio, src)
                    found["path"] = folder.put(ids[row], audio.data, audio.path or "")
                elif audio.path:
                    found["path"] = located(audio.path, file.parent)
                else:
                    raise ManifestError(f"{file}: example {row} has neither the bytes of its audio nor a path")
                yield found | ({"split": split} if splits else {}) | labels.of(values)
                row += 1
        if folder:
            folder.report()
        labels.report()

    def recognizes(self, src: Place, first: str, second: str) -> bool:
        if is_folder(src):
            if any(has(src, name) for name in ("state.json", "dataset_dict.json")):
                return True
            files = (path for path in near(src) if path.suffix == ".parquet" or _SHARD.fullmatch(path.name))
            return (first_file := next(files, None)) is not None and _has_audio(first_file)
        return not first and head(src, 4) in (b"PAR1", *_ARROW) and _has_audio(src)


def _has_audio(file: Place) -> bool:
    try:
        return audio_column(schema_of(file), file, False) is not None
    except ManifestError:
        return False


def _shards(src: Place) -> list[tuple[Place, str | None]]:
    """Return the files of a data set, in order, each with its split, where it is known."""
    if not is_folder(src):
        return [(src, _split(src))]
    if is_there(src / "dataset_dict.json"):
        named = [str(name) for name in _json(src / "dataset_dict.json").get("splits", [])]
        return [(file, _said(name)) for name in named for file, _ in _shards(src / _plain(name, src))]
    if is_there(src / "state.json"):
        state = _json(src / "state.json")
        if state.get("_indices_data_files"):
            raise ManifestError(f"{src} has rows in another order than its files", "save flatten_indices() of it")
        listed = state.get("_data_files")
        names = (
            [file.get("filename") for file in listed if isinstance(file, dict)] if isinstance(listed, list) else []
        )
        return [(src / _plain(name, src), None) for name in names]
    parquet = [path for path in walk(src) if path.suffix == ".parquet"]
    return [(path, _split(path)) for path in parquet or children(src, "*.arrow")]


def _plain(name: object, src: Place) -> str:
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name:
        raise ManifestError(f"{src} names {name!r}, which is not in this folder")
    return name


def _split(file: Place) -> str | None:
    found = _SHARD.fullmatch(file.name)
    return _said(found[1]) if found and found[1] not in ("data", "part", "shard") else None


def _said(split: str) -> str:
    return {"validation": "valid"}.get(split, split)


def _json(file: Place) -> dict[str, Any]:
    try:
        with readable(file):
            found = json.loads(file.read_bytes())
    except ValueError as error:
        raise ManifestError(f"cannot read {file}: not JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _examples(file: Place, column: str) -> Iterator[tuple[dict[str, object], Audio]]:
    """Yield the plain columns of each example, and where its audio is."""
    with undamaged(file):
        yield from (in_table if is_parquet(file) else in_stream)(file, column)


def _ids(
    shards: list[tuple[Place, str | None]], schemas: Mapping[Place, pa.Schema], columns: Mapping[Place, str]
) -> list[str]:
    """Read only ids and names, without any audio, and make an id for each example."""
    own: list[Any] = []
    paths: list[Any] = []
    splits: list[str | None] = []
    for file, split in shards:
        own_here, paths_here = _names(file, columns[file], "id" in schemas[file].names)
        own += [str(name) if isinstance(name, int) else name for name in own_here]
        paths += paths_here
        splits += [split] * len(paths_here)
    for names in (own, paths):
        if names and all(isinstance(name, str) and name for name in names) and len(set(names)) == len(names):
            return names if names is own else ids_from_paths(names)
    counted, numbered = Counter[str | None](), []
    for split in splits:
        numbered.append(f"{f'{split}-' if split else ''}{counted[split]:08}")
        counted[split] += 1
    return numbered


def _names(file: Place, column: str, has_id: bool) -> tuple[list[Any], list[Any]]:
    with undamaged(file), opened(file) as source:
        if is_parquet(file):
            table = pq.ParquetFile(source).read(columns=[*(["id"] if has_id else []), f"{column}.path"])
            found: Iterable[pa.RecordBatch] = table.to_batches()
        else:
            found = batches(mapped(file))
        own: list[Any] = []
        paths: list[Any] = []
        for batch in found:
            own += batch.column("id").to_pylist() if has_id else [None] * batch.num_rows
            paths += batch.column(column).field("path").to_pylist()
    return own, paths
