"""Hugging Face: Parquet with the bytes of the audio, as the Hub shows it and ``datasets`` loads it."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.targets.base import Item, Target, left_out, writing
from gdist.pipeline.manifest.targets.samples import audio_of

_SHARD = 500_000_000  # bytes of audio in a file
_GROUP = 100  # examples in a row group: what a reader has to fetch at least
_AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


class HuggingFace(Target):
    """data/SPLIT-00000.parquet (data-… where there are no splits), with columns id, audio and the labels."""

    name = "hf"
    summary = "Parquet with the bytes of the audio, for Hugging Face datasets"
    channels = True
    ranges = True
    uris = True

    def write(self, items: Sequence[Item], out: Path) -> list[str]:
        """Write Parquet files of each split, and a README.md that names them.

        A file that is used as a whole is stored byte for byte. Of a segment or a channel, the samples are stored as
        WAV at the file's rate, exactly. Only some of the audio is in memory at any time.
        """
        types = _label_types(items)
        schema = _schema(types)
        named = any(item.utterance.labels.get("split") for item in items)
        splits = dict.fromkeys(str(item.utterance.labels.get("split") or "train") for item in items)
        for split in splits:
            if not re.fullmatch(r"\w[\w.-]*", split):
                raise ManifestError(f"{split!r} cannot be the name of a split", "rename it in the manifest")
            of = [item for item in items if str(item.utterance.labels.get("split") or "train") == split]
            groups = _groups(of, types, schema)
            number, group = 0, next(groups, None)
            while group is not None:
                with (
                    writing(out / "data" / f"{split if named else 'data'}-{number:05}.parquet") as file,
                    pq.ParquetWriter(file, schema, compression="zstd") as writer,
                ):
                    written = 0
                    while group is not None and written < _SHARD:
                        writer.write_table(group)
                        written += group.nbytes
                        group = next(groups, None)
                number += 1
        with writing(out / "README.md") as file:
            file.write(_card({split: split if named else "data" for split in splits}).encode())
        cut = sum(not item.whole for item in items)
        notes = (
            [f"{cut} utterances are segments or channels of files: their samples were written as WAV"] if cut else []
        )
        return notes + left_out(items, [*types, "split"])


def _label_types(items: Sequence[Item]) -> dict[str, pa.DataType]:
    """Return the type of each label whose values have one plain type; ``split`` is said by the files."""
    kinds: dict[str, set[type]] = {}
    for item in items:
        for name, value in item.utterance.labels.items():
            kinds.setdefault(name, set()).update(() if value is None else (type(value),))
    plain = {name: found for name, found in kinds.items() if len(found) <= 1 and found <= _TYPES.keys()}
    return {name: _TYPES[next(iter(found), str)] for name, found in plain.items() if name not in ("split", "audio")}


def _schema(types: dict[str, pa.DataType]) -> pa.Schema:
    names = {pa.string(): "string", pa.int64(): "int64", pa.float64(): "float64", pa.bool_(): "bool"}
    values = {"id": pa.string()} | types
    features: dict[str, object] = {"id": {"dtype": "string", "_type": "Value"}, "audio": {"_type": "Audio"}}
    features |= {name: {"dtype": names[kind], "_type": "Value"} for name, kind in types.items()}
    fields = [pa.field("id", pa.string()), pa.field("audio", _AUDIO)]
    fields += [pa.field(name, kind) for name, kind in values.items() if name != "id"]
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _groups(items: Sequence[Item], types: dict[str, pa.DataType], schema: pa.Schema) -> Iterator[pa.Table]:
    rows: list[dict[str, object]] = []
    size = 0
    for item in items:
        u = item.utterance
        data, suffix = audio_of(item)
        labels = {name: u.labels.get(name) for name in types}
        rows.append({"id": u.id, "audio": {"bytes": data, "path": f"{u.id}{suffix}"}} | labels)
        size += len(data)
        if len(rows) == _GROUP or size >= _SHARD // 8:
            yield pa.Table.from_pylist(rows, schema)
            rows, size = [], 0
    if rows:
        yield pa.Table.from_pylist(rows, schema)


def _card(files: dict[str, str]) -> str:
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for split, name in files.items():
        lines += [f"  - split: {split}", f"    path: data/{name}-*.parquet"]
    return "\n".join([*lines, "---", ""])
