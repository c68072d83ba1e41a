"""ONNX: one file that ONNX Runtime runs without torch, for batches of any size and utterances of any length.

model.onnx                 input_values [batch, samples] float32, as recorded: if the student needs normalized
                           input, the graph normalizes it; attention_mask [batch, samples] int64, 1 for samples and
                           0 for padding at the end → hidden_states.0 … hidden_states.L [batch, frames, D], zero in
                           padding, and num_frames [batch]
config.json, preprocessor_config.json, README.md

Axes: B batch, S samples, L teacher layers, T frames, D features.
"""

import contextlib
import importlib
import importlib.util
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gdist.pipeline import console, framing
from gdist.pipeline.errors import ExportError, UsageError
from gdist.stages.evaluate.fidelity import Fidelity, mean_cosine
from gdist.stages.export.formats.base import Export
from gdist.stages.export.formats.onnx_fidelity import as_recorded, speech_of
from gdist.stages.export.formats.onnx_form import GraphStudent
from gdist.stages.students import Student
from gdist.stages.train.student_store import save_student_to

OPTIONS: Mapping[str, Any] = {"quantize": "none"}
QUANTIZERS = ("none", "int8")
INPUTS = ("input_values", "attention_mask")
# No length is a multiple of another or of a stride, or the exporter would confuse them.
EXAMPLE_SAMPLES = (5003, 4007)
TRACEABLE = (
    "torch.export must be able to trace its predict for any batch and length: no .item(), no Python branch or loop "
    "on a tensor's values, and only operators that ONNX has; --format hf and s3prl require none of this"
)
NEEDED = ("onnx", "onnxruntime", "onnxscript")

README = """\
# {name}

A `{student}` speech student that predicts the {layers} hidden states of its teacher, {teacher}, in ONNX{form}.
It runs in ONNX Runtime without torch: `pip install onnxruntime numpy`.

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")


def hidden_states(utterances):
    \"\"\"Return hidden states [{layers}, frames, {dim}] of each utterance, floats at 16 kHz in [-1, 1).\"\"\"
    longest = max(map(len, utterances))
    input_values = np.stack([np.pad(samples, (0, longest - len(samples))) for samples in utterances])
    attention_mask = np.stack([np.arange(longest) < len(samples) for samples in utterances])
    inputs = {{"input_values": input_values.astype("float32"), "attention_mask": attention_mask.astype("int64")}}
    *layers, num_frames = session.run(None, inputs)
    return [np.stack([layer[row, :frames] for layer in layers]) for row, frames in enumerate(num_frames)]


speech = [np.random.randn(16_000) / 10, np.random.randn(24_681) / 10]  # put your speech here
for states in hidden_states(speech):
    print(states.shape)
```

- An utterance must have at least {least} samples, and gets a frame every {hop} ms.
- Batches are padded at the end. The contents of the padding are ignored, and an utterance gets the same hidden states
  as alone.
- {normalize}
"""


def write(export: Export, folder: Path) -> dict[str, Any]:
    quantizer = export.options["quantize"]
    if quantizer not in QUANTIZERS:
        raise UsageError(f"--quantize {quantizer} is not one of {', '.join(QUANTIZERS)}")
    model = graph_of(export.student, for_integers=quantizer == "int8")
    if quantizer == "int8":
        from gdist.stages.export.formats.onnx_quantize import quantize

        model = quantize(model)
    require("onnx").save(model, folder / "model.onnx")
    save_student_to(folder, export.student)
    (folder / "model.safetensors").unlink()
    (folder / "README.md").write_text(_readme(export, quantizer), encoding="utf-8")
    own: dict[str, Any] = {"quantize": quantizer}
    if quantizer != "none":
        own["fidelity"] = fidelity(folder, export)
    return own


def graph_of(student: Student, for_integers: bool = False) -> Any:
    """Return the student as an ``onnx.ModelProto``. A layer that is applied L times is stored only once."""
    for library in NEEDED:
        require(library)
    samples_B = torch.tensor(EXAMPLE_SAMPLES)
    example = (
        pad_sequence([torch.randn(samples) / 10 for samples in EXAMPLE_SAMPLES], batch_first=True),
        (torch.arange(max(EXAMPLE_SAMPLES)) < samples_B[:, None]).long(),
    )
    free = torch.export.Dim.DYNAMIC
    named = {0: "batch", 1: "samples"}
    outputs = [f"hidden_states.{layer}" for layer in range(student.config.num_teacher_layers + 1)]
    with torch.no_grad(), _quiet(), _explained(student):
        form = GraphStudent(student, for_integers)
        program = torch.export.export(form, example, dynamic_shapes=({0: free, 1: free},) * 2, strict=False)
        exported = torch.onnx.export(
            program,
            example,
            dynamo=True,
            verbose=False,
            input_names=INPUTS,
            output_names=[*outputs, "num_frames"],
            dynamic_shapes=(named, named),
        )
    assert exported is not None
    model = exported.model_proto
    for node in model.graph.node:
        node.ClearField("metadata_props")  # stack traces with paths of the exporting machine
        node.ClearField("doc_string")
    model.graph.ClearField("value_info")
    for output in model.graph.output[:-1]:
        output.type.tensor_type.shape.dim[1].dim_param = "frames"  # instead of an expression in samples
    return model


def hidden_states(folder: Path, waveforms: Sequence[Tensor]) -> list[Tensor]:
    samples_B = torch.tensor([len(waveform) for waveform in waveforms])
    waveform_BS = pad_sequence(list(waveforms), batch_first=True)
    mask_BS = torch.arange(waveform_BS.shape[1]) < samples_B[:, None]
    inputs = dict(zip(INPUTS, (waveform_BS.numpy(), mask_BS.long().numpy()), strict=True))
    try:
        *states, frames_B = open_session(folder / "model.onnx").run(None, inputs)
    except ExportError:
        raise
    except Exception as error:  # ONNX Runtime's own exception classes are not documented
        lengths = ", ".join(map(str, samples_B.tolist()))
        raise ExportError(
            f"the student was exported to ONNX, but ONNX Runtime cannot run it on utterances of {lengths} samples: "
            f"{_first_line(error)}",
            TRACEABLE,
        ) from error
    states_BLTD = torch.stack([torch.from_numpy(state_BTD) for state_BTD in states], dim=1)
    return [states_LTD[:, :count] for states_LTD, count in zip(states_BLTD, frames_B.tolist(), strict=True)]


def tolerance(options: Mapping[str, Any]) -> float:
    return 1e-4 if options["quantize"] == "none" else math.inf


def usage(folder: Path) -> str:
    return f'onnxruntime.InferenceSession("{folder / "model.onnx"}"), as {folder / "README.md"} shows'


def fidelity(folder: Path, export: Export) -> dict[str, Any]:
    """Compare the quantized student with itself in float32, on real speech, one utterance at a time."""
    speech, source = speech_of(export.run)
    layers = list(range(1, export.student.config.num_teacher_layers + 1))
    sums, worst_L = Fidelity(layers), torch.ones(len(layers))
    session = open_session(folder / "model.onnx")
    for waveform_1S in speech:
        mask_1S = torch.ones(waveform_1S.shape, dtype=torch.int64)
        states = session.run(None, dict(zip(INPUTS, (waveform_1S.numpy(), mask_1S.numpy()), strict=True)))[:-1]
        own_BLTD = torch.stack(as_recorded(export.student, waveform_1S), dim=1)[:, 1:]
        int8_BLTD = torch.stack([torch.from_numpy(state) for state in states], dim=1)[:, 1:]
        sums.add(int8_BLTD, own_BLTD, torch.ones(own_BLTD.shape[0], own_BLTD.shape[2], dtype=torch.bool))
        cosine_LT = torch.nn.functional.cosine_similarity(int8_BLTD, own_BLTD, dim=-1)[0]
        worst_L = torch.minimum(worst_L, cosine_LT.amin(1))
    rows = [
        {
            "layer": row["layer"],
            "cosine": row["cosine"],
            "lowest": float(worst),
            "relative_error": row["relative_error"],
        }
        for row, worst in zip(sums.rows(), worst_L, strict=True)
    ]
    mean = mean_cosine(rows)
    console.say(f"int8 compared with float32: mean cosine {mean:.4f} over {len(speech)} utterances of {source}:")
    for row in rows:
        console.say(f"  layer {row['layer']:2}: mean {row['cosine']:.4f}, lowest frame {row['lowest']:.4f}")
    return {"mean_cosine": mean, "utterances": len(speech), "speech": source, "layers": rows}


def open_session(path: Path, threads: int = 0) -> Any:
    """Open an ONNX Runtime session on the CPU; 0 threads means one thread per core."""
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Threads that spin while waiting for the next run would take the cores from PyTorch, which runs alternately.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def available() -> bool:
    """Return whether the extra ``onnx`` is installed."""
    return all(importlib.util.find_spec(library) for library in NEEDED)


def require(library: str) -> Any:
    """Import one of the libraries of the extra ``onnx``."""
    if importlib.util.find_spec(library) is None:
        raise ExportError(f"--format onnx needs {library}, which is not installed", 'pip install "gdist[onnx]"')
    return importlib.import_module(library)


def _readme(export: Export, quantizer: str) -> str:
    config = export.student.config
    return README.format(
        name=export.run.name,
        student=export.run.tables()["student"]["name"],
        teacher=export.run.provenance()["teacher"]["name"],
        layers=config.num_teacher_layers + 1,
        dim=config.hidden_size,
        least=export.student.frontend.framing.fewest,
        hop=1000 * export.student.frontend.framing.hop // framing.SAMPLE_RATE,
        form="" if quantizer == "none" else ", with its matrix products in int8",
        normalize="The graph normalizes each utterance; input that is already normalized is not changed."
        if config.do_normalize
        else "Do not normalize the samples: this student's teacher does not need it.",
    )


@contextlib.contextmanager
def _explained(student: Student) -> Iterator[None]:
    """Report what the exporter raises in one line: it has dozens of classes, and a student's code may raise any."""
    try:
        yield
    except Exception as error:
        name = type(student).__name__
        message = f"{name} cannot be exported to ONNX: {type(error).__name__}: {_first_line(error)}"
        raise ExportError(message, TRACEABLE) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which reports its progress, and libraries that are not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
