"""Augmentation: nothing moves, levels are as configured, and every draw is reproducible."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor
from torchaudio.functional import fftconvolve

from gdist.pipeline.audio import load_utterance, to_float
from gdist.pipeline.config import build, parse_set
from gdist.pipeline.errors import AudioError, ConfigError, GdistError, ManifestError
from gdist.pipeline.framing import SAMPLE_RATE
from gdist.pipeline.manifest.table import Manifest
from gdist.stages.train.acoustics import colored_noise, convolve, gain, room_response
from gdist.stages.train.augment import KINDS, MISALIGNING, Augment, AugmentConfig, others_of, refuse_misaligning
from gdist.stages.train.config import load_config


@dataclass(frozen=True)
class TomlTables:
    augment: AugmentConfig


class SpeechBatch:
    """A padded batch of the real utterances, at most three seconds of each."""

    def __init__(self, manifest: Path) -> None:
        utterances = Manifest.read(manifest).measured().utterances()
        pieces = []
        for u in utterances:
            assert u.num_samples and u.sample_rate
            pieces.append(to_float(load_utterance(u.segment))[: 3 * SAMPLE_RATE])
        self.wave = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True)
        self.lengths = torch.tensor([len(piece) for piece in pieces])

    def rows(self) -> list[tuple[int, int]]:
        return list(enumerate(self.lengths.tolist()))


@pytest.fixture(scope="module")
def speech_batch(speech: Path) -> SpeechBatch:
    return SpeechBatch(speech)


def augmented(
    wave: Tensor, lengths: Tensor, seed: int = 0, speakers: list[str] | None = None, **config: Any
) -> Tensor:
    return Augment(AugmentConfig(**config))(wave, lengths, Generator().manual_seed(seed), speakers)


def each(kinds: tuple[str, ...], share: float = 1.0) -> dict[str, Any]:
    return dict.fromkeys(kinds, share)


def decibels(own: Tensor, other: Tensor) -> float:
    return 10 * math.log10(float(own.double().square().mean() / other.double().square().mean()))


def lag(of: Tensor, against: Tensor) -> int:
    """By how many samples ``of`` is later than ``against``: where their cross-correlation peaks.

    The signals are differenced first: otherwise a voice matches nearly as well one pitch period later.
    """
    correlation = fftconvolve(of.double().diff(), against.double().diff().flip(0))
    return int(correlation.argmax()) - (len(against) - 2)


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., str]:
    """A manifest of WAV files: ``recorded(hum=(samples, 8000), …)``."""

    def write(**files: tuple[Any, int]) -> str:
        for name, (samples, rate) in files.items():
            soundfile.write(tmp_path / f"{name}.wav", np.asarray(samples), rate, subtype="FLOAT")
        table = pa.table({"id": list(files), "path": [f"{name}.wav" for name in files]})
        Manifest(table, str(tmp_path)).write(tmp_path / "recorded.parquet")
        return str(tmp_path / "recorded.parquet")

    return write


# --- nothing moves ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [("noise",), ("speech",), ("reverb",), KINDS], ids="+".join)
class TestConformance:
    """Each kind alone, and all together."""

    def test_an_onset_stays_where_it_is(self, kinds: tuple[str, ...]) -> None:
        wave = torch.zeros(4, 9000)
        for row, onset in enumerate((0, 3200, 4801, 8999)):
            wave[row, onset] = 0.5
        for seed in range(5):
            result = augmented(wave, torch.full((4,), 9000), seed, **each(kinds), noise_snr_db=(10, 20))
            assert result.abs().argmax(1).tolist() == [0, 3200, 4801, 8999]
            assert [lag(result[row], wave[row]) for row in range(4)] == [0, 0, 0, 0]
            if kinds == ("reverb",):  # … and there is nothing before it, except rounding errors
                assert result[1, :3200].abs().max() < 1e-6

    def test_speech_stays_where_it_is(self, kinds: tuple[str, ...], speech_batch: SpeechBatch) -> None:
        result = augmented(speech_batch.wave, speech_batch.lengths, **each(kinds))
        lags = [lag(result[row, :n], speech_batch.wave[row, :n]) for row, n in speech_batch.rows()]
        # A strong first reflection may move the peak by one sample, of 320 per frame.
        assert max(map(abs, lags)) <= 1
        assert lags.count(0) >= 0.9 * len(lags)

    def test_shape_padding_and_input(self, kinds: tuple[str, ...], speech_batch: SpeechBatch) -> None:
        before = speech_batch.wave.clone()
        result = augmented(speech_batch.wave, speech_batch.lengths, **each(kinds))
        assert result.shape == before.shape and result.dtype == before.dtype
        assert torch.equal(speech_batch.wave, before)
        assert all((result[row, n:] == 0).all() for row, n in speech_batch.rows())
        assert all(not torch.equal(result[row], before[row]) for row, _ in speech_batch.rows())

    def test_same_generator_same_result(self, kinds: tuple[str, ...], speech_batch: SpeechBatch) -> None:
        first, again, other = (
            augmented(speech_batch.wave, speech_batch.lengths, seed, **each(kinds)) for seed in (3, 3, 4)
        )
        assert torch.equal(first, again) and not torch.equal(first, other)

    def test_a_row_is_independent(self, kinds: tuple[str, ...], speech_batch: SpeechBatch) -> None:
        """The padding has no effect, and neither has the rest of the batch, except for the speech mixed in."""
        config = each(kinds)
        whole = augmented(speech_batch.wave, speech_batch.lengths, **config)
        padded = augmented(torch.nn.functional.pad(speech_batch.wave, (0, 777)), speech_batch.lengths, **config)
        assert torch.equal(padded[:, :-777], whole)
        if "speech" not in kinds:
            other = torch.cat([speech_batch.wave[:5], speech_batch.wave[5:7].flip(0)])
            few = augmented(other, torch.cat([speech_batch.lengths[:5], speech_batch.lengths[5:7].flip(0)]), **config)
            assert torch.equal(few[:5], whole[:5])

    def test_silence_and_lone_utterances(self, kinds: tuple[str, ...], speech_batch: SpeechBatch) -> None:
        wave, lengths = speech_batch.wave.clone(), speech_batch.lengths.clone()
        wave[2], lengths[3], wave[3] = 0, 0, 0
        lengths[4], wave[4, 1:] = 1, 0  # a single sample
        result = augmented(wave, lengths, **each(kinds))
        assert result.isfinite().all() and (result[2:4] == 0).all()
        alone = augmented(speech_batch.wave[:1], speech_batch.lengths[:1], **each(kinds))
        assert torch.equal(alone, speech_batch.wave[:1]) == (kinds == ("speech",))

    def test_any_config_takes_the_same_draws(self, kinds: tuple[str, ...], speech_batch: SpeechBatch) -> None:
        states = []
        for config in (each(()), each(kinds), each(kinds, 0.3)):
            generator = Generator().manual_seed(5)
            Augment(AugmentConfig(**config))(speech_batch.wave, speech_batch.lengths, generator)
            states.append(generator.get_state())
        assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])


def test_off_is_off(speech_batch: SpeechBatch) -> None:
    assert torch.equal(augmented(speech_batch.wave, speech_batch.lengths), speech_batch.wave)
    assert not AugmentConfig().enabled and all(AugmentConfig(**each((kind,), 0.1)).enabled for kind in KINDS)


def test_one_kind_does_not_change_anothers_draws(speech_batch: SpeechBatch) -> None:
    """Whether an utterance gets noise, and which, is the same when speech is mixed in before."""
    snr: dict[str, Any] = {"noise": 0.5, "noise_snr_db": (5, 5)}
    noise = augmented(speech_batch.wave, speech_batch.lengths, **snr) - speech_batch.wave
    speech = augmented(speech_batch.wave, speech_batch.lengths, speech=0.5)
    both = augmented(speech_batch.wave, speech_batch.lengths, speech=0.5, **snr)
    torch.testing.assert_close(both, speech + noise, atol=1e-6, rtol=0)
    touched = noise.abs().amax(1) > 0
    assert 5 < int(touched.sum()) < 25
    more = augmented(speech_batch.wave, speech_batch.lengths, noise=0.8, noise_snr_db=(5, 5)) - speech_batch.wave
    assert torch.equal(more[touched], noise[touched])  # a larger share adds utterances and changes none


def test_shares(speech_batch: SpeechBatch) -> None:
    wave, lengths = speech_batch.wave[:1, :400].repeat(2000, 1), torch.full((2000,), 400)
    changed = (augmented(wave, lengths, noise=0.3) != wave).any(1).float().mean()
    assert abs(float(changed) - 0.3) < 0.04  # four standard deviations


# --- levels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 12.3, 20.0])
def test_noise_level(snr_db: float, speech_batch: SpeechBatch) -> None:
    result = augmented(speech_batch.wave, speech_batch.lengths, noise=1.0, noise_snr_db=(snr_db, snr_db))
    for row, n in speech_batch.rows():
        own = speech_batch.wave[row, :n]
        assert decibels(own, result[row, :n] - own) == pytest.approx(snr_db, abs=0.1)


@given(low=st.floats(-10, 20), width=st.floats(0, 20), seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_noise_level_lies_in_its_range(low: float, width: float, seed: int) -> None:
    wave = torch.randn(1, 4000, generator=Generator().manual_seed(seed)) * 0.1
    result = augmented(wave, torch.tensor([4000]), seed, noise=1.0, noise_snr_db=(low, low + width))
    assert low - 0.1 <= decibels(wave, result - wave) <= low + width + 0.1


@pytest.mark.parametrize("snr_db", [-5.0, 5.0])
def test_speech_level_and_share(snr_db: float) -> None:
    """Each row's samples are near a different number, so what was mixed in shows which row it came from."""
    wave = torch.arange(1.0, 7)[:, None] + 0.01 * torch.randn(6, 8000, generator=Generator().manual_seed(0))
    lengths = torch.tensor([8000, 8000, 6000, 5000, 4000, 900])
    wave *= torch.arange(8000) < lengths[:, None]
    covers = []
    for seed in range(20):
        result = augmented(wave, lengths, seed, speech=1.0, speech_snr_db=(snr_db, snr_db))
        for row, n in enumerate(lengths.tolist()):
            added = result[row] - wave[row]
            (covered,) = torch.nonzero(added, as_tuple=True)
            first, last = int(covered[0]), int(covered[-1])
            covers.append((last - first + 1) / n)
            assert len(covered) >= 0.99 * (last - first + 1)  # one contiguous part
            assert decibels(wave[row, first : last + 1], added[first : last + 1]) == pytest.approx(snr_db, abs=0.1)
    assert max(covers) <= 0.5 and max(covers) > 0.45 and min(covers) < 0.1


def test_speech_is_of_another_speaker(speech_batch: SpeechBatch) -> None:
    """By hand: rows 0 and 2 are Ann's, the speaker of row 3 is unknown, and row 4 is empty."""
    speakers, lengths = ["ann", "bob", "ann", None, "eve"], [9, 9, 9, 9, 0]
    assert [others_of(row, lengths, speakers) for row in range(4)] == [[1, 3], [0, 2, 3], [1, 3], [0, 1, 2]]
    assert others_of(1, lengths) == [0, 2, 3]
    # Each row is a different tone, so what was added shows which row it came from.
    wave = torch.cos(2 * math.pi * 400 * torch.arange(1, 5)[:, None] * torch.arange(8000) / SAMPLE_RATE)
    met = set()
    for seed in range(10):
        added = augmented(wave, torch.full((4,), 8000), seed, ["ann", "bob", "ann", "bob"], speech=1.0) - wave
        for row in range(4):
            (covered,) = torch.nonzero(added[row], as_tuple=True)
            if len(covered) > 400:
                tone = int(torch.fft.rfft(added[row]).abs().argmax()) * SAMPLE_RATE / 8000
                met.add((row, round(tone / 400) - 1))
    assert met == {(0, 1), (0, 3), (1, 0), (1, 2), (2, 1), (2, 3), (3, 0), (3, 2)}
    # With a single speaker, there is no other speaker to mix in.
    same = augmented(speech_batch.wave, speech_batch.lengths, speakers=["ann"] * len(speech_batch.wave), speech=1.0)
    assert torch.equal(same, speech_batch.wave)


def test_reverb_keeps_the_dry_power(speech_batch: SpeechBatch) -> None:
    result = augmented(speech_batch.wave, speech_batch.lengths, reverb=1.0)
    for row, n in speech_batch.rows():
        assert decibels(result[row, :n], speech_batch.wave[row, :n]) == pytest.approx(0, abs=0.01)


def test_gain_by_hand() -> None:
    own, other = torch.full((3,), 2.0), torch.tensor([1.0, -1.0, 1.0])
    assert [float(gain(own, other, snr)) for snr in (0, 20)] == pytest.approx([2.0, 0.2])
    silence = torch.zeros(3)
    assert [float(gain(a, b, 0)) for a, b in ((own, silence), (silence, own), (silence, silence))] == [0, 0, 0]


# --- sounds -----------------------------------------------------------------------------------------------------


@given(length=st.integers(1, 12000), response=st.integers(1, 3000), seed=st.integers(0, 99))
@example(length=12_000, response=3000, seed=0)  # several blocks, each with a tail
@settings(max_examples=30, deadline=None)
def test_convolution_by_blocks(length: int, response: int, seed: int) -> None:
    generator = Generator().manual_seed(seed)
    wave, room = torch.randn(length, generator=generator), torch.randn(response, generator=generator)
    whole = fftconvolve(wave.double(), room.double())[:length].float()
    torch.testing.assert_close(convolve(wave, room), whole, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("rt60", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("drr_db", [0.0, 10.0])
def test_a_synthetic_room(rt60: float, drr_db: float) -> None:
    response = room_response(rt60, drr_db, Generator().manual_seed(1)).double()
    assert response[0] == 1 and response[1:].abs().max() < 1
    assert 10 * math.log10(1 / float(response[1:].square().sum())) == pytest.approx(drr_db, abs=0.01)
    # Schroeder's backward integral, from −5 to −25 dB, times three: the way RT60 is measured.
    decay_db = 10 * response[1:].square().flip(0).cumsum(0).flip(0).log10()
    decay_db -= decay_db[0].clone()
    seconds = (int((decay_db < -25).nonzero()[0]) - int((decay_db < -5).nonzero()[0])) / SAMPLE_RATE
    assert 3 * seconds == pytest.approx(rt60, rel=0.15)


@pytest.mark.parametrize("exponent", [0, 1, 2])
def test_noise_has_its_color(exponent: int) -> None:
    noise = colored_noise(1 << 18, exponent, Generator().manual_seed(0)).double()
    power = torch.fft.rfft(noise).abs().square()
    per_hertz = len(noise) / SAMPLE_RATE

    def octave(low: float) -> float:
        return float(power[int(low * per_hertz) : int(2 * low * per_hertz)].mean())

    fall = 10 * math.log10(octave(250) / octave(2000)) / 3
    assert fall == pytest.approx(10 * math.log10(2) * exponent, abs=0.3)  # dB per octave
    assert exponent == 0 or float(power[: int(45 * per_hertz)].sum() / power.sum()) < 1e-3


def test_recorded_noise(recorded: Callable[..., str]) -> None:
    """An excerpt of the recording, at 16 kHz; a short recording is repeated."""
    ramp, short = np.linspace(0.1, 0.9, 80_000), np.sin(2 * np.pi * np.arange(1600) / 16)
    path = recorded(ramp=(ramp, 16_000), short=(short, 16_000))
    wave, lengths = torch.randn(12, 8000, generator=Generator().manual_seed(2)), torch.full((12,), 8000)
    result = augmented(wave, lengths, noise=1.0, noise_snr_db=(3, 3), noise_manifest=path) - wave
    kinds = set()
    for row in range(12):
        assert decibels(wave[row], result[row]) == pytest.approx(3, abs=0.1)
        steps = result[row].diff()
        kinds.add("ramp" if (result[row] > 0).all() else "short")
        if (result[row] > 0).all():
            assert steps.max() < 1e-3
        else:
            torch.testing.assert_close(result[row, 1600:], result[row, :-1600], atol=1e-5, rtol=0)
    assert kinds == {"ramp", "short"}
    again = augmented(wave, lengths, noise=1.0, noise_snr_db=(3, 3), noise_manifest=path) - wave
    assert torch.equal(again, result)


def test_recorded_noise_of_another_rate(recorded: Callable[..., str]) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100)
    path = recorded(tone=(np.stack([tone, tone], 1), 44_100))
    result = augmented(
        torch.randn(1, 16_000), torch.tensor([16_000]), noise=1.0, noise_snr_db=(-60, -60), noise_manifest=path
    )
    assert int(torch.fft.rfft(result[0]).abs().argmax()) == 440


def test_recorded_rooms_are_cut_at_their_peak(recorded: Callable[..., str]) -> None:
    """By hand: 0.1, 0.2, then −0.8 and 0.4 are a direct sound of 1 and a reflection of −0.5, whatever came before."""
    path = recorded(hall=([0.1, 0.2, -0.8, 0.0, 0.4], 16_000))
    wave = torch.zeros(1, 600)
    wave[0, 100] = 0.5
    result = augmented(wave, torch.tensor([600]), reverb=1.0, reverb_manifest=path)[0]
    assert int(result.abs().argmax()) == 100
    assert (result / result[100])[99:104].tolist() == pytest.approx([0, 1, 0, -0.5, 0], abs=1e-3)
    assert float(result.square().sum()) == pytest.approx(0.25, rel=1e-3)


def test_rooms_are_decoded_once(recorded: Callable[..., str], tmp_path: Path) -> None:
    path = recorded(hall=([1.0, 0.0, 0.4], 16_000))
    augment = Augment(AugmentConfig(reverb=1.0, reverb_manifest=path))
    wave, lengths = torch.randn(2, 500), torch.tensor([500, 500])
    first = augment(wave, lengths, Generator())
    (tmp_path / "hall.wav").unlink()
    assert torch.equal(augment(wave, lengths, Generator()), first)


def test_bad_recordings(recorded: Callable[..., str], tmp_path: Path) -> None:
    wave, lengths = torch.randn(1, 500), torch.tensor([500])

    def failure(**config: Any) -> GdistError:
        with pytest.raises(GdistError) as caught:
            augmented(wave, lengths, **config)
        return caught.value

    assert isinstance(failure(noise=0.01, noise_manifest="no/such.parquet"), ManifestError)  # drawn or not
    augmented(
        wave, lengths, noise=1.0, reverb_manifest="no/such.parquet"
    )  # a manifest that is not needed is not read
    path = recorded(empty=([], 16_000))
    empty = failure(reverb=0.01, reverb_manifest=path)
    assert (
        isinstance(empty, ManifestError) and empty.message == f"augment.reverb_manifest = {path}: empty: no samples"
    )
    silent = failure(reverb=1.0, reverb_manifest=recorded(silent=(np.zeros(9), 16_000)))
    assert isinstance(silent, AudioError) and "silent.wav" in silent.message
    path = recorded(gone=(np.ones(9), 16_000))
    (tmp_path / "gone.wav").unlink()
    gone = failure(noise=0.01, noise_manifest=path)
    assert isinstance(gone, ManifestError) and "gone: file not found" in gone.message
    with pytest.raises(ManifestError):
        Augment(AugmentConfig(noise=0.1, noise_manifest="no/such.parquet")).prepare()


# --- the config -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {"noise": 1.5},
        {"speech": -0.1},
        {"reverb": math.nan},
        {"speech_share": 0.0},
        {"noise_snr_db": (10.0, 0.0)},
        {"noise_snr_db": (10.0,)},
        {"speech_snr_db": (0.0, math.inf)},
        {"reverb_rt60": (0.0, 0.5)},
        {"reverb_drr_db": ()},
    ],
)
def test_bad_config(config: dict[str, Any]) -> None:
    (name,) = config
    with pytest.raises(ConfigError, match=f"^augment.{name} = "):
        AugmentConfig(**config)


def test_config_from_tables() -> None:
    read = dict(parse_set(text)[1:] for text in ("augment.noise=1", "augment.noise_snr_db=[5, 10]"))
    assert build(TomlTables, {"augment": read}).augment == AugmentConfig(noise=1.0, noise_snr_db=(5.0, 10.0))
    with pytest.raises(ConfigError, match=r"did you mean `augment.noise_snr_db`\?"):
        build(TomlTables, {"augment": {"noise_snr": [5, 10]}})


@pytest.mark.parametrize("name", [*MISALIGNING, "speed_perturb", "time_stretch", "Pitch_Shift"])
def test_fields_that_move_frames_are_refused(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_misaligning({"noise": 0.5, name: 0.1})
    assert caught.value.message.startswith(f"augment.{name}: would move frames relative to the cached targets")
    assert caught.value.hint == "these keep frames in place: augment.speech, augment.reverb, augment.noise"


def test_fields_that_keep_frames_in_place_are_accepted() -> None:
    assignments = tuple(f"augment.{name}={json.dumps(value)}" for name, value in vars(AugmentConfig()).items())
    assert load_config(None, None, assignments).augment == AugmentConfig()
    with pytest.raises(ConfigError, match=r"did you mean `augment\.noise`"):
        load_config(None, None, ("augment.nosie=0.1",))
