"""w2v-BERT 2.0's features are transformers', utterance by utterance, and its front-end can be trained and exported.

Axes: B batch, S samples, P fbank frames, T frames, M mel bands, D features.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import SeamlessM4TFeatureExtractor
from transformers.audio_utils import mel_filter_bank, window_function

from gdist.pipeline.framing import Framing
from gdist.stages.frontend.fbank import FbankConfig, FbankFrontend
from gdist.stages.frontend.kinds import build_frontend, frontend_config
from gdist.stages.frontend.mel import kaldi_filters, povey
from gdist.stages.testing.teacher import sound

torch.set_num_threads(1)

LENGTHS = [16_000, 560, 719, 720, 879, 880, 12_345]


def frontend(**fields: Any) -> FbankFrontend:
    torch.manual_seed(0)
    module = FbankFrontend(FbankConfig(**{"hidden_size": 24, **fields}))
    torch.nn.init.normal_(module.feature_norm.weight)
    torch.nn.init.normal_(module.feature_norm.bias)
    return module


def features(alone_S: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """transformers' features ``[T, X]`` and their mask."""
    extractor = SeamlessM4TFeatureExtractor(**options)
    found = extractor(alone_S.numpy(), sampling_rate=16_000, return_tensors="pt")
    return found["input_features"][0], found["attention_mask"][0].bool()


@pytest.mark.parametrize("bands", [80, 40])
def test_filters_and_window_are_kaldis(bands: int) -> None:
    expected_FM = mel_filter_bank(
        num_frequency_bins=257, num_mel_filters=bands, min_frequency=20, max_frequency=8000, sampling_rate=16_000,
        mel_scale="kaldi", triangularize_in_mel_space=True,
    )  # fmt: skip
    np.testing.assert_allclose(kaldi_filters(bands, 512).numpy(), expected_FM, atol=1e-9, rtol=0)
    np.testing.assert_allclose(povey(400).numpy(), window_function(400, "povey", periodic=False), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("bands", "stride"), [(80, 2), (40, 2), (80, 3)])
def test_equals_transformers_for_each_utterance_of_a_ragged_batch(bands: int, stride: int) -> None:
    module = frontend(num_mel_bins=bands, stride=stride)
    waveform_BS, num_samples_B = sound([n for n in LENGTHS if n >= module.framing.fewest])
    with torch.no_grad():
        hidden_BTD, mask_BT = module.with_mask(waveform_BS, num_samples_B)
        assert mask_BT is not None
        for row, samples in enumerate(num_samples_B.tolist()):
            feature_TX, own_T = features(waveform_BS[row, :samples], num_mel_bins=bands, stride=stride)
            feature_TX = feature_TX[own_T] if stride == 2 else feature_TX[: module.framing.num_frames(samples)]
            expected_TD = module.projection(module.feature_norm(feature_TX))
            assert len(expected_TD) == module.framing.num_frames(samples) == int(mask_BT[row].sum())
            torch.testing.assert_close(hidden_BTD[row, : len(expected_TD)], expected_TD, atol=1e-4, rtol=0)
            assert not hidden_BTD[row, len(expected_TD) :].any()


@pytest.mark.parametrize("kind", ["silent", "constant", "clipped", "quiet", "silence inside"])
def test_unusual_sounds(kind: str) -> None:
    waveform_1S, num_samples_1 = sound([8000])
    if kind in ("silent", "constant"):
        waveform_1S = torch.full_like(waveform_1S, 0.3 if kind == "constant" else 0)
    waveform_1S = (waveform_1S * {"clipped": 30, "quiet": 2**-15}.get(kind, 1)).clamp(-1, 1)
    if kind == "silence inside":
        waveform_1S[:, 2000:6000] = 0
    module = frontend()
    feature_TX, own_T = features(waveform_1S[0])
    with torch.no_grad():
        expected_TD = module.projection(module.feature_norm(feature_TX[own_T]))
        torch.testing.assert_close(module(waveform_1S, num_samples_1)[0], expected_TD, atol=1e-4, rtol=0)


def test_the_fewest_samples_are_those_that_give_finite_states() -> None:
    assert frontend().framing == Framing(hop=320, window=560) and frontend().framing.fewest == 560
    for stride in (2, 3):
        module = frontend(stride=stride)
        hidden_BTD = module(*sound([module.framing.fewest]))
        assert hidden_BTD.isfinite().all() and hidden_BTD.shape[1] == module.framing.num_frames(module.framing.fewest)
    with pytest.warns(RuntimeWarning):  # of two, transformers makes no number of the one before
        assert features(sound([559])[0][0], pad_to_multiple_of=None)[0].isnan().any()


def test_only_the_norm_and_the_projection_are_trained() -> None:
    module = frontend()
    assert sorted(module.state_dict()) == [
        "feature_norm.bias", "feature_norm.weight", "projection.bias", "projection.weight",
    ]  # fmt: skip
    module(*sound([3000, 5000])).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())


def test_the_config_survives_json_and_refuses_what_cannot_be() -> None:
    config = FbankConfig(hidden_size=24, num_mel_bins=40)
    assert frontend_config(config.to_dict()) == config
    assert isinstance(build_frontend(config), FbankFrontend)
    assert FbankConfig.from_teacher_config({"feature_projection_input_dim": 80, "hidden_size": 24}) == config
    for fields in ({"stride": 1}, {"num_mel_bins": 80.0}, {"eps": 0}, {"hidden_size": True}):
        with pytest.raises(ValueError, match=next(iter(fields))):
            FbankConfig(**fields)
    with pytest.raises(ValueError, match="feature_projection_input_dim"):
        FbankConfig.from_teacher_config({"feature_projection_input_dim": 161})


def test_bfloat16_rounds_only_what_follows_the_features() -> None:
    module = frontend()
    with torch.no_grad():
        expected_BTD = module(*sound([16_000, 9000]))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(module.fbank(*sound([16_000, 9000])), frontend().fbank(*sound([16_000, 9000])))
            found_BTD = module(*sound([16_000, 9000]))
        assert found_BTD.dtype == torch.float32
        torch.testing.assert_close(found_BTD, expected_BTD, atol=0.1, rtol=0)
        assert module.bfloat16()(*sound([3000])).dtype == torch.bfloat16


def test_the_exported_graph_gives_the_same_for_other_lengths() -> None:
    module = frontend().eval()
    auto = torch.export.Dim.AUTO
    exported = torch.export.export(
        module, sound([3000, 5000]), dynamic_shapes=({0: auto, 1: auto}, {0: auto})
    ).module()
    for lengths in ([3000, 5000], [560, 8765, 4000]):
        with torch.no_grad():
            torch.testing.assert_close(exported(*sound(lengths)), module(*sound(lengths)), atol=1e-5, rtol=0)
