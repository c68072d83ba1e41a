"""Every kind of manifest: its suite, and that each is told from all others."""

import gzip
import json
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toolkits import json_lines, recording, speech, tar, wav

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.sources import SOURCES, detect
from gdist.stages.testing import ManifestSuite


class TestLibriSpeech(ManifestSuite):
    source = SOURCES.own["librispeech"]
    expected: ClassVar = [
        {
            "id": "1-2-3",
            "path": "dev-x/1/2/1-2-3.flac",
            "speaker": "1",
            "chapter": "2",
            "text": "HI",
            "split": "dev-x",
        }
    ]

    def write(self, folder: Path) -> Path:
        (folder / "dev-x" / "1" / "2").mkdir(parents=True, exist_ok=True)
        (folder / "dev-x" / "1" / "2" / "1-2.trans.txt").write_text("1-2-3 HI\n")
        return folder


class TestFolder(ManifestSuite):
    source = SOURCES.own["folder"]
    expected: ClassVar = [{"id": "a", "path": "a.wav"}, {"id": "b/c", "path": "b/c.flac"}]

    def write(self, folder: Path) -> Path:
        speech(folder / "a.wav"), speech(folder / "b" / "c.flac")
        return folder


class TestLhotse(ManifestSuite):
    source = SOURCES.own["lhotse"]
    expected: ClassVar = [{"id": "rec", "path": "r.wav", "num_samples": 16_000, "sample_rate": 8_000}]

    def write(self, folder: Path) -> Path:
        recording = {"id": "rec", "sources": [{"type": "file", "channels": [0], "source": "r.wav"}]}
        entry = json.dumps({**recording, "sampling_rate": 8_000, "num_samples": 16_000, "duration": 2.0})
        (folder / "recordings.jsonl").write_text(f"{entry}\n")
        return folder / "recordings.jsonl"


class TestFairseq(ManifestSuite):
    source = SOURCES.own["fairseq"]
    expected: ClassVar = [
        {"id": "x", "path": "x.wav", "num_samples": 500, "text": "hi there"},
        {"id": "sub/y", "path": "sub/y.wav", "num_samples": 600, "text": "you"},
    ]

    def write(self, folder: Path) -> Path:
        (folder / "train.tsv").write_text(f"{folder}\nx.wav\t500\nsub/y.wav\t600\n")
        (folder / "train.wrd").write_text("hi there\nyou\n")
        return folder / "train.tsv"


class TestDelimited(ManifestSuite):
    source = SOURCES.own["csv"]
    expected: ClassVar = [
        {"id": "1", "path": "x/a.wav", "start": 0, "digit": 3},
        {"id": "2", "path": "s3://bucket/b.wav", "start": 7, "digit": None},
    ]

    def write(self, folder: Path) -> Path:
        (folder / "t.csv").write_text(
            "id,path,start,num_samples,sample_rate,digit\n1,x/a.wav,0,900,8000,3\n2,s3://bucket/b.wav,7,900,8000,\n"
        )
        return folder / "t.csv"


class TestKaldi(ManifestSuite):
    source = SOURCES.own["kaldi"]
    expected: ClassVar = [
        {
            "id": "b",
            "path": "r1.wav",
            "start": 0,
            "num_samples": 800,
            "speaker": "ann",
            "gender": "f",
            "text": "hi you",
        },
        {
            "id": "a",
            "path": "r1.wav",
            "start": 800,
            "num_samples": 800,
            "speaker": "ben",
            "gender": None,
            "text": None,
        },
    ]

    def write(self, folder: Path) -> Path:
        speech(folder / "r1.wav")
        (folder / "wav.scp").write_text("r1 r1.wav\nunused  gone.wav\n")
        (folder / "segments").write_text("b r1 0 0.05\na r1 0.05 -1\n")
        (folder / "utt2spk").write_text("a ben\nb ann\n")
        (folder / "spk2gender").write_text("ann f\n")
        (folder / "text").write_text("a\nb hi you\n")
        return folder


class TestShar(ManifestSuite):
    source = SOURCES.own["shar"]
    expected: ClassVar = [{"id": "c.1", "path": "recording.000000.tar", "byte_size": 3_244, "text": "hi"}]

    def write(self, folder: Path) -> Path:
        inside = recording("", sampling_rate=16_000, num_samples=1_600, duration=0.1)
        inside["sources"][0]["type"] = "shar"
        said = [{"id": "s", "recording_id": "rec", "start": 0, "duration": 0.1, "text": "hi"}]
        cut = {"id": "c.1", "type": "MonoCut", "channel": 0, "start": 0, "duration": 0.1, "supervisions": said}
        with gzip.open(folder / "cuts.000000.jsonl.gz", "wt") as file:
            print(json.dumps(cut | {"recording": inside}), file=file)
        tar(folder / "recording.000000.tar", {"c.1.wav": wav(), "c.1.json": json.dumps(inside).encode()})
        return folder


class TestNemo(ManifestSuite):
    source = SOURCES.own["nemo"]
    expected: ClassVar = [
        {"id": "a-0000", "path": "x/a.wav", "start": 0, "num_samples": 800, "sample_rate": 16_000, "text": "hi"},
        {
            "id": "a-0001",
            "path": "x/a.wav",
            "start": 800,
            "num_samples": 800,
            "text": None,
            "lang": "en",
            "score": 0.5,
        },
        {"id": "gone", "path": "x/gone.wav"},
    ]

    def write(self, folder: Path) -> Path:
        speech(folder / "x" / "a.wav")
        return json_lines(
            folder / "manifest.json",
            {"audio_filepath": "x/a.wav", "duration": 0.05, "text": "hi", "language": "en"},
            {"audio_filepath": "x/a.wav", "offset": 0.05, "duration": 0.05, "text": "", "lang": "en", "score": 0.5},
            {"audio_filepath": "x/gone.wav", "duration": 1.0, "words": ["nested"]},
        )


class TestAudioFolder(ManifestSuite):
    source = SOURCES.own["audiofolder"]
    expected: ClassVar = [
        {"id": "test/b", "path": "test/b.wav", "text": "you", "split": "test"},
        {"id": "validation/x/a", "path": "validation/x/a.wav", "text": "hi, there", "split": "valid"},
    ]

    def write(self, folder: Path) -> Path:
        speech(folder / "validation" / "x" / "a.wav"), speech(folder / "test" / "b.wav")
        (folder / "validation" / "metadata.csv").write_text('file_name,transcription\nx/a.wav,"hi, there"\n')
        json_lines(folder / "test" / "metadata.jsonl", {"file_name": "b.wav", "transcription": "you"})
        return folder


class TestHuggingFace(ManifestSuite):
    source = SOURCES.own["huggingface"]
    expected: ClassVar = [
        {"id": "a", "path": "../m-audio/a.wav", "text": "hi", "speaker": 7, "split": "train"},
        {"id": "b", "path": "../m-audio/b.wav", "text": None, "speaker": 8, "split": "train"},
    ]

    def write(self, folder: Path) -> Path:
        audio = [{"bytes": wav(), "path": "x/a.wav"}, {"bytes": wav(800), "path": "x/b.wav"}]
        columns = {"audio": audio, "text": ["hi", None], "speaker_id": [7, 8], "path": ["theirs", "theirs"]}
        pq.write_table(pa.table(columns), folder / "train-00000-of-00001.parquet")
        return folder / "train-00000-of-00001.parquet"


class TestWebDataset(ManifestSuite):
    source = SOURCES.own["webdataset"]
    expected: ClassVar = [
        {"id": "x/a", "path": "s.tar", "byte_size": 3_244, "text": "hi", "speaker": "ann", "cls": None},
        {"id": "x/b", "path": "s.tar", "byte_size": 1_644, "text": None, "speaker": None, "cls": 3},
    ]

    def write(self, folder: Path) -> Path:
        labels = json.dumps({"speaker": "ann", "words": []}).encode()
        first = {"./x/a.txt": b"hi\n", "./x/a.wav": wav(), "./x/a.json": labels}
        return tar(folder / "s.tar", first | {"./x/b.wav": wav(800), "./x/b.cls": b"3"})


class TestCommonVoice(ManifestSuite):
    source = SOURCES.own["commonvoice"]
    expected: ClassVar = [
        {"id": "c0", "path": "clips/c0.mp3", "speaker": "ann", "text": "plain", "up_votes": "2", "age": None},
        {"id": "c1", "path": "clips/c1.mp3", "speaker": "ann", "text": '"Is it?" he said.', "up_votes": "2"},
    ]

    def write(self, folder: Path) -> Path:
        (folder / "clips").mkdir(exist_ok=True)
        rows = ["client_id\tpath\tsentence\tup_votes\tage", "ann\tc0.mp3\tplain\t2\t", ""]
        rows.insert(2, 'ann\tc1.mp3\t"Is it?" he said.\t2\ttwenties')
        (folder / "train.tsv").write_text("\n".join(rows))
        return folder / "train.tsv"


class TestSpeechBrain(ManifestSuite):
    source = SOURCES.own["speechbrain"]
    expected: ClassVar = [
        {"id": "a", "path": "a.wav", "start": 100, "num_samples": 700, "speaker": "ann", "text": "hi, you"},
        {"id": "b", "path": "b.wav", "start": None, "num_samples": None, "speaker": None, "text": None},
    ]

    def write(self, folder: Path) -> Path:
        speech(folder / "a.wav")
        rows = [
            "ID, duration, wav, start, stop, spk_id, wrd",
            'a, 0.1, a.wav, 100, 800, ann, "hi, you"',
            "b,1,b.wav,,,,",
        ]
        (folder / "train.csv").write_text("\n".join(rows))
        return folder / "train.csv"


SUITES = {
    suite().kind.name: suite
    for suite in (
        TestLibriSpeech,
        TestKaldi,
        TestShar,
        TestNemo,
        TestAudioFolder,
        TestHuggingFace,
        TestWebDataset,
        TestFolder,
        TestLhotse,
        TestCommonVoice,
        TestSpeechBrain,
        TestFairseq,
        TestDelimited,
    )
}


def test_every_kind_has_its_suite() -> None:
    assert list(SUITES) == list(SOURCES.own)


@pytest.mark.parametrize("kind", SUITES)
def test_a_kind_is_told_from_all_others(tmp_path: Path, kind: str) -> None:
    src = SUITES[kind]().written(tmp_path)
    assert detect(src) == kind
    binary = not src.is_dir() and b"\0" in src.read_bytes()
    text = [] if src.is_dir() or binary else src.read_text().splitlines()
    first, second = [*text, "", ""][:2]
    taken = [
        name
        for name, row in SOURCES.own.items()
        if (row.reads_both or row.reads_folders == src.is_dir()) and (row.binary or not binary)
        if row.recognizes(src, first, second)
    ]
    general = {"folder", "csv"}  # they come last
    assert set(taken) - general == {kind} - general


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.TextGrid", b'File type = "ooTextFile"\n', "a TextGrid of Praat(.|\n)*segments"),
        ("a.rttm", b"SPEAKER a 1 0 1 <NA> <NA> ann <NA> <NA>\n", "an RTTM"),
        ("a.ctm", b"a 1 0.0 0.5 hi\n", "a CTM"),
        ("a.stm", b"a 1 ann 0 1 hi\n", "an STM"),
        ("a.lst", b"a a.wav 1000 hi\n", "a list of flashlight"),
        ("a.eaf", b"<?xml version='1.0'?>\n<ANNOTATION_DOCUMENT>\n", "an annotation of ELAN"),
        ("a.db", b"SQLite format 3\0rest", "a database of SQLite(.|\n)*sqlite3 -header -csv .*a.db"),
        ("a.pt", b"PK\x03\x04rest", "a pickle of PyTorch, which gdist never runs"),
        ("a.pkl", b"\x80\x04K\x01.", "a pickle, which gdist never runs"),
        ("pickled", b"\x80\x04K\x01.", "a pickle, which gdist never runs"),
        ("a.h5", b"\x89HDF\r\n\x1a\n\0", "HDF5"),
        ("a.tfrecord", b"\x10\0\0\0", "a TFRecord"),
        ("a.zip", b"PK\x03\x04\0\0", "a zip(.|\n)*unzip .*a.zip"),
        ("data.json", b'{\n  "a": {"wav": "a.wav"}\n}', "JSON over several lines(.|\n)*jq"),
        ("a.ark", b"a \0BFM ", "an ark of Kaldi(.|\n)*wav.scp"),
        ("feats.scp", b"a a.ark:2\n", "lists features"),
        ("s.tar.gz", b"\x1f\x8b\x08\0", "is compressed(.|\n)*gunzip --stdout .*s.tar.gz > .*s.tar"),
        ("s.tgz", b"\x1f\x8b\x08\0", "is compressed(.|\n)*gunzip --stdout .*s.tgz > .*s.tar"),
        ("s.tar.zst", b"\x28\xb5\x2f\xfd\0", "is compressed(.|\n)*unzstd"),
        (
            "supervisions.jsonl",
            b'{"id": "s", "recording_id": "r", "start": 0}\n',
            "is a supervision, which names no audio",
        ),
        (
            "features.jsonl",
            b'{"recording_id": "r", "storage_type": "lilcom_chunky"}\n',
            "manifest of features or arrays",
        ),
        ("cuts.jsonl", b'{"id": "c", "type": "PaddingCut", "duration": 1}\n', "it is a PaddingCut"),
        ("cuts.jsonl", b'{"id": "c", "type": "MixedCut", "tracks": []}\n', "it is a MixedCut"),
    ],
)
def test_what_is_known_and_not_taken_is_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ManifestError, match=says):
        kind = detect(tmp_path / name)
        list(SOURCES[kind].rows(tmp_path / name))
