"""The front-end on its own; that it equals Hugging Face's is in test_teachers.py.

Axes: B batch, S samples, T frames, D features.
"""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import Data2VecAudioConfig, HubertConfig, Wav2Vec2FeatureExtractor, WavLMConfig

from gdist.pipeline.framing import WAV2VEC2
from gdist.stages.frontend.config import FrontendConfig
from gdist.stages.frontend.convolutions import PositionConv, StridedConv, strided_conv
from gdist.stages.frontend.frontend import Frontend
from gdist.stages.frontend.kinds import frontend_config
from gdist.stages.frontend.norms import TimeNorm
from gdist.stages.frontend.padding import frame_mask, normalize

torch.set_num_threads(1)  # tiny tensors: threads would only wait for each other

TINY: dict[str, Any] = {"conv_dim": (16,) * 7, "hidden_size": 24, "position_kernel": 16, "position_groups": 4}
LAYOUTS = {
    "group": FrontendConfig(**TINY),
    "layer": FrontendConfig(**TINY, conv_norm="layer", conv_bias=True, output_norm=False),
    "data2vec": FrontendConfig(
        **(TINY | {"position_kernel": 5}), conv_norm="layer", position_layers=3, position_norm=True
    ),
    "scaled": FrontendConfig(**TINY, position_scale=True, feature_norm=False),
    "squeezed": FrontendConfig(**TINY, squeeze=2),
    "squeezed-wide": FrontendConfig(**(TINY | {"position_kernel": 65}), squeeze=3, conv_norm="layer"),
    "as-wide": FrontendConfig(**(TINY | {"conv_dim": (16,) * 6 + (24,)}), project=False),
    "unplaced": FrontendConfig(**TINY, position_layers=0, output_norm=False),
}


def make(config: FrontendConfig) -> Frontend:
    torch.manual_seed(0)
    frontend = Frontend(config)
    with torch.no_grad():
        for parameter in frontend.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return frontend


def speechlike(lengths: list[int], offset: float = 0.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    waveform_BS = torch.randn(len(lengths), max(lengths), generator=generator) * 0.1 + offset
    return waveform_BS, torch.tensor(lengths)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("lengths", [[400, 719, 720, 5000], [3200, 3199], [4000]])
def test_a_batch_equals_its_utterances_alone(layout: str, lengths: list[int]) -> None:
    frontend = make(LAYOUTS[layout])
    lengths = [max(samples, frontend.framing.fewest) for samples in lengths]
    waveform_BS, num_samples_B = speechlike(lengths)
    with torch.no_grad():
        hidden_BTD = frontend(waveform_BS, num_samples_B)
        assert hidden_BTD.shape == (len(lengths), frontend.framing.num_frames(max(lengths)), 24)
        for row, samples in enumerate(lengths):
            alone_TD = frontend(waveform_BS[row : row + 1, :samples], torch.tensor([samples]))[0]
            torch.testing.assert_close(hidden_BTD[row, : len(alone_TD)], alone_TD, atol=1e-5, rtol=0)
            assert not hidden_BTD[row, len(alone_TD) :].any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_content_of_the_padding_has_no_effect(layout: str) -> None:
    frontend = make(LAYOUTS[layout])
    waveform_BS, num_samples_B = speechlike([2000, 4000])
    loud_BS = waveform_BS.clone()
    loud_BS[0, 2000:] = 100.0
    with torch.no_grad():
        quiet_BTD = frontend(waveform_BS.masked_fill(loud_BS == 100.0, 0), num_samples_B)
        torch.testing.assert_close(frontend(loud_BS, num_samples_B), quiet_BTD, atol=1e-5, rtol=0)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_a_folded_norm_equals_group_norm_despite_an_offset(bias: bool, offset: float) -> None:
    torch.manual_seed(0)
    conv, norm = torch.nn.Conv1d(1, 8, 10, 5, bias=bias).double(), TimeNorm(8).double()
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    waveform_BS, num_samples_B = speechlike([1000, 400], offset)
    waveform_BS = waveform_BS.double()
    kernel_BKC, shift_B1C = norm.fold(conv, waveform_BS, (num_samples_B - 10) // 5 + 1)
    hidden_BTC = waveform_BS.unfold(1, 10, 5) @ kernel_BKC + shift_B1C
    for row, samples in enumerate(num_samples_B.tolist()):
        conv_CT = conv(waveform_BS[row, None, :samples])
        expected_CT = torch.nn.functional.group_norm(conv_CT[None], 8, norm.weight, norm.bias)[0]
        torch.testing.assert_close(hidden_BTC[row, : expected_CT.shape[1]], expected_CT.T, atol=1e-8, rtol=0)


@pytest.mark.parametrize("samples", range(400, 1400, 61))
def test_blocks_equal_the_whole_at_every_length(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gdist.stages.frontend.frontend.BLOCK_FRAMES", 2)
    for layout in ("group", "layer"):
        frontend = make(LAYOUTS[layout]).double()
        waveform_BS, num_samples_B = speechlike([samples, 1400])
        whole_BTD = frontend(waveform_BS.double(), num_samples_B)  # gradients are on
        with torch.no_grad():
            blocks_BTD = frontend(waveform_BS.double(), num_samples_B)
        torch.testing.assert_close(blocks_BTD, whole_BTD, atol=1e-10, rtol=0)


@pytest.mark.parametrize("samples", range(400, 440))
def test_the_convolutions_equal_torch_at_every_remainder_and_so_do_gradients(samples: int) -> None:
    frontend = make(LAYOUTS["layer"]).double()
    waveform_BS, num_samples_B = speechlike([samples])
    waveform_BS = waveform_BS.double().requires_grad_()
    hidden_BCT = waveform_BS[:, None]
    for conv, norm in zip(frontend.convs, frontend.norms, strict=True):
        hidden_BCT = torch.nn.functional.gelu(norm(conv(hidden_BCT).transpose(1, 2)).transpose(1, 2))
    lengths_NB = frontend._lengths(num_samples_B)
    hidden_BTC = frontend._convolve(waveform_BS, lengths_NB, lengths_NB)
    torch.testing.assert_close(hidden_BTC, hidden_BCT.transpose(1, 2))
    parameters = [waveform_BS, *frontend.convs.parameters(), *frontend.norms.parameters()]
    ours = torch.autograd.grad(hidden_BTC.sin().sum(), parameters)
    torch.testing.assert_close(ours, torch.autograd.grad(hidden_BCT.sin().sum(), parameters))


@pytest.mark.parametrize("kernel", [64, 127, 128])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("frames", [3, 63, 64, 65, 128, 129, 130, 300])
def test_a_wide_positional_convolution_equals_torch_and_so_do_its_gradients(
    kernel: int, frames: int, stride: int
) -> None:
    torch.manual_seed(0)
    conv = PositionConv(12, kernel, groups=3, stride=stride).double()
    hidden_BTD = torch.randn(2, frames, 12, dtype=torch.float64, requires_grad=True)
    expected_BDT = torch.nn.functional.conv1d(
        hidden_BTD.transpose(1, 2), conv.weight, conv.bias, stride, padding=kernel // 2, groups=3
    )
    expected_BTD = expected_BDT.transpose(1, 2)[:, : frames // stride]
    torch.testing.assert_close(conv(hidden_BTD), expected_BTD)
    inputs = [hidden_BTD, *conv.parameters()]
    ours = torch.autograd.grad(conv(hidden_BTD).sin().sum(), inputs)
    torch.testing.assert_close(ours, torch.autograd.grad(expected_BTD.sin().sum(), inputs))


def test_a_cached_spectrum_follows_its_weight() -> None:
    conv = PositionConv(4, 64, groups=2)
    hidden_BTD = torch.randn(1, 70, 4, generator=torch.Generator().manual_seed(0))

    def assert_current() -> None:
        with torch.inference_mode():
            plain_BDT = torch.nn.functional.conv1d(
                hidden_BTD.transpose(1, 2), conv.weight, conv.bias, padding=32, groups=2
            )
            torch.testing.assert_close(conv(hidden_BTD), plain_BDT.transpose(1, 2)[:, :70], atol=1e-5, rtol=1e-5)

    assert_current()
    conv(hidden_BTD).sum().backward()
    torch.optim.SGD(conv.parameters(), lr=0.1).step()
    assert_current()
    conv.load_state_dict({name: 2 * tensor for name, tensor in conv.state_dict().items()}, assign=True)
    assert_current()
    conv.weight.data = conv.weight.data + 1
    assert_current()
    assert set(conv.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("silent", [False, True])
def test_gradients_are_finite_and_ignore_the_padding(layout: str, silent: bool) -> None:
    frontend = make(LAYOUTS[layout])
    waveform_BS, num_samples_B = speechlike([400, 3000])
    if silent:
        waveform_BS = torch.zeros_like(waveform_BS)  # the variance is zero, and so is its root's argument
    waveform_BS.requires_grad_()
    frontend(waveform_BS, num_samples_B).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in frontend.parameters())
    assert waveform_BS.grad is not None and bool(waveform_BS.grad.isfinite().all())
    assert not waveform_BS.grad[0, 400:].any()


def test_gradients_of_a_batch_are_the_sum_of_its_utterances_alone() -> None:
    waveform_BS, num_samples_B = speechlike([1500, 3000])
    together, alone = make(LAYOUTS["group"]).double(), make(LAYOUTS["group"]).double()
    together(waveform_BS.double(), num_samples_B).sin().sum().backward()
    for row, samples in enumerate(num_samples_B.tolist()):
        alone(waveform_BS[row : row + 1, :samples].double(), num_samples_B[row : row + 1]).sin().sum().backward()
    for one, other in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-4)


@given(st.integers(0, 40_000))
def test_num_frames_is_the_arithmetic_of_framing(samples: int) -> None:
    assert int(Frontend.num_frames(FRONTEND, torch.tensor(samples))) == WAV2VEC2.num_frames(samples)


FRONTEND = make(LAYOUTS["group"])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(400, 3000), min_size=1, max_size=4))
def test_any_lengths_give_their_frames_and_zeros_after(lengths: list[int]) -> None:
    with torch.no_grad():
        hidden_BTD = FRONTEND(*speechlike(lengths))
    frames = [WAV2VEC2.num_frames(n) for n in lengths]
    assert hidden_BTD.shape[1] == max(frames)
    for row, count in enumerate(frames):
        assert hidden_BTD[row, :count].abs().sum(-1).all() and not hidden_BTD[row, count:].any()


def test_normalize_matches_the_feature_extractor() -> None:
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
    waveform_BS, num_samples_B = speechlike([500, 3000, 1234], offset=0.3)
    waveform_BS[2] = 0.0
    normal_BS = normalize(waveform_BS, num_samples_B)
    for row, samples in enumerate(num_samples_B.tolist()):
        theirs = extractor(waveform_BS[row, :samples].numpy(), sampling_rate=16_000)["input_values"][0]
        np.testing.assert_allclose(normal_BS[row, :samples].numpy(), theirs, atol=2e-6)
        assert not normal_BS[row, samples:].any()


def test_frame_mask_is_absent_when_nothing_is_padded() -> None:
    cpu = torch.device("cpu")
    assert frame_mask(torch.tensor([4, 4]), 4, cpu) is None
    mask = frame_mask(torch.tensor([1, 3]), 3, cpu)
    assert mask is not None and mask.tolist() == [[True, False, False], [True, True, True]]


@pytest.mark.parametrize(
    "layout",
    [
        "group",
        *(pytest.param(other, marks=pytest.mark.thorough) for other in ("layer", "data2vec", "scaled", "squeezed")),
    ],
)
def test_an_exported_front_end_takes_other_lengths(layout: str) -> None:
    frontend = make(LAYOUTS[layout])
    auto = torch.export.Dim.AUTO
    exported = torch.export.export(frontend, speechlike([2000, 3000]), dynamic_shapes=({0: auto, 1: auto}, {0: auto}))
    with torch.no_grad():
        expected_BTD = frontend(*speechlike([400, 5000, 720]))
        hidden_BTD = exported.module()(*speechlike([400, 5000, 720]))
    torch.testing.assert_close(hidden_BTD, expected_BTD, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", ["group", "layer"])
def test_autocast_stays_close_and_ends_in_float32(layout: str) -> None:
    frontend = make(LAYOUTS[layout])
    waveform_BS, num_samples_B = speechlike([4000, 8000])
    with torch.no_grad():
        exact_BTD = frontend(waveform_BS, num_samples_B)
        with torch.autocast("cpu", torch.bfloat16):
            rough_BTD = frontend(waveform_BS, num_samples_B)
    assert rough_BTD.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(exact_BTD.flatten(), rough_BTD.flatten(), dim=0) > 0.999


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [
        (WavLMConfig(), FrontendConfig()),
        (
            HubertConfig(feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True, hidden_size=1024),
            FrontendConfig(conv_norm="layer", conv_bias=True, output_norm=False, hidden_size=1024),
        ),
        (
            Data2VecAudioConfig(),
            FrontendConfig(conv_norm="layer", position_layers=5, position_kernel=19, position_norm=True),
        ),
    ],
)
def test_configs_come_from_teachers_and_survive_json(teacher: Any, expected: FrontendConfig) -> None:
    config = FrontendConfig.from_teacher_config(teacher.to_dict())
    assert config == expected
    assert frontend_config(json.loads(json.dumps(config.to_dict()))) == config
    assert config.framing == WAV2VEC2


IMPOSSIBLE: list[tuple[str, Any]] = [
    ("conv_norm", "batch"), ("conv_norm", None), ("activation", "tanhh"), ("activation", []), ("conv_dim", (8, 8)),
    ("conv_dim", ()), ("conv_dim", 512), ("conv_dim", (0,) * 7), ("conv_kernel", (1.5,) * 7), ("conv_kernel", "3333"),
    ("conv_kernel", (True,) * 7), ("conv_stride", (0,) * 7), ("conv_stride", (-1,) * 7), ("hidden_size", 0),
    ("hidden_size", 768.0), ("hidden_size", "768"), ("project", 1),
    ("position_layers", -1), ("position_layers", 1.0), ("position_layers", True), ("position_kernel", 0),
    ("position_kernel", None), ("position_groups", 0), ("position_groups", 7), ("position_groups", 2.0), ("eps", 0),
    ("eps", -1e-5), ("eps", "1e-5"), ("eps", math.nan), ("eps", math.inf), ("conv_bias", 1), ("feature_norm", "yes"),
    ("position_norm", None), ("position_scale", 0), ("output_norm", []),
    ("squeeze", 0), ("squeeze", 2.0), ("squeeze", None),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), IMPOSSIBLE, ids=str)
def test_a_config_that_cannot_work_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        FrontendConfig(**{field: value})


@pytest.mark.parametrize(
    "fields",
    [
        {"project": False, "hidden_size": 512 + 16},
        {"position_scale": True, "position_layers": 0},
        {"squeeze": 2, "position_layers": 2},
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        FrontendConfig(**fields)


@given(st.integers(0, 40_000), st.integers(1, 4))
def test_squeezed_frames_are_the_arithmetic_of_framing(samples: int, squeeze: int) -> None:
    """Frames of the convolutions that do not fill one are left over."""
    config = dataclasses.replace(LAYOUTS["group"], squeeze=squeeze)
    frames = WAV2VEC2.num_frames(samples) // squeeze
    assert config.framing.num_frames(samples) == frames
    with torch.device("meta"):
        assert int(Frontend(config).num_frames(torch.tensor(samples, device="cpu"))) == frames


def test_every_field_has_an_impossible_value() -> None:
    assert {field.name for field in dataclasses.fields(FrontendConfig)} == {field for field, _ in IMPOSSIBLE}


@pytest.mark.parametrize(
    ("kernel", "stride", "bias"),
    [(3, 2, False), (2, 2, True), (10, 5, True), (3, 1, False), (2, 3, True), (7, 3, False), (1, 1, False)],
)
def test_a_convolution_has_the_gradients_of_the_operator(kernel: int, stride: int, bias: bool) -> None:
    """Its own backward pass against the operator's, in double, at lengths that leave samples over at the end."""
    torch.manual_seed(0)
    for length in (kernel, kernel + stride - 1, 23):
        hidden = torch.randn(2, length, 4, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(5, 4, 1, kernel, dtype=torch.float64, requires_grad=True)
        shift = torch.randn(5, dtype=torch.float64, requires_grad=True) if bias else None
        ours: Any = StridedConv.apply(hidden, weight, shift, stride)  # type: ignore[no-untyped-call]
        assert torch.equal(ours, strided_conv(hidden, weight, shift, stride))
        leaves = [leaf for leaf in (hidden, weight, shift) if leaf is not None]
        upstream = torch.randn_like(ours)
        expected = torch.autograd.grad(strided_conv(hidden, weight, shift, stride), leaves, upstream)
        for one, other in zip(torch.autograd.grad(ours, leaves, upstream), expected, strict=True):
            torch.testing.assert_close(one, other)
