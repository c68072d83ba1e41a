"""Sample ↔ frame arithmetic against brute force, against what front-ends do, and against torchaudio."""

from typing import Any

import numpy as np
import pytest
import torch
import torchaudio.functional
from framings import FRAMINGS
from hypothesis import given
from hypothesis import strategies as st

from gdist.pipeline.framing import SAMPLE_RATE, WAV2VEC2, Framing, resampled_length

KNOWN = [framing for framing, _ in FRAMINGS.values()]


@st.composite
def framings(draw: st.DrawFn) -> Framing:
    """One that a teacher has, or any other that is possible."""
    if draw(st.booleans()):
        return draw(st.sampled_from(KNOWN))
    hop, window = draw(st.integers(1, 700)), draw(st.integers(1, 1500))
    left = draw(st.integers(0, window - 1))
    right = draw(st.integers(0, window - 1 - left))
    least = draw(st.integers(0, window - left - right + hop - 1))
    return Framing(hop, window, left, right, least)


def counted(framing: Framing, samples: int) -> int:
    """The windows that lie within an utterance and its padding, one by one."""
    frames = 0
    while frames * framing.hop - framing.left + framing.window <= samples + framing.right:
        frames += 1
    return frames if samples >= framing.least else 0


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (399, 0), (400, 1), (719, 1), (720, 2), (16_000, 49)])
def test_the_worked_example(samples: int, frames: int) -> None:
    assert WAV2VEC2.num_frames(samples) == frames


@pytest.mark.parametrize(("samples", "frames"), [(159, 0), (160, 1), (479, 1), (480, 2), (480_000, 1500)])
def test_the_worked_example_of_whisper(samples: int, frames: int) -> None:
    assert FRAMINGS["whisper"][0].num_frames(samples) == frames


@given(st.sampled_from([*FRAMINGS]), st.integers(0, SAMPLE_RATE * 40))
def test_num_frames_is_what_the_front_end_gives(name: str, samples: int) -> None:
    framing, expected = FRAMINGS[name]
    assert framing.num_frames(samples) == expected(samples)


@given(framings(), st.integers(0, 5_000))
def test_num_frames_counts_the_windows(framing: Framing, samples: int) -> None:
    assert framing.num_frames(samples) == counted(framing, samples)
    assert (framing.num_frames(samples) > 0) == (samples >= framing.fewest)


@given(framings(), st.lists(st.integers(0, 500_000), min_size=1, max_size=9))
def test_of_many_at_once(framing: Framing, samples: list[int]) -> None:
    """The same for numbers, arrays and tensors, each in its own kind."""
    one_by_one = [framing.num_frames(n) for n in samples]
    array, tensor = framing.num_frames(np.array(samples)), framing.num_frames(torch.tensor(samples))
    assert all(type(n) is int for n in one_by_one)
    assert array.dtype == np.int64 and tensor.dtype == torch.int64
    assert array.tolist() == tensor.tolist() == one_by_one
    rows = [framing.num_rows(n) for n in samples]
    assert framing.num_rows(np.array(samples)).tolist() == framing.num_rows(torch.tensor(samples)).tolist() == rows


@given(framings(), st.integers(1, 3_000))
def test_num_samples_for_is_the_minimum(framing: Framing, frames: int) -> None:
    least = framing.num_samples_for(frames)
    assert framing.num_frames(least) == frames
    assert framing.num_frames(least - 1) == frames - 1
    assert framing.num_samples_for(0) == 0


@given(framings(), st.integers(0, SAMPLE_RATE * 40))
def test_rows_hold_the_waveform_and_as_many_as_its_frames(framing: Framing, samples: int) -> None:
    rows = framing.num_rows(samples)
    assert rows * framing.hop >= samples > (rows - 1) * framing.hop
    assert rows >= framing.num_frames(samples)


@given(framings(), st.integers(0, 2_000), st.integers(1, 500))
def test_a_crop_yields_its_frames(framing: Framing, start_frame: int, frames: int) -> None:
    start, stop = framing.crop_samples(start_frame, frames)
    assert start == start_frame * framing.hop
    assert framing.num_frames(stop - start) == frames
    assert framing.num_frames(stop) == start_frame + frames


@given(framings(), st.integers(1, 40_000), st.data())
def test_a_tail_yields_its_frames(framing: Framing, samples: int, data: st.DataObject) -> None:
    """From any frame to the end of the utterance, unless these are too few."""
    total = framing.num_frames(samples)
    if total <= framing.fewest_of_a_tail:
        return
    first = data.draw(st.integers(0, total - framing.fewest_of_a_tail))
    assert framing.num_frames(samples - first * framing.hop) == total - first


def test_frames_per_second() -> None:
    assert [framing.frames_per_second for framing in KNOWN] == [50, 50, 50, 25, 50]


@given(framings())
def test_it_is_stored_and_read_back(framing: Framing) -> None:
    assert Framing.from_dict(framing.to_dict()) == framing


STORED = WAV2VEC2.to_dict()


@pytest.mark.parametrize(
    "stored",
    [
        None, 320, "320", [320, 400, 0, 0, 0, 0], {}, {"hop": 320}, STORED | {"more": 1}, {1: 2},
        *(STORED | {"hop": hop} for hop in (0, -1, "320", 320.0, True, None, [320], float("nan"), 10**12)),
        STORED | {"left": 400}, STORED | {"left": 200, "right": 200}, STORED | {"least": 720},
        STORED | {"longest": 399}, STORED | {"longest": -1},
    ],
)  # fmt: skip
def test_what_is_none(stored: Any) -> None:
    with pytest.raises(ValueError, match=r"must|is no larger|one frame takes"):
        Framing.from_dict(stored)


@given(st.integers(1, 30_000), st.sampled_from([8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000]))
def test_resampled_length_is_torchaudios(samples: int, rate: int) -> None:
    resampled = torchaudio.functional.resample(torch.zeros(samples), rate, 16_000)
    assert resampled_length(samples, rate) == len(resampled)
