"""Levels: beyond full scale, clipped, too quiet, channels that cancel; and gains."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recordings import RATE, noise

from gdist.pipeline.audio import Segment, Signal, load, load_utterance, measure
from gdist.pipeline.errors import AudioError
from gdist.pipeline.manifest.table import Manifest, build, check

VOICE = noise(RATE) * 3  # a peak of about 1.2: half of what it says is beyond full scale in no sample


def written(folder: Path, wave: np.ndarray, subtype: str = "FLOAT") -> Segment:
    soundfile.write(folder / "a.wav", wave, RATE, subtype=subtype)
    return Segment(str(folder / "a.wav"), 0, len(wave), RATE)


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (0.5, None),
        (1.2, None),  # a few overshoot, as those of lossy codecs do
        (10, r"of its samples are beyond full scale \(peak .*\): give it gain_bits = -"),
        (32_768, r"floats in the scale of 16-bit integers \(peak .*\): give it gain_bits = -15"),
    ],
)
def test_floats_beyond_full_scale(tmp_path: Path, factor: float, words: str | None) -> None:
    wave = noise(RATE) * 2 * factor
    segment = written(tmp_path, wave)
    if words is None:
        assert len(load_utterance(segment)) == RATE
        return
    with pytest.raises(AudioError, match=words):
        load(segment)
    (problem,) = check(build(tmp_path, tmp_path / "m.parquet"), audio=True)
    assert "gdist manifest build --gain auto" in problem.reason
    gained = build(tmp_path, tmp_path / "m.parquet", gain=True)
    assert gained.problems == () and not check(gained, audio=True)
    bits = gained.table["gain_bits"][0].as_py()
    expected = np.rint(wave.astype(np.float32).astype(np.float64) * 32_768 * 2.0**bits)
    np.testing.assert_array_equal(load_utterance(gained.utterances()[0].segment), expected)


def test_clipped_integers_are_reported_and_kept(tmp_path: Path) -> None:
    wave = (noise(RATE) * 20).clip(-1, 1)
    found = load(written(tmp_path, wave, "PCM_16"))
    share = np.mean(np.abs(np.rint(wave * 32_768)) >= 32_767)
    assert found.signal.clipped == pytest.approx(share, abs=0.01) and share > 0.3
    assert found.signal.remarks["clipped"].startswith(f"{found.signal.clipped:.2%} of its samples are at full scale")
    assert found.samples_S.min() == -32_767


def test_too_quiet_for_16_bits(tmp_path: Path) -> None:
    wave = noise(RATE) / 4_000
    segment = written(tmp_path, wave)
    signal = measure(segment)
    assert signal.remarks["quiet"] == f"quiet: {2 * int(signal.peak * 32_768) + 1} levels of 16 bits, -80 dBFS"
    gained = build(tmp_path, tmp_path / "m.parquet", gain=True).utterances()[0]
    assert gained.gain_bits == signal.best_gain == -math.ceil(math.log2(signal.peak)) - 1
    samples = load_utterance(gained.segment)
    assert 8_192 <= np.abs(samples.astype(int)).max() < 16_385

    def likeness(stored: np.ndarray) -> float:
        return float(np.corrcoef(stored, wave)[0, 1])

    assert likeness(load_utterance(segment)) < 0.95 and likeness(samples) > 0.9999999
    assert measure(gained.segment).remarks == {} and measure(gained.segment).best_gain == gained.gain_bits


def test_a_gain_of_the_manifest_stays_and_loud_audio_gets_no_column(tmp_path: Path) -> None:
    written(tmp_path, noise(RATE), "PCM_16")
    loud = build(tmp_path, tmp_path / "m.parquet", gain=True)
    assert "gain_bits" not in loud.table.column_names
    given = Manifest(loud.table.append_column("gain_bits", [[-3]]), loud.root)
    assert given.with_gains().table["gain_bits"].to_pylist() == [-3]


@pytest.mark.parametrize(
    ("channels", "cancels"),
    [
        (lambda voice: (voice, -voice), True),
        (lambda voice: (voice, -0.9 * voice), True),
        (lambda voice: (voice, voice), False),
        (lambda voice: (voice, noise(RATE, seed=1)), False),
        (lambda voice: (voice, 0 * voice), False),
    ],
)
def test_channels_that_cancel(tmp_path: Path, channels: object, cancels: bool) -> None:
    stereo = np.stack(channels(noise(RATE)), axis=1)  # type: ignore[operator]
    segment = written(tmp_path, stereo, "PCM_16")
    signal = measure(segment)
    mix, energy = (stereo.mean(axis=1) ** 2).sum(), (stereo**2).sum() / 2
    assert signal.mixed == 2 and signal.mix_energy == pytest.approx(mix / energy, abs=1e-3)
    assert ("cancels" in signal.remarks) == cancels
    one = Segment(segment.path, 0, RATE, RATE, channel=1)
    assert measure(one).mixed == 1 and "cancels" not in measure(one).remarks


def test_silence_has_no_level(tmp_path: Path) -> None:
    signal = measure(written(tmp_path, np.zeros(RATE), "PCM_16"))
    assert signal == Signal(0, 0) and signal.peak_dbfs == -math.inf and signal.best_gain == 0
    assert signal.remarks == {"silent": "silent: every sample is 0"}
