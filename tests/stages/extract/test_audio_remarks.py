"""What extraction says of audio that it can use, what it refuses by its level, and which channel it hears."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from click.testing import Result
from conftest import extracted
from transformers import Wav2Vec2FeatureExtractor

from gdist.pipeline.cache.cache import Cache
from gdist.pipeline.manifest.table import Manifest

Gdist = Callable[..., Result]
RATE = 16_000


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A call in stereo, one in antiphase, one too quiet, one clipped, and one of floats in the scale of integers."""
    folder = tmp_path_factory.mktemp("recordings")
    voice, other = np.random.default_rng(0).normal(0, 0.1, (2, RATE))
    soundfile.write(folder / "call.wav", np.stack([voice, other], 1), RATE)
    soundfile.write(folder / "antiphase.wav", np.stack([voice, -voice * 0.99], 1), RATE)
    soundfile.write(folder / "quiet.wav", voice / 4_000, RATE, subtype="FLOAT")
    soundfile.write(folder / "clipped.wav", (voice * 20).clip(-1, 1), RATE)
    soundfile.write(folder / "scaled.wav", voice * 32_768, RATE, subtype="FLOAT")
    return folder


def manifest(folder: Path, **columns: list[object]) -> Path:
    names = ["call", "antiphase", "quiet", "clipped", "scaled"]
    columns = {"id": names, "path": [f"{name}.wav" for name in names]} | columns  # type: ignore[assignment]
    Manifest(pa.table(columns), str(folder)).write(folder / "m.parquet")
    return folder / "m.parquet"


def test_what_is_said(gdist: Gdist, tiny_teacher: Path, recordings: Path, tmp_path: Path) -> None:
    path = manifest(recordings)
    arguments = ["--teacher", tiny_teacher, "--manifest", path, "--cache", tmp_path / "c", "--device", "cpu"]
    result = gdist("extract", *arguments)
    assert result.exit_code == 3
    for words in (
        "2 utterances, such as antiphase: 2 channels (mixed down to one; a column channel in the manifest",
        "1 utterance, such as antiphase: its 2 channels cancel: their mix has -46 dB of their energy",
        "1 utterance, such as clipped: 62.42% of its samples are at full scale: clipped",
        "quarantined scaled: floats in the scale of 16-bit integers (peak ",
    ):
        assert words in result.stderr, result.stderr
    assert "quiet" not in result.stderr, "this teacher does not normalize"
    checked = json.loads(gdist("manifest", "check", path, "--audio", "--json").stdout)["audio"]
    assert checked["mixed_down"] == 2 and checked["remarks"] == {"cancels": 1, "quiet": 1, "clipped": 1}


def test_a_normalizing_teacher_and_gains(
    gdist: Gdist, normalizing_teacher: Path, recordings: Path, tmp_path: Path
) -> None:
    found = extracted(normalizing_teacher, manifest(recordings), tmp_path / "c", encoding="fp32", layers="0,3")
    assert found["remarks"]["quiet"] == {"utterances": 1, "example": {"id": "quiet", "what": _quiet(recordings)}}
    gains = [None, None, 12, None, -15]
    gained = manifest(recordings, gain_bits=gains, channel=[1, 0, None, 0, None])
    found = extracted(normalizing_teacher, gained, tmp_path / "d", encoding="fp32", layers="0,3")
    assert found["quarantined"] == 0 and found["remarks"].keys() == {"clipped"}
    cache = Cache.open(str(tmp_path / "d"))
    stored = {entry.id: cache.waveform([(entry, 0, entry.num_frames)])[0] for entry in cache.entries}
    call = soundfile.read(recordings / "call.wav", dtype="int16")[0]
    np.testing.assert_array_equal(stored["call"], call[:, 1])
    quiet, scaled = (soundfile.read(recordings / f"{name}.wav")[0] for name in ("quiet", "scaled"))
    np.testing.assert_array_equal(stored["quiet"], np.rint(quiet * 2.0**27))
    np.testing.assert_array_equal(stored["scaled"], np.rint(scaled))


def test_a_worker_is_sent_all_that_a_manifest_says(recordings: Path) -> None:
    columns = {"channel": [0, 1, 0, 0, 0], "byte_offset": [0] * 5, "gain_bits": [1, 2, 3, 4, 5]}
    utterances = Manifest.read(manifest(recordings, **columns)).utterances()  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(utterances)) == utterances and utterances[1].segment.channel == 1


def _quiet(folder: Path) -> str:
    peak = np.abs(soundfile.read(folder / "quiet.wav")[0]).max()
    return f"quiet: {2 * int(peak * 32_768) + 1} levels of 16 bits, {20 * np.log10(peak):.0f} dBFS"


@pytest.fixture(scope="module")
def normalizing_teacher(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny teacher, as one that normalizes its input."""
    folder = Path(shutil.copytree(tiny_teacher, tmp_path_factory.mktemp("normalizing") / "teacher"))
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder
