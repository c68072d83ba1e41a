"""Files of fairseq, unilm and s3prl are the same teachers as transformers' checkpoints of the same weights."""

import argparse
import importlib.machinery
import json
import shlex
import shutil
import sys
import types
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
import torch
from click.testing import Result
from test_teachers import SUITES
from torch import Tensor
from transformers import Wav2Vec2FeatureExtractor

from gdist.pipeline.errors import TeacherError
from gdist.stages.teachers import FAMILIES, load_teacher, num_params, read_teacher_config
from gdist.stages.teachers.fairseq import convolutions
from gdist.stages.testing.teacher import scramble, sound

CONVOLUTIONS = "[(24, 10, 5)] + [(24, 3, 2)] * 4 + [(24,2,2)] * 2"
# (family, its layout) of small models whose fairseq form is written here.
MODELS = [
    ("hubert", "base"),
    ("hubert", "large"),
    ("hubert", "batch-norm"),
    ("wav2vec2", "base"),
    ("wav2vec2", "large"),
    ("wav2vec2", "base-layer"),
    ("wavlm", "base"),
    ("wavlm", "large"),
]


def saved(folder: Path, family: str, layout: str, do_normalize: bool = False) -> Any:
    """A small random model as transformers saves it."""
    suite, kind = SUITES[family], FAMILIES.own[family].model_class
    fields = {**suite.small, **suite.layouts[layout]}
    if family != "wavlm":  # whose configs alone have these
        fields = {name: value for name, value in fields.items() if name not in ("num_buckets", "max_bucket_distance")}
    model = kind(kind.config_class(**fields))
    scramble(model)
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=do_normalize).save_pretrained(folder)
    return model


def their_weights(model: Any) -> dict[str, Tensor]:
    """The weights under the names of fairseq's modules, as ``fairseq/models/wav2vec/wav2vec2.py`` nests them."""
    layer_normed = model.config.feat_extract_norm == "layer"
    batch_normed = getattr(model.config, "conv_pos_batch_norm", False)
    theirs: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        match name.split("."):
            case ["masked_spec_embed"]:
                key = "mask_emb"
            case ["feature_extractor", "conv_layers", i, "conv", part]:
                key = f"feature_extractor.conv_layers.{i}.0.{part}"
            case ["feature_extractor", "conv_layers", i, "layer_norm", part]:
                # nn.Sequential(conv, dropout, norm, gelu), and layer norm stands between two transpositions
                key = f"feature_extractor.conv_layers.{i}.2.{'1.' if layer_normed else ''}{part}"
            case ["feature_projection", "layer_norm", part]:
                key = f"layer_norm.{part}"
            case ["feature_projection", "projection", part]:
                key = f"post_extract_proj.{part}"
            case ["encoder", "pos_conv_embed", "batch_norm", part]:
                key = f"encoder.pos_conv.0.{part}"
            case ["encoder", "pos_conv_embed", "conv", *_, part]:
                old = {"original0": "weight_g", "original1": "weight_v"}.get(part, part)
                key = f"encoder.pos_conv.{1 if batch_normed else 0}.{old}"
            case ["encoder", "layer_norm", part]:
                key = f"encoder.layer_norm.{part}"
            case ["encoder", "layers", i, "attention", module, *part]:
                old = {
                    "gru_rel_pos_const": "grep_a",
                    "gru_rel_pos_linear": "grep_linear",
                    "rel_attn_embed": "relative_attention_bias",
                }.get(module, module)
                key = ".".join(["encoder.layers", i, "self_attn", old, *part])
            case ["encoder", "layers", i, "feed_forward", module, part]:
                key = f"encoder.layers.{i}.{'fc1' if module == 'intermediate_dense' else 'fc2'}.{part}"
            case ["encoder", "layers", i, "layer_norm", part]:
                key = f"encoder.layers.{i}.self_attn_layer_norm.{part}"
            case ["encoder", "layers", i, "final_layer_norm", part]:
                key = f"encoder.layers.{i}.final_layer_norm.{part}"
            case _:
                raise AssertionError(name)
        theirs[key] = tensor.clone()
    return theirs


def their_config(model: Any) -> dict[str, Any]:
    """The fields of fairseq's dataclass for a model."""
    config = model.config
    fields = {
        "extractor_mode": {"layer": "layer_norm", "group": "default"}[config.feat_extract_norm],
        "encoder_layers": config.num_hidden_layers,
        "encoder_embed_dim": config.hidden_size,
        "encoder_ffn_embed_dim": config.intermediate_size,
        "encoder_attention_heads": config.num_attention_heads,
        "activation_fn": "gelu",
        "layer_norm_first": config.do_stable_layer_norm,
        "conv_feature_layers": CONVOLUTIONS,
        "conv_bias": config.conv_bias,
        "conv_pos": config.num_conv_pos_embeddings,
        "conv_pos_groups": config.num_conv_pos_embedding_groups,
        "dropout": 0.1,
        "feature_grad_mult": 0.1,
    }
    if config.model_type == "wavlm":
        buckets, distance = config.num_buckets, config.max_bucket_distance
        return fields | {
            "relative_position_embedding": True, "gru_rel_pos": True, "num_buckets": buckets,
            "max_distance": distance, "normalize": False,
        }  # fmt: skip
    if config.model_type == "hubert" and config.conv_pos_batch_norm:
        fields["conv_pos_batch_norm"] = True
    return fields | {"_name": config.model_type}


def document(model: Any, normalize: bool = False) -> dict[str, Any]:
    """What such a file contains: unilm's for WavLM, fairseq's else."""
    cfg, weights = their_config(model), their_weights(model)
    if model.config.model_type == "wavlm":
        return {"cfg": cfg | {"normalize": normalize}, "model": weights}
    task = {"_name": "hubert_pretraining", "normalize": normalize, "sample_rate": 16_000}
    weights |= {"final_proj.weight": torch.ones(3, 3), "label_embs_concat": torch.ones(3)}
    return {
        "args": None, "cfg": {"_name": None, "model": cfg, "task": task, "common": {"seed": 1}}, "model": weights,
        "optimizer_history": [{"num_updates": 3, "lr": 1e-4}], "task_state": {}, "extra_state": {"epoch": 1},
    }  # fmt: skip


@contextmanager
def someone_elses(name: str) -> Iterator[type]:
    """A class of a package that is not installed, for as long as a file with its objects is written."""
    module, _, attribute = name.rpartition(".")
    made = type(attribute, (), {"__module__": module, "__qualname__": attribute})
    parts = module.split(".")
    packages = [".".join(parts[: i + 1]) for i in range(len(parts))]
    before = {package: sys.modules.get(package) for package in packages}
    for package in packages:
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__spec__ = importlib.machinery.ModuleSpec(package, None)
    setattr(sys.modules[module], attribute, made)
    try:
        yield made
    finally:
        for package, old in before.items():
            if old is None:
                del sys.modules[package]
            else:
                sys.modules[package] = old


def with_state(kind: type, **state: Any) -> Any:
    made = kind()
    vars(made).update(state)
    return made


def assert_same_teacher(file: Path, folder: Path) -> None:
    found, expected = load_teacher(str(file)), load_teacher(str(folder))
    assert found.fingerprint == expected.fingerprint
    assert found.do_normalize == expected.do_normalize and found.num_params == expected.num_params
    waveform_BS, num_samples_B = sound([4000, 3000])
    for one_BTD, other_BTD in zip(
        found.hidden_states(waveform_BS, num_samples_B),
        expected.hidden_states(waveform_BS, num_samples_B),
        strict=True,
    ):
        assert torch.equal(one_BTD, other_BTD)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("family", "layout"), MODELS)
def test_it_is_the_teacher_that_transformers_has(tmp_path: Path, family: str, layout: str, normalize: bool) -> None:
    model = saved(tmp_path / "hf", family, layout, do_normalize=normalize)
    file = tmp_path / "checkpoint_best.pt"
    torch.save(document(model, normalize), file)
    assert_same_teacher(file, tmp_path / "hf")
    described = read_teacher_config(str(file))
    assert described["do_normalize"] is normalize and num_params(described) == model.num_parameters()


def fine_tuned(found: dict[str, Any], inner: Any) -> dict[str, Any]:
    weights = {f"w2v_encoder.w2v_model.{name}": tensor for name, tensor in found["model"].items()}
    weights |= {"w2v_encoder.proj.weight": torch.ones(3, 3), "w2v_encoder.proj.bias": torch.ones(3)}
    task = {"_name": "audio_finetuning", "normalize": False}
    return {"cfg": {"model": {"_name": "wav2vec_ctc", "w2v_args": inner}, "task": task}, "model": weights}


def forms(found: dict[str, Any]) -> Mapping[str, dict[str, Any]]:
    """The same checkpoint in the other layouts that are about."""
    cfg = found["cfg"]
    flat = {**cfg["model"], "normalize": False, "arch": cfg["model"]["_name"]}
    return {
        "s3prl": {
            "task_cfg": cfg["task"], "model_cfg": cfg["model"], "model_weight": found["model"],
            "dictionaries_symbols": [["a"]],
        },
        "arguments": {"args": argparse.Namespace(**flat), "model": found["model"]},
        "fine-tuned": fine_tuned(found, {"model": cfg["model"], "task": cfg["task"]}),
        "fine-tuned with arguments": fine_tuned(found, argparse.Namespace(**flat)),
        "fp16": found | {"model": {name: tensor.half() for name, tensor in found["model"].items()}},
    }  # fmt: skip


@pytest.mark.parametrize("form", ["s3prl", "arguments", "fine-tuned", "fine-tuned with arguments", "fp16"])
@pytest.mark.parametrize("legacy", [False, True])
def test_other_layouts_are_read_too(tmp_path: Path, form: str, legacy: bool) -> None:
    model = saved(tmp_path / "hf", "wav2vec2", "large")
    if form == "fp16":
        model.half().float().save_pretrained(tmp_path / "hf")
    torch.save(forms(document(model))[form], tmp_path / "w2v.pt", _use_new_zipfile_serialization=not legacy)
    assert_same_teacher(tmp_path / "w2v.pt", tmp_path / "hf")


def test_objects_of_fairseq_and_omegaconf_become_data(tmp_path: Path) -> None:
    """As hubert_base_ls960.pt has dictionaries beside its weights, and files of 2021 their config in omegaconf's."""
    model = saved(tmp_path / "hf", "hubert", "base")
    found = document(model)
    with (
        someone_elses("fairseq.data.dictionary.Dictionary") as dictionary,
        someone_elses("fairseq.logging.meters.AverageMeter") as meter,
    ):
        found["task_state"] = {"dictionaries": [with_state(dictionary, symbols=["<s>"], indices={"<s>": 0})]}
        found["extra_state"] = {"meters": with_state(meter, sum=np.float64(3.0), count=2)}
        torch.save(found, tmp_path / "hubert.pt")
    assert "fairseq" not in sys.modules
    assert_same_teacher(tmp_path / "hubert.pt", tmp_path / "hf")

    with someone_elses("omegaconf.dictconfig.DictConfig") as config, someone_elses("omegaconf.nodes.AnyNode") as node:

        def wrapped(value: Any) -> Any:
            if isinstance(value, dict):
                content = {key: wrapped(inner) for key, inner in value.items()}
                return with_state(config, _content=content, _parent=None, _metadata={"object_type": dict, "x": Any})
            return with_state(node, _val=value, _metadata={"ref_type": Optional[int]})  # noqa: UP045 — as they wrote

        found["cfg"], found["task_state"] = wrapped(found["cfg"]), {}
        found["extra_state"] = {"losses": defaultdict(list, {"a": [1.0]})}
        torch.save(found, tmp_path / "2021.pt")
    assert_same_teacher(tmp_path / "2021.pt", tmp_path / "hf")


class Runs:
    """What runs code when it is unpickled."""

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> Any:
        return self.call, self.args


@pytest.mark.parametrize("legacy", [False, True])
def test_no_code_of_a_file_runs(tmp_path: Path, legacy: bool) -> None:
    import os

    witness = tmp_path / "ran"
    model = saved(tmp_path / "hf", "hubert", "base")
    for call, args, names in (
        (os.mkdir, (str(witness),), ("mkdir",)),
        (eval, (f"__import__('os').mkdir({str(witness)!r})",), ("eval",)),
        (shutil.copytree, (str(tmp_path / "hf"), str(witness)), ("shutil.copytree",)),
    ):
        found = document(model) | {"extra_state": Runs(call, *args)}
        torch.save(found, tmp_path / "evil.pt", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(TeacherError, match="wants") as caught:
            load_teacher(str(tmp_path / "evil.pt"))
        assert all(name in str(caught.value) for name in names) and not witness.exists()
        assert caught.value.hint is not None and "transformers.models.hubert.convert_hubert" in caught.value.hint
    # An allowed name stands for data, whatever the true package has under it.
    with someone_elses("fairseq.evil.Evil") as evil:
        torch.save(document(model) | {"extra_state": with_state(evil, a=1)}, tmp_path / "same.pt")
    assert_same_teacher(tmp_path / "same.pt", tmp_path / "hf")


def changed(**fields: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A change to the fields of the model's config."""

    def change(found: dict[str, Any]) -> dict[str, Any]:
        return found | {"cfg": {**found["cfg"], "model": {**found["cfg"]["model"], **fields}}}

    return change


@pytest.mark.parametrize(
    ("change", "says", "hint"),
    [
        (changed(_name="data2vec_audio"), "its model is 'data2vec_audio'", "convert_data2vec_audio"),
        (changed(_name="wav2vec"), "its model is 'wav2vec'", "convert_wav2vec2"),
        (changed(layer_type="conformer"), "its layer_type is conformer", "fairseq"),
        (changed(pos_conv_depth=5), "its pos_conv_depth is 5", "fairseq"),
        (changed(activation_fn="swish"), "its activation_fn is swish", "fairseq"),
        (changed(conv_feature_layers="__import__('os').getcwd()"), "its conv_feature_layers are", "fairseq"),
        (changed(conv_feature_layers="[(8,2,2)] * 99999999"), "its conv_feature_layers are", "fairseq"),
        (changed(relative_position_embedding=True, gru_rel_pos=False), "without its gated", "fairseq"),
        (changed(encoder_attention_heads=5), "cannot build|not one that transformers can build", "config"),
        (lambda found: found | {"model": {}}, "without weights: its 'model' is empty", "download"),
        (lambda found: {"state_dict": found["model"]}, r"\(it has: state_dict\)", "fairseq"),
        (lambda found: found["model"], "it has neither a config", "fairseq"),
        (lambda found: [1, 2], "it holds no checkpoint", "fairseq"),
        (
            lambda found: found | {"cfg": {**found["cfg"], "task": {"sample_rate": 8000}}},
            "sampling_rate is 8000; it must be 16000",
            "teacher",
        ),
        (lambda found: fine_tuned(found, None), "without the config of its encoder", "fairseq"),
        (
            lambda found: found
            | {"model": {k: v for k, v in found["model"].items() if k != "encoder.layers.1.fc1.weight"}},
            "lacks 1 of the model's weights",
            "",
        ),
        (
            lambda found: found | {"model": {**found["model"], "encoder.layers.1.adapter.weight": torch.ones(2)}},
            "1 weights in the encoder that its config.json does not describe",
            "",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], says: str, hint: str
) -> None:
    torch.save(change(document(saved(tmp_path / "hf", "hubert", "base"))), tmp_path / "x.pt")
    with pytest.raises(TeacherError, match=says) as caught:
        load_teacher(str(tmp_path / "x.pt"))
    assert caught.value.hint and hint in caught.value.hint


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "x.pt is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1136468879\n", "a git-lfs pointer"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"\x80\x02}q\x00.", "damaged"),
        (b"not a pickle at all", "damaged"),
        (None, "damaged"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes | None, says: str, gdist: Any) -> None:
    file = tmp_path / "x.pt"
    if content is None:  # half of a real one
        torch.save(document(saved(tmp_path / "hf", "hubert", "base")), file)
        content = file.read_bytes()[: file.stat().st_size // 2]
    file.write_bytes(content)
    result: Result = gdist("plan", "--teacher", file, "--hours", 1)
    assert result.exit_code == 1 and says in result.stderr and "try: " in result.stderr


def test_extraction_takes_such_a_file(tmp_path: Path, gdist: Any, speech: Path) -> None:
    model = saved(tmp_path / "hf", "hubert", "base")
    file = tmp_path / "hubert base (ls960).pt"
    torch.save(document(model), file)
    result = gdist(
        "extract", "--teacher", file, "--manifest", speech, "--cache", tmp_path / "c", "--dry-run", "--json"
    )
    assert result.exit_code == 0 and json.loads(result.stdout)["packs"] >= 1
    assert shlex.quote(str(file)) != str(file), "a name that must be quoted"


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("[(512,10,5)] + [(512,3,2)] * 2", [(512, 10, 5), (512, 3, 2), (512, 3, 2)]),
        ("[(8, 10, 5), (8, 8, 4)] + [(8, 1, 1)]", [(8, 10, 5), (8, 8, 4), (8, 1, 1)]),
    ],
)
def test_convolutions_are_read(text: str, layers: list[tuple[int, int, int]]) -> None:
    assert convolutions(text) == layers


@pytest.mark.parametrize(
    "text",
    ["", "[]", "5", "[1]", "[(1,2)]", "[(0,1,1)]", "[(1,1,1)] * 65", "[(1,1,1)] * -1", "f()", "[x]", "(1,2,3)",
     "[(True,1,'a')]", "[(1.5,1,1)]", "[(1,1,1)] - [(1,1,1)]", "[(1,1,1)] * [2]", "(" * 300],
)  # fmt: skip
def test_what_is_no_list_of_convolutions_is_not_run(text: str) -> None:
    with pytest.raises((ValueError, SyntaxError, MemoryError, RecursionError)):
        convolutions(text)
