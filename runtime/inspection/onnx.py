"""ONNX graphs: their initializers by place, without the data files being read."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from runtime.errors import UserError
from runtime.inspection.description import Description, Graph, Part, Weights, tally
from runtime.manifest import Port
from runtime.readback import AGAIN, initializers, load_graph
from runtime.untrusted import require_inside

PACKED = {"MatMulNBits": (1, 2), "GatherBlockQuantized": (0, 2), "DequantizeLinear": (0, 1)}  # inputs: codes, scales
NARROW = {"uint4": 4, "int4": 4, "uint2": 2, "int2": 2, "float4_e2m1fn": 4}  # bits, where NumPy has a byte for each


def describe(path: Path) -> Description:
    """
    Args:
        path: of a graph, or of a folder of some that share their data.

    Raises:
        UserError: no graph there, one that does not parse, or a data file that is missing or cut short.
    """
    paths = sorted(path.glob("*.onnx")) if path.is_dir() else [path]
    folder = path if path.is_dir() else path.parent
    graphs = {file: load_graph(file) for file in paths}
    for file in (file for file, graph in graphs.items() if not graph.node):
        raise UserError(f"{file} holds no operators: name an ONNX graph, or export the bundle again")
    files = _files(folder, graphs)
    return Description(
        path=str(path),
        kind="onnx",
        size=sum(files.values()),
        files=files,
        graphs=[_graph(file, graph) for file, graph in graphs.items()],
        weights=tally(_weights(folder, graphs)),
    )


def _files(folder: Path, graphs: Mapping[Path, onnx.GraphProto]) -> dict[str, int]:
    """The graphs and the data files that they name.

    Raises:
        UserError: one of these is missing.
    """
    named = {place.get("location", "") for graph in graphs.values() for tensor in initializers(graph)
             if (place := _place(tensor))}  # fmt: skip
    for missing in sorted(name for name in named if not require_inside(folder, name, AGAIN).is_file()):
        raise UserError(f"{folder / missing} is missing, which {next(iter(graphs)).name} keeps its weights in")
    names = [*(path.name for path in graphs), *sorted(named)]
    return {name: (folder / name).stat().st_size for name in names}


def _graph(path: Path, graph: onnx.GraphProto) -> Graph:
    constant = {tensor.name for tensor in graph.initializer}
    return Graph(
        name=path.stem,
        file=path.name,
        inputs=[_port(value) for value in graph.input if value.name not in constant],
        outputs=[_port(value) for value in graph.output],
        operators=dict(Counter(map(_operator, _nodes(graph))).most_common()),
    )


def _operator(node: onnx.NodeProto) -> str:
    """Its domain goes before its name, unless it is ONNX's own."""
    return f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Those of its branches too."""
    for node in graph.node:
        yield node
        for branch in (attribute.g for attribute in node.attribute if attribute.HasField("g")):
            yield from _nodes(branch)


def _port(value: onnx.ValueInfoProto) -> Port:
    if (kind := value.type.WhichOneof("value")) != "tensor_type":
        return Port(name=value.name, dtype=(kind or "unknown").removesuffix("_type"), shape=[])
    tensor = value.type.tensor_type
    shape = [size.dim_value if size.HasField("dim_value") else size.dim_param or "?" for size in tensor.shape.dim]
    return Port(name=value.name, dtype=_type(tensor.elem_type)[0], shape=shape)


def _type(code: int) -> tuple[str, int]:
    """As NumPy calls it, and the bits of a value; ONNX may have types that this release of it has not."""
    try:
        dtype = helper.tensor_dtype_to_np_dtype(code)
    except KeyError:
        return f"type {code}", 8
    return ("string", 8) if code == TensorProto.STRING else (dtype.name, NARROW.get(dtype.name, dtype.itemsize * 8))


def _weights(folder: Path, graphs: Mapping[Path, onnx.GraphProto]) -> Iterator[Weights]:
    """Each once, however many initializers see it."""
    seen = set[tuple[str, str | int]]()
    for path, graph in graphs.items():
        parts = _parts(list(_nodes(graph)))
        for tensor in initializers(graph):
            outside = _place(tensor)
            place = (outside["location"], int(outside.get("offset", 0))) if outside else (path.name, tensor.name)
            if place not in seen:
                seen.add(place)
                part, bits = parts.get(tensor.name, ("values", None))
                yield _stored(folder, tensor, part, bits)


def _parts(nodes: Sequence[onnx.NodeProto]) -> dict[str, tuple[Part, int | None]]:
    """Initializers that operators take as codes, with the bits they say these have, and as scales."""
    found: dict[str, tuple[Part, int | None]] = {}
    for node in (node for node in nodes if node.op_type in PACKED):
        codes, scales = (node.input[index] for index in PACKED[node.op_type])
        bits = next((attribute.i for attribute in node.attribute if attribute.name == "bits"), None)
        found |= {codes: ("codes", bits), scales: ("scales", None)}
    return found


def _stored(folder: Path, tensor: TensorProto, part: Part, bits: int | None) -> Weights:
    """
    Args:
        bits: of a code, where several share a byte.
    """
    dtype, width = _type(tensor.data_type)
    size = -(-prod(tensor.dims) * width // 8)
    if outside := _place(tensor):
        path, end = folder / outside["location"], int(outside.get("offset", 0)) + size
        if path.stat().st_size < end:
            raise UserError(f"{path} is cut short: {tensor.name} lies beyond its end; export or copy it again")
    if bits and dtype == "uint8":
        dtype, width = f"int{bits}", bits
    return Weights(dtype=dtype, part=part, bits=width, values=size * 8 // width, bytes=size)


def _place(tensor: TensorProto) -> dict[str, str]:
    """Where in which file its values lie; nothing where they are in the graph."""
    outside = tensor.data_location == TensorProto.EXTERNAL
    return {entry.key: entry.value for entry in tensor.external_data} if outside else {}
