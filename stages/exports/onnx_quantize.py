"""int8 for a graph: weights once and for all, one scale a column; activations as they come, one scale a tensor.

What the graph then holds are ONNX's own operators (DynamicQuantizeLinear, MatMulInteger), in the order in which ONNX
Runtime takes them together, as its ``quantize_dynamic`` makes them. What is added here: the input of a convolution is
quantised before its windows are laid out, while it is half as many numbers, and moving them then moves bytes.

Axes: K inputs and N outputs of a product.
"""

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

SMALLEST = 2**12  # weights with fewer numbers gain nothing
MOVES = frozenset(
    {"Slice", "Reshape", "Concat", "Transpose", "Gather"}
)  # operators that move numbers and change none
LAYS_WINDOWS = frozenset({"Concat", "Gather"})


def quantize(model: ModelProto) -> ModelProto:
    """A copy of ``model`` whose products with stored weights are in int8."""
    quantized = ModelProto()
    quantized.CopyFrom(model)
    graph = quantized.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    integers = _Integers(graph)
    nodes: list[NodeProto] = []
    for node in graph.node:
        weight = weights.get(node.input[1]) if node.op_type == "MatMul" else None
        nodes += [node] if weight is None or not _worthwhile(weight) else integers.product(node, weight)
    used = {output.name for output in graph.output}
    alive: list[NodeProto] = []
    for node in reversed(nodes):  # ONNX Runtime would lay out the windows of floats, too
        if used.intersection(node.output):
            used |= set(node.input)
            alive.insert(0, node)
    graph.ClearField("node")
    graph.node.extend(alive)
    kept = [tensor for tensor in (*graph.initializer, *integers.tensors.values()) if tensor.name in used]
    graph.ClearField("initializer")
    graph.initializer.extend(kept)
    return quantized


def _worthwhile(weight: TensorProto) -> bool:
    single = weight.data_type == TensorProto.FLOAT  # what is in double is so for its digits
    return single and len(weight.dims) > 1 and int(np.prod(weight.dims)) >= SMALLEST


def quantize_weight(weight_KN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 and the scale of each column, so that nothing is clipped; leading axes are of several weights."""
    scale_1N = np.abs(weight_KN).max(axis=-2, keepdims=True) / 127
    integer_KN = np.rint(weight_KN / np.where(scale_1N > 0, scale_1N, 1)).astype(np.int8)
    return integer_KN, scale_1N.astype(np.float32)


class _Integers:
    """The integers that take the place of floats: each weight and each activation once, whoever takes them."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.makers = {name: node for node in graph.node for name in node.output}
        self.tensors: dict[str, TensorProto] = {}
        self._made: set[str] = set()

    def product(self, node: NodeProto, weight: TensorProto) -> list[NodeProto]:
        """What does the work of a product of floats."""
        hidden, output, name = node.input[0], node.output[0], weight.name
        if f"{name}.int8" not in self.tensors:
            integer_KN, scale_1N = quantize_weight(numpy_helper.to_array(weight))
            scale = scale_1N[0] if scale_1N.ndim == 2 else scale_1N
            for what, array in ("int8", integer_KN), ("scale", scale), ("zero", np.zeros_like(scale, np.int8)):
                self.tensors[f"{name}.{what}"] = numpy_helper.from_array(array, f"{name}.{what}")
        origin = self._origin(hidden)
        nodes = self._quantized(hidden, origin)
        made = (
            ("MatMulInteger", [f"{hidden}.uint8", f"{name}.int8", f"{origin}.zero", f"{name}.zero"], "int32"),
            ("Cast", [f"{output}.int32"], "float"),
            ("Mul", [f"{origin}.scale", f"{name}.scale"], "scale"),
        )
        for kind, inputs, what in made:
            fields = {"to": TensorProto.FLOAT} if kind == "Cast" else {}
            nodes.append(onnx.helper.make_node(kind, inputs, [f"{output}.{what}"], f"{output}.{what}", **fields))
        scaled = onnx.helper.make_node("Mul", [f"{output}.float", f"{output}.scale"], [output], f"{output}.scaled")
        return [*nodes, scaled]

    def _origin(self, name: str) -> str:
        """The tensor whose numbers ``name`` has, laid out as windows; itself where it is made otherwise."""
        origins, seen, windows = {name}, set[str](), False
        while origins:
            moved = {one for one in origins if one in self.makers and self.makers[one].op_type in MOVES}
            if not moved:
                break
            seen |= moved
            windows |= any(self.makers[one].op_type in LAYS_WINDOWS for one in moved)
            origins = (origins - moved) | {before for one in moved for before in _moved(self.makers[one])}
        return next(iter(origins)) if windows and len(origins) == 1 else name

    def _quantized(self, name: str, origin: str) -> list[NodeProto]:
        """The nodes that are missing until ``name`` is there in uint8, with the scale of ``origin``."""
        integer = f"{name}.uint8"
        if integer in self._made:
            return []
        self._made.add(integer)
        if name == origin:
            outputs = [integer, f"{name}.scale", f"{name}.zero"]
            return [onnx.helper.make_node("DynamicQuantizeLinear", [name], outputs, f"{name}.quantize")]
        moves = NodeProto()
        moves.CopyFrom(self.makers[name])
        moves.name, moves.output[0] = f"{moves.name}.uint8", integer
        nodes = [node for before in _moved(moves) for node in self._quantized(before, origin)]
        for place, before in enumerate(_moved(moves)):
            moves.input[place] = f"{before}.uint8"
        return [*nodes, moves]


def _moved(node: NodeProto) -> list[str]:
    """The inputs that a node moves; the others say where to."""
    return list(node.input) if node.op_type == "Concat" else [node.input[0]]
