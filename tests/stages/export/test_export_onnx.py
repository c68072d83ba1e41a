"""ONNX: the output of ONNX Runtime, for lengths and batches that the exporter never saw."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import Result
from test_train import run, short
from transformers import WhisperConfig

from gdist.pipeline.errors import UsageError
from gdist.pipeline.run.snapshot import Snapshot
from gdist.stages.export.export import write_and_compare
from gdist.stages.export.formats import onnx as onnx_format
from gdist.stages.export.formats.base import Export
from gdist.stages.export.formats.onnx_library import open_session
from gdist.stages.export.formats.onnx_opset import newest_opset, require_opset
from gdist.stages.students import STUDENTS, load_student
from gdist.stages.teachers.whisper import WhisperTeacher
from gdist.stages.testing import StudentSuite
from gdist.stages.testing.student import tiny_teachers


@pytest.fixture(scope="module")
def runs(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for name in ("gendistiller", "armhubert"):
        folders[name] = tmp_path_factory.mktemp("runs") / name
        run(tiny_cache, folders[name], short(name))
    return folders


@pytest.fixture(scope="module")
def exported(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, gdist: Callable[..., Result]) -> Path:
    """The export of a GenDistiller, in float32 and with the exporter's own opset."""
    out = tmp_path_factory.mktemp("exported") / "out"
    result = gdist("export", runs["gendistiller"], "--format", "onnx", "--out", out, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["max_difference"] < 1e-4 and (found["precision"], found["quantize"]) == ("fp32", "none")
    return out


def test_any_batch_and_any_length(runs: dict[str, Path], exported: Path) -> None:
    any_batch_and_any_length(runs["gendistiller"], exported)
    the_cards_example(exported)


@pytest.mark.thorough
def test_any_batch_and_any_length_of_another_student(
    runs: dict[str, Path], tmp_path: Path, gdist: Callable[..., Result]
) -> None:
    result = gdist("export", runs["armhubert"], "--format", "onnx", "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.stderr
    any_batch_and_any_length(runs["armhubert"], tmp_path / "out")


def any_batch_and_any_length(run: Path, out: Path) -> None:
    student = load_student(run).eval()
    weights = sum(p.numel() for p in student.parameters()) * 4
    # A layer is stored once, however often it is applied; the rest is the graph itself.
    assert weights < (out / "model.onnx").stat().st_size < weights + 400_000
    session = open_session(out / "model.onnx")
    names = [output.name for output in session.get_outputs()]
    assert names == [f"hidden_states.{k}" for k in range(4)] + ["num_frames"]
    for lengths in ([400], [719], [16000, 12345, 401], [3333] * 4 + [777]):
        waveform_BS, mask_BS = sound(lengths)
        *states, frames = ran(session, waveform_BS, mask_BS)
        assert frames.tolist() == [(n - 400) // 320 + 1 for n in lengths]
        for row, (samples, count) in enumerate(zip(lengths, frames.tolist(), strict=True)):
            with torch.no_grad():
                alone = student(waveform_BS[row : row + 1, :samples], output_hidden_states=True).hidden_states
            for state, expected_1TD in zip(states, alone, strict=True):
                np.testing.assert_allclose(state[row, :count], expected_1TD[0].numpy(), atol=1e-4)
                assert not state[row, count:].any(), "padding is zero"


def sound(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    mask_BS = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return torch.randn(mask_BS.shape, generator=torch.Generator().manual_seed(0)) / 10 * mask_BS, mask_BS


def ran(session: Any, waveform_BS: torch.Tensor, mask_BS: torch.Tensor) -> list[np.ndarray]:
    found: list[np.ndarray] = session.run(
        None, {"input_values": waveform_BS.numpy(), "attention_mask": mask_BS.numpy()}
    )
    return found


# --- too few samples ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [[399], [9], [0], [5000, 399], [100, 720, 399]])
def test_too_few_samples_fail_in_a_node_that_says_so(exported: Path, lengths: list[int]) -> None:
    """In PyTorch it is a ValueError (StudentSuite). ONNX has no assertion, so the name of the node must do."""
    session = open_session(exported / "model.onnx")
    assert session.get_modelmeta().custom_metadata_map["fewest_samples"] == "400"
    with pytest.raises(Exception, match="every_utterance_needs_at_least_400_samples"):
        ran(session, *sound(lengths))


def test_the_cards_example_refuses_too_few_samples(exported: Path) -> None:
    with pytest.raises(ValueError, match=r"at least 400 samples, and these have fewer: \[399, 10\]"):
        cards_function(exported)([np.zeros(399, "float32"), np.zeros(400, "float32"), np.zeros(10, "float32")])


# --- opsets and float16 -------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_float16_in_an_old_opset(runs: dict[str, Path], tmp_path: Path, gdist: Callable[..., Result]) -> None:
    out, options = tmp_path / "out", ("--precision", "fp16", "--opset", "17")
    result = gdist("export", runs["gendistiller"], "--format", "onnx", *options, "--out", out, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["precision"], found["opset"]) == ("fp16", 17) and 1e-5 < found["max_difference"] < 0.05
    assert found["fidelity"]["mean_cosine"] > 0.9999
    model = onnx.load(out / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 17)] and model.ir_version <= 8
    assert {each.type.tensor_type.elem_type for each in model.graph.output[:-1]} == {onnx.TensorProto.FLOAT}
    weights = sum(p.numel() for p in load_student(runs["gendistiller"]).parameters()) * 2
    assert weights < (out / "model.onnx").stat().st_size < weights + 400_000, "weights are stored in two bytes"
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "in ONNX, with weights and products in float16." in card and "ONNX's opset 17." in card
    the_cards_example(out)


FRONTENDS: dict[str, dict[str, Any]] = tiny_teachers(3) | {
    "log-mel": WhisperTeacher.describe(
        WhisperConfig(d_model=32, encoder_layers=3, encoder_attention_heads=4, encoder_ffn_dim=48).to_dict()
    ),
}
# Each student with each front-end, each form with each front-end, and each student in an old and in the newest opset.
FORMS: list[tuple[str, str, dict[str, Any]]] = [
    ("gendistiller", "base", {"opset": 25}),
    ("gendistiller", "large", {"precision": "fp16"}),
    ("gendistiller", "log-mel", {"quantize": "int8", "opset": 17}),
    ("distilhubert", "base", {"precision": "fp16", "opset": 17}),
    ("distilhubert", "large", {"quantize": "int8", "opset": 25}),
    ("distilhubert", "log-mel", {"precision": "fp16", "opset": 25}),
    ("fithubert", "base", {"precision": "fp16", "opset": 25}),
    ("fithubert", "large", {"opset": 17}),
    ("fithubert", "log-mel", {"precision": "fp16", "opset": 17}),
    ("armhubert", "base", {"quantize": "int8", "opset": 17}),
    ("armhubert", "large", {"precision": "fp16", "opset": 25}),
    ("armhubert", "log-mel", {"opset": 17}),
]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "frontend", "options"), FORMS, ids=[f"{n}-{f}-{'-'.join(map(str, o.values()))}" for n, f, o in FORMS]
)
def test_every_student_with_every_front_end(
    name: str, frontend: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """Compared with PyTorch as the command does, by ONNX Runtime on the CPU."""

    class Suite(StudentSuite):
        student = STUDENTS[name]
        teachers: ClassVar = {frontend: FRONTENDS[frontend]}

    suite = Suite()
    student = suite.make(frontend)
    out = tmp_path / "out"
    out.mkdir()
    run = suite.run_of(tmp_path / "run")
    what = Export(student, Snapshot(run, 0, 0, run.student), {**onnx_format.OPTIONS, **options})
    own, difference = write_and_compare("onnx", what, out)
    model = onnx.load(out / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    opset = next(each.version for each in model.opset_import if not each.domain)
    assert own["opset"] == opset == options.get("opset", opset)
    assert difference < 0.1 or options.get("quantize") == "int8"
    fewest = student.frontend.framing.fewest
    with pytest.raises(Exception, match=f"every_utterance_needs_at_least_{fewest}_samples"):
        ran(open_session(out / "model.onnx"), *sound([fewest - 1]))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--opset", "16"], "--opset 16 cannot be written; it must be from 17 to 25: LayerNormalization"),
        (["--opset", "26"], "--opset 26 cannot be written; it must be from 17 to 25: torch's exporter writes none"),
        (["--precision", "fp16", "--quantize", "int8"], "--precision fp16 and --quantize int8 exclude each other"),
    ],
)
def test_what_cannot_be_written_is_refused(
    runs: dict[str, Path], tmp_path: Path, gdist: Callable[..., Result], options: list[str], says: str
) -> None:
    out = tmp_path / "out"
    result = gdist("export", runs["gendistiller"], "--format", "onnx", *options, "--out", out)
    assert result.exit_code == 2 and says in result.stderr and not out.exists()


def test_the_newest_opset_is_what_the_installed_libraries_know(monkeypatch: pytest.MonkeyPatch) -> None:
    assert newest_opset() == 25
    monkeypatch.setattr("onnx.defs.onnx_opset_version", lambda: 22)
    with pytest.raises(UsageError, match="must be from 17 to 22: the installed onnx and onnxruntime know no later"):
        require_opset(23)


def test_these_options_belong_to_onnx(runs: dict[str, Path], tmp_path: Path, gdist: Callable[..., Result]) -> None:
    for option in (["--quantize", "int8"], ["--precision", "fp16"], ["--opset", "18"]):
        again = gdist("export", runs["gendistiller"], "--format", "hf", *option, "--out", tmp_path / "hf")
        assert again.exit_code == 2 and "it belongs to --format onnx" in again.stderr


# --- other tools that read the file -------------------------------------------------------------------------------


def nearest(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """The lowest cosine of any hidden state, all frames as one vector."""
    pairs = [(a.ravel(), b.ravel()) for a, b in zip(found, expected, strict=True)]
    return min(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in pairs)


def test_onnx_runtimes_own_quantization_takes_the_file(exported: Path, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(exported / "model.onnx", tmp_path / "int8.onnx", weight_type=QuantType.QInt8)
    assert (tmp_path / "int8.onnx").stat().st_size < (exported / "model.onnx").stat().st_size
    inputs = sound([16000, 9001])
    *expected, frames_B = ran(open_session(exported / "model.onnx"), *inputs)
    *found, again_B = ran(open_session(tmp_path / "int8.onnx"), *inputs)
    assert (again_B == frames_B).all() and nearest(found, expected) > 0.98


def test_onnxsim_simplifies_the_file(exported: Path) -> None:
    import onnxsim

    simpler, checked = onnxsim.simplify(onnx.load(exported / "model.onnx"))
    assert checked
    inputs = sound([16000, 9001])
    expected, found = (
        ran(open_session(each), *inputs)
        for each in ((exported / "model.onnx").read_bytes(), simpler.SerializeToString())
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_openvino_runs_the_file(exported: Path) -> None:
    import openvino

    model = openvino.compile_model(exported / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for lengths in ([16000, 9001], [400]):
        waveform_BS, mask_BS = sound(lengths)
        expected = ran(open_session(exported / "model.onnx"), waveform_BS, mask_BS)
        found = list(model([waveform_BS.numpy(), mask_BS.numpy()]).values())
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


# --- int8 ---------------------------------------------------------------------------------------------------------


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


def cards_function(out: Path) -> Callable[..., list[np.ndarray]]:
    """The function of the model card's example, which needs only numpy and ONNX Runtime."""
    example = (out / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    assert "torch" not in example
    held: dict[str, Any] = {}
    exec(example.replace('"model.onnx"', repr(str(out / "model.onnx"))), held)
    function: Callable[..., list[np.ndarray]] = held["hidden_states"]
    return function


def the_cards_example(out: Path) -> None:
    (states,) = cards_function(out)([np.zeros(4000, "float32")])
    assert states.shape == (4, 12, 32)
