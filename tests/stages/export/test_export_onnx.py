"""ONNX: the output of ONNX Runtime, for lengths and batches that the exporter never saw."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import Result
from test_train import run, short

from gdist.stages.students import load_student


@pytest.fixture(scope="module")
def runs(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for name in ("gendistiller", "armhubert"):
        folders[name] = tmp_path_factory.mktemp("runs") / name
        run(tiny_cache, folders[name], short(name))
    return folders


@pytest.mark.parametrize("name", ["gendistiller", pytest.param("armhubert", marks=pytest.mark.thorough)])
def test_any_batch_and_any_length(
    runs: dict[str, Path], name: str, tmp_path: Path, gdist: Callable[..., Result]
) -> None:
    result = gdist("export", runs[name], "--format", "onnx", "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["max_difference"] < 1e-4
    student = load_student(runs[name]).eval()
    weights = sum(p.numel() for p in student.parameters()) * 4
    # A layer is stored once, however often it is applied; the rest is the graph itself.
    assert weights < (tmp_path / "out" / "model.onnx").stat().st_size < weights + 400_000
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    names = [output.name for output in session.get_outputs()]
    assert names == [f"hidden_states.{k}" for k in range(4)] + ["num_frames"]
    generator = torch.Generator().manual_seed(0)
    for lengths in ([400], [719], [16000, 12345, 401], [3333] * 4 + [777]):
        samples_B = torch.tensor(lengths)
        mask_BS = (torch.arange(max(lengths)) < samples_B[:, None]).long()
        waveform_BS = torch.randn(mask_BS.shape, generator=generator) / 10 * mask_BS
        *states, frames = session.run(None, {"input_values": waveform_BS.numpy(), "attention_mask": mask_BS.numpy()})
        assert frames.tolist() == [(n - 400) // 320 + 1 for n in lengths]
        for row, (samples, count) in enumerate(zip(lengths, frames.tolist(), strict=True)):
            with torch.no_grad():
                alone = student(waveform_BS[row : row + 1, :samples]).hidden_states
            for state, expected_1TD in zip(states, alone, strict=True):
                np.testing.assert_allclose(state[row, :count], expected_1TD[0].numpy(), atol=1e-4)
                assert not state[row, count:].any(), "padding is zero"
    the_cards_example(tmp_path / "out")


@pytest.mark.thorough
def test_int8_says_what_it_costs(runs: dict[str, Path], tmp_path: Path, gdist: Callable[..., Result]) -> None:
    """The fidelity that is printed is on the cache's own speech, layer by layer."""
    out = tmp_path / "out"
    result = gdist("export", runs["gendistiller"], "--format", "onnx", "--quantize", "int8", "--out", out)
    assert result.exit_code == 0, result.stderr
    assert (
        "int8 compared with float32: mean cosine" in result.output
        and "layer  3: mean " in result.output
        and "lowest frame" in result.output
    )
    session = onnxruntime.InferenceSession(str(out / "model.onnx"))
    samples_B = [16000, 9001]
    waveform_BS = np.random.default_rng(0).normal(0, [[0.001], [0.3]], (2, 16000)).astype("float32")
    mask_BS = (np.arange(16000) < np.array(samples_B)[:, None]).astype("int64")
    waveform_BS *= mask_BS
    *together, frames_B = session.run(None, {"input_values": waveform_BS, "attention_mask": mask_BS})
    for row, (samples, frames) in enumerate(zip(samples_B, frames_B.tolist(), strict=True)):
        inputs = {"input_values": waveform_BS[[row], :samples], "attention_mask": mask_BS[[row], :samples]}
        *alone, _ = session.run(None, inputs)
        for state_BTD, alone_1TD in zip(together, alone, strict=True):
            # Not exact: if a sum differs in its last bit, a value may round to the neighboring integer.
            np.testing.assert_allclose(state_BTD[row, :frames], alone_1TD[0], atol=0.05)
    again = gdist("export", runs["gendistiller"], "--format", "hf", "--quantize", "int8", "--out", tmp_path / "hf")
    assert again.exit_code == 2 and "it belongs to --format onnx" in again.stderr


def the_cards_example(out: Path) -> None:
    """The model card's example runs with only numpy and ONNX Runtime."""
    example = (out / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    assert "torch" not in example
    held: dict[str, Any] = {}
    exec(example.replace('"model.onnx"', repr(str(out / "model.onnx"))), held)
    (states,) = held["hidden_states"]([np.zeros(4000, "float32")])
    assert states.shape == (4, 12, 32)
