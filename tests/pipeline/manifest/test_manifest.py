"""The utterance table: its rules, the sources it is built from, its check, and the speech that ships."""

import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from toolkits import speech

from gdist.data_manifests import demo_folder
from gdist.pipeline.errors import ManifestError, UsageError
from gdist.pipeline.manifest.sources import SOURCES
from gdist.pipeline.manifest.table import Manifest, Problem, build, check


def table(**columns: object) -> pa.Table:
    return pa.table({"id": ["a", "b"], "path": ["a.wav", "b.wav"]} | columns)


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[pa.Table], Path]:
    def store(content: pa.Table) -> Path:
        pq.write_table(content, tmp_path / "m.parquet")
        return tmp_path / "m.parquet"

    return store


class TestTheTable:
    def test_the_smallest_manifest(self, stored: Callable[[pa.Table], Path], tmp_path: Path) -> None:
        first, _ = Manifest.read(stored(table())).utterances()
        assert (first.id, first.path, first.start) == ("a", str(tmp_path.resolve() / "a.wav"), 0)
        assert (first.num_samples, first.sample_rate, first.labels) == (None, None, {})

    def test_labels_keep_their_types(self, stored: Callable[[pa.Table], Path]) -> None:
        labels = {
            "digit": pa.array([1, None], pa.int8()),
            "tags": pa.array([["x"], []]),
            "ok": pa.array([True, False]),
        }
        manifest = Manifest.read(stored(table(**labels)))
        assert manifest.label_columns == ["digit", "tags", "ok"]
        assert [manifest.table.schema.field(name).type for name in labels] == [v.type for v in labels.values()]
        assert manifest.utterances()[0].labels == {"digit": 1, "tags": ["x"], "ok": True}

    def test_columns_of_similar_types_are_cast(self, stored: Callable[[pa.Table], Path]) -> None:
        ids = pa.array(["a", "b"], pa.large_string()).dictionary_encode()
        content = table(id=ids, num_samples=pa.array([8.0, None]), sample_rate=pa.array([8_000, 8_000], pa.uint16()))
        manifest = Manifest.read(stored(content))
        assert manifest.table.schema.types == [pa.string(), pa.string(), pa.int64(), pa.int64(), pa.int32()]
        assert [u.num_samples for u in manifest.utterances()] == [8, None]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (
                pa.table({"id": ["a"], "file": ["x"], "speaker": ["s"]}),
                "lacks the column path; it has: id, file, speaker",
            ),
            (pa.table({"wav": ["x"]}), "lacks the column id and path; it has: wav"),
            (table().slice(0, 0), "has no utterances"),
            (table(id=["a", "a"]), "ids are not unique: a"),
            (table(id=["a", None]), "id is empty in 1 of 2 rows"),
            (table(path=["a.wav", ""]), "path is empty in 1 of 2 rows"),
            (table(id=[1, 2]), "the column id must be string: it is int64"),
            (table(num_samples=["1", "2"]), "the column num_samples must be int64: it is string"),
            (table(start=[0.5, 1.0]), "the column start must be int64: Float value 0.5.* was truncated"),
            (table(start=[0, -5]), "start is -5 in some row; it must be 0 or more"),
            (table(sample_rate=[0, 1]), "sample_rate is 0 in some row; it must be 1 or more"),
        ],
    )
    def test_what_breaks_the_schema(
        self, stored: Callable[[pa.Table], Path], content: pa.Table, message: str
    ) -> None:
        with pytest.raises(ManifestError, match=message.replace("(", r"\(")):
            Manifest.read(stored(content))

    def test_repeated_ids_are_named_but_not_all(self) -> None:
        ids = [str(number // 2) for number in range(20)]
        with pytest.raises(ManifestError, match="0, 1, 2 and 7 more"):
            Manifest(pa.table({"id": ids, "path": ids}), "/")

    @pytest.mark.parametrize("content", [b"", b"id,path\n", b"PAR1 and no more"])
    def test_not_parquet(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "m.parquet").write_bytes(content)
        with pytest.raises(ManifestError, match=r"cannot read .* as a Parquet manifest\n.*manifest build"):
            Manifest.read(tmp_path / "m.parquet")

    def test_a_missing_manifest_and_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ManifestError, match=r"no manifest at .*\n.*gdist manifest build"):
            Manifest.read(tmp_path / "m.parquet")
        with pytest.raises(ManifestError, match="cannot read"):
            Manifest.read(tmp_path)

    def test_paths_are_relative_absolute_or_uris(self) -> None:
        paths = ["x/../a.wav", "/data/b.wav", "s3://bucket/c.wav", "file:///data/d.wav"]
        manifest = Manifest(pa.table({"id": list("abcd"), "path": paths}), "/here")
        assert [u.path for u in manifest.utterances()] == [
            "/here/a.wav",
            "/data/b.wav",
            "s3://bucket/c.wav",
            "/data/d.wav",
        ]

    def test_written_elsewhere_it_names_the_same_files(self, tmp_path: Path) -> None:
        manifest = Manifest(table(path=["sub/a.wav", "s3://bucket/b.wav"]), str(tmp_path))
        manifest.write(tmp_path / "other" / "deep" / "m.parquet")
        moved = Manifest.read(tmp_path / "other" / "deep" / "m.parquet")
        assert moved.utterances() == manifest.utterances()
        assert moved.table["path"].to_pylist() == ["../../sub/a.wav", "s3://bucket/b.wav"]

    def test_same_table_same_bytes_and_nothing_left_behind(self, tmp_path: Path) -> None:
        manifest = Manifest(table(speaker=["s", None]), str(tmp_path))
        manifest.write(tmp_path / "1.parquet")
        Manifest.read(tmp_path / "1.parquet").write(tmp_path / "2.parquet")
        assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["1.parquet", "2.parquet"]

    def test_a_place_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ManifestError, match="cannot write the manifest"):
            Manifest(table(), str(tmp_path)).write(tmp_path / "file" / "m.parquet")

    def test_the_fingerprint_is_of_the_content(self, tmp_path: Path) -> None:
        manifest = Manifest(table(speaker=["s", "é"]), str(tmp_path))
        same = pa.concat_tables([manifest.table.slice(0, 1), manifest.table.slice(1)])
        assert same["id"].num_chunks == 2
        assert Manifest(same.select(["speaker", "path", "id"]), "/elsewhere").fingerprint() == manifest.fingerprint()
        # Committed: a change here would make every cache refuse to resume.
        assert manifest.fingerprint() == "fcc9fa303dd73930fce475086803c8e7a3ecb437dc3eaa36402a012303e95c99"

    @pytest.mark.parametrize(
        "other", [table(), table(speaker=["s", "t"]), table(speaker=["é", "s"]), table(speaker=["s", None])]
    )
    def test_the_fingerprint_distinguishes_tables(self, other: pa.Table) -> None:
        assert Manifest(other, "/").fingerprint() != Manifest(table(speaker=["s", "é"]), "/").fingerprint()


class TestSplitting:
    @settings(max_examples=50, deadline=None)
    @given(
        st.lists(st.tuples(st.integers(0, 5_000), st.none() | st.integers(0, 400_000)), min_size=1, max_size=5),
        st.integers(1, 30),
    )
    def test_pieces_follow_one_another_and_add_up(self, segments: list[tuple[int, int | None]], seconds: int) -> None:
        ids = [f"u{number}" for number in range(len(segments))]
        starts, lengths = map(list, zip(*segments, strict=True))
        columns = {"start": starts, "num_samples": pa.array(lengths, pa.int64()), "sample_rate": [8_000] * len(ids)}
        whole = Manifest(pa.table({"id": ids, "path": ids, **columns}), "/")
        pieces = whole.split(seconds).utterances()
        assert [u.id for u in whole.utterances()] == list(dict.fromkeys(u.id.split("-")[0] for u in pieces))
        for before in whole.utterances():
            mine = [u for u in pieces if u.id.split("-")[0] == before.id]
            if before.num_samples is None or before.num_samples <= seconds * 8_000:
                assert mine == [before]
                continue
            stop = before.start
            for piece in mine:
                assert piece.start == stop and piece.num_samples is not None
                assert 0 < piece.num_samples <= seconds * 8_000
                stop += piece.num_samples
            assert stop == before.start + before.num_samples

    def test_only_pieces_are_renamed_and_lose_their_text(self) -> None:
        columns = {"num_samples": [8_000, 17_000], "sample_rate": [8_000] * 2, "text": ["short", "long"]}
        split = Manifest(table(**columns, speaker=["s", "t"]), "/").split(1).table
        assert split["id"].to_pylist() == ["a", "b-0000", "b-0001", "b-0002"]
        assert split["text"].to_pylist() == ["short", None, None, None]
        assert split["speaker"].to_pylist() == ["s", "t", "t", "t"]

    @pytest.mark.parametrize("seconds", [0.0, -3.0, float("nan")])
    def test_not_a_length(self, seconds: float) -> None:
        with pytest.raises(UsageError, match="1 second or more"):
            Manifest(table(), "/").split(seconds)


class TestBuildFromFolders:
    def test_a_folder(self, tmp_path: Path) -> None:
        speech(tmp_path / "b" / "two.FLAC", 900, 8_000)
        speech(tmp_path / "b" / "one.x.wav")
        speech(tmp_path / ".hidden" / "no.wav")
        (tmp_path / "b" / "._one.wav").write_bytes(b"not audio")
        (tmp_path / "notes.txt").write_text("not audio")
        done: list[int] = []
        manifest = build(tmp_path, tmp_path / "m.parquet", progress=done.append)
        assert manifest.table.select(["id", "path", "num_samples", "sample_rate"]).to_pylist() == [
            {"id": "b/one.x", "path": "b/one.x.wav", "num_samples": 1_600, "sample_rate": 16_000},
            {"id": "b/two", "path": "b/two.FLAC", "num_samples": 900, "sample_rate": 8_000},
        ]
        assert sum(done) == 2
        assert Manifest.read(tmp_path / "m.parquet") == manifest
        assert manifest.problems == () and check(manifest, audio=True) == []

    def test_audio_beside_the_manifest_moves_with_it(self, tmp_path: Path) -> None:
        speech(tmp_path / "one" / "audio" / "a.wav")
        fingerprint = build(tmp_path / "one" / "audio", tmp_path / "one" / "m.parquet").fingerprint()
        shutil.move(tmp_path / "one", tmp_path / "two")
        moved = Manifest.read(tmp_path / "two" / "m.parquet")
        assert check(moved) == [] and moved.fingerprint() == fingerprint

    def test_absolute_paths_let_the_manifest_move_alone(self, tmp_path: Path) -> None:
        speech(tmp_path / "audio" / "a.wav")
        build(tmp_path / "audio", tmp_path / "m.parquet", absolute_paths=True)
        (tmp_path / "x").mkdir()
        shutil.move(tmp_path / "m.parquet", tmp_path / "x" / "m.parquet")
        assert check(Manifest.read(tmp_path / "x" / "m.parquet")) == []

    def test_names_that_differ_by_suffix_only_keep_it(self, tmp_path: Path) -> None:
        for name in ("a.wav", "a.flac", "b.wav"):
            speech(tmp_path / name)
        assert build(tmp_path, tmp_path / "m.parquet").table["id"].to_pylist() == ["a.flac", "a.wav", "b"]

    def test_links_to_folders_are_followed_once(self, tmp_path: Path) -> None:
        speech(tmp_path / "elsewhere" / "a.wav")
        (tmp_path / "src").mkdir()
        (tmp_path / "src" / "link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "src")
        assert build(tmp_path / "src", tmp_path / "m.parquet").table["id"].to_pylist() == ["link/a"]

    def test_an_unreadable_file_stays_and_is_reported(self, tmp_path: Path) -> None:
        speech(tmp_path / "good.wav")
        (tmp_path / "empty.wav").touch()
        manifest = build(tmp_path, tmp_path / "m.parquet", split_seconds=20)
        problem = Problem("empty", f"empty file: {tmp_path.resolve()}/empty.wav")
        assert manifest.problems == (problem,) and check(manifest) == [problem]
        assert manifest.table["num_samples"].to_pylist() == [None, 1_600]

    def test_librispeech(self, tmp_path: Path) -> None:
        chapter = tmp_path / "LibriSpeech" / "train-clean-100" / "103" / "1240"
        speech(chapter / "103-1240-0000.flac", 5_000)
        (chapter / "103-1240.trans.txt").write_text("103-1240-0000 CHAPTER ONE\n103-1240-0001 NOT DOWNLOADED\n")
        labels = {"speaker": "103", "chapter": "1240", "text": "CHAPTER ONE", "split": "train-clean-100"}
        for src in (tmp_path, tmp_path / "LibriSpeech" / "train-clean-100", chapter):
            manifest = build(src, tmp_path / "m.parquet")
            first, second = manifest.utterances()
            assert (first.id, first.num_samples, first.labels) == ("103-1240-0000", 5_000, labels)
            assert second.num_samples is None
            assert [p.id for p in manifest.problems] == ["103-1240-0001"]

    def test_librispeech_without_its_subsets_folder(self, tmp_path: Path) -> None:
        chapter = tmp_path / "mine" / "1" / "2"
        speech(chapter / "1-2-3.flac")
        (chapter / "1-2.trans.txt").write_text("1-2-3 HELLO")
        manifest = build(tmp_path / "mine", tmp_path / "m.parquet")
        assert manifest.utterances()[0].labels["split"] is None
        assert manifest.table.schema.field("split").type == pa.string()

    def test_no_audio_names_what_was_found(self, tmp_path: Path) -> None:
        (tmp_path / "a.mid").touch()
        with pytest.raises(ManifestError, match=r"no audio below .*\n.*found 1 × .mid.*ffmpeg"):
            build(tmp_path, tmp_path / "m.parquet")
        with pytest.raises(ManifestError, match=r"no SPEAKER-CHAPTER.trans.txt"):
            build(tmp_path, tmp_path / "m.parquet", "librispeech")


class TestBuildFromFiles:
    def test_fairseq(self, tmp_path: Path) -> None:
        speech(tmp_path / "audio" / "x" / "1.wav", 1_000)
        speech(tmp_path / "audio" / "x" / "2.wav", 2_000)
        tsv = tmp_path / "train.tsv"
        tsv.write_text(f"{tmp_path}/audio\nx/1.wav\t1000\nx/2.wav\t2000\n")
        columns = ["id", "path", "num_samples", "sample_rate"]
        manifest = build(tsv, tmp_path / "m.parquet")
        assert manifest.table.select(columns).to_pylist()[1] == {
            "id": "x/2",
            "path": "audio/x/2.wav",
            "num_samples": 2_000,
            "sample_rate": 16_000,
        }
        assert manifest.label_columns == []
        (tmp_path / "train.ltr").write_text("H I | T H E R E |\nY O U |\n")
        assert build(tsv, tmp_path / "m.parquet").table["text"].to_pylist() == ["HI THERE", "YOU"]
        (tmp_path / "train.wrd").write_text("hi there\nyou\n")
        assert build(tsv, tmp_path / "m.parquet").table["text"].to_pylist() == ["hi there", "you"]
        (tmp_path / "train.wrd").write_text("hi there\n")
        with pytest.raises(ManifestError, match="1 lines for 2 utterances"):
            build(tsv, tmp_path / "m.parquet")

    @pytest.mark.parametrize(
        ("content", "message"),
        [("/gone\nx.wav\t5\n", "its first line says"), (".\nx.wav\t5\ny.wav five\n", "line 3: expected a path")],
    )
    def test_fairseq_that_cannot_work(self, tmp_path: Path, content: str, message: str) -> None:
        (tmp_path / "train.tsv").write_text(content)
        with pytest.raises(ManifestError, match=message):
            build(tmp_path / "train.tsv", tmp_path / "m.parquet")

    @staticmethod
    def recording(path: Path | str, **more: object) -> dict[str, object]:
        source = {"type": "file", "channels": [0], "source": str(path)}
        return {
            "id": "rec",
            "sources": [source],
            "sampling_rate": 8_000,
            "num_samples": 16_000,
            "duration": 2.0,
        } | more

    @pytest.mark.parametrize("name", ["recordings.jsonl", "recordings.jsonl.gz"])
    def test_lhotse_recordings(self, tmp_path: Path, name: str) -> None:
        speech(tmp_path / "rec.wav", 16_000, 8_000)
        opener = gzip.open if name.endswith("gz") else open
        url = [{"type": "url", "channels": [0], "source": "s3://bucket/a.flac"}]
        with opener(tmp_path / name, "wt") as file:
            for entry in (self.recording("rec.wav"), self.recording("", id="far", sources=url)):
                print(json.dumps(entry), file=file)
        manifest = build(tmp_path / name, tmp_path / "m.parquet")
        near, far = manifest.utterances()
        assert (near.id, near.path, near.num_samples) == ("rec", str(tmp_path.resolve() / "rec.wav"), 16_000)
        assert (far.id, far.path, far.sample_rate) == ("far", "s3://bucket/a.flac", 8_000)
        assert check(Manifest(manifest.table.slice(0, 1), manifest.root), audio=True) == []

    def test_lhotse_cuts(self, tmp_path: Path) -> None:
        one = [{"id": "s", "text": "hi", "speaker": "ann", "language": "en", "start": 0, "duration": 1}]
        cut = {
            "id": "c1",
            "type": "MonoCut",
            "channel": 0,
            "start": 0.1,
            "duration": 0.3001,
            "recording": self.recording("r"),
        }
        cuts = [
            cut | {"supervisions": one},
            cut | {"id": "c2", "start": 1.5, "duration": 0.50004, "supervisions": one * 2},
        ]
        (tmp_path / "cuts.jsonl").write_text("\n".join(map(json.dumps, cuts)) + "\n")
        first, second = build(tmp_path / "cuts.jsonl", tmp_path / "m.parquet").utterances()
        assert (first.start, first.num_samples, first.sample_rate) == (800, 2_401, 8_000)
        assert first.labels == {"text": "hi", "speaker": "ann", "language": "en"}
        assert (second.start, second.num_samples) == (12_000, 4_000)  # not a sample past the end
        assert second.labels == {"text": None, "speaker": None, "language": None}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"type": "MixedCut", "recording": None}, "line 1: it is a MixedCut(.|\n)*save_audios"),
            ({"type": "PaddingCut", "recording": None}, "line 1: it is a PaddingCut(.|\n)*leave it out"),
            ({"type": "MultiCut", "channel": [0, 2], "channels": 3}, r"a MultiCut of the channels \[0, 2\] of 3"),
            ({"transforms": [{"name": "Speed"}]}, "transformed on the fly by Speed(.|\n)*lhotse cut simple"),
            ({"transforms": [{"name": "Resample"}, {"name": "Volume"}]}, "on the fly by Volume"),
            ({"video": True}, "its recording is a video"),
            ({"source": "command"}, "its sources are command(.|\n)*lhotse cut simple"),
        ],
    )
    def test_lhotse_cuts_that_gdist_would_read_wrongly(
        self, tmp_path: Path, change: dict[str, Any], message: str
    ) -> None:
        recording = self.recording(
            "r.wav", **{name: change[name] for name in ("transforms", "video") if name in change}
        )
        kind, channels = change.get("source", "file"), list(range(change.get("channels", 1)))
        recording["sources"] = [{"type": kind, "channels": channels, "source": "r.wav"}]
        cut = {"id": "c", "type": "MonoCut", "channel": 0, "start": 0, "duration": 1, "recording": recording} | change
        (tmp_path / "cuts.jsonl").write_text(json.dumps(cut))
        with pytest.raises(ManifestError, match=message):
            build(tmp_path / "cuts.jsonl", tmp_path / "m.parquet")

    def test_csv(self, tmp_path: Path) -> None:
        speech(tmp_path / "x" / "a.wav", 4_000, 8_000)
        content = "\ufeffid,path,start,num_samples,sample_rate,speaker,digit,code,text\r\n"
        content += '1,x/a.wav,0,2000,8000,"Ann, B.",3,007,12\r\n2,x/a.wav,2000,,,,,012,\r\n'
        (tmp_path / "t.csv").write_text(content, encoding="utf-8")
        manifest = build(tmp_path / "t.csv", tmp_path / "out" / "m.parquet")
        first, second = manifest.utterances()
        assert first.labels == {"speaker": "Ann, B.", "digit": 3, "code": "007", "text": "12"}
        assert (second.id, second.start, second.num_samples, second.sample_rate) == ("2", 2_000, 2_000, 8_000)
        assert second.labels == {"speaker": None, "digit": None, "code": "012", "text": None}
        assert manifest.table["path"].to_pylist() == ["../x/a.wav"] * 2
        assert check(manifest, audio=True) == []

    def test_a_tsv_with_a_header_is_a_table(self, tmp_path: Path) -> None:
        speech(tmp_path / "a.wav")
        (tmp_path / "t.tsv").write_text("id\tpath\tsplit\na\ta.wav\ttrain\n")
        assert build(tmp_path / "t.tsv", tmp_path / "m.parquet").utterances()[0].labels == {"split": "train"}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("id,file\na,b\n", "lacks the column path; it has: id, file"),
            ("id,path\na,b,c\n", "line 2: expected 2 cells"),
            ("id,path,start\na,b,1.5\n", "the column start contains '1.5'"),
            ("id,path\n", "lists no utterances"),
            ("id,path\na,\n", "path is empty in 1 of 1 rows"),
        ],
    )
    def test_csv_that_cannot_work(self, tmp_path: Path, content: str, message: str) -> None:
        (tmp_path / "t.csv").write_text(content)
        with pytest.raises(ManifestError, match=message):
            build(tmp_path / "t.csv", tmp_path / "m.parquet")

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("gone.csv", None, "no such file or folder"),
            ("empty.csv", b"", "it is empty"),
            ("a.wav", b"RIFF", "is one audio file\n.*give its folder"),
            ("m.parquet", b"PAR1....", "is a manifest, or another Parquet file\n.*manifest check"),
            (
                "notes.txt",
                b"hello\nworld\n",
                "cannot detect what .* is; its first line is 'hello'\n.*--kind: librispeech, k",
            ),
            ("binary", b"\xff\xfe\x00\x01", "it is not UTF-8 text"),
            ("cuts.jsonl.gz", b"\x1f\x8b\x08\x00short", "cannot read"),
            ("cuts.gz", b"{}", "cannot read .*[Nn]ot a gzipped file"),
        ],
    )
    def test_what_no_manifest_can_be_built_from(
        self, tmp_path: Path, name: str, content: bytes | None, message: str
    ) -> None:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ManifestError, match=message):
            build(tmp_path / name, tmp_path / "out.parquet")

    def test_a_kind_that_does_not_fit(self, tmp_path: Path) -> None:
        known = re.escape(", ".join(sorted(SOURCES)))
        with pytest.raises(UsageError, match=rf"^--kind tapes: there is no such kind of manifest\nknown: {known}$"):
            build(tmp_path, tmp_path / "m.parquet", "tapes")
        for kind in (name for name, row in SOURCES.own.items() if not row.reads_both and not row.reads_folders):
            with pytest.raises(ManifestError, match=f"not what --kind {kind} reads"):
                build(tmp_path, tmp_path / "m.parquet", kind)


class TestCheck:
    def test_by_the_headers(self, tmp_path: Path) -> None:
        speech(tmp_path / "a.wav", 8_000, 8_000)
        (tmp_path / "empty.wav").touch()
        rows = [
            ("good", "a.wav", 0, 8_000, 8_000, None),
            ("rest", "a.wav", 7_000, None, None, None),
            ("gone", "b.wav", 0, 8_000, 8_000, "file not found"),
            ("empty", "empty.wav", 0, 8_000, 8_000, "empty file"),
            ("rate", "a.wav", 0, 8_000, 16_000, "sample rate is 8000 Hz, the manifest says 16000 Hz"),
            ("past", "a.wav", 1, 8_000, 8_000, "the segment ends at sample 8001, the file at 8000"),
            ("after", "a.wav", 9_000, None, None, "the segment ends at sample 9000"),
            ("short", "a.wav", 0, 199, 8_000, "too short: 398 samples at 16 kHz, and most teachers need 400"),
            ("least", "a.wav", 0, 200, 8_000, None),
        ]
        names = ["id", "path", "start", "num_samples", "sample_rate"]
        columns = zip(*(row[:5] for row in rows), strict=True)
        manifest = Manifest(pa.table(dict(zip(names, map(list, columns), strict=True))), str(tmp_path))
        done: list[int] = []
        found = {problem.id: problem.reason for problem in check(manifest, progress=done.append)}
        assert sum(done) == len(rows)
        assert set(found) == {row[0] for row in rows if row[5]}
        for name, *_, reason in rows:
            assert reason is None or found[str(name)].startswith(str(reason))

    def test_by_decoding(self, tmp_path: Path) -> None:
        whole = speech(tmp_path / "cut.flac", 50_000)
        whole.write_bytes(whole.read_bytes()[:40_000])
        soundfile.write(tmp_path / "nan.wav", np.full(1_000, np.nan), 16_000, subtype="FLOAT")
        manifest = build(tmp_path, tmp_path / "m.parquet")
        (cut,) = check(manifest)  # by its last frame
        assert cut.id == "cut" and cut.reason.startswith("truncated")
        cut, nan = check(manifest, audio=True)
        assert cut.id == "cut" and cut.reason.startswith("truncated")
        assert nan.id == "nan" and nan.reason.startswith("1000 non-finite samples, the first at sample 0")

    def test_measured_fills_what_headers_say(self, tmp_path: Path) -> None:
        speech(tmp_path / "a.wav", 8_000, 8_000)
        content = table(path=["a.wav", "a.wav"], start=[None, 3_000], num_samples=pa.array([5, None]))
        manifest = Manifest(content, str(tmp_path)).measured()
        assert [(u.num_samples, u.sample_rate) for u in manifest.utterances()] == [(5, 8_000), (5_000, 8_000)]
        assert manifest.measured() == manifest


class TestTheDemo:
    def test_it_reads_and_checks_clean(self) -> None:
        manifest = Manifest.read(demo_folder() / "demo.parquet")
        assert manifest.table.num_rows == 1_420
        assert manifest.label_columns == ["speaker", "language", "text", "digit", "split"]
        assert manifest.table.schema.field("digit").type == pa.int64()
        assert not any(Path(path).is_absolute() for path in manifest.table["path"].to_pylist())
        assert check(manifest) == []
        assert check(Manifest(manifest.table.take(list(range(0, 1_420, 40))), manifest.root), audio=True) == []

    def test_it_is_what_its_csv_builds(self, tmp_path: Path) -> None:
        built = build(demo_folder() / "demo.csv", tmp_path / "m.parquet")
        shipped = Manifest.read(demo_folder() / "demo.parquet")
        assert built.utterances() == shipped.utterances()

    def test_its_documents_are_next_to_it(self) -> None:
        for name in ("LICENSES.md", "PROVENANCE.md", "teacher-nano/config.json", "teacher-nano/model.safetensors"):
            assert (demo_folder() / name).is_file()
