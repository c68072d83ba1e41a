"""Which versions of ONNX's operators a graph can be written in: its opset."""

from typing import Any

from gdist.pipeline.errors import UsageError
from gdist.stages.export.formats.onnx_library import NEEDED, open_session, require

OLDEST, NEWEST = 17, 25  # torch's exporter cannot write later ones yet
OLDEST_TRACED = 18  # that torch's exporter writes; one version less is only a matter of some attributes
REDUCTIONS = {f"Reduce{of}" for of in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")}


def require_opset(opset: int | None) -> None:
    """Refuse an opset that cannot be written or, by the installed ONNX Runtime, not be run.

    Raises:
        UsageError: the message says which ones can.
        ExportError: a library is not installed.
    """
    for library in NEEDED:
        require(library)
    if opset is None:
        return
    newest = newest_opset()
    if not OLDEST <= opset <= newest:
        why = f"the installed onnx and onnxruntime know no later one than {newest}"
        if opset < OLDEST:
            why = f"LayerNormalization, which every student needs, is there from {OLDEST} on"
        elif newest == NEWEST:
            why = f"torch's exporter writes none after {NEWEST}"
        raise UsageError(
            f"--opset {opset} cannot be written; it must be from {OLDEST} to {newest}: {why}",
            f"--opset {min(max(opset, OLDEST), newest)}, or none for the exporter's own choice",
        )


def newest_opset() -> int:
    """Return the newest opset that the exporter can write, the installed onnx knows and ONNX Runtime runs."""
    newest: int = min(NEWEST, require("onnx").defs.onnx_opset_version())
    while newest > OLDEST and not _runs(newest):
        newest -= 1
    return newest


def lowered(model: Any, opset: int) -> None:
    """Make ``model``, traced in the lowest possible opset, one of ``opset``, for runtimes that know no later one.

    From 18 on, reductions take their axes as an input, and ``Split`` has an attribute for the number of its outputs.

    Raises:
        RuntimeError: the exporter wrote another opset, or an operator is not in this one.
    """
    onnx = require("onnx")
    version = next(each for each in model.opset_import if each.domain in ("", "ai.onnx"))
    if opset < OLDEST_TRACED == version.version:
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            dropped = ["num_outputs"] if node.op_type == "Split" else []
            if node.op_type in REDUCTIONS:
                dropped = ["noop_with_empty_axes"]
                if len(node.input) > 1:
                    axes = onnx.numpy_helper.to_array(tensors[node.input.pop()])
                    node.attribute.append(onnx.helper.make_attribute("axes", axes.tolist()))
            kept = [attribute for attribute in node.attribute if attribute.name not in dropped]
            node.ClearField("attribute")
            node.attribute.extend(kept)
        used = {name for node in model.graph.node for name in node.input}
        model.graph.ClearField("initializer")
        model.graph.initializer.extend(tensor for name, tensor in tensors.items() if name in used)
        version.version = opset
    if version.version != opset:
        raise RuntimeError(f"the exporter wrote opset {version.version} instead of {opset}")
    # A runtime of that time also knows no later version of the file format.
    least = onnx.helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)
    model.ir_version = min(model.ir_version, least)
    onnx.checker.check_model(model, full_check=True)


def _runs(opset: int) -> bool:
    """Whether ONNX Runtime loads a graph of this opset."""
    helper, kind = require("onnx").helper, require("onnx").TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, kind, [1]) for name in ("before", "after")]
    graph = helper.make_graph([helper.make_node("Identity", ["before"], ["after"])], "one", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    try:
        open_session(model.SerializeToString())
    except Exception:  # ONNX Runtime's own exception classes are not documented
        return False
    return True
