"""Which part of which bytes is meant: channels, members of archives, gains; and the manifest's columns for them."""

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import soundfile

from gdist.pipeline.audio import Header, Segment, load_utterance, read_header
from gdist.pipeline.errors import AudioError, ManifestError, UsageError
from gdist.pipeline.manifest.table import Manifest, check
from gdist.pipeline.storage.objects import Storage
from gdist.stages.manifests import check_command

CALL = (np.random.default_rng(0).normal(0, 0.1, (8_000, 2)) * 32_768).astype(np.int16)


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("call") / "call.wav"
    soundfile.write(path, CALL, 16_000)
    return path


def as_tar(call: Path, out: Path) -> tuple[Path, int]:
    with tarfile.open(out / "a.tar", "w") as archive:
        archive.add(__file__, "notes.txt")
        archive.add(call, "call.wav")
    with tarfile.open(out / "a.tar") as archive:
        return out / "a.tar", archive.getmember("call.wav").offset_data


def as_zip(call: Path, out: Path) -> tuple[Path, int]:
    with zipfile.ZipFile(out / "a.zip", "w") as archive:
        archive.write(__file__, "notes.txt")
        archive.write(call, "call.wav")
        at = archive.getinfo("call.wav").header_offset + 30 + len("call.wav")
    return out / "a.zip", at


def test_a_channel(call: Path) -> None:
    for channel in (0, 1):
        loaded = load_utterance(Segment(str(call), 100, 500, 16_000, channel))
        np.testing.assert_array_equal(loaded, CALL[100:600, channel])
    with pytest.raises(AudioError, match="has 2 channels, the manifest says channel 2"):
        load_utterance(Segment(str(call), 100, 500, 16_000, 2))


@pytest.mark.parametrize("archive", [as_tar, as_zip])
@pytest.mark.parametrize("remote", [False, True])
def test_a_member_of_an_archive(
    call: Path, tmp_path: Path, archive: Callable[[Path, Path], tuple[Path, int]], remote: bool
) -> None:
    path, offset = archive(call, tmp_path)
    size, where = call.stat().st_size, str(path)
    assert path.read_bytes()[offset : offset + size] == call.read_bytes()
    if remote:
        where = f"memory://archives/{archive.__name__}"
        obstore.put(Storage("memory://archives").store, archive.__name__, path.read_bytes())
    member = Segment(where, 100, 500, 16_000, 1, offset, size)
    assert read_header(member) == Header(8_000, 16_000, 2)
    np.testing.assert_array_equal(load_utterance(member), CALL[100:600, 1])
    for beyond in (Segment(where, 0, 500, 16_000, 1, offset, 1 << 40), Segment(where, 0, 500, 16_000, 1, 1 << 40, 9)):
        for read in (read_header, load_utterance):
            with pytest.raises(AudioError, match=r"bytes are there|empty"):
                read(beyond)


def test_a_gain_is_applied_before_rounding(tmp_path: Path) -> None:
    wave = np.array([0.3, -0.3, 1.7, 4_000.0]) / 32_768
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="DOUBLE")
    path = str(tmp_path / "a.wav")
    assert load_utterance(Segment(path, 0, 4, 16_000)).tolist() == [0, 0, 2, 4_000]
    assert load_utterance(Segment(path, 0, 4, 16_000, gain_bits=3)).tolist() == [2, -2, 14, 32_000]
    assert load_utterance(Segment(path, 0, 4, 16_000, gain_bits=-2)).tolist() == [0, 0, 0, 1_000]


def test_the_columns_are_there_only_where_they_are_given(call: Path) -> None:
    plain = pa.table({"id": ["a", "b"], "path": [call.name] * 2, "speaker": ["x", "y"]})
    without = Manifest(plain, str(call.parent))
    assert without.table.column_names == ["id", "path", "start", "num_samples", "sample_rate", "speaker"]
    given = Manifest(plain.append_column("channel", pa.array([1, None], pa.int64())), str(call.parent)).measured()
    assert given.table.schema.field("channel").type == pa.int32() and given.label_columns == ["speaker"]
    first, second = given.utterances()
    assert (first.channel, second.channel, first.num_samples) == (1, None, 8_000) and first == given.utterance(0)
    assert first.segment == Segment(str(call), 0, 8_000, 16_000, channel=1)
    assert given.take([1]).table["channel"].to_pylist() == [None] and given.split(1).utterances() == [first, second]


def test_the_check_knows_them(call: Path) -> None:
    columns = {"id": ["a", "b"], "path": [str(call)] * 2, "channel": [1, 5]}
    (problem,) = check(Manifest(pa.table(columns), "/"))
    assert problem.id == "b" and "has 2 channels, the manifest says channel 5" in problem.reason


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("channel", [0, -1], "channel is -1 in some row"),
        ("byte_size", [-5, 1], "byte_size is -5"),
        ("gain_bits", [0, 99], "gain_bits is 99 in some row; it must be 24 or less"),
        ("channel", ["left", "right"], "the column channel must be int32: it is string"),
    ],
)
def test_what_the_columns_cannot_be(column: str, values: list[object], words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        Manifest(pa.table({"id": ["a", "b"], "path": ["x", "x"], column: values}), "/")


def test_the_report_of_a_check(call: Path, tmp_path: Path) -> None:
    """What `gdist manifest check --audio --report FILE` writes: one row per utterance."""
    soundfile.write(tmp_path / "mono.flac", CALL[:, 0], 16_000)
    columns = {"id": ["a", "b", "c", "d"], "path": [str(call), str(call), str(tmp_path / "mono.flac"), "gone.wav"]}
    Manifest(pa.table(columns | {"channel": [1, None, None, None]}), str(tmp_path)).write(tmp_path / "m.parquet")
    for name, read in (("r.csv", pyarrow.csv.read_csv), ("r.parquet", pq.read_table)):
        assert check_command(str(tmp_path / "m.parquet"), True, str(tmp_path / name), True) == 1
        rows = {row["id"]: row for row in read(tmp_path / name).to_pylist()}
        assert [rows[id]["mixed_down"] for id in "abcd"] == [False, True, False, False]
        assert [rows[id]["format"] or None for id in "abcd"] == ["WAV PCM_16", "WAV PCM_16", "FLAC PCM_16", None]
        whole = ("sample_rate", "channels", "header_samples", "file_samples", "num_samples", "seconds")
        assert [rows["c"][column] for column in whole] == [16_000, 1, 8_000, 8_000, 8_000, 0.5]
        peak = np.abs(CALL[:, 1].astype(int)).max()
        assert rows["a"]["peak_dbfs"] == pytest.approx(20 * np.log10(peak / 32_768), abs=0.06)
        assert rows["a"]["levels"] == 2 * peak + 1 and rows["a"]["clipped"] == 0
        assert rows["b"]["mix_db"] == pytest.approx(-3, abs=0.3) and rows["d"]["problem"].startswith("file not found")
    with pytest.raises(UsageError, match=r"neither \.parquet nor \.csv"):
        check_command(str(tmp_path / "m.parquet"), True, "report.txt", True)
