"""Anything wrong in the user's input: a message that says so, the documented exit code, and no lost work."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from click.testing import Result
from conftest import contents, make_teacher, mounted

from gdist.pipeline.cache.cache import Cache

Gdist = Callable[..., Result]
RATE = 16_000


def noise(seconds: float, rate: int = RATE, channels: int = 1) -> np.ndarray[Any, Any]:
    shape = (round(seconds * rate), channels)
    return np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good recordings, and one recording for each thing that can be wrong."""
    folder = tmp_path_factory.mktemp("bad") / "audio"
    folder.mkdir()
    soundfile.write(folder / "good.wav", noise(1.5), RATE)
    soundfile.write(folder / "stereo8k.wav", noise(1.25, 8_000, 2), 8_000)
    (folder / "empty.wav").touch()
    soundfile.write(folder / "truncated.flac", noise(3), RATE)
    whole = (folder / "truncated.flac").read_bytes()
    (folder / "truncated.flac").write_bytes(whole[: len(whole) // 3])
    broken = noise(1)
    broken[1_000:1_003] = np.nan
    soundfile.write(folder / "nan.wav", broken, RATE, subtype="FLOAT")
    soundfile.write(folder / "blip.wav", noise(0.01), RATE)
    soundfile.write(folder / "lecture.flac", np.zeros(30 * 60 * RATE, np.int16), RATE)
    (folder / "song.wav").write_text("these are words")
    return folder


EXPECTED = {
    "empty": "empty file: ",
    "truncated": "truncated: its header promises 48000 samples, and its last frame is not there",
    "nan": "3 non-finite samples, the first at sample 1000 of ",
    "blip": "too short: 160 samples at 16 kHz, one frame needs 400",
    "lecture": "too long: 1800 s, the limit is 60 s (manifest build --split-seconds cuts it)",
    "song": "not audio soundfile can decode: ",
    "gone": "file not found: ",
    "dir": "is a directory: ",
}


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Path:
    """All of them in one table, and two paths that do not exist."""
    (folder / "dir").mkdir(exist_ok=True)
    names = [*sorted(path.stem for path in folder.iterdir()), "gone"]
    paths = [next((p.name for p in folder.glob(f"{name}*")), "gone.wav") for name in names]
    path = folder / "all.parquet"
    pq.write_table(pa.table({"id": names, "path": paths}), path)
    return path


def command(teacher: Path, manifest: Path, cache: Path, *more: object) -> list[object]:
    fixed = ["--device", "cpu", "--pack-frames", 4096, *more]
    return ["extract", "--teacher", teacher, "--manifest", manifest, "--cache", cache, *fixed]


class TestRecordings:
    def test_what_is_wrong_is_quarantined_and_the_rest_is_kept(
        self, gdist: Gdist, tiny_teacher: Path, manifest: Path, tmp_path: Path
    ) -> None:
        cache = tmp_path / "c"
        result = gdist(*command(tiny_teacher, manifest, cache, "--json"))
        assert result.exit_code == 3
        found = json.loads(result.stdout)
        assert found["utterances"] == 2 and found["quarantined"] == len(EXPECTED) == len(found["quarantine"])
        for name, reason in EXPECTED.items():
            assert found["quarantine"][name].startswith(reason), name
        self.nothing_is_lost(gdist, cache, manifest)
        again = gdist(*command(tiny_teacher, manifest, cache))  # the exit code says so every time
        assert again.exit_code == 3
        for name, reason in EXPECTED.items():
            assert f"quarantined {name}: {reason}" in again.stderr
        inspected = gdist("inspect", cache)
        assert inspected.exit_code == 0 and "quarantined empty: empty file: " in inspected.stderr
        assert gdist(*command(tiny_teacher, manifest, tmp_path / "d", "--dry-run")).exit_code == 3
        assert not (tmp_path / "d").exists()

    def nothing_is_lost(self, gdist: Gdist, folder: Path, manifest: Path) -> None:
        assert gdist("verify", folder).exit_code == 0
        cache = Cache.open(str(folder))
        good = {e.id: (e, 0, e.num_frames) for e in cache.entries if e.id in ("good", "stereo8k")}
        (samples,) = cache.waveform([good["good"]])
        audio, _ = soundfile.read(manifest.parent / "good.wav", dtype="int16")
        assert np.array_equal(samples, audio)
        (resampled,) = cache.waveform([good["stereo8k"]])
        assert len(resampled) == 1.25 * RATE
        for layer in cache.layers:
            for hidden, (_, _, frames) in zip(cache.hidden(layer, list(good.values())), good.values(), strict=True):
                assert len(hidden) == frames and hidden.isfinite().all() and hidden.std() > 0.1

    @pytest.mark.parametrize("name", EXPECTED)
    def test_each_alone(self, gdist: Gdist, tiny_teacher: Path, manifest: Path, tmp_path: Path, name: str) -> None:
        """No utterance can be used: there is still no crash, and the cache says why it is empty."""
        table = pq.read_table(manifest)
        alone = manifest.with_name(f"only-{name}.parquet")
        pq.write_table(table.filter(pa.array([v == name for v in table["id"].to_pylist()])), alone)
        result = gdist(*command(tiny_teacher, alone, tmp_path))
        alone.unlink()
        assert result.exit_code == 3
        assert f"quarantined {name}: {EXPECTED[name]}" in result.stderr
        assert gdist("verify", tmp_path).exit_code == 0
        assert json.loads(gdist("inspect", tmp_path, "--json").stdout)["utterances"] == 0

    def test_the_check_finds_them_before(self, gdist: Gdist, manifest: Path) -> None:
        result = gdist("manifest", "check", manifest, "--audio", "--json")
        assert result.exit_code == 1
        problems = {p["id"]: p["reason"] for p in json.loads(result.stdout)["problems"]}
        assert set(problems) == set(EXPECTED) - {"lecture"}  # how long is too long, extraction decides
        assert problems["blip"].startswith("too short: 160 samples")
        for name in ("empty", "truncated", "nan", "song", "gone", "dir"):
            assert problems[name].startswith(EXPECTED[name])
        headers = gdist("manifest", "check", manifest)
        assert headers.exit_code == 1
        assert "empty: empty file" in headers.stderr and "nan: " not in headers.stderr

    def test_a_long_recording_is_split_as_the_message_says(
        self, gdist: Gdist, tiny_teacher: Path, folder: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "audio").mkdir()
        short = np.zeros(150 * RATE, np.int16)  # the same case, and seconds instead of a minute
        soundfile.write(tmp_path / "audio/lecture.flac", short, RATE)
        built = gdist("manifest", "build", tmp_path / "audio", "--out", tmp_path / "m.parquet", "--split-seconds", 50)
        assert built.exit_code == 0, built.output
        assert pq.read_table(tmp_path / "m.parquet")["id"].to_pylist() == [f"lecture-000{i}" for i in range(3)]
        extract = command(tiny_teacher, tmp_path / "m.parquet", tmp_path / "c", "--layers", "3")
        assert gdist(*extract).exit_code == 0
        whole = gdist("manifest", "build", folder, "--out", tmp_path / "all.parquet", "--split-seconds", 60, "--json")
        assert whole.exit_code == 3  # the unreadable stay in, and are told
        ids = pq.read_table(tmp_path / "all.parquet")["id"].to_pylist()
        assert sum(name.startswith("lecture-") for name in ids) == 30
        assert {p["id"] for p in json.loads(whole.stdout)["problems"]} == {"empty", "song", "truncated"}

    def test_files_that_vanish_between_plan_and_pass(
        self, gdist: Gdist, tiny_teacher: Path, folder: Path, tmp_path: Path
    ) -> None:
        """Lengths come from the manifest, so no file is opened before its pack is extracted."""
        shutil.copy(folder / "good.wav", tmp_path / "a.wav")
        shutil.copy(folder / "good.wav", tmp_path / "b.wav")
        gdist("manifest", "build", tmp_path, "--out", tmp_path / "m.parquet")
        (tmp_path / "a.wav").unlink()
        result = gdist(*command(tiny_teacher, tmp_path / "m.parquet", tmp_path / "c", "--json"))
        assert result.exit_code == 3
        assert json.loads(result.stdout)["quarantine"]["a"].startswith("file not found: ")
        assert gdist("verify", tmp_path / "c").exit_code == 0


class TestManifests:
    def refused(self, result: Result, *words: str) -> None:
        assert result.exit_code == 2, result.output
        for word in words:
            assert word in result.stderr
        assert "Traceback" not in result.output

    def test_a_folder_without_audio(self, gdist: Gdist, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("no sound")
        result = gdist("manifest", "build", tmp_path, "--out", tmp_path / "m.parquet")
        self.refused(result, str(tmp_path), "no audio")
        assert not (tmp_path / "m.parquet").exists()

    @pytest.mark.parametrize("lost", ["id", "path"])
    def test_a_missing_column(
        self, gdist: Gdist, tiny_teacher: Path, manifest: Path, tmp_path: Path, lost: str
    ) -> None:
        pq.write_table(pq.read_table(manifest).drop_columns([lost]), tmp_path / "m.parquet")
        words = (f"lacks the column {lost}", "a manifest needs id and path")
        self.refused(gdist("manifest", "check", tmp_path / "m.parquet"), *words)
        self.refused(gdist(*command(tiny_teacher, tmp_path / "m.parquet", tmp_path / "c")), *words)
        assert not (tmp_path / "c").exists()

    def test_no_manifest(self, gdist: Gdist, tiny_teacher: Path, tmp_path: Path) -> None:
        self.refused(
            gdist(*command(tiny_teacher, tmp_path / "m.parquet", tmp_path / "c")),
            "no manifest at", "gdist manifest build",
        )  # fmt: skip

    def test_a_folder_for_a_manifest(self, gdist: Gdist, tiny_teacher: Path, folder: Path, tmp_path: Path) -> None:
        self.refused(gdist(*command(tiny_teacher, folder, tmp_path / "c")), "cannot read", "gdist manifest build")

    def test_unwritable(self, gdist: Gdist, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        result = gdist("manifest", "build", folder, "--out", tmp_path / "file" / "m.parquet")
        self.refused(result, "cannot write the manifest", "file/m.parquet")
        assert (tmp_path / "file").read_text() == "mine"


class TestTheCache:
    def test_unwritable(self, gdist: Gdist, tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        for place, says in (
            ("file", "a file of that name is in the way"),
            ("file/c", "a part of the path is a file"),
        ):
            result = gdist(*command(tiny_teacher, speech, tmp_path / place))
            assert result.exit_code == 1
            assert "cannot open" in result.stderr and says in result.stderr
        assert (tmp_path / "file").read_text() == "mine"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_forbidden(self, gdist: Gdist, tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        result = gdist(*command(tiny_teacher, speech, tmp_path / "c"))
        assert result.exit_code == 1 and "Permission denied" in result.stderr

    def test_made_by_another_teacher(self, gdist: Gdist, speech: Path, tiny_cache: Path, tmp_path: Path) -> None:
        before = contents(tiny_cache)
        other = make_teacher(tmp_path / "other", seed=1)
        result = gdist(*command(other, speech, tiny_cache))
        assert result.exit_code == 1
        assert "was made from other inputs" in result.stderr and "teacher.fingerprint: " in result.stderr
        assert "num_layers" not in result.stderr  # what is the same is not printed
        assert "choose another --cache" in result.stderr
        larger = make_teacher(tmp_path / "larger", seed=1, hidden_size=48)
        assert "dim: 32 → 48" in gdist(*command(larger, speech, tiny_cache)).stderr
        assert contents(tiny_cache) == before

    def test_a_folder_of_something_else(self, gdist: Gdist, tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("mine")
        for more in ((), ("--restart",)):
            result = gdist(*command(tiny_teacher, speech, tmp_path, *more))
            assert result.exit_code == 1 and "choose another --cache" in result.stderr
        assert contents(tmp_path) == {"thesis.tex": b"mine"}

    def test_a_disk_that_fills_up(
        self, gdist: Gdist, tiny_teacher: Path, speech: Path, tiny_cache: Path, tmp_path: Path
    ) -> None:
        """What was written before stays, and the same command continues from there."""
        with mounted(tmp_path / "disk", "size=1m") as disk:
            run = command(tiny_teacher, speech, disk / "c")
            run[run.index(4096)] = 512
            result = gdist(*run)
            assert result.exit_code == 1
            assert "No space left on device" in result.stderr and "finished packs are kept" in result.stderr
            done = Cache.open(str(disk / "c")).done()
            assert 0 < len(done) < 9
            found = json.loads(gdist("verify", disk / "c", "--json").stdout)
            assert found["bad"] == [] and len(found["packs_missing"]) == 9 - len(done)
            subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
            again = gdist(*run, "--json")
            assert again.exit_code == 0 and json.loads(again.stdout)["packs_resumed"] == len(done)
            assert contents(disk / "c") == contents(tiny_cache)


class TestOptions:
    @pytest.mark.parametrize(
        ("more", "words"),
        [
            (["--encoding", "fp61"], ["--encoding fp61: there is no such encoding", "did you mean `fp16`?"]),
            (["--layers", "0,9"], ["--layers '0,9'", "this teacher has layers 0 to 3"]),
            (["--layers", "top"], ["'top' is not a layer", "for example --layers all"]),
            (["--precision", "fp8"], ["--precision", "fp32"]),
            (["--precision", "tf32", "--device", "cpu"], ["tf32 needs a CUDA device", "--precision fp32"]),
            (["--device", "cuda:77"], ["--device cuda:77", "CUDA"]),
            (["--pack-frames", "100"], ["--pack-frames 100", "multiple of 128"]),
            (["--max-seconds", "-1"], ["--max-seconds -1"]),
            (["--no-such-option"], ["No such option"]),
        ],
    )
    def test_of_extract(
        self, gdist: Gdist, tiny_teacher: Path, speech: Path, tmp_path: Path, more: list[str], words: list[str]
    ) -> None:
        result = gdist(*command(tiny_teacher, speech, tmp_path / "c", *more))
        assert result.exit_code == 2
        for word in words:
            assert word in result.stderr
        assert not (tmp_path / "c").exists()

    @pytest.mark.parametrize(
        ("setting", "words"),
        [
            ("train.stpes=5", ["unknown field `train.stpes`", "did you mean `train.steps`?"]),
            ("trian.steps=5", ["unknown table [trian]", "did you mean `train`?"]),
            ("train.steps", ["is not table.field=value"]),
            ("train.steps=many", ["train.steps = 'many'", "expected int, got str"]),
            ("train.steps=0", ["train.steps = 0", "1 or more"]),
        ],
    )
    def test_of_train(self, gdist: Gdist, tiny_cache: Path, tmp_path: Path, setting: str, words: list[str]) -> None:
        result = gdist("train", "--cache", tiny_cache, "--out", tmp_path / "run", "--set", setting)
        assert result.exit_code == 2
        for word in words:
            assert word in result.stderr
        assert not (tmp_path / "run").exists()


class TestTeachers:
    def test_without_weights(self, gdist: Gdist, tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
        shutil.copytree(tiny_teacher, tmp_path / "t", ignore=shutil.ignore_patterns("*.safetensors"))
        result = gdist(*command(tmp_path / "t", speech, tmp_path / "c"))
        assert result.exit_code == 1
        assert "weights" in result.stderr and "model.safetensors" in result.stderr
        assert not (tmp_path / "c").exists()

    def test_a_folder_of_something_else(self, gdist: Gdist, speech: Path, tmp_path: Path) -> None:
        result = gdist(*command(tmp_path, speech, tmp_path / "c"))
        assert result.exit_code == 1 and "no config.json" in result.stderr

    def test_truncated_weights(self, gdist: Gdist, tiny_teacher: Path, speech: Path, tmp_path: Path) -> None:
        shutil.copytree(tiny_teacher, tmp_path / "t")
        weights = tmp_path / "t/model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1000])
        result = gdist(*command(tmp_path / "t", speech, tmp_path / "c"))
        assert result.exit_code == 1 and "cannot be loaded" in result.stderr
