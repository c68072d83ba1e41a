"""A student as a graph: traced, named, in the asked-for operators, and refusing utterances without a single frame.

Axes: B batch, S samples, L teacher layers.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from gdist.pipeline import framing
from gdist.pipeline.errors import ExportError
from gdist.stages.export.formats.onnx_form import GraphStudent
from gdist.stages.export.formats.onnx_library import require
from gdist.stages.export.formats.onnx_opset import OLDEST_TRACED, lowered, require_opset
from gdist.stages.students import Student

INPUTS = ("input_values", "attention_mask")
# No length is a multiple of another or of a stride, or the exporter would confuse them.
EXAMPLE_SAMPLES = (5003, 4007)
TRACEABLE = (
    "torch.export must be able to trace its predict for any batch and length: no .item(), no Python branch or loop "
    "on a tensor's values, and only operators that ONNX has; --format hf and s3prl require none of this"
)
TOO_SHORT = "every_utterance_needs_at_least_{}_samples"  # the node that fails, and so what a runtime's error names


def graph_of(student: Student, for_integers: bool = False, half: bool = False, opset: int | None = None) -> Any:
    """Return the student as an ``onnx.ModelProto``. A layer that is applied L times is stored only once.

    Args:
        for_integers: in the forms that an int8 graph requires.
        half: with weights and products in float16; inputs and outputs stay in float32.
        opset: the version of ONNX's operators; None for the exporter's default.

    Raises:
        UsageError: this opset cannot be written.
        ExportError: a library is not installed, or the student cannot be traced.
    """
    require_opset(opset)
    samples_B = torch.tensor(EXAMPLE_SAMPLES)
    example = (
        pad_sequence([torch.randn(samples) / 10 for samples in EXAMPLE_SAMPLES], batch_first=True),
        (torch.arange(max(EXAMPLE_SAMPLES)) < samples_B[:, None]).long(),
    )
    free = torch.export.Dim.DYNAMIC
    named = {0: "batch", 1: "samples"}
    outputs = [f"hidden_states.{layer}" for layer in range(student.config.num_teacher_layers + 1)]
    with torch.no_grad(), _quiet(), explained(student):
        form = GraphStudent(student, for_integers, half)
        program = torch.export.export(form, example, dynamic_shapes=({0: free, 1: free},) * 2, strict=False)
        exported = torch.onnx.export(
            program,
            example,
            dynamo=True,
            verbose=False,
            input_names=INPUTS,
            output_names=[*outputs, "num_frames"],
            dynamic_shapes=(named, named),
            opset_version=None if opset is None else max(opset, OLDEST_TRACED),
        )
        assert exported is not None
        model = exported.model_proto
        if opset is not None:
            lowered(model, opset)
    for node in model.graph.node:
        node.ClearField("metadata_props")  # stack traces with paths of the exporting machine
        node.ClearField("doc_string")
    model.graph.ClearField("value_info")
    for output in model.graph.output[:-1]:
        output.type.tensor_type.shape.dim[1].dim_param = "frames"  # instead of an expression in samples
    _refuse_short(model, student.frontend.framing.fewest)
    return model


def _refuse_short(model: Any, fewest: int) -> None:
    """Let the graph begin with a node that fails if an utterance has fewer samples, and whose name says so.

    ONNX has no assertion, but ``Gather`` must fail beyond the end of what it reads from. Without this node, 399
    samples would fail in whatever node first meets an empty tensor, or yield no frames at all.
    """
    onnx = require("onnx")
    node, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    waveform, mask = INPUTS
    for used in model.graph.node:
        for place, name in enumerate(used.input):
            if name == waveform:
                used.input[place] = f"{waveform}.checked"
    nodes = [
        node("ReduceSum", [mask, "fewest.axis"], ["fewest.samples"], "fewest.samples", keepdims=1),
        node("Less", ["fewest.samples", "fewest.needed"], ["fewest.short"], "fewest.short"),
        node("Cast", ["fewest.short"], ["fewest.place"], "fewest.place", to=onnx.TensorProto.INT64),
        node("Gather", ["fewest.zero", "fewest.place"], ["fewest.nothing"], TOO_SHORT.format(fewest)),
        node("Add", [waveform, "fewest.nothing"], [f"{waveform}.checked"], f"{waveform}.checked"),
    ]
    rest = list(model.graph.node)
    model.graph.ClearField("node")
    model.graph.node.extend([*nodes, *rest])
    constants = {"axis": np.array([1]), "needed": np.array(fewest), "zero": np.zeros(1, np.float32)}
    model.graph.initializer.extend(tensor(array, f"fewest.{name}") for name, array in constants.items())
    model.graph.input[0].doc_string = f"floats at 16 kHz, as recorded; of each utterance, at least {fewest} samples"
    model.graph.input[1].doc_string = "1 for samples, 0 for padding at the end"
    about = {"fewest_samples": str(fewest), "sample_rate": str(framing.SAMPLE_RATE)}
    onnx.helper.set_model_props(model, about)


@contextlib.contextmanager
def explained(student: Student) -> Iterator[None]:
    """Report what the exporter raises in one line: it has dozens of classes, and a student's code may raise any."""
    try:
        yield
    except Exception as error:
        name = type(student).__name__
        message = f"{name} cannot be exported to ONNX: {type(error).__name__}: {first_line(error)}"
        raise ExportError(message, TRACEABLE) from error


def first_line(error: Exception) -> str:
    """Return the first line of a message that says something."""
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
