"""What people really have: each fault that a kind of manifest can have, and what it gives."""

import functools
import gzip
import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
import soundfile
from click.testing import Result
from toolkits import json_lines, recording, speech, tar, wav

from gdist.pipeline.audio import load_utterance
from gdist.pipeline.errors import GdistError, ManifestError, UsageError
from gdist.pipeline.manifest.seconds import samples, seconds
from gdist.pipeline.manifest.sources.base import Options
from gdist.pipeline.manifest.sources.written import AudioFolder
from gdist.pipeline.manifest.table import Manifest, build, check
from gdist.pipeline.storage.paths import RemotePath

AUDIO = speech


def rows(src: Path | str, out: Path, **options: Any) -> list[dict[str, Any]]:
    """What is built from ``src``; every row of it can be used."""
    built = build(src, out / "m.parquet", **options)
    assert check(built, audio=True) == []
    return list(built.table.to_pylist())


def refusal(src: Path, out: Path, **options: Any) -> str:
    with pytest.raises(GdistError) as error:
        build(src, out / "m.parquet", **options)
    return str(error.value)


class TestSeconds:
    @pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
    def test_written_seconds_are_the_same_samples_to_all_readers(self, rate: int) -> None:
        for count in [*range(0, 5_000, 7), 10**7 + 1, 10**9 + 7]:
            said = seconds(count, rate)
            assert samples(said, rate) == samples(repr(said), rate) == int(said * rate) == count

    def test_text_is_taken_exactly_and_noise_is_not(self) -> None:
        assert samples("0.29", 100) == samples(0.29, 100) == 29
        assert samples(0.3001, 8_000) == 2_401 and samples("0.00005", 10_000) == 1  # halves up


class TestTables:
    def test_a_tsv_has_no_quotes(self, tmp_path: Path) -> None:
        for name in ("a", "b", "c"):
            AUDIO(tmp_path / f"{name}.wav")
        text = 'id\tpath\ttext\na\ta.wav\t"Hello\nb\tb.wav\tmiddle, "quoted"\nc\tc.wav\tbye"\n'
        for end in ("\n", "\r\n"):
            (tmp_path / "t.tsv").write_bytes(("\ufeff" + text).replace("\n", end).encode())
            found = rows(tmp_path / "t.tsv", tmp_path)
            assert [row["text"] for row in found] == ['"Hello', 'middle, "quoted"', 'bye"']

    def test_a_quoted_cell_of_a_csv_keeps_its_line_break(self, tmp_path: Path) -> None:
        AUDIO(tmp_path / "a.wav"), AUDIO(tmp_path / "b.wav")
        (tmp_path / "t.csv").write_bytes(b'id,path,note\na,a.wav,"one\ntwo"\nb,b.wav,"x\r\n\r\ny"\n')
        assert [row["note"] for row in rows(tmp_path / "t.csv", tmp_path)] == ["one\ntwo", "x\r\n\r\ny"]
        (tmp_path / "t.csv").write_bytes(b'id,path,note\na,a.wav,"one\ntwo"\nb,b.wav\n')
        assert "line 4: expected 3 cells, found 2" in refusal(tmp_path / "t.csv", tmp_path)

    def test_common_voice_elsewhere_and_without_suffixes(self, tmp_path: Path) -> None:
        AUDIO(tmp_path / "sounds" / "c0.wav")
        (tmp_path / "t.tsv").write_text("client_id\tpath\tsentence\nann\tc0.wav\thi\n")
        assert "no " in (said := refusal(tmp_path / "t.tsv", tmp_path)) and "--root CLIPS" in said
        (row,) = rows(tmp_path / "t.tsv", tmp_path, audio_root="sounds")
        assert (row["id"], row["path"], row["speaker"], row["text"]) == ("c0", "sounds/c0.wav", "ann", "hi")

    def test_speechbrain_and_its_placeholder(self, tmp_path: Path) -> None:
        AUDIO(tmp_path / "data" / "a.wav")
        (tmp_path / "t.csv").write_text("ID,duration,wav,spk_id,wrd\na,0.1,$data_root/a.wav,ann,HI\n")
        said = refusal(tmp_path / "t.csv", tmp_path)
        assert "line 2" in said and "data_root" in said and "--root" in said
        (row,) = rows(tmp_path / "t.csv", tmp_path, audio_root=str(tmp_path / "data"))
        assert (row["path"], row["num_samples"], row["text"]) == ("data/a.wav", 1_600, "HI")
        (tmp_path / "t.csv").write_text("ID,duration,wav,start,stop\na,0.1,data/a.wav,0.5,800\n")
        assert "start is '0.5'" in refusal(tmp_path / "t.csv", tmp_path)

    def test_an_option_that_means_nothing_is_refused(self, tmp_path: Path) -> None:
        AUDIO(tmp_path / "a.wav")
        with pytest.raises(UsageError, match=r"--allow-commands means nothing(.|\n)*it is for: kaldi"):
            build(tmp_path, tmp_path / "m.parquet", allow_commands=True)


class TestFairseq:
    def test_absolute_rows_and_an_empty_root(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        one, two = AUDIO(tmp_path / "x" / "u0.wav"), AUDIO(tmp_path / "y" / "u1.wav")
        for root in (str(tmp_path / "y"), ""):
            (tmp_path / "t.tsv").write_text(f"{root}\n{one}\t1600\n{two}\t1600\tann\n")
            found = rows(tmp_path / "t.tsv", tmp_path)
            assert [(row["id"], row["path"]) for row in found] == [("u0", "x/u0.wav"), ("u1", "y/u1.wav")]
            assert [row["column_3"] for row in found] == [None, "ann"]
        monkeypatch.chdir(tmp_path / "x")
        (tmp_path / "t.tsv").write_text("\nu0.wav\t1600\ny/u1.wav\t1600\n")
        assert [row["path"] for row in rows(tmp_path / "t.tsv", tmp_path)] == ["x/u0.wav", "y/u1.wav"]

    def test_parts_of_a_zip_and_of_a_file(self, tmp_path: Path) -> None:
        data = wav()
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("x.wav", wav(800))
            archive.writestr("y.wav", data)
            archive.writestr("z.wav", data, zipfile.ZIP_DEFLATED)
        whole = (tmp_path / "a.zip").read_bytes()
        at = whole.index(data)
        AUDIO(tmp_path / "b.wav")
        (tmp_path / "t.tsv").write_text(f"{tmp_path}\na.zip:{at}:{len(data)}\t1600\nb.wav:100:400\t400\n")
        first, second = rows(tmp_path / "t.tsv", tmp_path)
        assert (first["byte_offset"], first["byte_size"], first["num_samples"]) == (at, len(data), 1_600)
        assert (second["start"], second["num_samples"], second["byte_offset"]) == (100, 400, None)
        (tmp_path / "t.tsv").write_text(f"{tmp_path}\na.zip:{at + len(data) + 80}:90\t1600\n")
        assert "compresses z.wav" in refusal(tmp_path / "t.tsv", tmp_path)
        (tmp_path / "t.tsv").write_text(f"{tmp_path}\na.zip:{at}:{len(data) * 3}\t1600\n")
        assert "no member at bytes" in refusal(tmp_path / "t.tsv", tmp_path)


class TestLhotse:
    def test_a_resampled_recording_is_its_file(self, tmp_path: Path) -> None:
        AUDIO(tmp_path / "m.wav", 44_100, 44_100)
        transforms = [
            {"name": "Resample", "kwargs": {"source_sampling_rate": 44_100, "target_sampling_rate": 16_000}}
        ]
        lengths = {"sampling_rate": 16_000, "num_samples": 16_000, "duration": 1.0, "transforms": transforms}
        of = recording("m.wav", **lengths)
        (row,) = rows(json_lines(tmp_path / "r.jsonl", of), tmp_path)
        assert (row["num_samples"], row["sample_rate"]) == (44_100, 44_100)
        cut = {"type": "MonoCut", "channel": 0, "recording": of}
        cuts = [cut | {"id": "a", "start": 0.25, "duration": 0.5}, cut | {"id": "b", "start": 0.5, "duration": 0.5}]
        found = rows(json_lines(tmp_path / "c.jsonl", *cuts), tmp_path)
        assert [(row["start"], row["num_samples"]) for row in found] == [(11_025, 22_050), (22_050, 22_050)]

    def test_one_channel_of_several(self, tmp_path: Path) -> None:
        AUDIO(tmp_path / "four.wav", 16_000, 8_000, 4), AUDIO(tmp_path / "one.wav", 16_000, 8_000)
        four = {"type": "file", "channels": [0, 1, 2, 5], "source": "four.wav"}
        one = {"type": "file", "channels": [7], "source": "one.wav"}
        of = recording("", sources=[four, one])
        cut = {"start": 0, "duration": 2.0, "recording": of}
        cuts = [
            cut | {"id": "multi", "type": "MultiCut", "channel": [5]},
            cut | {"id": "mono", "type": "MonoCut", "channel": 1},
            cut | {"id": "alone", "type": "MonoCut", "channel": 7},
            cut | {"id": "all", "type": "MultiCut", "channel": [0, 1, 2, 5]},
        ]
        found = rows(json_lines(tmp_path / "c.jsonl", *cuts), tmp_path)
        assert [(row["path"], row["channel"]) for row in found] == [
            ("four.wav", 3),
            ("four.wav", 1),
            ("one.wav", None),
            ("four.wav", None),
        ]
        both = json_lines(tmp_path / "c.jsonl", cut | {"id": "x", "type": "MultiCut", "channel": [1, 7]})
        assert "are not in one file" in refusal(both, tmp_path)

    def test_shar_as_lhotse_writes_it(self, tmp_path: Path) -> None:
        lhotse = pytest.importorskip("lhotse")
        AUDIO(tmp_path / "a.wav", 16_000)
        of = lhotse.Recording.from_file(tmp_path / "a.wav")
        said = [lhotse.SupervisionSegment("s", "a", 0, 0.5, text="hi", speaker="ann", custom={"digit": 3})]
        cuts = [lhotse.MonoCut(f"c.{n}", n / 4, 0.5, 0, supervisions=said, recording=of) for n in range(3)]
        (tmp_path / "shar").mkdir()
        shar = pytest.importorskip("lhotse.shar")
        with shar.SharWriter(str(tmp_path / "shar"), fields={"recording": "wav"}, shard_size=2) as writer:
            for cut in cuts:
                writer.write(cut)
        found = rows(tmp_path / "shar", tmp_path)
        assert [row["id"] for row in found] == ["c.0", "c.1", "c.2"] and found[2]["digit"] == 3
        table = pa.table({"id": ["a"], "path": ["a.wav"]})
        whole = load_utterance(Manifest(table, str(tmp_path)).measured().utterances()[0].segment)
        for number, utterance in enumerate(Manifest.read(tmp_path / "m.parquet").utterances()):
            assert np.array_equal(load_utterance(utterance.segment), whole[number * 4_000 :][:8_000])
        (tmp_path / "shar" / "recording.000001.tar").unlink()
        assert "no recording.000001.tar" in refusal(tmp_path / "shar", tmp_path)


class TestKaldi:
    def test_commands_are_refused_and_named(self, tmp_path: Path) -> None:
        mark = tmp_path / "ran"
        (tmp_path / "wav.scp").write_text(f"a touch {mark} |\nb cat b.wav |\n")
        said = refusal(tmp_path / "wav.scp", tmp_path)
        assert f"it would run: touch {mark} (and 1 more)" in said and "--allow-commands" in said
        assert not mark.exists()

    def test_blank_lines_are_no_lines(self, tmp_path: Path) -> None:
        AUDIO(tmp_path / "a.wav")
        contents = {
            "wav.scp": "r a.wav",
            "segments": "u r 0 0.05",
            "text": "u hi",
            "utt2spk": "u s",
            "spk2gender": "s f",
        }
        for name, line in contents.items():
            (tmp_path / name).write_text(f"\n{line}\n\n  \n")
        (row,) = rows(tmp_path, tmp_path)
        assert (row["id"], row["text"], row["speaker"], row["gender"]) == ("u", "hi", "s", "f")

    def test_commands_run_once_where_they_are_allowed(self, tmp_path: Path) -> None:
        path, log = AUDIO(tmp_path / "it's; $HOME.wav"), tmp_path / "log"
        streamed = bytearray(wav(800))
        streamed[4:8] = streamed[40:44] = b"\xff\xff\xff\x7f"  # as sox writes it into a pipe
        (tmp_path / "s.wav").write_bytes(streamed)
        quoted = str(path).replace("'", "'\\''")
        lines = [f"a cat '{quoted}' |", f"b echo b >> {log}; cat {tmp_path}/s.wav | cat |", "c no-such-program |"]
        (tmp_path / "wav.scp").write_text("\n".join(lines[:2]))
        for _ in range(2):
            found = rows(tmp_path / "wav.scp", tmp_path, allow_commands=True)
            assert [row["num_samples"] for row in found] == [1_600, 800]
            assert all(row["path"].startswith("m-audio/") for row in found)
        assert log.read_text() == "b\n"
        (tmp_path / "wav.scp").write_text("\n".join(lines))
        assert "line 3: cannot run no-such-program" in refusal(tmp_path / "wav.scp", tmp_path, allow_commands=True)
        for command, says in (("false", "ended with 1"), ("true", "printed nothing"), ("echo 'x", "cannot run")):
            (tmp_path / "wav.scp").write_text(f"a {command} |\n")
            assert says in refusal(tmp_path / "wav.scp", tmp_path, allow_commands=True)

    def test_arks_as_kaldiio_writes_them(self, tmp_path: Path) -> None:
        kaldiio = pytest.importorskip("kaldiio")
        wave = np.random.default_rng(0).integers(-9_000, 9_000, 1_600).astype(np.int16)
        both = {"a": (16_000, wave), "b": (16_000, wave[::-1].copy())}
        for function in (None, "soundfile"):
            kaldiio.save_ark(str(tmp_path / "w.ark"), both, scp=str(tmp_path / "wav.scp"), write_function=function)
            rows(tmp_path / "wav.scp", tmp_path)
            first, second = Manifest.read(tmp_path / "m.parquet").utterances()
            assert np.array_equal(load_utterance(first.segment), wave) and np.array_equal(
                load_utterance(second.segment), wave[::-1]
            )
        kaldiio.save_ark(str(tmp_path / "f.ark"), {"a": np.zeros((3, 2), np.float32)}, scp=str(tmp_path / "wav.scp"))
        assert "a matrix of features" in refusal(tmp_path / "wav.scp", tmp_path)

    @pytest.mark.parametrize(
        ("file", "content", "says"),
        [
            ("wav.scp", "a\n", "line 1: expected an id and a path"),
            ("wav.scp", "a a.wav\na a.wav\n", "line 2: the recording a is there twice"),
            ("wav.scp", "a a.ark:5[0:3]\n", "a part of a matrix"),
            ("segments", "u a 0\n", "segments, line 1: expected an id, a recording"),
            ("segments", "u b 0 1\n", "segments, line 1: .* has no recording b"),
            ("segments", "u a 0.1 0.05\n", "u ends before it starts"),
        ],
    )
    def test_what_contradicts_itself(self, tmp_path: Path, file: str, content: str, says: str) -> None:
        AUDIO(tmp_path / "a.wav")
        (tmp_path / "wav.scp").write_text("a a.wav\n")
        (tmp_path / file).write_text(content)
        with pytest.raises(ManifestError, match=says):
            build(tmp_path, tmp_path / "m.parquet")

    def test_an_end_that_was_rounded_and_one_that_was_not(self, tmp_path: Path) -> None:
        AUDIO(tmp_path / "a.wav", 1_601)
        (tmp_path / "wav.scp").write_text("a a.wav\n")
        (tmp_path / "segments").write_text("u a 0.05 0.11\nv a 0.05 0.9\nw a 0 -1 A\n")
        built = build(tmp_path, tmp_path / "m.parquet")
        assert built.table["num_samples"].to_pylist() == [801, 13_600, 1_601]
        assert [problem.id for problem in check(built)] == ["v"]
        assert built.table["channel"].to_pylist() == [None, None, 0]


class TestNemo:
    def test_tarred(self, tmp_path: Path) -> None:
        entries = []
        for shard in range(2):
            tar(tmp_path / f"audio_{shard}.tar", {f"u{shard}.wav": wav(), f"v{shard}.wav": wav(800)})
            entries += [{"audio_filepath": f"{n}{shard}.wav", "duration": 0.05, "shard_id": shard} for n in "uv"]
        json_lines(tmp_path / "tarred_audio_manifest.json", *entries)
        found = rows(tmp_path, tmp_path, kind="nemo")
        assert [(row["id"], row["num_samples"]) for row in found] == [(i, 800) for i in ("u0", "v0", "u1", "v1")]
        assert build(tmp_path, tmp_path / "m.parquet").kind == "nemo"
        for shard in range(2):
            mine = [{k: v for k, v in e.items() if k != "shard_id"} for e in entries if e["shard_id"] == shard]
            json_lines(tmp_path / "sharded_manifests" / f"manifest_{shard}.json", *mine)
        sharded = rows(tmp_path / "sharded_manifests" / "manifest__OP_0..1_CL_.json", tmp_path)
        assert sharded == found
        (tmp_path / "audio_1.tar").unlink()
        assert "no audio_1.tar" in refusal(tmp_path, tmp_path, kind="nemo")

    @pytest.mark.parametrize(
        ("entry", "says"),
        [
            ({"audio_filepath": ["a.wav", "b.wav"]}, "lists several files"),
            ({"audio_filepath": "a.wav", "shard_id": "x"}, "there is no audio_x.tar"),
            ({"audio_filepath": "a.wav", "offset": -1}, "line 1: offset is -1"),
            ({"audio_filepath": "a.wav", "duration": "long"}, "line 1: duration is 'long'"),
        ],
    )
    def test_what_cannot_be_read(self, tmp_path: Path, entry: object, says: str) -> None:
        AUDIO(tmp_path / "a.wav")
        assert says in refusal(json_lines(tmp_path / "m.json", entry), tmp_path)


class TestTars:
    LONG = "x" * 90 + "/" + "y" * 120

    @pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_long_names_and_several_tars(self, tmp_path: Path, kind: int) -> None:
        tar(tmp_path / "s" / "s-00.tar", {f"{self.LONG}.wav": wav(), "é.wav": wav(800)}, kind)
        tar(tmp_path / "s" / "s-01.tar", {"é.wav": wav(900)}, kind)
        for src in (tmp_path / "s", tmp_path / "s" / "s-{00..01}.tar"):
            found = rows(src, tmp_path)
            assert [row["id"] for row in found] == [f"s-00/{self.LONG}", "s-00/é", "s-01/é"]
            assert [row["num_samples"] for row in found] == [1_600, 800, 900]

    def test_what_is_no_range_of_bytes(self, tmp_path: Path) -> None:
        whole = tar(tmp_path / "a.tar", {"a.wav": wav(), "b.wav": wav()})
        data = whole.read_bytes()
        (tmp_path / "a.tar").write_bytes(data[:5_000])
        assert "not a whole tar" in refusal(tmp_path / "a.tar", tmp_path)
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            link = tarfile.TarInfo("a.wav")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
        assert "is a link" in refusal(tmp_path / "a.tar", tmp_path)
        tar(tmp_path / "a.tar", {"a.pyd": b"x", "b.pyd": b"x"})
        assert "no audio in" in (said := refusal(tmp_path / "a.tar", tmp_path)) and "2 × .pyd" in said
        tar(tmp_path / "a.tar", {"a.wav": wav(), "a.json": b"{"})
        assert "a.json is not JSON" in refusal(tmp_path / "a.tar", tmp_path)


def test_in_a_bucket_only_headers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the tar and its audio, 32 times larger, and of Parquet what its footer says."""
    tar(tmp_path / "s.tar", {f"k{number}.wav": wav(1_000_000) for number in range(3)} | {"k2.txt": b"hi"})
    stored = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"audio": pa.array([{"bytes": wav(), "path": "a.wav"}], stored)}), tmp_path / "p.parquet")
    bucket, fetched, read_part = RemotePath.parse("memory://manifests"), [0], RemotePath.read_part

    def counted(self: RemotePath, start: int, length: int) -> tuple[memoryview, int]:
        part, size = read_part(self, start, length)
        fetched[0] += len(part)
        return part, size

    for name in ("s.tar", "p.parquet"):
        (bucket / name).write_bytes((tmp_path / name).read_bytes())
    monkeypatch.setattr(RemotePath, "read_part", counted)
    built = build(str(bucket / "s.tar"), str(bucket / "m.parquet"))
    assert built.table["path"].to_pylist() == ["s.tar"] * 3 and built.table["text"].to_pylist() == [None, None, "hi"]
    assert built.table["num_samples"].to_pylist() == [1_000_000] * 3 and fetched[0] < 320_000
    assert check(Manifest.read(bucket / "m.parquet"), audio=True) == []
    hub = build(str(bucket / "p.parquet"), str(bucket / "h.parquet"))
    assert hub.table["path"].to_pylist() == ["h-audio/a.wav"] and check(hub, audio=True) == []


@pytest.mark.parametrize("name", ["s.tar", "p.parquet", "m.json", "t.csv"])
def test_a_plain_web_server_has_files_and_no_folders(tmp_path: Path, name: str) -> None:
    AUDIO(tmp_path / "a.wav")
    tar(tmp_path / "s.tar", {"a.wav": wav()})
    stored = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"audio": pa.array([{"bytes": wav(), "path": "a.wav"}], stored)}), tmp_path / "p.parquet")
    json_lines(tmp_path / "m.json", {"audio_filepath": "a.wav", "duration": 0.1})
    (tmp_path / "t.csv").write_text("id,path\na,a.wav\n")
    serve = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            (row,) = rows(f"http://127.0.0.1:{server.server_port}/{name}", tmp_path / "out")
        finally:
            server.shutdown()
    assert row["num_samples"] == 1_600


def test_what_a_source_was_taken_for_is_said(tmp_path: Path, gdist: Callable[..., Result]) -> None:
    AUDIO(tmp_path / "a.wav")
    src = json_lines(tmp_path / "m.json", {"audio_filepath": "a.wav", "tags": []})
    said = gdist("manifest", "build", src, "--out", tmp_path / "m.parquet").stderr
    assert f"took {src} for nemo: NeMo's JSON lines" in said and "left out: tags" in said


class TestHuggingFace:
    AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

    def test_as_datasets_saves_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Uncompressed Arrow has the very bytes: nothing is written a second time."""
        datasets = pytest.importorskip("datasets")
        AUDIO(tmp_path / "c.wav", 900)
        audio = [{"bytes": wav(), "path": None}, {"bytes": wav(800), "path": None}, {"bytes": None, "path": "c.wav"}]
        stored = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}  # as Audio() stores it
        features = datasets.Features(audio=stored, label=datasets.ClassLabel(names=["no", "yes"]))
        made = datasets.Dataset.from_dict({"audio": audio, "label": [1, 0, 1]}, features=features)
        made.save_to_disk(tmp_path / "one")
        data = next((tmp_path / "one").glob("*.arrow")).read_bytes()
        monkeypatch.chdir(tmp_path)
        first, second, third = rows(tmp_path / "one", tmp_path)
        assert data[first["byte_offset"] :][: first["byte_size"]] == wav() and third["path"] == "c.wav"
        assert [row["num_samples"] for row in (first, second, third)] == [1_600, 800, 900]
        assert [(row["id"], row["label"]) for row in (first, second)] == [("00000000", "yes"), ("00000001", "no")]
        assert not (tmp_path / "m-audio").exists()
        datasets.DatasetDict(train=made, validation=made).save_to_disk(tmp_path / "two")
        both = rows(tmp_path / "two", tmp_path)
        assert [row["split"] for row in both] == ["train"] * 3 + ["valid"] * 3
        assert both[3]["id"] == "valid-00000000"

    def test_compressed_arrow_is_written_out(self, tmp_path: Path) -> None:
        table = pa.table({"audio": pa.array([{"bytes": wav(), "path": "a.wav"}] * 1, self.AUDIO), "id": ["x/1"]})
        with pa.OSFile(str(tmp_path / "data.arrow"), "wb") as file:
            options = pa.ipc.IpcWriteOptions(compression="zstd")
            with pa.ipc.new_stream(file, table.schema, options=options) as writer:
                writer.write_table(table)
        (row,) = rows(tmp_path / "data.arrow", tmp_path)
        assert row["id"] == "x/1" and row["path"].startswith("m-audio/x_1-") and row.get("byte_offset") is None
        assert (tmp_path / row["path"]).read_bytes() == wav()

    def test_parquet_is_written_out_once(self, tmp_path: Path) -> None:
        flac = io.BytesIO()
        soundfile.write(flac, np.zeros(700), 16_000, format="FLAC")
        audio = [{"bytes": wav(), "path": "a.wav"}, {"bytes": flac.getvalue(), "path": None}]
        table = pa.table({"audio": pa.array(audio, self.AUDIO), "id": ["a", "../b"]})
        pq.write_table(table, tmp_path / "p.parquet")
        first, second = rows(tmp_path / "p.parquet", tmp_path)
        assert first["path"] == "m-audio/a.wav" and second["path"].startswith("m-audio/b-")
        files = sorted((tmp_path / "m-audio").iterdir())
        before = [path.stat().st_mtime_ns for path in files]
        files[0].unlink()  # as if it had been interrupted
        rows(tmp_path / "p.parquet", tmp_path)
        assert sorted((tmp_path / "m-audio").iterdir()) == files and files[1].stat().st_mtime_ns == before[1]
        files[0].write_bytes(b"another")
        assert "with other audio than" in refusal(tmp_path / "p.parquet", tmp_path)
        assert files[0].read_bytes() == b"another"

    def test_what_is_no_audio(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"audio": [{"array": [0.1], "sampling_rate": 16_000}]}), tmp_path / "p.parquet")
        assert "is a manifest, or another Parquet file" in refusal(tmp_path / "p.parquet", tmp_path)
        said = refusal(tmp_path / "p.parquet", tmp_path, kind="huggingface")
        assert "decoded audio in audio" in said and "cast_column" in said

    @pytest.mark.parametrize("id", ["a", "a.b", "é", "x/../../y", ".hidden", "", "n" * 300, "a.wav"])
    def test_any_id_makes_a_file_of_its_own(self, tmp_path: Path, id: str) -> None:
        folder = AudioFolder(tmp_path / "out", tmp_path)
        path = Path(folder.put(id, wav()))
        assert path.parent == tmp_path / "out" and path.read_bytes() == wav() and not path.name.startswith(".")

    def test_nothing_is_written_where_nothing_may_be(self, tmp_path: Path) -> None:
        with pytest.raises(ManifestError, match="must be written to one"):
            AudioFolder(Options().audio, tmp_path)


def test_an_audiofolder_by_any_metadata(tmp_path: Path) -> None:
    AUDIO(tmp_path / "x" / "a.wav")
    entries = {"file_name": ["x/a.wav"], "speaker_id": [7], "array": [[1, 2]]}
    pq.write_table(pa.table(entries), tmp_path / "metadata.parquet")
    (row,) = rows(tmp_path, tmp_path)
    assert (row["id"], row["path"], row["speaker"]) == ("x/a", "x/a.wav", 7) and "array" not in row
    assert rows(tmp_path / "metadata.parquet", tmp_path) == [row]
    (tmp_path / "metadata.parquet").unlink()
    json_lines(tmp_path / "metadata.jsonl", {"file_name": "x/a.wav"}, {"text": "no file"})
    assert "entry 2: it has no file_name" in refusal(tmp_path, tmp_path)


def test_a_gzipped_manifest_of_json_lines(tmp_path: Path) -> None:
    AUDIO(tmp_path / "a.wav")
    with gzip.open(tmp_path / "m.jsonl.gz", "wt") as file:
        file.write(json.dumps({"audio_filepath": "a.wav", "duration": 0.1}))
    assert rows(tmp_path / "m.jsonl.gz", tmp_path)[0]["num_samples"] == 1_600
