"""Checkpoints that cannot be used: the reason is said, and what to type next; none ends in a traceback."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_checkpoints import rewritten

from gdist.pipeline.errors import TeacherError
from gdist.stages.teachers import load_teacher, read_teacher_config

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 377611120\n"


def config(**fields: Any) -> Callable[[Path], Any]:
    """Change fields of config.json."""

    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return change


def preprocessor(**fields: Any) -> Callable[[Path], Any]:
    """Change fields of preprocessor_config.json."""
    return lambda folder: (folder / "preprocessor_config.json").write_text(
        json.dumps(json.loads((folder / "preprocessor_config.json").read_text()) | fields)
    )


def content(name: str, data: bytes | None = None) -> Callable[[Path], Any]:
    """Put other bytes in a file's place; by default only the first half of what it has."""
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[: (folder / name).stat().st_size // 2] if data is None else data
    )


def instead(name: str, data: bytes) -> Callable[[Path], Any]:
    """Only a file of another name in place of the weights."""
    return lambda folder: (folder / "model.safetensors").rename(folder / name).write_bytes(data)


def shards(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    map_ = {name: f"model-0000{1 + i % 3}-of-00003.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(map_.values())):
        save_file({n: weights[n] for n in names if map_[n] == file}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": map_}))


def two_shards_lost(folder: Path) -> None:
    shards(folder)
    for i in (2, 3):
        (folder / f"model-0000{i}-of-00003.safetensors").unlink()


def shards_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    map_ = {"a": "../elsewhere.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": map_}))


def of_type(dtype: torch.dtype) -> Callable[[Path], Any]:
    """Store the layers' matrices in another type."""

    def change(folder: Path) -> None:
        rewritten(
            folder,
            lambda weights: {n: t.to(dtype) if n.endswith("dense.weight") else t for n, t in weights.items()},
        )

    return change


def as_pickle(made: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    """Weights as ``torch.save`` writes them."""

    def change(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        torch.save(made(weights), folder / "pytorch_model.bin")

    return change


class Printing:
    """Runs ``print`` when it is unpickled."""

    def __reduce__(self) -> Any:
        return print, ("run",)


def adapter(**fields: Any) -> Callable[[Path], Any]:
    """A folder of PEFT: an adapter, and perhaps a config."""
    about = {"peft_type": "LORA", "base_model_name_or_path": "microsoft/wavlm-base-plus"} | fields
    return lambda folder: (folder / "adapter_config.json").write_text(json.dumps(about))


# label → (what is wrong, what is said, what to do about it)
WRONG: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "pointer": (content("model.safetensors", POINTER), "is a git-lfs pointer.*377.6 MB", "git lfs pull"),
    "pointer config": (content("config.json", POINTER), "config.json is a git-lfs pointer", "git lfs pull"),
    "pointer preprocessor": (
        content("preprocessor_config.json", POINTER), "preprocessor_config.json is a git-lfs", "git lfs pull"),
    "pointer bin": (instead("pytorch_model.bin", POINTER), "pytorch_model.bin is a git-lfs pointer", "git lfs pull"),
    "web page": (content("model.safetensors", b"\n<!DOCTYPE html>"), "model.safetensors is a web page", "browser"),
    "empty": (content("model.safetensors", b""), "model.safetensors is empty", "download it again"),
    "empty config": (content("config.json", b""), "config.json is empty", "download it again"),
    "half": (content("model.safetensors"), r"model.safetensors has [\d.]+ kB of the [\d.]+ kB", "download it again"),
    "no safetensors": (content("model.safetensors", b"{}" * 99), "damaged, or not a safetensors file", "download"),
    "half bin": (lambda f: (as_pickle(dict)(f), content("pytorch_model.bin")(f)), "damaged", "download it again"),
    "code": (as_pickle(lambda w: w | {"x": Printing()}), "holds more than weights, and wants .*print", "safetensors"),
    "no mapping": (as_pickle(lambda w: [1]), "pytorch_model.bin holds no weights", "expected model.safetensors"),
    "lost shards": (
        two_shards_lost,
        "names 3 files, and 2 of them are missing: model-00002-of-00003.safetensors, model-00003",
        "download the rest"),
    "empty index": (instead("model.safetensors.index.json", b"{}"), "does not list their files", "download it again"),
    "foreign shards": (shards_elsewhere, "1 of them is missing: ../elsewhere", "download the rest"),
    "tensorflow": (instead("tf_model.h5", b"x"), "tf_model.h5 is weights of TensorFlow or Flax", "from_tf=True"),
    "flax": (instead("flax_model.msgpack", b"x"), "flax_model.msgpack is weights of TensorFlow", "from_flax=True"),
    "onnx": (instead("model.onnx", b"x"), "model.onnx is an ONNX graph", "the checkpoint that the graph"),
    "variant": (instead("model.fp16.safetensors", b"x"), "is weights under another name", "call the file"),
    "int8": (of_type(torch.int8), "quantized weights, of type torch.int8", "the checkpoint that was quantized"),
    "float8": (of_type(torch.float8_e4m3fn), "quantized weights, of type torch.float8_e4m3fn", "that was quantized"),
    "bitsandbytes": (
        config(quantization_config={"quant_method": "bitsandbytes"}), r"weights \(bitsandbytes\)", "dequantize"),
    "gptq": (config(quantization_config={"quant_method": "gptq", "bits": 4}), r"\(gptq\)", "that was quantized"),
    "quantized somehow": (config(quantization_config={"bits": 4}), "has a quantization_config", "that was quantized"),
    "a string for a size": (config(hidden_size="48"), "its hidden_size is not an integer, but text", "config.json"),
    "a list for a size": (config(num_hidden_layers=[3]), "num_hidden_layers", "config.json"),
    "heads that do not divide": (config(num_attention_heads=5), "not one that transformers can build", "config.json"),
    "no layers of convolution": (config(conv_dim=[]), "its conv_dim is not a list of length >= 1", "config.json"),
    "null": (config(conv_dim=None), "its conv_dim is not a list, but nothing", "config.json"),
    "an unknown activation": (config(hidden_act="swosh"), "not one that transformers can build", "config.json"),
    "another family": (config(model_type="hubert"), "lacks|does not describe", "do not belong together"),
    "8 kHz": (preprocessor(sampling_rate=8000), "sampling_rate is 8000; it must be 16000", "another teacher"),
    "44.1 kHz": (preprocessor(sampling_rate=44_100), "sampling_rate is 44100", "preprocessor_config.json"),
    "no rate": (preprocessor(sampling_rate=None), "sampling_rate is None", "preprocessor_config.json"),
    "features": (preprocessor(feature_size=80), "feature_size is 80; it must be 1", "another teacher"),
    "spectra": (
        preprocessor(feature_extractor_type="WhisperFeatureExtractor"), "extractor_type is Whisper", "another"),
    "adapter": (adapter(), "adapter .LORA., a change to the weights of microsoft/wavlm-base-plus", "peft"),
    "adapter of something": (adapter(base_model_name_or_path="a'; rm -rf /"), "weights of BASE", "merge_and_unload"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_with_a_checkpoint_is_said(tmp_path: Path, tiny_teacher: Path, gdist: Any, wrong: str) -> None:
    """With the reason and what to type next, by every command; nothing ends in a traceback."""
    damage, says, hint = WRONG[wrong]
    folder = Path(shutil.copytree(tiny_teacher, tmp_path / "teacher"))
    damage(folder)
    with pytest.raises(TeacherError, match=says) as caught:
        load_teacher(str(folder))
    assert caught.value.hint is not None and hint in caught.value.hint
    reads_weights = not re.search(
        "config|tions|preproc|rate|kHz|features|spectra|adapter|size|heads|null|bits|gptq", wrong
    )
    result = gdist("plan", "--teacher", folder, "--hours", 1)
    assert result.exit_code in ((0, 1) if reads_weights else (1,))


def test_sharded_weights_are_read(tmp_path: Path, tiny_teacher: Path) -> None:
    folder = Path(shutil.copytree(tiny_teacher, tmp_path / "teacher"))
    shards(folder)
    assert load_teacher(str(folder)).fingerprint == load_teacher(str(tiny_teacher)).fingerprint


def test_the_command_that_merges_names_the_model_and_its_class(tmp_path: Path, tiny_teacher: Path) -> None:
    """What is pasted is a program that Python can read, whatever a stranger's file has in its fields."""
    for about, base, kind in (
        ({"auto_mapping": {"base_model_class": "WavLMForSequenceClassification"}}, "microsoft/wavlm-base-plus",
         "WavLMForSequenceClassification"),
        ({"auto_mapping": {"base_model_class": "os; x"}, "base_model_name_or_path": "a b/c"}, "a b/c", "AutoModel"),
        ({"auto_mapping": None, "base_model_name_or_path": "$(touch x)'"}, "BASE", "AutoModel"),
        ({"auto_mapping": [], "base_model_name_or_path": None}, "BASE", "AutoModel"),
    ):  # fmt: skip
        folder = tmp_path / "it's an adapter"
        folder.mkdir(exist_ok=True)
        adapter(**about)(folder)
        with pytest.raises(TeacherError) as caught:
            load_teacher(str(folder))
        assert caught.value.hint is not None
        command = caught.value.hint.partition("&& ")[2].removesuffix("; then give --teacher merged")
        program, flag, code = shlex.split(command)
        compile(code, "hint", "exec")
        assert (program, flag) == ("python", "-c") and f"base = {json.dumps(base)};" in code
        assert f"transformers.{kind}.from_pretrained(base)" in code and json.dumps(str(folder)) in code


@pytest.mark.parametrize(
    ("name", "says", "hint"),
    [
        ("{here}/model.safetensors", "is one file of a checkpoint", "give the folder: --teacher {here}"),
        ("{here}/config.json", "is one file of a checkpoint", "give the folder"),
        ("{alone}/model.safetensors", "without the config.json", "put config.json"),
        ("{alone}/model.onnx", "an ONNX graph", "exported from"),
        ("{alone}/model.gguf", "quantized weights for another runtime", "made from"),
        ("{alone}/model.ckpt", "NeMo or Lightning", "save_pretrained"),
        ("{alone}/notes.txt", "not a checkpoint that gdist knows", "give a folder"),
        ("{alone}", "has no config.json", "config.json and the weights"),
        ("{above}", "has no config.json.*its folder here has one", "config.json and the weights"),
        ("{fairseq}", "it has hubert.pt, and a file of fairseq is given by its own path", "config.json"),
        ("{alone}/nothing", "there is no such folder here", "check the spelling"),
        ("./nothing", "there is no such folder here", "check the spelling"),
        ("~/nothing", "there is no such folder here", "check the spelling"),
        ("some/deep/folder", "cannot have such a name", "check the spelling"),
        ("has space", "cannot have such a name", "check the spelling"),
        ("org/model@", "before or after its @ there is nothing", "id@revision"),
        ("s3://bucket/teacher", "is a URI", "copy it to this machine"),
        (
            "https://huggingface.co/microsoft/wavlm-base-plus",
            "is the page of a model",
            "give microsoft/wavlm-base-plus",
        ),
        ("https://huggingface.co/a/b/tree/v1", "is the page of a model", "give a/b@v1"),
    ],
)
def test_a_name_that_means_no_checkpoint(
    tmp_path: Path, tiny_teacher: Path, name: str, says: str, hint: str, gdist: Any
) -> None:
    here = Path(shutil.copytree(tiny_teacher, tmp_path / "above" / "here"))
    alone, fairseq = tmp_path / "alone", tmp_path / "fairseq"
    for folder, files in (
        (alone, ("model.safetensors", "model.onnx", "model.gguf", "model.ckpt", "notes.txt")),
        (fairseq, ("hubert.pt",)),
    ):
        folder.mkdir()
        for file in files:
            (folder / file).write_bytes(b"x")
    places = {"here": here, "alone": alone, "above": here.parent, "fairseq": fairseq}
    with pytest.raises(TeacherError, match=says) as caught:
        read_teacher_config(name.format(**places))
    assert caught.value.hint is not None and hint.format(**places) in caught.value.hint
    assert gdist("students", "--teacher", name.format(**places)).exit_code == 1


def test_a_folder_with_an_at_is_a_folder(tmp_path: Path, tiny_teacher: Path) -> None:
    folder = Path(shutil.copytree(tiny_teacher, tmp_path / "wavlm@home"))
    assert load_teacher(str(folder)).fingerprint == load_teacher(str(tiny_teacher)).fingerprint
