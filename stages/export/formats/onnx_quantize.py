"""int8 for a graph: weights are quantized once, one scale per column; activations at run time, one scale per row.

ONNX Runtime's own ``quantize_dynamic`` has one scale per tensor. Next to a loud frame, a quiet one then keeps no
precision, and LayerNorm later makes it as large as the others. Also, an utterance's result would depend on its batch.
One scale per row (a frame, or the window of a convolution) avoids both, and takes a tenth longer.

Only the grouped positional convolution has one scale per utterance: its windows overlap by all but one frame, and are
stored as bytes.

Axes: B batch, N rows, K inputs and M outputs of a product.
"""

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

SMALLEST = 2**12  # weights with fewer numbers gain nothing
RUNTIME = "com.microsoft"  # ONNX Runtime's operator, which scales a product of integers as it leaves the registers
ZERO = 128  # of activations in uint8
MOVES = frozenset({"Reshape", "Gather"})  # operators between a positional convolution's input frames and its windows

CONSTANTS = {
    "int8.one": np.float32(1),
    "int8.largest": np.float32(127),
    "int8.least": np.float32(1e-30),  # so that a row of zeros also has a scale
    "int8.zero": np.uint8(ZERO),
    "int8.zeros": np.array([ZERO], np.uint8),
    "int8.last": np.array([-1], np.int64),
    "int8.column": np.array([-1, 1], np.int64),
    "int8.each": np.array([0, -1], np.int64),
    "int8.above": np.array([-1, 1, 1, 1], np.int64),
}


def quantize(model: ModelProto) -> ModelProto:
    """Return a copy of ``model`` whose products with stored weights are in int8."""
    quantized = ModelProto()
    quantized.CopyFrom(model)
    graph = quantized.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    work = _Integers(graph, opset=max(each.version for each in model.opset_import if not each.domain))
    for node in graph.node:
        weight = weights.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is None or not _worthwhile(weight):
            work.nodes.append(node)
        else:
            work.product(node, weight)
    alive, used = _alive(work.nodes, {output.name for output in graph.output})
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in CONSTANTS.items()]
    kept = [t for t in (*graph.initializer, *work.tensors.values(), *constants) if t.name in used]
    for field, values in ("node", alive), ("initializer", kept):
        graph.ClearField(field)
        getattr(graph, field).extend(values)
    if all(domain.domain != RUNTIME for domain in quantized.opset_import):
        quantized.opset_import.append(onnx.helper.make_opsetid(RUNTIME, 1))
    return quantized


def quantize_weight(weight_KM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 weights and the scale of each column, without clipping; leading axes separate several weights."""
    scale_1M = (np.abs(weight_KM).max(axis=-2, keepdims=True) / 127).astype(np.float32)
    integer_KM = np.rint(weight_KM / np.where(scale_1M > 0, scale_1M, 1)).astype(np.int8)
    return integer_KM, scale_1M


def _worthwhile(weight: TensorProto) -> bool:
    single = weight.data_type == TensorProto.FLOAT  # double weights are double because they need the precision
    return single and len(weight.dims) > 1 and int(np.prod(weight.dims)) >= SMALLEST


def _alive(nodes: list[NodeProto], wanted: set[str]) -> tuple[list[NodeProto], set[str]]:
    """Return the nodes that outputs depend on, and every name in use. ONNX Runtime would also run the other nodes."""
    used, alive = set(wanted), []
    for node in reversed(nodes):
        if used.intersection(node.output):
            used |= set(node.input)
            alive.append(node)
    return alive[::-1], used


class _Integers:
    """The nodes of the resulting graph. Each weight is quantized once, even if several products use it."""

    def __init__(self, graph: onnx.GraphProto, opset: int) -> None:
        self.opset = opset
        self.makers = {name: node for node in graph.node for name in node.output}
        self.tensors: dict[str, TensorProto] = {}
        self.nodes: list[NodeProto] = []

    def product(self, node: NodeProto, weight: TensorProto) -> None:
        """Add the nodes that replace a product of floats."""
        hidden, output, name = node.input[0], node.output[0], weight.name
        if f"{name}.int8" not in self.tensors:
            integer_KM, scale_1M = quantize_weight(numpy_helper.to_array(weight))
            scale = scale_1M[0] if scale_1M.ndim == 2 else scale_1M
            for what, array in ("int8", integer_KM), ("scale", scale), ("zero", np.zeros_like(scale, np.int8)):
                self.tensors[f"{name}.{what}"] = numpy_helper.from_array(array, f"{name}.{what}")
        if len(weight.dims) == 2:
            self._by_row(hidden, name, output, weight.dims[0], weight.dims[1])
        else:
            self._by_utterance(hidden, name, output)

    def _by_row(self, hidden: str, weight: str, output: str, inputs: int, outputs: int) -> None:
        shape = f"{output}.rows"
        self.tensors[shape] = numpy_helper.from_array(np.array([-1, inputs], np.int64), shape)
        rows_NK = self._node("Reshape", [hidden, shape], f"{output}.rows_NK")
        scale_N1, integer_NK = self._quantized(rows_NK, f"{output}.input", "int8.column")
        scaled_NM = self._scaled(integer_NK, weight, scale_N1, f"{output}.rows_NM")
        sizes = self._node("Shape", [hidden], f"{output}.sizes", end=-1)
        self.tensors[f"{output}.width"] = numpy_helper.from_array(np.array([outputs], np.int64), f"{output}.width")
        sizes = self._node("Concat", [sizes, f"{output}.width"], f"{output}.shape", axis=0)
        self._node("Reshape", [scaled_NM, sizes], output)

    def _by_utterance(self, hidden: str, weight: str, output: str) -> None:
        """Quantize the frames first: ``hidden`` only rearranges their numbers, so bytes are rearranged instead."""
        path: list[NodeProto] = []
        origin = hidden
        while self.makers[origin].op_type in MOVES:
            path.insert(0, self.makers[origin])
            origin = path[0].input[0]
        rows_BK = self._node("Reshape", [origin, "int8.each"], f"{output}.rows_BK")
        scale_B111, integer = self._quantized(rows_BK, f"{output}.input", "int8.above")
        sizes = self._node("Shape", [origin], f"{output}.sizes")
        integer = self._node("Reshape", [integer, sizes], f"{output}.bytes")
        for place, moves in enumerate(path):
            copy = NodeProto()
            copy.CopyFrom(moves)
            copy.name = copy.output[0] = f"{output}.moved.{place}"
            copy.input[0], integer = integer, copy.output[0]
            self.nodes.append(copy)
        self._scaled(integer, weight, scale_B111, output)

    def _quantized(self, rows_NK: str, name: str, shape: str) -> tuple[str, str]:
        """Return the scales of rows, reshaped to ``shape``, and the rows as uint8 centered on 128."""
        top = self._reduced("ReduceMax", rows_NK, f"{name}.top")
        bottom = self._reduced("ReduceMin", rows_NK, f"{name}.bottom")
        size = self._node("Max", [top, self._node("Neg", [bottom], f"{name}.depth"), "int8.least"], f"{name}.size")
        scale_N = self._node("Div", [size, "int8.largest"], f"{name}.scale")
        zeros = self._node("Expand", ["int8.zeros", self._node("Shape", [scale_N], f"{name}.count")], f"{name}.zeros")
        integer_NK = self._node("QuantizeLinear", [rows_NK, scale_N, zeros], f"{name}.uint8", axis=0)
        return self._node("Reshape", [scale_N, shape], f"{name}.shaped"), integer_NK

    def _reduced(self, kind: str, rows_NK: str, output: str) -> str:
        if self.opset < 18:
            return self._node(kind, [rows_NK], output, axes=[-1], keepdims=0)
        return self._node(kind, [rows_NK, "int8.last"], output, keepdims=0)

    def _scaled(self, integer: str, weight: str, scale: str, output: str) -> str:
        inputs = [integer, f"{weight}.int8", "int8.one", f"{weight}.scale", "int8.zero", f"{weight}.zero"]
        product = self._node("MatMulIntegerToFloat", inputs, f"{output}.product", domain=RUNTIME)
        return self._node("Mul", [product, scale], output)

    def _node(self, kind: str, inputs: list[str], output: str, **fields: object) -> str:
        self.nodes.append(onnx.helper.make_node(kind, inputs, [output], output, **fields))
        return output
