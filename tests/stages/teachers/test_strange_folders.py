"""A teacher's folder may be anybody's: it is read within bounds, none of it is run, and nothing beside it is read."""

import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from test_refused import config, content, instead, preprocessor, shards
from test_teachers import LAYOUTS, SUITES, checkpoint

from gdist.pipeline.errors import TeacherError
from gdist.stages.teacher_config import require_config
from gdist.stages.teachers import FAMILIES, load_teacher, read_teacher_config
from gdist.stages.teachers.checkpoint import fingerprint

KERNEL = "kernels-community/flash-attn2"
# Fields of config.json → what is said.
HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "code": ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map, by which its model is code"),
    "code of elsewhere": ({"auto_map": {"AutoConfig": "org/repo--evil.Config"}}, "auto_map"),
    "kernel": ({"attn_implementation": KERNEL}, "attn_implementation = 'kernels-community"),
    "kernel, as it is kept": ({"_attn_implementation": KERNEL}, "_attn_implementation"),
    "kernel, inside": ({"_attn_implementation_internal": KERNEL}, "_attn_implementation_internal"),
    "kernel at a revision": ({"attn_implementation": "org/repo@main:f"}, "attn_implementation"),
    "kernel of pages": ({"attn_implementation": "paged|org/repo"}, "attn_implementation"),
    "kernel of parts": ({"attn_implementation": {"": KERNEL}}, "attn_implementation"),
    "kernel of a part": ({"text_config": {"attn_implementation": KERNEL}}, "attn_implementation"),
    "kernel of experts": ({"_experts_implementation": KERNEL}, "_experts_implementation"),
    "kernels": ({"use_kernels": True}, "use_kernels"),
    "named kernels": ({"kernels": {"RMSNorm": "org/repo:RMSNorm"}}, "kernels"),
    "a config of kernels": ({"kernel_config": {"kernel_mapping": {}}}, "kernel_config"),
    "fused modules": ({"fusion_config": {"x": {}}}, "fusion_config"),
    "layers of other sizes": ({"per_layer_config": {"0": {"intermediate_size": 2**40}}}, "per_layer_config"),
    "weights of another name": ({"transformers_weights": "/etc/passwd"}, "transformers_weights"),
    "a quantizer": ({"quantization_config": {"quant_method": "gptq"}}, "quantized"),
    "a compressor": ({"compression_config": {"format": "x"}}, "compression_config"),
    "a method": ({"to_dict": 1}, "to_dict.*a part of transformers"),
    "its own class": ({"__class__": "x"}, "__class__.*a part of transformers"),
    "other names": ({"attribute_map": {"hidden_size": "vocab_size"}}, "attribute_map.*a part of transformers"),
    "further files": ({"extra_files": ["../x"]}, "extra_files.*a part of transformers"),
    "a thing of torch": ({"dtype": "nn"}, "dtype"),
    "an older name of it": ({"torch_dtype": "load"}, "torch_dtype"),
    "a billion layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers is not an integer <= 256"),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers is not an integer >= 1"),
    "a million convolutions": ({"conv_dim": [1] * 10**6}, "conv_dim is not a list of length <= 64"),
    "layers nobody counts": ({"num_feat_extract_layers": 10**8}, "num_feat_extract_layers"),
    "wide": ({"hidden_size": 2**40}, "hidden_size"),
    "wide inside": ({"intermediate_size": 2**60}, "intermediate_size"),
    "many buckets": ({"num_buckets": 2**50}, "num_buckets"),
    "a distance without a bucket": ({"num_buckets": 32, "max_bucket_distance": 8}, "max_bucket_distance of 8"),
    "no buckets": ({"num_buckets": 0}, "num_buckets"),
    "a fraction": ({"conv_stride": [0.5] * 7}, "conv_stride"),
    "negative": ({"num_attention_heads": -4}, "num_attention_heads"),
    "larger than its weights": ({"intermediate_size": 2**17}, "has the shape .*config.json describes"),
    "layers without weights": ({"num_hidden_layers": 9}, "lacks .* of the model's weights"),
    "positions without weights": (
        {"num_buckets": 2**16, "max_bucket_distance": 2**20}, "has the shape .*config.json describes",
    ),
}  # fmt: skip


@pytest.fixture
def folder(tiny_teacher: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_teacher, tmp_path / "teacher"))


def refused(folder: Path, says: str) -> None:
    """Loading is refused in words, within a few megabytes."""
    tracemalloc.start()
    try:
        with pytest.raises(TeacherError, match=says) as caught:
            load_teacher(str(folder))
        assert caught.value.hint and "\n" not in caught.value.message
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_config_is_refused(folder: Path, case: str) -> None:
    fields, says = HOSTILE[case]
    config(**fields)(folder)
    refused(folder, says)


def test_nothing_is_made_of_a_model_without_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That a mask's embedding is absent is nothing; that a gigabyte is, is refused before it is allocated."""
    config(num_hidden_layers=256)(folder)
    monkeypatch.setattr(transformers.WavLMModel, "from_pretrained", lambda *_, **__: pytest.fail("it was made"))
    with pytest.raises(TeacherError, match=r"describes a model of which most is not in its weights.*encoder.layers"):
        load_teacher(str(folder))


@pytest.mark.parametrize("value", ["sdpa", "flash_attention_2", None])
def test_how_attention_is_computed_is_not_the_configs_choice(folder: Path, tiny_teacher: Path, value: Any) -> None:
    config(_attn_implementation_autoset=True, attn_implementation=value, _attn_implementation=value)(folder)
    assert load_teacher(str(folder)).fingerprint == load_teacher(str(tiny_teacher)).fingerprint


def fifo(name: str) -> Callable[[Path], Any]:
    """A FIFO in place of a file, for which a reader would wait."""

    def change(folder: Path) -> None:
        if not name.startswith("model.safetensors"):
            (folder / name).unlink(missing_ok=True)
        if name.startswith(("model", "pytorch")):  # or what comes first is read
            (folder / "model.safetensors").unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def link(name: str, target: str) -> Callable[[Path], Any]:
    """A link in place of a file."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return change


def shard_is(path: str) -> Callable[[Path], Any]:
    """A name in the index of shards."""
    listed = json.dumps({"weight_map": {"a": path}}).encode()
    return instead("model.safetensors.index.json", listed)


def first_shard_is_a_fifo(folder: Path) -> None:
    shards(folder)
    fifo("model-00001-of-00003.safetensors")(folder)


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    **{
        f"FIFO {name}": (fifo(name), f"{name} cannot be read: it is a FIFO")
        for name in (
            *("config.json", "preprocessor_config.json", "adapter_config.json", "model.safetensors"),
            *("model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
        )
    },
    "FIFO shard": (first_shard_is_a_fifo, "00001-of-00003.safetensors cannot be read: it is a FIFO"),
    "device config": (link("config.json", "/dev/zero"), "config.json cannot be read: it is a device"),
    "device weights": (link("model.safetensors", "/dev/zero"), "model.safetensors cannot be read: it is a device"),
    "a link to itself": (link("config.json", "config.json"), "config.json cannot be read"),
    "a link to nothing": (link("config.json", "nowhere"), "has no config.json"),
    "shard above": (shard_is("../x.safetensors"), "is missing: ../x"),
    "shard elsewhere": (shard_is("/etc/passwd"), "is missing: /etc/passwd"),
    "shard of zeros": (shard_is("a\0b"), "cannot be read|is missing"),
    "shard without a name": (shard_is(""), "is missing"),
    "shard that is the folder": (shard_is("."), "is missing"),
    "shard of a long name": (shard_is("a" * 5000), "does not list their files"),
    "deep config": (content("config.json", b"[" * 100_000), "nested too deeply"),
    "config of infinities": (content("config.json", b'{"hidden_size": Infinity}'), "Infinity"),
    "config twice": (content("config.json", b'{"hidden_size": 1, "hidden_size": 2}'), "twice"),
    "huge config": (content("config.json", b" " * (1 << 25)), "config.json of .* cannot be read: it has"),
    "deep preprocessor": (content("preprocessor_config.json", b"[" * 100_000), "nested too deeply"),
    "preprocessor of a list": (content("preprocessor_config.json", b"[]"), "JSON object"),
    "preprocessor of another kind": (preprocessor(feature_extractor_type=["x"]), "feature_extractor_type is"),
    "header of another kind": (content("model.safetensors", b"\x0d" + b"\0" * 7 + b'{"a": [1, 2]}'), "damaged, or"),
    "header without end": (content("model.safetensors", b"\xff" * 64), "damaged, or not"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_something_else_is_refused_at_once(folder: Path, case: str) -> None:
    damage, says = FILES[case]
    damage(folder)
    refused(folder, says)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_file_without_permission_is_refused(folder: Path, name: str) -> None:
    (folder / name).chmod(0)
    refused(folder, f"{name} cannot be read: Permission denied")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_family_is_loaded_bit_for_bit(tmp_path: Path, layout: str) -> None:
    """What a checkpoint and its config really contain passes the bounds; its weights are Hugging Face's."""
    saved = checkpoint(tmp_path, layout, False)
    teacher = load_teacher(str(saved))
    require_config(teacher.config)  # as a cache stores it
    family = FAMILIES[LAYOUTS[layout][0]]
    mapping = dict(family.key_mapping) or None
    theirs = family.model_class.from_pretrained(saved, key_mapping=mapping)
    assert teacher.fingerprint == fingerprint(theirs, teacher.config, family.identity_fields, family.used, False)
    assert (
        read_teacher_config(str(saved))["model_type"]
        == SUITES[LAYOUTS[layout][0]].teacher.model_class.config_class.model_type
    )


# The configs of published checkpoints, as far as they shape a model or are unusual.
PUBLISHED: dict[str, dict[str, Any]] = {
    "wavlm-large": {
        "model_type": "wavlm", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
        "intermediate_size": 4096, "do_stable_layer_norm": True, "feat_extract_norm": "layer",
        "torch_dtype": "float32",
        "conv_dim": [512] * 7, "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "num_ctc_classes": 80, "num_buckets": 320, "max_bucket_distance": 800, "layerdrop": 0.0, "replace_prob": 0.5,
        "tokenizer_class": "Wav2Vec2CTCTokenizer", "num_adapter_layers": 3, "add_adapter": False,
        "output_hidden_size": 1024, "adapter_kernel_size": 3, "_name_or_path": "x",
        "transformers_version": "4.15.0.dev0",
    },
    "xls-r-2b": {
        "model_type": "wav2vec2", "hidden_size": 1920, "num_hidden_layers": 48, "num_attention_heads": 16,
        "intermediate_size": 7680, "do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True,
        "gradient_checkpointing": False, "feat_extract_dropout": 0.0, "num_feat_extract_layers": 7,
    },
    "w2v-bert-2.0": {
        "model_type": "wav2vec2-bert", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
        "intermediate_size": 4096, "hidden_act": "swish", "position_embeddings_type": "relative_key",
        "vocab_size": None,
        "rotary_embedding_base": 10000, "max_source_positions": 5000, "left_max_position_embeddings": 64,
        "right_max_position_embeddings": 8, "conv_depthwise_kernel_size": 31, "num_adapter_layers": 1,
        "feature_projection_input_dim": 160, "adapter_act": "relu", "conformer_conv_dropout": 0.1,
    },
    "whisper-large-v3": {
        "model_type": "whisper", "d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20,
        "encoder_ffn_dim": 5120, "decoder_layers": 32, "num_hidden_layers": 32, "num_mel_bins": 128,
        "vocab_size": 51866,
        "max_source_positions": 1500, "max_target_positions": 448, "begin_suppress_tokens": [220, 50257],
        "forced_decoder_ids": [[1, None], [2, 50360]], "scale_embedding": False, "torch_dtype": "float16",
    },
    "sew-d-mid": {
        "model_type": "sew-d", "hidden_size": 512, "num_hidden_layers": 24, "num_attention_heads": 8,
        "intermediate_size": 2048, "hidden_act": "gelu_python", "conv_dim": [64, *[128] * 4, *[256] * 4, *[512] * 4],
        "conv_stride": [5, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1],
        "squeeze_factor": 2, "position_buckets": 256, "max_position_embeddings": 512,
        "pos_att_type": ["p2c", "c2p"], "relative_attention": True, "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "layer_norm_eps": 1e-07, "feature_layer_norm_eps": 1e-05,
    },
    "data2vec-audio-base": {
        "model_type": "data2vec-audio", "num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 19, "hidden_size": 768,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_pass(name: str) -> None:
    require_config(PUBLISHED[name])
