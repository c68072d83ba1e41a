"""Sample ↔ frame arithmetic against brute force and against torchaudio."""

import pytest
import torch
import torchaudio.functional
from hypothesis import given
from hypothesis import strategies as st

from gdist.pipeline.framing import (
    HOP,
    RECEPTIVE_FIELD,
    crop_samples,
    num_frames,
    num_rows,
    num_samples_for,
    resampled_length,
)

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)  # wav2vec 2.0, HuBERT and WavLM alike
lengths = st.integers(0, 16_000 * 40)


def walked(num_samples: int) -> int:
    """The length after each convolution in turn, as torch computes it."""
    for kernel, stride in zip(KERNELS, STRIDES, strict=True):
        num_samples = max((num_samples - kernel) // stride + 1, 0)
    return num_samples


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (399, 0), (400, 1), (719, 1), (720, 2), (16_000, 49)])
def test_the_worked_example(samples: int, frames: int) -> None:
    assert num_frames(samples) == frames == walked(samples)


@given(lengths)
def test_num_frames_is_the_length_after_seven_convolutions(samples: int) -> None:
    assert num_frames(samples) == walked(samples)


@given(st.integers(1, 3_000))
def test_num_samples_for_is_the_minimum(frames: int) -> None:
    least = num_samples_for(frames)
    assert num_frames(least) == frames
    assert num_frames(least - 1) == frames - 1


@given(lengths)
def test_rows_hold_the_waveform(samples: int) -> None:
    rows = num_rows(samples)
    assert rows * HOP >= samples > (rows - 1) * HOP
    assert samples < RECEPTIVE_FIELD or 1 <= rows - num_frames(samples) <= 2


@given(st.integers(0, 2_000), st.integers(1, 500))
def test_a_crop_yields_its_frames(start_frame: int, frames: int) -> None:
    start, stop = crop_samples(start_frame, frames)
    assert start == start_frame * HOP
    assert num_frames(stop - start) == frames
    assert num_frames(stop) == start_frame + frames


@given(st.integers(1, 30_000), st.sampled_from([8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000]))
def test_resampled_length_is_torchaudios(samples: int, rate: int) -> None:
    resampled = torchaudio.functional.resample(torch.zeros(samples), rate, 16_000)
    assert resampled_length(samples, rate) == len(resampled)
