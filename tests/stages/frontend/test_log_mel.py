"""Whisper's front-end: equal to transformers' feature extractor and, in a batch, to each utterance alone.

Axes: B batch, S samples, P mel frames, T frames, M mel bands, D features.
"""

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank

from gdist.stages.frontend.kinds import build_frontend, frontend_config
from gdist.stages.frontend.log_mel import LogMelConfig, LogMelFrontend, sinusoids
from gdist.stages.frontend.mel import slaney_filters

torch.set_num_threads(1)

SHORT = LogMelConfig(num_mel_bins=16, hidden_size=12, num_positions=100, window="short")
EXACT = LogMelConfig(num_mel_bins=16, hidden_size=12, num_positions=100)


def made(config: LogMelConfig) -> LogMelFrontend:
    torch.manual_seed(0)
    return LogMelFrontend(config).eval()


def speech(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Noise at very different levels, with anything in the padding."""
    generator = torch.Generator().manual_seed(0)
    waveform_BS = torch.randn(len(lengths), max(lengths), generator=generator)
    return waveform_BS * torch.logspace(-3, -1, len(lengths))[:, None], torch.tensor(lengths)


@pytest.mark.parametrize("bands", [80, 128])
def test_the_filters_are_those_of_transformers(bands: int) -> None:
    theirs = mel_filter_bank(201, bands, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(slaney_filters(bands, 400).numpy(), theirs, atol=1e-12)


@pytest.mark.parametrize(("samples", "padding"), [(16_000, "do_not_pad"), (201, "do_not_pad"), (9_999, "max_length")])
def test_log_mel_is_that_of_transformers(samples: int, padding: str) -> None:
    waveform_1S, _ = speech([samples])
    how: Any = {"sampling_rate": 16_000, "padding": padding, "return_tensors": "pt"}
    theirs_1MP = WhisperFeatureExtractor(chunk_length=2)(waveform_1S[0].numpy(), **how)["input_features"]
    length = 32_000 if padding == "max_length" else samples
    padded_1S = nn.functional.pad(waveform_1S, (0, length - samples))
    own_1PM, mask = LogMelFrontend(LogMelConfig()).log_mel(padded_1S, torch.tensor([length]))
    assert mask is None
    torch.testing.assert_close(own_1PM.transpose(1, 2), theirs_1MP, atol=1e-4, rtol=0)  # float32's rounding is theirs


@pytest.mark.parametrize("config", [SHORT, EXACT], ids=["short", "exact"])
@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(201, 32_000), min_size=1, max_size=4))
def test_a_batch_equals_its_utterances_alone(config: LogMelConfig, lengths: list[int]) -> None:
    frontend, (waveform_BS, samples_B) = made(config), speech(lengths)
    with torch.no_grad():
        hidden_BTD, mask_BT = frontend.with_mask(waveform_BS, samples_B)
        assert hidden_BTD.shape == (len(lengths), config.framing.num_frames(max(lengths)), 12)
        for row, samples in enumerate(lengths):
            frames = config.framing.num_frames(samples)
            alone_1TD = frontend(waveform_BS[row : row + 1, :samples], samples_B[row : row + 1])
            torch.testing.assert_close(hidden_BTD[row, :frames], alone_1TD[0], atol=1e-5, rtol=1e-5)
            assert not hidden_BTD[row, frames:].any()
            assert mask_BT is None or int(mask_BT[row].sum()) == frames


@pytest.mark.parametrize("samples", [160, 479, 480, 16_000, 31_300, 31_841, 32_000])
def test_exact_is_the_whole_windows_beginning(samples: int) -> None:
    """A student's layer 0 over an utterance is the teacher's over 30 seconds (here, two)."""
    frontend, (waveform_1S, samples_1) = made(EXACT), speech([samples])
    window_1S = nn.functional.pad(waveform_1S, (0, 32_000 - samples))
    with torch.no_grad():
        own_1TD = frontend(waveform_1S, samples_1)
        whole_1TD = frontend(window_1S, torch.tensor([32_000]))[:, : own_1TD.shape[1]]
    torch.testing.assert_close(own_1TD, whole_1TD, atol=1e-5, rtol=1e-5)


def test_positions_go_on_where_whisper_ends() -> None:
    torch.testing.assert_close(sinusoids(0, 30, 8)[10:], sinusoids(10, 20, 8))
    frontend, (waveform_1S, samples_1) = made(SHORT), speech([32_000 * 2])
    with torch.no_grad():
        assert frontend(waveform_1S, samples_1).shape == (1, 200, 12)
        torch.testing.assert_close(frontend._positions(5000), sinusoids(0, 5000, 12))


def test_it_learns_and_saves_only_its_convolutions_and_positions() -> None:
    frontend, (waveform_BS, samples_B) = made(SHORT), speech([4_000, 3_000])
    frontend(waveform_BS, samples_B).square().sum().backward()
    learned = {name for name, parameter in frontend.named_parameters() if parameter.grad is not None}
    assert learned == {"conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"}
    assert set(frontend.state_dict()) == learned | {"positions"}


def test_half_precision_keeps_the_spectrum_exact() -> None:
    frontend, (waveform_BS, samples_B) = made(SHORT), speech([4_000, 3_000])
    with torch.no_grad():
        exact_BTD = frontend(waveform_BS, samples_B)
        with torch.autocast("cpu", torch.bfloat16):
            rough_BTD = frontend(waveform_BS, samples_B)
        half_BTD = frontend.to(torch.bfloat16)(waveform_BS, samples_B)
    assert rough_BTD.dtype == torch.float32 and half_BTD.dtype == torch.bfloat16
    for other_BTD in (rough_BTD, half_BTD.float()):
        assert nn.functional.cosine_similarity(exact_BTD.flatten(), other_BTD.flatten(), dim=0) > 0.999


IMPOSSIBLE: list[tuple[str, Any]] = [
    ("num_mel_bins", 0), ("num_mel_bins", "80"), ("hidden_size", 7), ("hidden_size", 0), ("num_positions", -1),
    ("window", "long"), ("window", None), ("eps", 0),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), IMPOSSIBLE, ids=str)
def test_a_config_that_cannot_work_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        LogMelConfig(**{field: value})


def test_configs_survive_json_and_unknown_kinds_are_refused() -> None:
    assert frontend_config(json.loads(json.dumps(SHORT.to_dict()))) == SHORT
    assert isinstance(build_frontend(SHORT), LogMelFrontend)
    kinds: list[Any] = ["wavelets", None, []]
    for kind in kinds:
        with pytest.raises(ValueError, match=r"frontend\.kind"):
            frontend_config({"kind": kind})
