"""What is particular to w2v-BERT 2.0: its preprocessor, what follows its encoder, low precision, and GPUs' forms."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2FeatureExtractor,
)

from gdist.pipeline.errors import TeacherError
from gdist.stages.teachers import load_teacher, num_params, read_teacher_config
from gdist.stages.teachers.casting import cast_weights
from gdist.stages.testing.teacher import scramble, sound

torch.set_num_threads(1)

SMALL: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "left_max_position_embeddings": 12,
    "right_max_position_embeddings": 3,
    "vocab_size": 7,
}
KINDS = ["relative_key", "relative", "rotary", None]


def saved(folder: Path, **fields: Any) -> str:
    """A fine-tuned checkpoint: its encoder is the teacher."""
    torch.manual_seed(0)
    model = Wav2Vec2BertForCTC(Wav2Vec2BertConfig(**{**SMALL, **fields}))
    scramble(model)
    model.save_pretrained(folder)
    SeamlessM4TFeatureExtractor(padding_value=1).save_pretrained(folder)
    return str(folder)


def change_preprocessor(folder: str, **changes: Any) -> None:
    path = Path(folder) / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_fine_tuned_checkpoint_is_its_encoder(tmp_path: Path) -> None:
    folder = saved(tmp_path / "tuned")
    tuned = load_teacher(folder)
    Wav2Vec2BertForCTC.from_pretrained(folder).wav2vec2_bert.save_pretrained(tmp_path / "bare")
    bare = load_teacher(str(tmp_path / "bare"))
    assert bare.fingerprint == tuned.fingerprint and not bare.do_normalize and not tuned.do_normalize
    assert tuned.num_params == num_params(read_teacher_config(folder))
    for one, other in zip(bare.hidden_states(*sound([3000])), tuned.hidden_states(*sound([3000])), strict=True):
        assert torch.equal(one, other)
    assert tuned.layer_tensors(2) == {}  # a conformer has no counterpart in a student


def test_an_adapter_and_the_network_before_it_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = saved(tmp_path, add_adapter=True, use_intermediate_ffn_before_adapter=True)
    with caplog.at_level(logging.WARNING):
        teacher = load_teacher(folder)
    assert "adapter" in caplog.text
    assert len(list(teacher.hidden_states(*sound([3000])))) == 3


def test_the_waveform_is_never_normalized(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    change_preprocessor(folder, do_normalize=True)
    assert load_teacher(folder).do_normalize is False


@pytest.mark.parametrize("changes", [{"num_mel_bins": 40}, {"stride": 1}, {"sampling_rate": 8000}])
def test_other_features_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = saved(tmp_path)
    change_preprocessor(folder, **changes)
    with pytest.raises(TeacherError, match=next(iter(changes))):
        read_teacher_config(folder)


def test_another_feature_extractor_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    with pytest.raises(TeacherError, match="Wav2Vec2FeatureExtractor"):
        read_teacher_config(folder)


def test_a_width_that_is_no_number_of_bands_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"feature_projection_input_dim": 161}))
    with pytest.raises(TeacherError, match="feature_projection_input_dim"):
        read_teacher_config(folder)


def test_an_utterance_without_a_frame_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="560"):
        next(load_teacher(saved(tmp_path)).hidden_states(*sound([3000, 559])))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_masked_where_it_is_not_left_out(
    tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = load_teacher(saved(tmp_path, position_embeddings_type=kind))
    lengths = [16_000, 560, 9000]
    expected = list(teacher.hidden_states(*sound(lengths)))
    monkeypatch.setattr("gdist.stages.teachers.attention.UNPADDED", ())
    for most in (2**21, 4 * 49 * 64):  # whole, and in pieces
        monkeypatch.setattr("gdist.stages.teachers.attention.ELEMENTS", {"cpu": most})
        for found, wanted in zip(teacher.hidden_states(*sound(lengths)), expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
def test_low_precision_stays_close(tmp_path: Path, kind: Any, precision: str) -> None:
    folder = saved(tmp_path, position_embeddings_type=kind)
    exact = load_teacher(folder).hidden_states(*sound([9000, 16_000]))
    for found, wanted in zip(
        load_teacher(folder, precision=precision).hidden_states(*sound([9000, 16_000])), exact, strict=True
    ):
        assert found.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(found.flatten(), wanted.flatten(), dim=0) > 0.995


def test_weights_that_are_cast_once_change_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gdist.stages.teachers.base.can_pack", lambda device, dtype: False)
    teacher, cast = (load_teacher(saved(tmp_path), precision="bf16") for _ in range(2))
    convolutions = [module for module in cast._layers.modules() if isinstance(module, torch.nn.Conv1d)]
    cast_weights(cast._layers, cast._frontend, cast._dtype)
    for convolution in convolutions:
        convolution.float()  # on a CPU it is computed in float32
    for found, wanted in zip(cast.hidden_states(*sound([3000])), teacher.hidden_states(*sound([3000])), strict=True):
        torch.testing.assert_close(found, wanted, atol=0.05, rtol=0.05)
