"""Augmentation: nothing moves, levels are what was asked for, and every draw is accounted for."""

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
from gdist.stages.train.acoustics import coloured_noise, convolve, gain, room_response
from gdist.stages.train.augment import KINDS, MISALIGNING, Augment, AugmentConfig, others_of, refuse_misaligning
from gdist.stages.train.config import load_config


@dataclass(frozen=True)
class TomlTables:
    augment: AugmentConfig


class Spoken:
    """A padded batch of the real utterances, three seconds of each at most."""

    def __init__(self, manifest: Path) -> None:
        utterances = Manifest.read(manifest).measured().utterances()
        pieces = []
        for u in utterances:
            assert u.num_samples and u.sample_rate
            pieces.append(to_float(load_utterance(u.path, u.start, u.num_samples, u.sample_rate))[: 3 * SAMPLE_RATE])
        self.wave = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True)
        self.lengths = torch.tensor([len(piece) for piece in pieces])

    def rows(self) -> list[tuple[int, int]]:
        return list(enumerate(self.lengths.tolist()))


@pytest.fixture(scope="module")
def spoken(speech: Path) -> Spoken:
    return Spoken(speech)


def heard(wave: Tensor, lengths: Tensor, seed: int = 0, speakers: list[str] | None = None, **config: Any) -> Tensor:
    return Augment(AugmentConfig(**config))(wave, lengths, Generator().manual_seed(seed), speakers)


def each(kinds: tuple[str, ...], share: float = 1.0) -> dict[str, Any]:
    return dict.fromkeys(kinds, share)


def decibels(own: Tensor, other: Tensor) -> float:
    return 10 * math.log10(float(own.double().square().mean() / other.double().square().mean()))


def lag(of: Tensor, against: Tensor) -> int:
    """By how many samples ``of`` is later than ``against``: where their cross-correlation peaks.

    Differenced first: in a voice as it is, the next pitch period is nearly as good a match.
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
    """Of each kind alone, and of all together."""

    def test_an_onset_stays_where_it_is(self, kinds: tuple[str, ...]) -> None:
        wave = torch.zeros(4, 9000)
        for row, onset in enumerate((0, 3200, 4801, 8999)):
            wave[row, onset] = 0.5
        for seed in range(5):
            result = heard(wave, torch.full((4,), 9000), seed, **each(kinds), noise_snr_db=(10, 20))
            assert result.abs().argmax(1).tolist() == [0, 3200, 4801, 8999]
            assert [lag(result[row], wave[row]) for row in range(4)] == [0, 0, 0, 0]
            if kinds == ("reverb",):  # … and nothing is heard before it, but for rounding
                assert result[1, :3200].abs().max() < 1e-6

    def test_speech_stays_where_it_is(self, kinds: tuple[str, ...], spoken: Spoken) -> None:
        result = heard(spoken.wave, spoken.lengths, **each(kinds))
        lags = [lag(result[row, :n], spoken.wave[row, :n]) for row, n in spoken.rows()]
        assert max(map(abs, lags)) <= 1  # of 320 in a frame; a strong first reflection comes a sample late
        assert lags.count(0) >= 0.9 * len(lags)

    def test_shape_padding_and_input(self, kinds: tuple[str, ...], spoken: Spoken) -> None:
        before = spoken.wave.clone()
        result = heard(spoken.wave, spoken.lengths, **each(kinds))
        assert result.shape == before.shape and result.dtype == before.dtype
        assert torch.equal(spoken.wave, before)
        assert all((result[row, n:] == 0).all() for row, n in spoken.rows())
        assert all(not torch.equal(result[row], before[row]) for row, _ in spoken.rows())

    def test_same_generator_same_result(self, kinds: tuple[str, ...], spoken: Spoken) -> None:
        first, again, other = (heard(spoken.wave, spoken.lengths, seed, **each(kinds)) for seed in (3, 3, 4))
        assert torch.equal(first, again) and not torch.equal(first, other)

    def test_a_row_is_its_own(self, kinds: tuple[str, ...], spoken: Spoken) -> None:
        """Neither the padding nor, but for the speech mixed in, the rest of the batch has a part in it."""
        config = each(kinds)
        whole = heard(spoken.wave, spoken.lengths, **config)
        padded = heard(torch.nn.functional.pad(spoken.wave, (0, 777)), spoken.lengths, **config)
        assert torch.equal(padded[:, :-777], whole)
        if "speech" not in kinds:
            other = torch.cat([spoken.wave[:5], spoken.wave[5:7].flip(0)])
            few = heard(other, torch.cat([spoken.lengths[:5], spoken.lengths[5:7].flip(0)]), **config)
            assert torch.equal(few[:5], whole[:5])

    def test_silence_and_lone_utterances(self, kinds: tuple[str, ...], spoken: Spoken) -> None:
        wave, lengths = spoken.wave.clone(), spoken.lengths.clone()
        wave[2], lengths[3], wave[3] = 0, 0, 0
        lengths[4], wave[4, 1:] = 1, 0  # a single sample
        result = heard(wave, lengths, **each(kinds))
        assert result.isfinite().all() and (result[2:4] == 0).all()
        alone = heard(spoken.wave[:1], spoken.lengths[:1], **each(kinds))
        assert torch.equal(alone, spoken.wave[:1]) == (kinds == ("speech",))

    def test_any_config_takes_the_same_draws(self, kinds: tuple[str, ...], spoken: Spoken) -> None:
        states = []
        for config in (each(()), each(kinds), each(kinds, 0.3)):
            generator = Generator().manual_seed(5)
            Augment(AugmentConfig(**config))(spoken.wave, spoken.lengths, generator)
            states.append(generator.get_state())
        assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])


def test_off_is_off(spoken: Spoken) -> None:
    assert torch.equal(heard(spoken.wave, spoken.lengths), spoken.wave)
    assert not AugmentConfig().enabled and all(AugmentConfig(**each((kind,), 0.1)).enabled for kind in KINDS)


def test_one_kind_leaves_anothers_draws_alone(spoken: Spoken) -> None:
    """The noise an utterance gets, and whether it does, is the same with another's speech before it."""
    snr: dict[str, Any] = {"noise": 0.5, "noise_snr_db": (5, 5)}
    noise = heard(spoken.wave, spoken.lengths, **snr) - spoken.wave
    speech = heard(spoken.wave, spoken.lengths, speech=0.5)
    both = heard(spoken.wave, spoken.lengths, speech=0.5, **snr)
    torch.testing.assert_close(both, speech + noise, atol=1e-6, rtol=0)
    touched = noise.abs().amax(1) > 0
    assert 5 < int(touched.sum()) < 25
    more = heard(spoken.wave, spoken.lengths, noise=0.8, noise_snr_db=(5, 5)) - spoken.wave
    assert torch.equal(more[touched], noise[touched])  # a larger share adds utterances and changes none


def test_shares(spoken: Spoken) -> None:
    wave, lengths = spoken.wave[:1, :400].repeat(2000, 1), torch.full((2000,), 400)
    changed = (heard(wave, lengths, noise=0.3) != wave).any(1).float().mean()
    assert abs(float(changed) - 0.3) < 0.04  # four standard deviations


# --- levels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 12.3, 20.0])
def test_noise_level(snr_db: float, spoken: Spoken) -> None:
    result = heard(spoken.wave, spoken.lengths, noise=1.0, noise_snr_db=(snr_db, snr_db))
    for row, n in spoken.rows():
        own = spoken.wave[row, :n]
        assert decibels(own, result[row, :n] - own) == pytest.approx(snr_db, abs=0.1)


@given(low=st.floats(-10, 20), width=st.floats(0, 20), seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_noise_level_lies_in_its_range(low: float, width: float, seed: int) -> None:
    wave = torch.randn(1, 4000, generator=Generator().manual_seed(seed)) * 0.1
    result = heard(wave, torch.tensor([4000]), seed, noise=1.0, noise_snr_db=(low, low + width))
    assert low - 0.1 <= decibels(wave, result - wave) <= low + width + 0.1


@pytest.mark.parametrize("snr_db", [-5.0, 5.0])
def test_speech_level_and_share(snr_db: float) -> None:
    """A row's samples are near a number of its own, so what was mixed in says whose it is."""
    wave = torch.arange(1.0, 7)[:, None] + 0.01 * torch.randn(6, 8000, generator=Generator().manual_seed(0))
    lengths = torch.tensor([8000, 8000, 6000, 5000, 4000, 900])
    wave *= torch.arange(8000) < lengths[:, None]
    covers = []
    for seed in range(20):
        result = heard(wave, lengths, seed, speech=1.0, speech_snr_db=(snr_db, snr_db))
        for row, n in enumerate(lengths.tolist()):
            added = result[row] - wave[row]
            (covered,) = torch.nonzero(added, as_tuple=True)
            first, last = int(covered[0]), int(covered[-1])
            covers.append((last - first + 1) / n)
            assert len(covered) >= 0.99 * (last - first + 1)  # one stretch
            assert decibels(wave[row, first : last + 1], added[first : last + 1]) == pytest.approx(snr_db, abs=0.1)
    assert max(covers) <= 0.5 and max(covers) > 0.45 and min(covers) < 0.1


def test_speech_is_of_another_speaker(spoken: Spoken) -> None:
    """By hand: rows 0 and 2 are Ann's, nobody knows whose row 3 is, and row 4 is empty."""
    speakers, lengths = ["ann", "bob", "ann", None, "eve"], [9, 9, 9, 9, 0]
    assert [others_of(row, lengths, speakers) for row in range(4)] == [[1, 3], [0, 2, 3], [1, 3], [0, 1, 2]]
    assert others_of(1, lengths) == [0, 2, 3]
    # Each row is a tone of its own: what was added says whose it is.
    wave = torch.cos(2 * math.pi * 400 * torch.arange(1, 5)[:, None] * torch.arange(8000) / SAMPLE_RATE)
    met = set()
    for seed in range(10):
        added = heard(wave, torch.full((4,), 8000), seed, ["ann", "bob", "ann", "bob"], speech=1.0) - wave
        for row in range(4):
            (covered,) = torch.nonzero(added[row], as_tuple=True)
            if len(covered) > 400:
                tone = int(torch.fft.rfft(added[row]).abs().argmax()) * SAMPLE_RATE / 8000
                met.add((row, round(tone / 400) - 1))
    assert met == {(0, 1), (0, 3), (1, 0), (1, 2), (2, 1), (2, 3), (3, 0), (3, 2)}
    # Of a single speaker there is nobody to mix with.
    same = heard(spoken.wave, spoken.lengths, speakers=["ann"] * len(spoken.wave), speech=1.0)
    assert torch.equal(same, spoken.wave)


def test_reverb_keeps_the_dry_power(spoken: Spoken) -> None:
    result = heard(spoken.wave, spoken.lengths, reverb=1.0)
    for row, n in spoken.rows():
        assert decibels(result[row, :n], spoken.wave[row, :n]) == pytest.approx(0, abs=0.01)


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
def test_noise_has_its_colour(exponent: int) -> None:
    noise = coloured_noise(1 << 18, exponent, Generator().manual_seed(0)).double()
    power = torch.fft.rfft(noise).abs().square()
    per_hertz = len(noise) / SAMPLE_RATE

    def octave(low: float) -> float:
        return float(power[int(low * per_hertz) : int(2 * low * per_hertz)].mean())

    fall = 10 * math.log10(octave(250) / octave(2000)) / 3
    assert fall == pytest.approx(10 * math.log10(2) * exponent, abs=0.3)  # dB an octave
    assert exponent == 0 or float(power[: int(45 * per_hertz)].sum() / power.sum()) < 1e-3


def test_recorded_noise(recorded: Callable[..., str]) -> None:
    """A stretch of the recording, at 16 kHz; a short one goes round."""
    ramp, short = np.linspace(0.1, 0.9, 80_000), np.sin(2 * np.pi * np.arange(1600) / 16)
    path = recorded(ramp=(ramp, 16_000), short=(short, 16_000))
    wave, lengths = torch.randn(12, 8000, generator=Generator().manual_seed(2)), torch.full((12,), 8000)
    result = heard(wave, lengths, noise=1.0, noise_snr_db=(3, 3), noise_manifest=path) - wave
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
    again = heard(wave, lengths, noise=1.0, noise_snr_db=(3, 3), noise_manifest=path) - wave
    assert torch.equal(again, result)


def test_recorded_noise_of_another_rate(recorded: Callable[..., str]) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100)
    path = recorded(tone=(np.stack([tone, tone], 1), 44_100))
    result = heard(
        torch.randn(1, 16_000), torch.tensor([16_000]), noise=1.0, noise_snr_db=(-60, -60), noise_manifest=path
    )
    assert int(torch.fft.rfft(result[0]).abs().argmax()) == 440


def test_recorded_rooms_are_cut_at_their_peak(recorded: Callable[..., str]) -> None:
    """By hand: 0.1, 0.2, then −0.8 and 0.4 are a direct sound of 1 and a reflection of −0.5, whatever came before."""
    path = recorded(hall=([0.1, 0.2, -0.8, 0.0, 0.4], 16_000))
    wave = torch.zeros(1, 600)
    wave[0, 100] = 0.5
    result = heard(wave, torch.tensor([600]), reverb=1.0, reverb_manifest=path)[0]
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
            heard(wave, lengths, **config)
        return caught.value

    assert isinstance(failure(noise=0.01, noise_manifest="no/such.parquet"), ManifestError)  # drawn or not
    heard(wave, lengths, noise=1.0, reverb_manifest="no/such.parquet")  # a manifest nobody needs is not read
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
def test_what_moves_frames_is_refused(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_misaligning({"noise": 0.5, name: 0.1})
    assert caught.value.message.startswith(f"augment.{name}: would move frames against the cached targets")
    assert caught.value.hint == "what keeps frames in place: augment.speech, augment.reverb, augment.noise"


def test_what_keeps_them_is_not() -> None:
    assignments = tuple(f"augment.{name}={json.dumps(value)}" for name, value in vars(AugmentConfig()).items())
    assert load_config(None, None, assignments).augment == AugmentConfig()
    with pytest.raises(ConfigError, match=r"did you mean `augment\.noise`"):
        load_config(None, None, ("augment.nosie=0.1",))
