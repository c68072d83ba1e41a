"""Decoding and resampling, on small real files; and everything that can be wrong with a file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import obstore
import pytest
import soundfile
import torch
import torchaudio.functional
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from recordings import noise, streamed_flac

from gdist.pipeline.audio import Header, Segment, load_utterance, read_header, to_float
from gdist.pipeline.errors import AudioError, CacheError
from gdist.pipeline.framing import resampled_length
from gdist.pipeline.storage.objects import Storage

RATES = [8_000, 11_025, 22_050, 44_100, 48_000]


def load(path: str, *part: int) -> np.ndarray:
    """Load a part: start, samples, rate."""
    return load_utterance(Segment(path, *part))


def header(path: str) -> Header:
    return read_header(Segment(path))


@pytest.fixture
def wav(tmp_path: Path) -> Callable[..., str]:
    def write(wave: np.ndarray, rate: int = 16_000, subtype: str = "PCM_16", name: str = "a.wav") -> str:
        soundfile.write(tmp_path / name, wave, rate, subtype=subtype)
        return str(tmp_path / name)

    return write


def test_read_header(wav: Callable[..., str]) -> None:
    assert header(wav(noise(800, channels=2), 8_000)) == Header(800, 8_000, 2)


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_16_bits_at_16_khz_are_preserved_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    path = tmp_path_factory.mktemp("exact") / name

    @settings(max_examples=30, deadline=None)
    @given(hnp.arrays(np.int16, st.integers(1, 2_000)), st.data())
    def exact(wave: np.ndarray, data: st.DataObject) -> None:
        start = data.draw(st.integers(0, len(wave) - 1))
        length = data.draw(st.integers(1, len(wave) - start))
        soundfile.write(path, wave, 16_000)
        loaded = load(str(path), start, length, 16_000)
        assert loaded.dtype == np.int16
        np.testing.assert_array_equal(loaded, np.maximum(wave[start : start + length], -32_767))

    exact()


def test_the_reserved_value_never_appears(wav: Callable[..., str]) -> None:
    loud = load(wav(np.array([-1.0, -1.2, 1.0, 1.25]), subtype="FLOAT"), 0, 4, 16_000)
    assert loud.tolist() == [-32_767, -32_767, 32_767, 32_767]


def test_rounding_is_half_to_even(wav: Callable[..., str]) -> None:
    halves = np.array([0.5, 1.5, 2.5, -0.5, -1.5]) / 32_768
    assert load(wav(halves, subtype="DOUBLE"), 0, 5, 16_000).tolist() == [0, 2, 2, 0, -2]


def test_channels_are_averaged(wav: Callable[..., str]) -> None:
    stereo = np.array([[100, 300], [-7, 8], [32_767, -32_768]], np.int16)
    assert load(wav(stereo), 0, 3, 16_000).tolist() == [200, 0, 0]


@pytest.mark.parametrize("rate", RATES)
def test_resampling_equals_torchaudio_in_one_piece(wav: Callable[..., str], rate: int) -> None:
    wave = noise(23 * rate + 41)  # more than two blocks
    loaded = load(wav(wave, rate, "DOUBLE"), 0, len(wave), rate)
    whole = torchaudio.functional.resample(torch.from_numpy(wave), rate, 16_000).numpy() * 32_768
    assert np.abs(loaded[: len(whole)] - whole).max() <= 0.5 + 1e-6
    np.testing.assert_array_equal(loaded, load(wav(wave, rate, "DOUBLE"), 0, len(wave), rate))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5_000), st.sampled_from(RATES))
def test_the_length_is_as_planned(tmp_path_factory: pytest.TempPathFactory, samples: int, rate: int) -> None:
    path = tmp_path_factory.getbasetemp() / "length.wav"
    soundfile.write(path, noise(samples), rate)
    assert len(load(str(path), 0, samples, rate)) == resampled_length(samples, rate)


def test_the_length_is_as_planned_where_torchaudio_gives_one_sample_less(wav: Callable[..., str]) -> None:
    wave = noise(441_102)
    assert torchaudio.functional.resample(torch.from_numpy(wave), 44_100, 16_000).shape == (160_037,)
    assert len(load(wav(wave, 44_100), 0, 441_102, 44_100)) == resampled_length(441_102, 44_100) == 160_038


def test_a_segment_is_resampled_alone(wav: Callable[..., str], tmp_path: Path) -> None:
    wave = (noise(3_000, channels=2) * 32_767).astype(np.int16)
    whole, piece = wav(wave, 8_000), wav(wave[1_000:2_000], 8_000, name="piece.wav")
    np.testing.assert_array_equal(load(whole, 1_000, 1_000, 8_000), load(piece, 0, 1_000, 8_000))


def test_to_float_is_soundfiles_scale(wav: Callable[..., str]) -> None:
    path = wav(noise(500))
    expected = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
    assert torch.equal(to_float(load(path, 0, 500, 16_000)), expected)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "file not found"), (b"", "empty file"), (b"hello, world" * 99, "not audio soundfile can decode")],
)
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.raw"])
def test_what_is_not_audio(tmp_path: Path, content: bytes | None, name: str, reason: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AudioError, match=reason):
        header(str(path))
    with pytest.raises(AudioError, match=reason):
        load(str(path), 0, 400, 16_000)


def test_a_folder_is_not_audio(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="is a directory"):
        header(str(tmp_path))


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
def test_a_flac_cut_short_keeps_its_header_and_fails_on_reading(wav: Callable[..., str], kept: float) -> None:
    path = Path(wav(noise(160_000), name="a.flac"))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert header(str(path)).num_samples == 160_000
    with pytest.raises(AudioError, match="truncated"):
        load(str(path), 0, 160_000, 16_000)


def test_a_segment_before_the_cut_still_decodes(wav: Callable[..., str]) -> None:
    path = Path(wav(noise(160_000), name="a.flac"))
    before = load(str(path), 500, 4_000, 16_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    np.testing.assert_array_equal(load(str(path), 500, 4_000, 16_000), before)


def test_a_wav_cut_short_holds_fewer_samples_than_promised(wav: Callable[..., str]) -> None:
    path = Path(wav(noise(1_000)))
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(AudioError, match="truncated: its header promises 2000 bytes of samples, and 1600 are there"):
        load(str(path), 0, 1_000, 16_000)


def test_a_streamed_flac_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_bytes(streamed_flac(1_000))
    assert header(str(tmp_path / "a.flac")).num_samples == 1_000
    assert len(load(str(tmp_path / "a.flac"), 0, 1_000, 16_000)) == 1_000


def test_samples_that_are_not_numbers_are_counted_and_located(wav: Callable[..., str]) -> None:
    wave = noise(2_000, channels=2)
    wave[1_200, 1], wave[1_500, 0] = np.nan, np.inf
    path = wav(wave, 8_000, "FLOAT")
    with pytest.raises(AudioError, match="2 non-finite samples, the first at sample 1200"):
        load(path, 1_000, 1_000, 8_000)
    assert len(load(path, 0, 1_000, 8_000)) == 2_000


def test_a_sample_rate_that_differs_from_the_manifest(wav: Callable[..., str]) -> None:
    with pytest.raises(AudioError, match="sample rate is 8000 Hz, the manifest says 16000 Hz"):
        load(wav(noise(800), 8_000), 0, 800, 16_000)


def test_a_rate_whose_filter_would_fill_the_memory(wav: Callable[..., str]) -> None:
    with pytest.raises(AudioError, match="cannot resample 16001 Hz"):
        load(wav(noise(800), 16_001), 0, 800, 16_001)


def test_ten_milliseconds_load(wav: Callable[..., str]) -> None:
    assert len(load(wav(noise(80), 8_000), 0, 80, 8_000)) == 160


def test_an_object_in_a_store(wav: Callable[..., str]) -> None:
    path = wav(noise(800))
    obstore.put(Storage("memory://speech").store, "a/b.wav", Path(path).read_bytes())
    obstore.put(Storage("memory://speech").store, "a/empty.wav", b"")
    loaded = load("memory://speech/a/b.wav", 100, 500, 16_000)
    np.testing.assert_array_equal(loaded, load(path, 100, 500, 16_000))
    with pytest.raises(AudioError, match=r"file not found: memory://speech/a/c.wav"):
        header("memory://speech/a/c.wav")
    with pytest.raises(AudioError, match="empty file"):
        header("memory://speech/a/empty.wav")


def test_a_store_that_does_not_answer_is_not_bad_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ENDPOINT_URL", "http://127.0.0.1:1"), ("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for read in (header, lambda path: load(path, 0, 16_000, 16_000)):
        with pytest.raises(CacheError, match=r"cannot read s3://gone-audio/a.wav: Connection refused"):
            read("s3://gone-audio/a.wav")
