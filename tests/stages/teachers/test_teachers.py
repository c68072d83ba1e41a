"""Every family equals Hugging Face, utterance by utterance; and checkpoints that cannot be used are refused.

Axes: B batch, S samples, T frames, D features.
"""

import importlib.resources
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WavLMForCTC,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from gdist.pipeline.errors import ConfigError, TeacherError
from gdist.stages.students import STUDENTS, student_config
from gdist.stages.teachers import FAMILIES, load_teacher, num_params, read_teacher_config
from gdist.stages.teachers.packed import PackedConv, can_pack
from gdist.stages.testing import TeacherSuite
from gdist.stages.testing import teacher as teachers
from gdist.stages.testing.teacher import BASE, LARGE, LENGTHS, SMALL, scramble, sound

torch.set_num_threads(1)  # tiny tensors: threads would only wait for each other

DATA2VEC = {"num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 9}


class TestWavLM(TeacherSuite):
    teacher = FAMILIES.own["wavlm"]


class TestHubert(TeacherSuite):
    teacher = FAMILIES.own["hubert"]
    layouts: ClassVar = {
        **TeacherSuite.layouts,
        "batch-norm": BASE | {"conv_pos_batch_norm": True, "num_conv_pos_embeddings": 15},
        "no-feature-norm": BASE | {"feat_proj_layer_norm": False},
    }


class TestWav2Vec2(TeacherSuite):
    teacher = FAMILIES.own["wav2vec2"]
    layouts: ClassVar = {
        **TeacherSuite.layouts,
        "base-layer": {"feat_extract_norm": "layer", "conv_bias": True},
        "adapters": LARGE | {"adapter_attn_dim": 8},  # MMS
    }


class TestData2VecAudio(TeacherSuite):
    teacher = FAMILIES.own["data2vec-audio"]
    layouts: ClassVar = {"only": DATA2VEC, "even": DATA2VEC | {"conv_pos_kernel_size": 8, "conv_bias": True}}


class TestUniSpeechSat(TeacherSuite):
    teacher = FAMILIES.own["unispeech-sat"]


class TestSEW(TeacherSuite):
    """A frame every 640 samples; some of these lengths leave a frame of 320 samples over."""

    teacher = FAMILIES.own["sew"]
    small: ClassVar = {
        key: value for key, value in SMALL.items() if key not in ("num_buckets", "max_bucket_distance")
    }
    small |= {"conv_dim": [24] * 13}
    layouts: ClassVar = {
        "group": {"feat_extract_norm": "group"},
        "layer": {"feat_extract_norm": "layer", "conv_bias": True, "num_conv_pos_embeddings": 15},
        "as-wide": {"conv_dim": [24] * 12 + [48], "num_conv_pos_embeddings": 128},
        "even": {"squeeze_factor": 1},
    }
    lengths: ClassVar = [720, 1040, 1359, 1360, 16_000, 12_345]


class TestSEWD(TestSEW):
    teacher = FAMILIES.own["sew-d"]
    layouts: ClassVar = {
        "group": {"position_buckets": 32},
        "layer": {"feat_extract_norm": "layer", "conv_bias": True, "share_att_key": False},
        "one-way": {"pos_att_type": ["c2p"], "norm_rel_ebd": "none", "position_buckets": -1, "layer_norm_eps": 1e-5},
        "no-positions": {"pos_att_type": [], "relative_attention": False},
    }


class TestWav2Vec2Conformer(TeacherSuite):
    teacher = FAMILIES.own["wav2vec2-conformer"]
    layouts: ClassVar = {
        "relative": BASE,
        "rotary": {
            "position_embeddings_type": "rotary",
            "feat_extract_norm": "layer",
            "conv_bias": True,
            "hidden_act": "swish",
        },
        "none": BASE | {"position_embeddings_type": None, "conv_depthwise_kernel_size": 5},
    }  # fmt: skip


class TestWhisper(TeacherSuite):
    """A window of two seconds instead of thirty."""

    teacher = FAMILIES.own["whisper"]
    small: ClassVar = {
        "d_model": 48, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_layers": 1,
        "decoder_attention_heads": 4, "decoder_ffn_dim": 64, "max_source_positions": 100, "vocab_size": 20,
        "pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 1,
    }  # fmt: skip
    layouts: ClassVar = {"80-bands": {"num_mel_bins": 80}, "128-bands": {"num_mel_bins": 128}}
    # The fewest; a frame less and more; as good as full, so that its end is mirrored; and full.
    lengths: ClassVar = [160, 479, 480, 16_000, 31_900, 32_000]
    options: ClassVar = {"window": "exact"}

    def saved(self, layout: str, folder: Path, do_normalize: bool = False) -> Path:
        """A whole model, of which only the encoder is read."""
        config = WhisperConfig(**{**self.small, **self.layouts[layout]})
        torch.manual_seed(0)
        model = WhisperForConditionalGeneration(config)
        scramble(model)
        model.save_pretrained(folder)
        WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=2).save_pretrained(folder)
        return folder

    def states(self, model: Any, folder: Path, alone_S: Tensor) -> Sequence[Tensor]:
        extractor = WhisperFeatureExtractor.from_pretrained(folder)
        mel = extractor(alone_S.numpy(), sampling_rate=16_000, return_tensors="pt")["input_features"]
        found = model(mel, output_hidden_states=True).hidden_states
        return [state[:, : (len(alone_S) + 160) // 320] for state in found]


class TestShortWhisper(TestWhisper):
    """The same weights over the utterance's own length, layer by layer, since Hugging Face's encoder refuses that."""

    lengths: ClassVar = [201, 479, 480, 16_000, 32_000]
    options: ClassVar = {"window": "short"}

    def states(self, model: Any, folder: Path, alone_S: Tensor) -> Sequence[Tensor]:
        extractor = WhisperFeatureExtractor.from_pretrained(folder)
        how = {"sampling_rate": 16_000, "padding": "do_not_pad", "return_tensors": "pt"}
        mel = extractor(alone_S.numpy(), **how)["input_features"]
        hidden = F.gelu(model.conv2(F.gelu(model.conv1(mel)))).transpose(1, 2)
        states = [hidden + model.embed_positions.weight[: hidden.shape[1]]]
        for layer in model.layers:
            states.append(layer(states[-1], None))
        return [*states[:-1], model.layer_norm(states[-1])]


class TestWav2Vec2Bert(TeacherSuite):
    """Every kind of position; 49 frames are more distances than the tables have."""

    teacher = FAMILIES.own["wav2vec2-bert"]
    small: ClassVar = {
        **{name: SMALL[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")},
        "intermediate_size": 64,
        "left_max_position_embeddings": 12, "right_max_position_embeddings": 3,
        "conv_depthwise_kernel_size": 7, "max_source_positions": 20,
    }  # fmt: skip
    layouts: ClassVar = {
        "relative-key": {},
        "relative": {"position_embeddings_type": "relative"},
        "rotary": {"position_embeddings_type": "rotary"},
        "no-positions": {"position_embeddings_type": None, "feature_projection_input_dim": 80},
    }
    lengths: ClassVar = [560, 879, 880, 16_000, 12_345]

    def saved(self, layout: str, folder: Path, do_normalize: bool = False) -> Path:
        super().saved(layout, folder)
        bands = self.layouts[layout].get("feature_projection_input_dim", 160) // 2
        SeamlessM4TFeatureExtractor(feature_size=bands, num_mel_bins=bands).save_pretrained(folder)
        return folder

    def states(self, model: Any, folder: Path, alone_S: Tensor) -> Sequence[Tensor]:
        extractor = SeamlessM4TFeatureExtractor.from_pretrained(folder)
        found = extractor(alone_S.numpy(), sampling_rate=16_000, return_tensors="pt")
        frames = int(found["attention_mask"].sum())  # an odd number of fbank frames leaves one of padding
        return [state[:, :frames] for state in model(**found, output_hidden_states=True).hidden_states]


SUITES: dict[str, type[TeacherSuite]] = dict(
    zip(
        FAMILIES.own,
        (
            TestWavLM, TestHubert, TestWav2Vec2, TestData2VecAudio, TestUniSpeechSat, TestSEW, TestSEWD,
            TestWav2Vec2Conformer, TestWhisper, TestWav2Vec2Bert,
        ),
        strict=True,
    )
)  # fmt: skip
LAYOUTS = {f"{family}-{label}": (family, label) for family, suite in SUITES.items() for label in suite.layouts}


def test_the_two_ways_of_whisper_are_two_teachers(tmp_path: Path) -> None:
    folder = str(TestWhisper().saved("80-bands", tmp_path))
    exact, default, short = (
        load_teacher(folder, window="exact"),
        load_teacher(folder),
        load_teacher(folder, window="short"),
    )
    assert exact.fingerprint == default.fingerprint != short.fingerprint
    assert (exact.least_samples, short.least_samples) == (32_000, 0)
    assert exact.num_params == short.num_params == num_params(read_teacher_config(folder))
    with pytest.raises(ValueError, match="takes 32000"):
        next(exact.hidden_states(*sound([32_001])))
    with pytest.raises(ValueError, match="too few"):
        next(short.hidden_states(*sound([200])))


def test_every_family_has_its_suite() -> None:
    assert {family: suite.teacher for family, suite in SUITES.items()} == FAMILIES.own


def checkpoint(folder: Path, layout: str = "wavlm-base", do_normalize: bool | None = None, **changes: Any) -> Path:
    """Saves a small random checkpoint in which every parameter matters."""
    family, label = LAYOUTS[layout]
    if SUITES[family].saved is not TeacherSuite.saved:
        return SUITES[family]().saved(label, folder)
    return teachers.checkpoint(
        FAMILIES.own[family],
        {**SUITES[family].layouts[label], **changes},
        folder,
        do_normalize,
        SUITES[family].small,
    )


def assert_equals_hugging_face(folder: Path, waveform_BS: Tensor, num_samples_B: Tensor) -> None:
    family = FAMILIES.own[json.loads((folder / "config.json").read_text())["model_type"]]
    teachers.assert_equals_hugging_face(family, folder, waveform_BS, num_samples_B)


def test_a_teacher_layer_computes_the_same_in_a_student(tmp_path: Path) -> None:
    # Without position bias a student's layer is the teacher's, Base and Large.
    for layout in ("hubert-base", "hubert-large"):
        teacher = load_teacher(str(checkpoint(tmp_path / layout, layout, False)))
        student = STUDENTS["distilhubert"](student_config("distilhubert", teacher.config)).eval()
        student.initialize_from_teacher(teacher.frontend_tensors(), teacher.layer_tensors(2))
        waveform_BS, num_samples_B = sound([3000, 3000])
        with torch.no_grad():
            expected = list(teacher.hidden_states(waveform_BS, num_samples_B))
            hidden_BTD = student.frontend(waveform_BS, num_samples_B)
            for layer, expected_BTD in zip(student.layers(), expected[1:], strict=False):
                hidden_BTD = layer(hidden_BTD, None)
                torch.testing.assert_close(hidden_BTD, expected_BTD, atol=1e-5, rtol=1e-5)


def test_the_bundled_teacher_on_real_speech() -> None:
    demo = Path(str(importlib.resources.files("gdist.data_manifests"))) / "demo"
    recordings = sorted(demo.rglob("*.flac")) if (demo / "teacher-nano" / "config.json").exists() else []
    clips: list[Tensor] = []
    for path in recordings[:3]:
        speech_S, rate = soundfile.read(path, frames=40_000, dtype="float32")
        clips.append(torch.from_numpy(speech_S[: 30_000 - 4_321 * len(clips)]))
        assert rate in (8_000, 16_000)  # no comparison here depends on the rate
    if not clips:
        pytest.skip("the demo data is not installed")
    waveform_BS = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    assert_equals_hugging_face(demo / "teacher-nano", waveform_BS, torch.tensor([len(clip) for clip in clips]))


def test_large_models_give_their_last_state_before_or_after_the_final_norm(tmp_path: Path) -> None:
    folder = str(checkpoint(tmp_path, "wavlm-large", False))
    before, after = load_teacher(folder), load_teacher(folder, final_norm=True)
    *same, last_BTD = after.hidden_states(*sound([3000]))
    *others, _ = before.hidden_states(*sound([3000]))
    assert all(torch.equal(one, other) for one, other in zip(same, others, strict=True))
    with torch.inference_mode():
        reference = AutoModel.from_pretrained(folder).eval()(sound([3000])[0]).last_hidden_state
    torch.testing.assert_close(last_BTD, reference, atol=1e-4, rtol=0)
    assert before.fingerprint != after.fingerprint


@pytest.mark.parametrize("final_norm", [True, False])
@pytest.mark.parametrize("history", ["student", "all"])
def test_gendistiller_ends_as_a_pre_norm_teacher_does(tmp_path: Path, final_norm: bool, history: str) -> None:
    """With one layer, and without anything of its own, it is the teacher: with the final norm if layer L has it."""
    folder = str(checkpoint(tmp_path, "hubert-large", False, num_hidden_layers=1))
    teacher = load_teacher(folder, final_norm=final_norm)
    assert teacher.config["final_norm"] is final_norm
    plain = {"skip": False, "output_layer": "none", "layer_embedding": False, "history": history}
    student = STUDENTS["gendistiller"](student_config("gendistiller", teacher.config, **plain)).eval()
    assert (student.final_norm is not None) == final_norm
    student.initialize_from_teacher(teacher.frontend_tensors(), teacher.layer_tensors(1) | teacher.norm_tensors())
    waveform_BS, num_samples_B = sound([4000, 3000])
    mask_BS = torch.arange(4000) < num_samples_B[:, None]
    with torch.no_grad():
        found = student(waveform_BS, attention_mask=mask_BS.long(), output_hidden_states=True).hidden_states
    for found_BTD, expected_BTD in zip(found, teacher.hidden_states(waveform_BS, num_samples_B), strict=True):
        torch.testing.assert_close(found_BTD, expected_BTD, atol=1e-5, rtol=1e-5)


def test_no_final_norm_where_it_does_not_belong(tmp_path: Path) -> None:
    """Not in students of post-norm teachers, and not where layer L is not generated."""
    base = load_teacher(str(checkpoint(tmp_path / "base", "hubert-base", False)), final_norm=True)
    assert base.config["final_norm"] is False and base.norm_tensors() == {}
    assert STUDENTS["gendistiller"](student_config("gendistiller", base.config)).final_norm is None
    large = load_teacher(str(checkpoint(tmp_path / "large", "hubert-large", False)), final_norm=True)
    early = student_config("gendistiller", large.config, predict_layers=[1])
    assert STUDENTS["gendistiller"](early).final_norm is None
    own = student_config("gendistiller", large.config, final_norm=False)
    assert STUDENTS["gendistiller"](own).final_norm is None


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("layout", ["wavlm-base", "hubert-large"])
def test_low_precision_stays_close_and_does_not_leak(tmp_path: Path, layout: str, precision: str) -> None:
    folder = str(checkpoint(tmp_path, layout, True))
    exact = load_teacher(folder).hidden_states(*sound([3000, 4000]))
    for hidden_BTD, exact_BTD in zip(
        load_teacher(folder, precision=precision).hidden_states(*sound([3000, 4000])), exact, strict=True
    ):
        assert not torch.is_autocast_enabled("cpu") and not torch.is_inference_mode_enabled()
        assert hidden_BTD.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(hidden_BTD.flatten(), exact_BTD.flatten(), dim=0) > 0.995


@pytest.mark.parametrize(
    "layout", ["wavlm-base", "wavlm-large", "wav2vec2-conformer-relative", "wav2vec2-conformer-rotary"]
)
def test_padded_batches_are_masked_where_frames_are_not_packed(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gdist.stages.teachers.attention.UNPADDED", ())
    assert_equals_hugging_face(checkpoint(tmp_path, layout, False), *sound(LENGTHS))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layers_without_onednn_equal_hugging_face_too(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gdist.stages.teachers.base.can_pack", lambda device, dtype: False)
    family, label = LAYOUTS[layout]
    suite = SUITES[family]()
    suite.compare(suite.saved(label, tmp_path), [3000, 4000])


def test_attention_over_long_utterances_is_computed_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gdist.stages.teachers.attention.UNPADDED", ())
    monkeypatch.setattr("gdist.stages.teachers.attention.ELEMENTS", {"cpu": 2 * 4 * 12 * 12})  # two utterances
    assert_equals_hugging_face(checkpoint(tmp_path, "wavlm-base", False), *sound([4000, 3000, 4000, 1000, 2000]))


@pytest.mark.parametrize("unpadded", [(), ("cpu",)])
@pytest.mark.parametrize("layout", ["wavlm-base", "wavlm-large", "wav2vec2-conformer-relative"])
def test_attention_over_one_long_utterance_is_computed_in_parts(
    tmp_path: Path, layout: str, unpadded: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gdist.stages.teachers.attention.UNPADDED", unpadded)
    monkeypatch.setattr("gdist.stages.teachers.attention.ELEMENTS", {"cpu": 4 * 70 * 70})  # 70 frames fit, 149 do not
    assert_equals_hugging_face(checkpoint(tmp_path, layout, False), *sound([48_000, 45_678, 22_640, 1000]))


def test_an_utterance_without_a_frame_is_refused(tmp_path: Path) -> None:
    teacher = load_teacher(str(checkpoint(tmp_path, do_normalize=False)))
    with pytest.raises(ValueError, match="399 samples"):
        next(iter(teacher.hidden_states(torch.zeros(2, 800), torch.tensor([800, 399]))))


def test_the_fingerprint_follows_weights_and_config_and_nothing_else(tmp_path: Path) -> None:
    first = load_teacher(str(checkpoint(tmp_path / "a", do_normalize=False))).fingerprint
    others: list[dict[str, Any]] = [{"layer_norm_eps": 1e-6}, {"max_bucket_distance": 41}]
    for i, changes in enumerate(others):
        assert load_teacher(str(checkpoint(tmp_path / f"b{i}", do_normalize=False, **changes))).fingerprint != first
    assert load_teacher(str(checkpoint(tmp_path / "c", do_normalize=True))).fingerprint != first
    same = load_teacher(str(checkpoint(tmp_path / "d", do_normalize=False, layerdrop=0.5, mask_time_length=7)))
    assert same.fingerprint == first
    weights = load_file(tmp_path / "a" / "model.safetensors")
    weights["encoder.layers.1.attention.v_proj.bias"][3] += 1e-6
    save_file(weights, tmp_path / "a" / "model.safetensors", metadata={"format": "pt"})
    assert load_teacher(str(tmp_path / "a")).fingerprint != first


def test_old_checkpoints_load_whole(tmp_path: Path) -> None:
    # As on the Hub: a pickle, a head, weight norm under its old names, and SpecAugment's vector missing.
    model = WavLMForCTC(AutoConfig.for_model("wavlm", **SMALL))
    scramble(model)
    model.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(tmp_path)
    expected = load_teacher(str(tmp_path))
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    renamed = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in state.items()
        if "masked_spec_embed" not in name
    }
    assert any(name.endswith("weight_g") for name in renamed)
    torch.save(renamed, tmp_path / "pytorch_model.bin")
    teacher = load_teacher(str(tmp_path))
    assert teacher.fingerprint == expected.fingerprint
    folded = teacher.frontend_tensors()["positions.0.weight"]
    assert torch.equal(folded, model.wavlm.encoder.pos_conv_embed.conv.weight)


def test_without_a_preprocessor_the_usual_normalization_is_assumed_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for layout, usual in (("wavlm-base", False), ("wavlm-large", True)):
        with caplog.at_level(logging.WARNING):
            assert load_teacher(str(checkpoint(tmp_path / layout, layout))).do_normalize is usual
        assert "preprocessor_config.json" in caplog.text
        caplog.clear()


def test_an_adapter_after_the_encoder_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = checkpoint(tmp_path, do_normalize=False, add_adapter=True)
    with caplog.at_level(logging.WARNING):
        teacher = load_teacher(str(folder))
    assert "adapter" in caplog.text and len(list(teacher.hidden_states(*sound([800])))) == 4


class TestRefusals:
    def change_config(self, folder: Path, **changes: Any) -> str:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))
        return str(folder)

    def change_weights(self, folder: Path, name: str, tensor: Tensor | None) -> str:
        weights = load_file(folder / "model.safetensors")
        weights.pop(name, None)
        if tensor is not None:
            weights[name] = tensor
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return str(folder)

    def test_no_such_folder(self, tmp_path: Path) -> None:
        with pytest.raises(TeacherError, match="No teacher"):
            load_teacher(str(tmp_path / "nothing"))

    def test_a_folder_without_a_config(self, tmp_path: Path) -> None:
        with pytest.raises(TeacherError, match=r"config\.json"):
            load_teacher(str(tmp_path))

    @pytest.mark.parametrize("text", ["{", "[]"])
    def test_a_config_that_is_not_an_object(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(TeacherError, match="JSON"):
            load_teacher(str(tmp_path))

    def test_another_family(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "encodec"}')
        with pytest.raises(TeacherError, match="encodec") as caught:
            load_teacher(str(tmp_path))
        assert caught.value.hint is not None and all(family in caught.value.hint for family in FAMILIES)

    def test_windows_are_whispers_alone(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="only Whisper"):
            load_teacher(str(checkpoint(tmp_path, do_normalize=False)), window="short")
        whisper = TestWhisper().saved("80-bands", tmp_path / "whisper")
        with pytest.raises(ConfigError, match="exact, short"):
            load_teacher(str(whisper), window="long")

    def test_a_whisper_that_was_trained_on_other_input(self, tmp_path: Path) -> None:
        folder = TestWhisper().saved("80-bands", tmp_path)
        WhisperFeatureExtractor(hop_length=200).save_pretrained(folder)
        with pytest.raises(TeacherError, match="hop_length is 200"):
            load_teacher(str(folder))

    def test_a_front_end_we_cannot_build(self, tmp_path: Path) -> None:
        with pytest.raises(TeacherError, match="mish"):
            load_teacher(self.change_config(checkpoint(tmp_path), feat_extract_activation="mish"))

    def test_no_weights(self, tmp_path: Path) -> None:
        folder = checkpoint(tmp_path)
        (folder / "model.safetensors").unlink()
        with pytest.raises(TeacherError, match="weights"):
            load_teacher(str(folder))

    def test_truncated_weights(self, tmp_path: Path) -> None:
        folder = checkpoint(tmp_path)
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(TeacherError, match="cannot be loaded"):
            load_teacher(str(folder))

    def test_a_missing_weight(self, tmp_path: Path) -> None:
        name = "encoder.layers.2.attention.gru_rel_pos_const"
        with pytest.raises(TeacherError, match="lacks 1 of") as caught:
            load_teacher(self.change_weights(checkpoint(tmp_path), name, None))
        assert name in str(caught.value)

    def test_a_weight_of_another_shape(self, tmp_path: Path) -> None:
        with pytest.raises(TeacherError):
            load_teacher(self.change_weights(checkpoint(tmp_path), "encoder.layer_norm.weight", torch.ones(7)))

    def test_more_layers_than_the_config_says(self, tmp_path: Path) -> None:
        with pytest.raises(TeacherError, match="does not describe"):
            load_teacher(self.change_config(checkpoint(tmp_path), num_hidden_layers=2))

    def test_weights_that_are_not_finite(self, tmp_path: Path) -> None:
        weight = torch.full((48,), torch.nan)
        with pytest.raises(TeacherError, match="finite"):
            load_teacher(self.change_weights(checkpoint(tmp_path), "encoder.layer_norm.weight", weight))

    def test_an_unknown_precision(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="fp8"):
            load_teacher(str(tmp_path), precision="fp8")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kernel", "stride", "bias", "gelu"), [(3, 2, False, True), (2, 2, True, False), (5, 3, True, True)]
)
def test_a_packed_convolution_is_the_convolution(
    dtype: torch.dtype, kernel: int, stride: int, bias: bool, gelu: bool
) -> None:
    """Also over a slice of a longer tensor, and over lengths that leave samples at the end."""
    if not can_pack(torch.device("cpu"), dtype):
        pytest.skip("this machine's oneDNN has no fast products of that kind")
    torch.manual_seed(0)
    conv = torch.nn.Conv1d(64, 48, kernel, stride, bias=bias).requires_grad_(False)
    packed = PackedConv(conv, dtype, gelu, rows=30)
    for frames in (kernel, 3 * stride + kernel - 1, 61):
        hidden_1TC = torch.randn(1, frames + 9, 64)[:, 9:].to(dtype)
        found = packed(hidden_1TC)
        expected = conv(hidden_1TC.float().transpose(1, 2)).transpose(1, 2)
        expected = torch.nn.functional.gelu(expected) if gelu else expected
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), expected, atol=1e-5 if dtype == torch.float32 else 2e-2, rtol=0)
