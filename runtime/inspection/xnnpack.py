"""What XNNPACK's parts of an ExecuTorch program say of themselves: their operators and the types of their data."""

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.inspection.description import Part, Weights
from runtime.quiet import quiet

SCHEMA = "schema.fbs"
PREFIX = "xnn_datatype_"
DTYPES = {
    "fp32": ("float32", 32), "fp16": ("float16", 16), "bf16": ("bfloat16", 16), "int32": ("int32", 32),
    "qint8": ("int8", 8), "quint8": ("uint8", 8), "qcint8": ("int8", 8), "qcint4": ("int4", 4), "qbint4": ("int4", 4),
    "qint32": ("int32", 32), "qcint32": ("int32", 32),
}  # fmt: skip
SCALES = {"PerChannelQuant": ("float32", 32), "PerChannelGroupQuant": ("bfloat16", 16)}  # that lie in a buffer
NONE = 0  # buffer of values that are no constants


def read_graph(data: NDArray[np.uint8]) -> dict[str, Any]:
    """The graph that a delegate's data describe, by the schema that comes with ExecuTorch.

    Raises:
        ValueError, SubprocessError: it is none of XNNPACK's, or of another release's.
    """
    from executorch.backends.xnnpack import serialization
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    header = XNNHeader.from_bytes(data[: XNNHeader.EXPECTED_LENGTH].tobytes())
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / SCHEMA).write_bytes(resources.files(serialization).joinpath(SCHEMA).read_bytes())
        graph = folder / "graph.bin"
        start = header.flatbuffer_offset
        graph.write_bytes(data[start : start + header.flatbuffer_size].tobytes())
        with quiet():  # the compiler has its own words for damage
            _flatc_decompile(name, str(folder / SCHEMA), str(graph), ["--raw-binary"])
        return json.loads(graph.with_suffix(".json").read_bytes())


def operators(graph: dict[str, Any]) -> list[str]:
    """Names of its nodes, as XNNPACK calls them."""
    return [node["xnode_union_type"].removeprefix("_").removeprefix("XNN") for node in graph["xnodes"]]


def constants(graph: dict[str, Any]) -> Iterator[tuple[str, Weights]]:
    """Each with the name of its data in the program; without one it lies among the delegate's own."""
    for value in (value["xvalue_union"] for value in graph["xvalues"]):
        quantization = value.get("quant_params")
        tensor = value.get("tensor_value", value)
        part: Part = "codes" if quantization is not None else "values"
        if (index := tensor["constant_buffer_idx"]) != NONE:
            dtype, bits = DTYPES.get(tensor["datatype"].removeprefix(PREFIX), (tensor["datatype"], 8))
            yield _constant(graph["constant_data"][index], dtype, part, bits)
            kind = value.get("quant_params_type", "")
            if kind in SCALES and quantization["scale_buffer_idx"] > NONE:
                yield _constant(graph["constant_data"][quantization["scale_buffer_idx"]], SCALES[kind][0], "scales",
                                SCALES[kind][1])  # fmt: skip


def _constant(place: dict[str, Any], dtype: str, part: Part, bits: int) -> tuple[str, Weights]:
    size = place["size"]
    return place["named_key"], Weights(dtype=dtype, part=part, bits=bits, values=size * 8 // bits, bytes=size)
