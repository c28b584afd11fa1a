"""Writing an ONNX graph down: nodes, small constants inside the file, and all weights in one data file beside it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray
from onnx import TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"
OPSET = 21
IR_VERSION = 10

CHUNK = 1 << 24  # bytes written at once
PAGE = 4096  # large tensors start on one, so that they can be mapped into memory
INLINE = 1024  # bytes up to which a tensor stays inside the .onnx file

Value = str  # the name of a value in a graph
NONE: Value = ""  # an optional input left out
Shape = Sequence[int | str]  # a named axis is dynamic


@dataclass(frozen=True)
class Span:
    """Where a tensor lies in the data file."""

    offset: int
    length: int


class DataFile:
    """Weights of all graphs of a folder, appended one after another; each is stored once, whoever asks for it.

    This is the only place where weights are written, and it never holds more than a chunk of one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        self._spans: dict[str, Span] = {}

    def __enter__(self) -> "DataFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def store(self, key: str, parts: Callable[[], Iterable[NDArray]]) -> Span:
        """Appends the bytes of all parts in order, unless something was stored under this key before."""
        if key not in self._spans:
            offset = -(-self._file.tell() // PAGE) * PAGE
            self._file.seek(offset)
            length = sum(self._file.write(chunk.data) for part in parts() for chunk in _chunks(part))
            self._spans[key] = Span(offset, length)
        return self._spans[key]


def _chunks(array: NDArray) -> Iterator[NDArray]:
    """Rows of an array, a few at a time, contiguous and little-endian."""
    rows = max(1, CHUNK * len(array) // max(array.nbytes, 1))
    for start in range(0, len(array), rows):
        part = array[start : start + rows]
        yield np.ascontiguousarray(part, part.dtype.newbyteorder("<"))


class Graph:
    """A graph while it is written. A value is known by its name; operations return the names of their outputs."""

    def __init__(self, name: str, data: DataFile) -> None:
        self.name = name
        self.data = data
        self.nodes: list[onnx.NodeProto] = []  # of the branch being written, or of the graph itself
        self._initializers: dict[str, TensorProto] = {}
        self._inputs: dict[str, onnx.ValueInfoProto] = {}
        self._outputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def node(self, op: str, *inputs: Value, outputs: Sequence[Value] = (), domain: str = "",
             **attributes: Any) -> Value:  # fmt: skip
        """Adds a node; returns its first output."""
        self._count += 1
        name = f"{op}_{self._count}"
        outputs = outputs or [name]
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs[0]

    def microsoft(self, op: str, *inputs: Value, outputs: Sequence[Value] = (), **attributes: Any) -> Value:
        """A node of ONNX Runtime's own operators; missing optional inputs at the end are dropped."""
        while inputs[-1] == NONE:
            inputs = inputs[:-1]
        return self.node(op, *inputs, outputs=outputs, domain=MICROSOFT, **attributes)

    def choose(self, condition: Value, then: "Branch", otherwise: "Branch", outputs: Sequence[Value]) -> Value:
        """An If with named outputs; its branches read the values of this graph by their names."""
        bodies = {"then_branch": self._body(then), "else_branch": self._body(otherwise)}
        return self.node("If", condition, outputs=outputs, **bodies)

    def _body(self, branch: "Branch") -> onnx.GraphProto:
        outer, self.nodes = self.nodes, []
        results = [helper.make_tensor_value_info(value, dtype, None) for value, dtype in branch()]
        body = helper.make_graph(self.nodes, f"branch_{self._count}", [], results)
        self.nodes = outer
        return body

    def constant(self, value: Any, dtype: DTypeLike = np.int64) -> Value:
        """A constant, written once however often it is used."""
        array = np.array(value, dtype)
        name = f"{array.dtype}_{array.tolist()}"
        self._initializers.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def stored(self, name: str, array: NDArray) -> Value:
        """A weight: in the data file, unless it is tiny."""
        if array.nbytes <= INLINE:
            self._initializers.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(array), name))
            return name
        return self.streamed(name, array.dtype, array.shape, lambda: [array.reshape(-1, array.shape[-1])])

    def streamed(self, name: str, dtype: DTypeLike, shape: Sequence[int], parts: Callable[[], Iterable[NDArray]],
                 key: str | None = None) -> Value:  # fmt: skip
        """A weight whose bytes come in parts; the same key stands for the same bytes, in all graphs of a folder."""
        if name not in self._initializers:
            span = self.data.store(key or name, parts)
            self._initializers[name] = _external(name, dtype, shape, self.data.path.name, span)
        return name

    def input(self, name: str, dtype: int, shape: Shape) -> Value:
        """Declares an input, at first use."""
        self._inputs.setdefault(name, helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, value: Value, dtype: int, shape: Shape) -> None:
        """Declares a value an output."""
        self._outputs.append(helper.make_tensor_value_info(value, dtype, shape))

    def save(self, path: Path) -> None:
        """Writes the graph; its data file must lie in the same folder."""
        graph = helper.make_graph(self.nodes, self.name, list(self._inputs.values()), self._outputs,
                                  list(self._initializers.values()))  # fmt: skip
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="export")
        path.write_bytes(model.SerializeToString())


def _external(name: str, dtype: DTypeLike, shape: Sequence[int], file: str, span: Span) -> TensorProto:
    """A tensor that says where its bytes are."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    tensor = TensorProto(name=name, dims=shape, data_type=kind, data_location=TensorProto.EXTERNAL)
    for key, value in ("location", file), ("offset", span.offset), ("length", span.length):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


Branch = Callable[[], Sequence[tuple[Value, int]]]  # writes nodes; returns its results with their data types
