"""A manifest that somebody else wrote: each is refused in words that name the file, and none is waited for."""

import csv
import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gdist.pipeline.errors import ManifestError, UsageError
from gdist.pipeline.manifest.schema import from_rows
from gdist.pipeline.manifest.table import Manifest, build
from gdist.pipeline.storage.paths import RemotePath

CUT = {"id": "a", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}], "sampling_rate": 16000}
DEEP = '{"a":' * 50_000  # Python 3.13 reads 5,000


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


def test_nested_labels_of_cuts_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = {"id": "s", "text": {}, "speaker": ["x"], "language": "en", "custom": {"age": 3, "more": {}}}
    cut = {
        "id": "c",
        "start": 0,
        "duration": 0.1,
        "channel": 0,
        "type": "MonoCut",
        "recording": CUT | {"num_samples": 1600},
    }
    src = tmp_path / "c.jsonl"
    src.write_text(json.dumps(cut | {"supervisions": [said]}))
    manifest = build(src, tmp_path / "m.parquet", "lhotse")
    assert [one.labels for one in manifest.utterances()] == [{"language": "en", "age": 3}]
    assert "left out: more, speaker, text" in capsys.readouterr().err


def test_an_empty_object_is_no_label(tmp_path: Path) -> None:
    """Of a kind of one's own, whose rows nothing filters."""
    with pytest.raises(ManifestError, match="the column phones has an empty object, which Parquet cannot hold"):
        from_rows([{"id": "a", "path": "a.wav", "phones": [{}]}], "mine")


def test_a_length_that_is_no_length_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A billion seconds would be fifty million segments, and take minutes."""
    rows = [
        {"id": name, "path": "a.wav", "start": 0, "num_samples": samples, "sample_rate": 16_000}
        for name, samples in (("a", 16_000 * 10**9), ("b", 16_000 * 50))
    ]
    split = Manifest(from_rows(rows, "mine"), "/").split(20)
    assert [one.id for one in split.utterances()] == ["a", "b-0000", "b-0001", "b-0002"]
    monkeypatch.setattr("gdist.pipeline.manifest.table.MAX_ROWS", 3)
    with pytest.raises(ManifestError, match="more than 3 segments of 20 s"):
        Manifest(from_rows(rows, "mine"), "/").split(20)


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


def bomb(column: str) -> pa.Table:
    """A thousand rows of one text of a megabyte, in few bytes."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array(["x" * (1 << 20)]))
    names = pa.array([str(number) for number in range(1000)])
    return pa.table({"id": names, "path": names, column: texts} if column == "text" else {"id": names, column: texts})


@pytest.mark.parametrize("column", ["path", "text"])
@pytest.mark.parametrize("stored", ["dictionary", "text"])
def test_a_table_of_many_times_its_bytes_is_refused(tmp_path: Path, column: str, stored: str) -> None:
    table, path = bomb(column), tmp_path / "m.parquet"
    if stored == "text":  # by pyarrow, so too; the schema in the file says that it is text
        table = table.set_column(table.column_names.index(column), column, table[column].cast(pa.string()))
    pq.write_table(table, path, compression="zstd")
    assert path.stat().st_size < 1 << 18
    before = pa.total_allocated_bytes()
    with pytest.raises(ManifestError, match="would take more than 268,435,456 bytes of memory"):
        Manifest.read(path)
    assert pa.total_allocated_bytes() - before < 1 << 26


def test_a_table_that_repeats_itself_is_read(tmp_path: Path) -> None:
    rows = 200_000
    names = [str(number) for number in range(rows)]
    labels = pa.array(["the same sentence, again and again"] * rows)
    table = pa.table({"id": names, "path": names, "text": labels, "large": labels.cast(pa.large_string())})
    pq.write_table(table, tmp_path / "m.parquet", compression="zstd")
    found = Manifest.read(tmp_path / "m.parquet").table
    for name in table.column_names:
        assert found[name].to_pylist() == table[name].to_pylist() and found[name].type == table[name].type


@pytest.mark.parametrize(
    "name", ["a\nb", "\x1b[31mred", "\0", "\x85", "\u202egnp.exe", "\u2066x", "\u2028", "a" * 5000]
)
@pytest.mark.parametrize("kind", ["parquet", "csv", "nemo"])
def test_an_id_is_a_line(tmp_path: Path, name: str, kind: str) -> None:
    with pytest.raises(ManifestError, match="has control characters, or too many"):
        if kind == "parquet":
            pq.write_table(pa.table({"id": ["fine", name], "path": ["a.wav", "b.wav"]}), tmp_path / "m.parquet")
            Manifest.read(tmp_path / "m.parquet")
        elif kind == "csv":
            with (tmp_path / "m.csv").open("w", newline="") as file:
                csv.writer(file).writerows([["id", "path"], ["fine", "a.wav"], [name, "b.wav"]])
            build(tmp_path / "m.csv", tmp_path / "m.parquet", "csv")
        else:
            line = json.dumps({"audio_filepath": "a.wav", "duration": 1.0, "id": name})
            (tmp_path / "m.json").write_text(line + "\n")
            build(tmp_path / "m.json", tmp_path / "m.parquet", "nemo")


@pytest.mark.parametrize("name", ["Ærøskøbing \N{SNOWMAN}", "é" * 2048, "a b\N{NO-BREAK SPACE}c", "-", "..", "a/b"])
def test_other_ids_are_kept(tmp_path: Path, name: str) -> None:
    pq.write_table(pa.table({"id": [name], "path": ["a\n.wav"]}), tmp_path / "m.parquet")
    assert Manifest.read(tmp_path / "m.parquet").table["id"].to_pylist() == [name]
