"""A manifest that somebody else wrote: each is refused in words that name the file, and none is waited for."""

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gdist.pipeline.errors import ManifestError, UsageError
from gdist.pipeline.manifest.table import Manifest, build
from gdist.pipeline.storage.paths import RemotePath

CUT = {"id": "a", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}], "sampling_rate": 16000}
DEEP = '{"a":' * 5000


@pytest.mark.parametrize(
    ("kind", "name", "text", "words"),
    [
        ("fairseq", "t.tsv", "{here}\na.wav\t" + "9" * 30 + "\n", "num_samples of utterance 1 is an integer of more"),
        ("fairseq", "t.tsv", "/" + "a" * 5000 + "\na.wav\t1\n", "which does not exist"),
        ("lhotse", "c.jsonl", json.dumps(CUT | {"num_samples": 10**40}), "num_samples of utterance 1 is an integer"),
        ("lhotse", "c.jsonl", json.dumps(CUT | {"num_samples": float("inf")}), "line 1: not JSON: it has Infinity"),
        ("lhotse", "c.jsonl", json.dumps(CUT | {"num_samples": float("nan")}), "line 1: not JSON: it has NaN"),
        (
            "lhotse",
            "c.jsonl",
            json.dumps(CUT | {"num_samples": 1, "transforms": [0]}),
            "c.jsonl, line 1: its recording",
        ),
        ("lhotse", "c.jsonl", DEEP, "line 1: not JSON: it is nested too deeply"),
        ("auto", "c.jsonl", DEEP, "cannot detect what"),
        ("csv", "t.csv", "id,path\na,b.wav\n" + "c" * (1 << 25), "a line of more than 16 MiB"),
        ("nemo", "n.json", json.dumps({"audio_filepath": ""}), "line 1: audio_filepath names no file"),
    ],
)
def test_text_is_refused_in_words(tmp_path: Path, kind: str, name: str, text: str, words: str) -> None:
    src = tmp_path / name
    src.write_text(text.replace("{here}", str(tmp_path)))
    with pytest.raises(ManifestError) as refused:
        build(src, tmp_path / "m.parquet", kind)
    assert words in refused.value.message and name in refused.value.message
    assert not (tmp_path / "m.parquet").exists()


def test_what_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gdist.pipeline.manifest.sources.base._UNPACKED", 0)
    src = tmp_path / "c.jsonl.gz"
    src.write_bytes(gzip.compress((json.dumps(CUT | {"num_samples": 1, "x": "a" * 100_000}) + "\n").encode() * 50))
    with pytest.raises(ManifestError, match="it unpacks to more than 200 times its size"):
        build(src, tmp_path / "m.parquet", "lhotse")


def test_a_column_of_nulls(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "b"], "path": pa.nulls(2)})
    pq.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match="path is empty in 2 of 2 rows"):
        Manifest.read(tmp_path / "m.parquet")


@pytest.mark.parametrize("kind", ["auto", "csv", "lhotse", "parquet"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    src = tmp_path / "m.jsonl"
    os.mkfifo(src)
    with pytest.raises(ManifestError):
        Manifest.read(src) if kind == "parquet" else build(src, tmp_path / "m.parquet", kind)


def test_a_bucket_without_a_key() -> None:
    for act in (lambda: Manifest.read("memory://name"), lambda: RemotePath.parse("s3://bucket").read_bytes()):
        with pytest.raises(UsageError, match="names a bucket, and no object in it"):
            act()


@pytest.mark.parametrize("path", [".", "/", "..", "a/.."])
@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [
        ("nemo", "n.json", '{{"audio_filepath": "{0}"}}'),
        ("fairseq", "t.tsv", "{here}\n{0}\t8000\n{0}:1:2\t9\n"),
        ("audiofolder", "metadata.csv", "file_name,n\n{0},1\n"),
    ],
)
def test_a_path_without_a_name(tmp_path: Path, path: str, kind: str, name: str, text: str) -> None:
    """It names a folder, and has no suffix to be cut off for an id: said of the utterance or of the manifest."""
    src = tmp_path / name
    src.write_text(text.format(path, here=tmp_path))
    try:
        found = build(src, tmp_path / "m.parquet", kind)
    except ManifestError:
        return
    assert len(found.table) == 0 or {problem.reason for problem in found.problems}
