"""The forms that only a GPU takes give what the CPU's give: here both run on a CPU.

Axes: B batch, T frames, H heads.
"""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch

from gdist.stages.frontend.convolutions import PositionConv
from gdist.stages.teachers import FAMILIES, load_teacher
from gdist.stages.teachers.attention import ROW, additive
from gdist.stages.teachers.casting import cast_weights
from gdist.stages.teachers.wavlm import gated
from gdist.stages.testing.teacher import BASE, LARGE, LENGTHS, checkpoint, sound

LAYOUTS: dict[str, dict[str, Any]] = {
    "wavlm": BASE,
    "hubert": LARGE,
    "data2vec-audio": {"num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 9},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("frames", [1, 15, 16, 37])
def test_the_bias_is_written_once_as_attention_reads_it(frames: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    gate_BHT1 = torch.rand(3, 2, frames, 1, generator=generator) * 3
    bias_HTT = torch.randn(2, frames, frames, generator=generator)
    mask_BT = torch.arange(frames) < torch.tensor([[frames], [max(1, frames - 5)], [1]])
    expected_BHTT = gate_BHT1 * bias_HTT
    assert torch.equal(gated(gate_BHT1, bias_HTT, None, dtype), expected_BHTT.to(dtype))
    found_BHTT = gated(gate_BHT1, bias_HTT, additive(mask_BT), dtype)
    assert torch.equal(found_BHTT, expected_BHTT.masked_fill(~mask_BT[:, None, None, :], -torch.inf).to(dtype))
    assert all(stride % ROW == 0 for stride in found_BHTT.stride()[:-1]) and found_BHTT.stride(-1) == 1


@pytest.mark.parametrize("family", LAYOUTS)
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_weights_that_are_cast_once_change_no_bit(
    tmp_path: Path, family: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gdist.stages.teachers.base.can_pack", lambda device, dtype: False)
    monkeypatch.setattr(PositionConv, "_by_fourier", lambda self: False)  # as on a GPU
    source = str(checkpoint(FAMILIES.own[family], LAYOUTS[family], tmp_path, False))
    teacher, cast = (load_teacher(source, precision=precision) for _ in range(2))
    cast_weights(cast._layers, cast._frontend, cast._dtype)
    for ours, theirs in zip(cast.hidden_states(*sound(LENGTHS)), teacher.hidden_states(*sound(LENGTHS)), strict=True):
        assert torch.equal(ours, theirs)
    # What goes into the cache keeps every bit of the checkpoint.
    whole = teacher.frontend_tensors() | teacher.layer_tensors(3)
    kept = cast.frontend_tensors() | cast.layer_tensors(3)
    assert kept.keys() == whole.keys()
    assert all(torch.equal(kept[name], whole[name]) and kept[name].dtype == torch.float32 for name in whole)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cudnn_is_on_while_a_gpu_computes_and_chooses_the_same_kernels_again(
    tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = load_teacher(str(checkpoint(FAMILIES.own["wavlm"], BASE, tmp_path, False)), precision=precision)
    monkeypatch.setattr(teacher, "device", torch.device("cuda"))
    monkeypatch.setattr(torch, "autocast", lambda *arguments: contextlib.nullcontext())
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    before = cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
    with teacher._compute():
        assert (cudnn.enabled, cudnn.benchmark, cudnn.deterministic) == (True, False, True)
        assert not cudnn.allow_tf32 and not matmul.allow_tf32
    after = cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
    assert after == before
