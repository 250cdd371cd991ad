"""The weights of an ONNX file: which layers are inner ones, and storing float32 tensors in less."""

from pathlib import Path
from typing import Any

INT8_LAYERS = ("Conv", "Gemm", "MatMul")
LAYERS = (*INT8_LAYERS, "GRU", "LSTM", "RNN")
PASSING = ("MaxPool", "Relu")
"""What hands int8 on unchanged."""
SMALLEST = 64
"""Numbers in a tensor below which the nodes that make it float32 again would take more room than they save."""


def int8_nodes(path: Path, inner: bool) -> list[str]:
    """Names of the nodes to quantize: layers with weights, and what passes int8 on; `inner`: no first and last layer.

    Sums, normalisation, recurrence and attention's products of activations stay float32: ONNX Runtime 1.31 turns a
    softmax between two int8 products into a kernel of its own that gave wrong scores.
    """
    import onnx

    graph = onnx.load(path).graph
    held = {tensor.name for tensor in graph.initializer}
    weighty = [at for at, node in enumerate(graph.node) if node.op_type in LAYERS and held & set(node.input[1:])]
    inside = range(weighty[0] + 1, weighty[-1]) if inner and weighty else range(len(graph.node))
    chosen = [graph.node[at] for at in inside if at in weighty or graph.node[at].op_type in PASSING]
    return [node.name for node in chosen if node.op_type in INT8_LAYERS + PASSING]


def unsigned(path: Path) -> None:
    """Store int8 codes of weights as uint8 ones, 128 higher as their zero points: the same numbers.

    Processors without VNNI add two products of a uint8 and an int8 in 16 bits, where they saturate: scores were a fifth
    off. Those of two uint8 are exact everywhere, and as quick.
    """
    import onnx

    model = onnx.load(path)
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in held:
            for tensor in (held[node.input[0]], held[node.input[2]]):
                if tensor.data_type == onnx.TensorProto.INT8:
                    codes = onnx.numpy_helper.to_array(tensor).astype("int16") + 128
                    tensor.CopyFrom(onnx.numpy_helper.from_array(codes.astype("uint8"), tensor.name))
    onnx.save(model, path)


def shrink(source: Path, target: Path, form: str | None) -> None:
    """Write `source` to `target` with its float32 tensors stored as `half`, or matrices as `int8`; None: as they are.

    A node in the graph makes float32 of them again, once, when a session starts.
    """
    import onnx

    model = onnx.load(source)
    graph = model.graph
    nodes: list[Any] = []
    for tensor in list(graph.initializer) if form else []:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == "float32" and values.size >= SMALLEST and not _is_scale(tensor.name, graph):
            small, added = _half(tensor.name, values) if form == "half" else _int8(tensor.name, values)
            if added is not None:
                graph.initializer.remove(tensor)
                graph.initializer.extend(small)
                nodes.append(added)
    before = _float_scores(list(graph.node), graph.output[0].name)
    del graph.node[:]
    graph.node.extend([*nodes, *before])
    read = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
    onnx.checker.check_model(model)
    onnx.save(model, target)


def _float_scores(nodes: list[Any], scores: str) -> list[Any]:
    """Without the pair that would round what the last layer says to uint8: scores are no input of another layer."""
    made = {node.output[0]: node for node in nodes if node.output}
    last = made[scores]
    rounding = made.get(last.input[0]) if last.op_type == "DequantizeLinear" else None
    if rounding is None or rounding.op_type != "QuantizeLinear":
        return nodes
    made[rounding.input[0]].output[0] = scores
    return [node for node in nodes if node not in (last, rounding)]


def _is_scale(name: str, graph: Any) -> bool:
    return any(name in node.input[1:] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear"))


def _half(name: str, values: Any) -> tuple[list[Any], Any]:
    from onnx import TensorProto, helper, numpy_helper

    small = numpy_helper.from_array(values.clip(-65504, 65504).astype("float16"), f"{name}_half")
    return [small], helper.make_node("Cast", [small.name], [name], name=f"{name}_grow", to=TensorProto.FLOAT)


def _int8(name: str, values: Any) -> tuple[list[Any], Any]:
    """Codes and scales along the axis that loses least: the weights lie on a grid by channel, wherever that axis is."""
    from onnx import helper, numpy_helper

    axes = [axis for axis in range(values.ndim) if values.shape[axis] > 1]
    if len(axes) < 2:
        return [], None
    axis, codes, scale = min((_coded(values, axis) for axis in axes), key=lambda found: _loss(values, *found))
    tensors = [numpy_helper.from_array(codes, f"{name}_int8"), numpy_helper.from_array(scale, f"{name}_scale")]
    inputs = [tensor.name for tensor in tensors]
    return tensors, helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}_grow", axis=axis)


def _coded(values: Any, axis: int) -> tuple[int, Any, Any]:
    others = tuple(other for other in range(values.ndim) if other != axis)
    scale = abs(values).max(axis=others) / values.dtype.type(127)
    scale[scale == 0] = 1
    return axis, (values / _along(scale, axis, values.ndim)).round().clip(-127, 127).astype("int8"), scale


def _loss(values: Any, axis: int, codes: Any, scale: Any) -> float:
    return float(((codes * _along(scale, axis, values.ndim) - values) ** 2).sum())


def _along(scale: Any, axis: int, dims: int) -> Any:
    return scale.reshape([-1 if at == axis else 1 for at in range(dims)])
