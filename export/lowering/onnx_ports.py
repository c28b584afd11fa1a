"""What the graphs of an ONNX folder take and give, read back from the files."""

from pathlib import Path

import onnx
from onnx import helper

from runtime.manifest import Port, Program


def describe_onnx(folder: Path) -> dict[str, Program]:
    """By role, which is the file's name: `decoder`, `embedding`, `vision`, `speech`."""
    return {path.stem: _describe(path) for path in sorted(folder.glob("*.onnx"))}


def _describe(path: Path) -> Program:
    graph = onnx.load(path, load_external_data=False).graph
    return Program(file=path.name, inputs=[_port(value) for value in graph.input],
                   outputs=[_port(value) for value in graph.output])  # fmt: skip


def _port(value: onnx.ValueInfoProto) -> Port:
    tensor = value.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return Port(name=value.name, dtype=dtype, shape=[axis.dim_param or axis.dim_value for axis in tensor.shape.dim])
