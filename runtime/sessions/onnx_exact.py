"""A decoder's graph with fp32 activations in its quantized linears, on the very same weights: its float twin.

Of int4 linears an attribute is changed. onnxruntime has no kernel for int8 ones with fp32 activations: it dequantizes
the whole weight in each call, which takes 30 times as long as an int4 one. So these become two int4 linears each: a
code c stands for c - 128, which with c = 16 h + l is 16 (h - 8) + l, where 8 and 0 are the zero points of either. Nodes
split the codes, and as these are constant, onnxruntime does that once, when it opens the graph.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, helper, numpy_helper

EXACT = 1  # accuracy level of MatMulNBits: fp32 activations
LAST = 10**9  # position behind all in a Slice


def exact_graph(path: Path) -> onnx.ModelProto:
    """The graph in a file; its weights stay where they are."""
    model = onnx.load(path, load_external_data=False)
    nodes = [found for node in model.graph.node for found in _exact(node, model.graph)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _exact(node: NodeProto, graph: GraphProto) -> list[NodeProto]:
    """What computes the same as a node, but with fp32 activations."""
    if node.op_type != "MatMulNBits":
        return [node]
    given: dict[str, Any] = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    given["accuracy_level"] = EXACT
    if given["bits"] == 4:
        return [_linear(list(node.input), node.output[0], given)]
    return list(_in_halves(node, given | {"bits": 4}, graph))


def _linear(inputs: list[str], output: str, given: dict[str, Any]) -> NodeProto:
    return helper.make_node("MatMulNBits", inputs, [output], domain="com.microsoft", **given)


def _in_halves(node: NodeProto, given: dict[str, Any], graph: GraphProto) -> Iterator[NodeProto]:
    """An int8 linear as two int4 ones; bytes of their codes hold the first of two values in the lower half."""
    (x, codes, scales), (out,) = node.input, node.output

    def constant(name: str, value: Any, dtype: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), f"{out}.{name}"))
        return f"{out}.{name}"

    def make(kind: str, *inputs: str, to: str, **attributes: Any) -> NodeProto:
        return helper.make_node(kind, inputs, [f"{out}.{to}"], **attributes)

    ends, step = (constant("end", [LAST], np.int64), constant("axis", [2], np.int64)), constant("two", [2], np.int64)
    four, lower, upper = (constant(str(value), value, np.uint8) for value in (4, 15, 240))
    yield make("Slice", codes, constant("0", [0], np.int64), *ends, step, to="even")
    yield make("Slice", codes, constant("1", [1], np.int64), *ends, step, to="odd")
    yield make("BitShift", f"{out}.even", four, direction="RIGHT", to="even_high")
    yield make("BitwiseAnd", f"{out}.odd", upper, to="odd_high")
    yield make("BitwiseOr", f"{out}.even_high", f"{out}.odd_high", to="high")
    yield make("BitwiseAnd", f"{out}.even", lower, to="even_low")
    yield make("BitShift", f"{out}.odd", four, direction="LEFT", to="odd_low")
    yield make("BitwiseOr", f"{out}.even_low", f"{out}.odd_low", to="low")
    blocks = given["K"] // given["block_size"]
    zeros = constant("zeros", np.zeros((given["N"], -(-blocks // 2))), np.uint8)
    yield _linear([x, f"{out}.high", scales], f"{out}.times_high", given)
    yield _linear([x, f"{out}.low", scales, zeros], f"{out}.times_low", given)
    yield make("Mul", f"{out}.times_high", constant("16", 16, np.float32), to="times_16_high")
    yield helper.make_node("Add", [f"{out}.times_16_high", f"{out}.times_low"], [out])
