"""Manifests in other toolkits' forms: read back by gdist and by the toolkits, to the same samples."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from click.testing import Result
from conftest import contents, extracted
from toolkits import speech, tar, wav

from gdist.pipeline.audio import load_utterance
from gdist.pipeline.errors import ConfigError, ManifestError
from gdist.pipeline.manifest.exporting import export
from gdist.pipeline.manifest.table import Manifest, build
from gdist.pipeline.manifest.targets import TARGETS

READ = {"kaldi": "", "nemo": "manifest.json", "lhotse": "cuts.jsonl.gz", "hf": "data"}
SEGMENTS = {"id": ["c", "a", "b"], "path": ["x.wav", "y z.wav", "x.wav"], "start": [0, 0, 4_001]}


@pytest.fixture
def segments(tmp_path: Path) -> Manifest:
    """Two segments of one file and all of another, at rates that seconds cannot say exactly."""
    speech(tmp_path / "x.wav", 9_001, 11_025), speech(tmp_path / "y z.wav", 8_000, 44_100)
    more = {"num_samples": [4_001, 8_000, 5_000], "text": ["hi", None, "you there"], "speaker": ["ann", "ben", "ann"]}
    return Manifest(pa.table(SEGMENTS | more), str(tmp_path)).measured()


def samples(manifest: Manifest) -> dict[str, np.ndarray[Any, Any]]:
    return {u.id: load_utterance(u.segment) for u in manifest.utterances()}


@pytest.mark.parametrize("to", TARGETS.own)
def test_it_is_read_back_to_the_same_samples(tmp_path: Path, segments: Manifest, to: str) -> None:
    export(segments, to, tmp_path / "out")
    export(segments, to, tmp_path / "again")
    assert contents(tmp_path / "out") == contents(tmp_path / "again")
    back = build(tmp_path / "out" / READ[to], tmp_path / "back" / "m.parquet")
    before, after = samples(segments), samples(back)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[id], after[id]) for id in before)
    labels = {u.id: (u.labels["text"], u.labels["speaker"]) for u in segments.utterances()}
    assert {u.id: (u.labels["text"], u.labels["speaker"]) for u in back.utterances()} == labels


def test_lhotse_reads_what_was_written(tmp_path: Path, segments: Manifest) -> None:
    lhotse = pytest.importorskip("lhotse")
    export(segments, "lhotse", tmp_path / "out")
    cuts = {cut.id: cut for cut in lhotse.CutSet.from_file(tmp_path / "out" / "cuts.jsonl.gz")}
    for utterance in segments.utterances():
        with soundfile.SoundFile(utterance.path) as file:
            file.seek(utterance.start)
            expected = file.read(utterance.num_samples, dtype="float32")
        assert np.array_equal(cuts[utterance.id].load_audio()[0], expected)
    lhotse.validate(lhotse.CutSet.from_file(tmp_path / "out" / "cuts.jsonl.gz"))
    said = lhotse.SupervisionSet.from_file(tmp_path / "out" / "supervisions.jsonl.gz")
    assert {one.id: one.text for one in said}["b"] == "you there"


def test_kaldiio_reads_what_was_written(tmp_path: Path, segments: Manifest) -> None:
    kaldiio = pytest.importorskip("kaldiio")
    export(segments.take([0, 2]), "kaldi", tmp_path / "out")
    scp, cut = tmp_path / "out" / "wav.scp", tmp_path / "out" / "segments"
    with kaldiio.ReadHelper(f"scp:{scp}", segments=str(cut)) as reader:
        found = {id: wave for id, (_, wave) in reader}
    with soundfile.SoundFile(tmp_path / "x.wav") as file:
        whole = file.read(dtype="int16")
    assert np.array_equal(found["c"], whole[:4_001]) and np.array_equal(found["b"], whole[4_001:])


def test_datasets_reads_what_was_written(tmp_path: Path, segments: Manifest) -> None:
    datasets = pytest.importorskip("datasets")
    export(segments, "hf", tmp_path / "out")
    made = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    assert isinstance(made.features["audio"], datasets.Audio)
    found = {row["id"]: row for row in made.cast_column("audio", datasets.Audio(decode=False))}
    assert found["a"]["audio"]["bytes"] == (tmp_path / "y z.wav").read_bytes() and found["a"]["text"] is None


def test_whole_files_need_no_segments_and_splits_are_files(tmp_path: Path) -> None:
    for name in ("b", "a"):
        speech(tmp_path / f"{name}.wav", 1_600)
    table = pa.table({"id": ["b", "a"], "path": ["b.wav", "a.wav"], "split": ["train", "valid"], "digit": [3, None]})
    manifest = Manifest(table, str(tmp_path))
    done = export(manifest, "kaldi", tmp_path / "kaldi")
    assert done.files == ("spk2utt", "utt2spk", "wav.scp")
    assert (tmp_path / "kaldi" / "wav.scp").read_text() == f"a {tmp_path}/a.wav\nb {tmp_path}/b.wav\n"
    assert any("split, digit" in note for note in done.notes) and any("its own speaker" in n for n in done.notes)
    assert export(manifest, "hf", tmp_path / "hf").files == (
        "README.md",
        "data/train-00000.parquet",
        "data/valid-00000.parquet",
    )
    back = build(tmp_path / "hf", tmp_path / "m.parquet")
    assert [(u.id, u.labels) for u in back.utterances()] == [
        ("b", {"split": "train", "digit": 3}),
        ("a", {"split": "valid", "digit": None}),
    ]


def test_channels_and_parts_of_archives(tmp_path: Path) -> None:
    """What a form cannot say is refused; the forms that can say it give the same samples."""
    speech(tmp_path / "two.wav", 1_600, channels=2)
    soundfile.write(tmp_path / "f.wav", np.random.default_rng(0).normal(0, 0.1, 900), 16_000, "FLOAT")
    tar(tmp_path / "t.tar", {"x.wav": wav()})
    archive = build(tmp_path / "t.tar", tmp_path / "m.parquet").table.to_pylist()[0]
    both = [
        {"id": "left", "path": "two.wav", "channel": 0},
        {"id": "mixed", "path": "two.wav", "channel": None},
        {"id": "float", "path": "f.wav", "start": 100, "num_samples": 500},
    ]
    channels = Manifest(pa.Table.from_pylist(both), str(tmp_path)).measured()
    ranges = Manifest(pa.Table.from_pylist([archive]), str(tmp_path))
    for to in ("kaldi", "nemo"):
        with pytest.raises(ManifestError, match=f"--to {to} cannot say .* one channel(.|\n)*1 of 3(.|\n)*--to hf"):
            export(channels, to, tmp_path / "out")
    for to in ("kaldi", "nemo", "lhotse"):
        with pytest.raises(ManifestError, match="a range of the bytes of a file"):
            export(ranges, to, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for to, manifest in (("lhotse", channels), ("hf", channels), ("hf", ranges)):
        done = export(manifest, to, tmp_path / f"{to}-{len(manifest.table)}")
        assert manifest is ranges or any("gdist averages them" in note for note in done.notes)
        back = build(tmp_path / f"{to}-{len(manifest.table)}" / READ[to], tmp_path / f"{to}.parquet")
        before, after = samples(manifest), samples(back)
        assert all(np.array_equal(before[id], after[id]) for id in before)
        (tmp_path / f"{to}.parquet").unlink()
        for path in (tmp_path / f"{to}-audio").glob("*"):
            path.unlink()


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    speech(tmp_path / "a.wav")

    def refused(**columns: Any) -> str:
        table = pa.table({"id": ["a"], "path": ["a.wav"]} | columns)
        with pytest.raises(ManifestError) as error:
            export(Manifest(table, str(tmp_path)), "kaldi", tmp_path / "out", "m.parquet")
        return str(error.value)

    assert "has a space in it" in refused(id=["a b"])
    assert "its audio cannot be read" in (said := refused(path=["gone.wav"])) and "manifest check m.parquet" in said
    assert "it is not in its file" in refused(num_samples=[1_601], sample_rate=[16_000])
    with pytest.raises(ConfigError, match="--to tape: there is no such form of manifest"):
        export(Manifest(pa.table({"id": ["a"], "path": ["a.wav"]}), str(tmp_path)), "tape", tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    assert "not empty" in refused() and [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_what_a_killed_export_left_is_removed(tmp_path: Path) -> None:
    speech(tmp_path / "a.wav")
    manifest = Manifest(pa.table({"id": ["a"], "path": ["a.wav"]}), str(tmp_path))
    (tmp_path / ".out.abcd1234.gdist" / "new").mkdir(parents=True)
    (tmp_path / "out").mkdir()  # an empty folder is filled
    export(manifest, "kaldi", tmp_path / "out", "m.parquet")
    assert {path.name for path in tmp_path.iterdir()} == {"a.wav", "out"}


def test_the_same_speech_by_any_toolkit_is_the_same_cache(
    tmp_path: Path, tiny_teacher: Path, speech: Path, gdist: Callable[..., Result]
) -> None:
    """A lhotse, a NeMo and a Kaldi data set of real speech, and a CSV of the same, sorted as Kaldi does."""
    all_of_it = Manifest.read(speech)
    ids = all_of_it.table["id"].to_pylist()
    rows = sorted(range(len(ids)), key=lambda row: ids[row].encode())[::6]
    chosen = all_of_it.take(rows, ["speaker", "language", "text"])
    chosen.write(tmp_path / "m.parquet")
    with (tmp_path / "m.csv").open("w") as file:
        print("id,path,start,num_samples,sample_rate,speaker,language,text", file=file)
        for u in chosen.utterances():
            labels = [f'"{u.labels[name]}"' if u.labels[name] else "" for name in ("speaker", "language", "text")]
            print(",".join([u.id, u.path, *map(str, (u.start, u.num_samples, u.sample_rate)), *labels]), file=file)
    found = {}
    for to in ("csv", "kaldi", "nemo", "lhotse"):
        src = tmp_path / "m.csv" if to == "csv" else tmp_path / to / READ[to]
        if to != "csv":
            done = json.loads(
                gdist(
                    "manifest", "export", tmp_path / "m.parquet", "--to", to, "--out", tmp_path / to, "--json"
                ).stdout
            )
            assert done["utterances"] == len(rows) and done["to"] == to
        made = gdist("manifest", "build", src, "--out", tmp_path / f"{to}.parquet", "--json")
        assert json.loads(made.stdout)["kind"] == to
        extracted(tiny_teacher, tmp_path / f"{to}.parquet", tmp_path / "caches" / to)
        found[to] = {name: data for name, data in contents(tmp_path / "caches" / to).items() if "/c/" in name}
        found[to]["manifest"] = Manifest.read(tmp_path / f"{to}.parquet").fingerprint().encode()
    expected = found["csv"]
    for to, of in found.items():
        assert [name for name in of | expected if of.get(name) != expected.get(name)] == [], to
    assert len(expected) > 4
