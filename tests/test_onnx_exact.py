"""Quantized linears of a float twin's graph, against their weights in fp64."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from runtime.sessions.onnx_exact import exact_graph

ROWS, BLOCK = 64, 32
CLOSE = 2e-6  # largest difference, over the rms of what is wanted


def graph(codes: NDArray[np.uint8], scales: NDArray[np.float32], bits: int) -> onnx.ModelProto:
    """One linear as bundles have it, with activations rounded to int8."""
    columns = scales.shape[1] * BLOCK
    node = helper.make_node("MatMulNBits", ["x", "codes", "scales"], ["y"], domain="com.microsoft", N=ROWS, K=columns,
                            bits=bits, block_size=BLOCK, accuracy_level=4)  # fmt: skip
    ports = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["t", width])
             for name, width in (("x", columns), ("y", ROWS)))  # fmt: skip
    tensors = numpy_helper.from_array(codes, "codes"), numpy_helper.from_array(scales, "scales")
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    body = helper.make_graph([node], "linear", [next(ports)], [next(ports)], tensors)
    return helper.make_model(body, opset_imports=opsets, ir_version=10)


def values(codes: NDArray[np.uint8], bits: int) -> NDArray[np.float64]:
    """What stored codes stand for, without scales: [rows, blocks, BLOCK]"""
    if bits == 8:
        return codes.astype(np.float64) - 128
    return np.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:2], BLOCK).astype(np.float64) - 8


def off(model: onnx.ModelProto, x: NDArray[np.float32], wanted: NDArray[np.float64]) -> float:
    found = InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    return float(np.abs(found - wanted).max() / wanted.std())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("blocks", [3, 4])
@pytest.mark.parametrize("tokens", [1, 5])
def test_activations_are_not_rounded(tmp_path: Path, bits: int, blocks: int, tokens: int) -> None:
    rng = np.random.default_rng(blocks)
    codes = rng.integers(0, 256, (ROWS, blocks, BLOCK * bits // 8), np.uint8)
    scales = rng.random((ROWS, blocks), np.float32)
    x = rng.standard_normal((tokens, blocks * BLOCK), np.float32)
    weight = (values(codes, bits) * scales[..., None]).reshape(ROWS, -1)
    shipped = graph(codes, scales, bits)
    onnx.save(shipped, tmp_path / "linear.onnx")
    twin = exact_graph(tmp_path / "linear.onnx")
    assert off(twin, x, x @ weight.T) < CLOSE
    assert off(shipped, x, x @ weight.T) > 100 * CLOSE, "control: as shipped, they are"
    weight[0, 0] += scales[0, 0]
    assert off(twin, x, x @ weight.T) > 100 * CLOSE, "control: another code"
