"""A student's folder may be anybody's: what its config names is not followed, and its weights are compared first."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from test_train import run, short
from torch import Tensor

from gdist.pipeline.errors import RunError
from gdist.stages.students import load_student


@pytest.fixture(scope="module")
def student(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    run(tiny_cache, folder, short(train__steps=2))
    return folder / "student"


@pytest.fixture
def own(student: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(student, tmp_path / "student"))


def change(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attn_implementation", "kernels-community/flash-attn"),
        ("_attn_implementation", "somebody/kernel"),
        ("_attn_implementation_internal", "somebody/kernel"),
        ("experts_implementation", "somebody/kernel"),
        ("quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
        ("dtype", "os.system"),
        ("hidden_size", 2**40),
        ("intermediate_size", 10**9),
        ("num_layers", 10**6),
        ("distinct_steps", 10**6),
        ("num_teacher_layers", 10**9),
        ("other_teachers", {"a": {"num_teacher_layers": 10**9}}),
        ("frontend", {"hidden_size": 32, "conv_dim": [10**9] * 7}),
        ("frontend", {"kind": "log-mel", "hidden_size": 32, "num_positions": 10**9}),
    ],
)
def test_a_config_is_refused_before_modules_are_made(own: Path, field: str, value: object) -> None:
    change(own, **{field: value})
    with pytest.raises(RunError, match=r"cannot load the student at .*: "):
        load_student(own)


def test_code_that_a_config_names_is_not_run(own: Path, tmp_path: Path) -> None:
    (own / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Model: pass\n")
    change(own, auto_map={"AutoModel": "evil.Model", "AutoConfig": "evil.Model"})
    load_student(own)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda name, tensors: tensors.pop(name), "lacks "),
        (lambda name, tensors: tensors.update({name: tensors[name][:-1]}), r"is \[.*, not \["),
        (lambda name, tensors: tensors.update({name: tensors[name].T.contiguous()}), r"is \[.*, not \["),
        (lambda name, tensors: tensors.update({name: tensors[name].int()}), "is I32, not floating point"),
        (lambda name, tensors: tensors.clear(), "lacks "),
    ],
)
def test_weights_of_another_student(own: Path, edit: Callable[[str, dict[str, Tensor]], object], words: str) -> None:
    path = own / "model.safetensors"
    tensors = safetensors.torch.load(path.read_bytes())
    edit(next(name for name, one in tensors.items() if one.ndim == 2 and one.shape[0] != one.shape[1]), tensors)
    path.write_bytes(safetensors.torch.save(tensors, {"format": "pt"}))
    with pytest.raises(RunError, match=words):
        load_student(own)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_fifo_is_not_waited_for(own: Path, name: str) -> None:
    (own / name).unlink()
    os.mkfifo(own / name)
    with pytest.raises(RunError, match="is a FIFO, where a file should be"):
        load_student(own)


def test_pickled_weights_are_not_read(own: Path) -> None:
    (own / "model.safetensors").rename(own / "pytorch_model.bin")
    with pytest.raises(RunError, match=r"model\.safetensors"):
        load_student(own)
