"""Checkpoints as they are published: with heads, with adapters, wrapped, and of models that are no teachers."""

import importlib
import inspect
import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_teachers import LAYOUTS, SUITES, checkpoint
from transformers import (
    Data2VecAudioForAudioFrameClassification,
    HubertForSequenceClassification,
    PreTrainedModel,
    SEWDForCTC,
    SEWForCTC,
    UniSpeechSatForPreTraining,
    Wav2Vec2ConformerForCTC,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForPreTraining,
    WavLMForXVector,
)

from gdist.pipeline.errors import TeacherError
from gdist.stages.teachers import FAMILIES, load_teacher, read_teacher_config
from gdist.stages.testing.teacher import scramble


def test_adapters_in_every_layer_are_applied_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_teacher(str(checkpoint(tmp_path, "wav2vec2-adapters", False)))
    assert "for one language" in caplog.text


@pytest.mark.parametrize(
    ("model", "layout", "heads"),
    [
        (WavLMForXVector, "wavlm-base", "classifier, feature_extractor, objective, projector, tdnn"),
        (Wav2Vec2ForPreTraining, "wav2vec2-large", "project_hid, project_q, quantizer"),
        (HubertForSequenceClassification, "hubert-base", "classifier, projector"),
        (Data2VecAudioForAudioFrameClassification, "data2vec-audio-only", "classifier"),
        (
            UniSpeechSatForPreTraining,
            "unispeech-sat-base",
            "label_embeddings_concat, layer_norm_for_extract, project",
        ),
        (SEWForCTC, "sew-group", "lm_head"),
        (SEWDForCTC, "sew-d-group", "lm_head"),
        (Wav2Vec2ConformerForCTC, "wav2vec2-conformer-rotary", "lm_head"),
    ],
)
def test_of_a_checkpoint_with_heads_the_encoder_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, model: Any, layout: str, heads: str
) -> None:
    """It is the same teacher as the encoder saved alone."""
    family, label = LAYOUTS[layout]
    fields = {
        **SUITES[family].small,
        **SUITES[family].layouts[label],
        "vocab_size": 9,
        "num_codevectors_per_group": 4,
    }
    whole = model(model.config_class(**fields))
    scramble(whole)
    for folder, saved in (("whole", whole), ("encoder", whole.base_model)):
        saved.save_pretrained(tmp_path / folder)
        Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(tmp_path / folder)
    with caplog.at_level(logging.WARNING):
        expected = load_teacher(str(tmp_path / "encoder"))
        assert not caplog.records
        found = load_teacher(str(tmp_path / "whole"))
    assert found.fingerprint == expected.fingerprint and found.num_params == expected.num_params
    (record,) = caplog.records
    assert f"the encoder alone is the teacher; left out: {heads}" in record.getMessage()


def test_weights_that_no_hidden_state_needs_may_be_absent(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, "sew-group", False)
    expected = load_teacher(str(folder)).fingerprint
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if ".upsample." not in name}
    assert len(kept) == len(weights) - 2
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_teacher(str(folder)).fingerprint == expected


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "encodec"}, "of type 'encodec', which is not a family that gdist reads. It is a codec"),
        ({"model_type": "clap"}, "whole clips and their captions"),
        ({"model_type": "audio-spectrogram-transformer"}, "patches of a spectrogram, not frames"),
        ({"model_type": "bert"}, "It is a text model"),
        ({"model_type": "llama"}, "It is a text model"),
        ({"model_type": "vit"}, "It is a vision model"),
        ({"model_type": "vits"}, "It is a model that produces audio"),
        ({"model_type": "moonshine"}, "whose encoder gdist does not read"),
        (
            {"model_type": "wav2vec3"},
            "'wav2vec3', which is not a family that gdist reads, nor one that transformers has",
        ),
        (
            {"model_type": "speech-encoder-decoder", "encoder": {"model_type": "hubert"}},
            "its encoder is of type 'hubert'",
        ),
        ({"hidden_size": 768}, "no model_type"),
        ({"model_type": ["wavlm"]}, "no model_type"),
        ({"model_type": "some", "part": {"model_type": ["wavlm"]}}, "'some', which is not"),
    ],
    ids=str,
)
def test_a_model_that_is_no_teacher_is_described(tmp_path: Path, config: dict[str, Any], says: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(TeacherError) as caught:
        read_teacher_config(str(tmp_path))
    assert says in str(caught.value)
    assert caught.value.hint is not None and all(family in caught.value.hint for family in FAMILIES)


def test_a_convolution_between_layers_of_sew_d_is_refused(tmp_path: Path) -> None:
    config = checkpoint(tmp_path, "sew-d-group", False) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"conv_kernel_size": 3}))
    with pytest.raises(TeacherError, match="conv_kernel_size"):
        read_teacher_config(str(tmp_path))


def with_heads(family: str) -> list[type[Any]]:
    """transformers' models of a family that have an encoder and something on top."""
    base = FAMILIES.own[family].model_class
    module = importlib.import_module(base.__module__)
    models = [
        kind
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, PreTrainedModel) and kind.__module__ == module.__name__
        if "For" in name or name == "WhisperModel"
    ]
    return [kind for kind in models if kind.__name__ != "WhisperForCausalLM"]  # the decoder alone


@pytest.mark.parametrize("family", FAMILIES.own)
def test_every_head_of_a_family_is_left_out(tmp_path: Path, family: str) -> None:
    suite = SUITES[family]
    label = next(iter(suite.layouts))
    given = suite().saved(label, tmp_path / "suite", False)
    heads = with_heads(family)
    assert {"whisper": 3, "hubert": 2, "wav2vec2": 5}.get(family, 2) <= len(heads)
    for kind in heads:
        small = {"vocab_size": 20, "num_codevectors_per_group": 4, "tdnn_dim": [8] * 5, "xvector_output_dim": 8}
        fields = {**suite.small, **suite.layouts[label], **small, "classifier_proj_size": 8, "codevector_dim": 8}
        whole = kind(kind.config_class(**fields, use_weighted_layer_sum=True))
        scramble(whole)
        encoder = whole.base_model if family != "whisper" else getattr(whole, "model", whole).encoder
        for folder, model in ((tmp_path / kind.__name__, whole), (tmp_path / f"{kind.__name__}-encoder", encoder)):
            model.save_pretrained(folder)
            shutil.copy(given / "preprocessor_config.json", folder)
        found, expected = (load_teacher(str(tmp_path / f"{kind.__name__}{end}")) for end in ("", "-encoder"))
        assert found.fingerprint == expected.fingerprint, kind


def rewritten(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})


def a_head(tmp_path: Path, layout: str = "wavlm-base", kind: type[Any] = WavLMForXVector) -> Path:
    """A checkpoint with a head, whose names begin with ``wavlm.`` where they are the encoder's."""
    family, label = LAYOUTS[layout]
    model = kind(kind.config_class(**{**SUITES[family].small, **SUITES[family].layouts[label]}))
    scramble(model)
    model.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(tmp_path)
    return tmp_path


PREFIXES: dict[str, Callable[[str], str]] = {
    "compiled": lambda name: f"_orig_mod.{name}",
    "parallel": lambda name: f"module.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "inside": lambda name: re.sub(r"^wavlm\.", "wavlm._orig_mod.", name),
    "in every layer": lambda name: re.sub(r"(layers\.\d+)\.", r"\1._orig_mod.", name),
    "sharded": lambda name: re.sub(r"^wavlm\.encoder\.", "_fsdp_wrapped_module.wavlm.encoder.module.", name),
    "lightning": lambda name: f"model.backbone.{name}",
    "other roots": lambda name: name.replace("wavlm.", "upstream.", 1),
}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_wrappers_are_taken_off(tmp_path: Path, prefix: str) -> None:
    folder = a_head(tmp_path)
    expected = load_teacher(str(folder)).fingerprint
    names = list(load_file(folder / "model.safetensors"))
    rewritten(folder, lambda weights: {PREFIXES[prefix](name): tensor for name, tensor in weights.items()})
    assert list(load_file(folder / "model.safetensors")) != names
    assert load_teacher(str(folder)).fingerprint == expected


def test_a_head_may_have_the_names_of_an_encoder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = a_head(tmp_path)
    expected = load_teacher(str(folder)).fingerprint
    caplog.clear()
    alike = {
        name: torch.ones(3)
        for name in (
            "encoder.layers.0.attention.k_proj.weight", "encoder.blocks.1.weight", "feature_projection.weight",
            "feature_extractor.conv_layers.0.conv.weight", "head.encoder.layer_norm.weight",
        )
    }  # fmt: skip
    rewritten(folder, lambda weights: weights | alike)
    with caplog.at_level(logging.WARNING):
        assert load_teacher(str(folder)).fingerprint == expected
    assert "left out: classifier, encoder, feature_extractor, feature_projection, head" in caplog.text


def test_two_encoders_are_one_too_many(tmp_path: Path) -> None:
    folder = a_head(tmp_path)
    rewritten(
        folder,
        lambda weights: {f"{which}.{n}": t.clone() for which in ("student", "ema") for n, t in weights.items()},
    )
    with pytest.raises(TeacherError, match=r"2 encoders: at 'ema\.wavlm\.' and at 'student\.wavlm\.'") as caught:
        load_teacher(str(folder))
    assert caught.value.hint is not None and "save_pretrained" in caught.value.hint
    shutil.rmtree(folder)
    folder = a_head(folder)
    rewritten(folder, lambda weights: weights | {f"module.{n}": t.clone() for n, t in weights.items()})
    with pytest.raises(TeacherError, match="twice, with and without a wrapper's prefix"):
        load_teacher(str(folder))
