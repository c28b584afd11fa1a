"""ExecuTorch programs: methods, what runs where, and the data of operators and delegates."""

from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from math import prod
from pathlib import Path
from subprocess import SubprocessError
from typing import Any

from runtime.errors import UserError
from runtime.inspection import xnnpack
from runtime.inspection.description import Description, Fact, Graph, Weights, tally
from runtime.installed import require_release
from runtime.manifest import Port
from runtime.readback_executorch import BACKEND, ExecutorchWeights, is_outside
from runtime.weight_cache import VERSION

DTYPES = {
    0: ("uint8", 8), 1: ("int8", 8), 2: ("int16", 16), 3: ("int32", 32), 4: ("int64", 64), 5: ("float16", 16),
    6: ("float32", 32), 7: ("float64", 64), 11: ("bool", 8), 15: ("bfloat16", 16), 27: ("uint16", 16),
    28: ("uint32", 32), 29: ("uint64", 64),
}  # fmt: skip
STATIC = 0  # TensorShapeDynamism


def describe(path: Path) -> Description:
    """
    Args:
        path: of a `.pte`, whose data file is called like it, or of a folder with ours.

    Raises:
        UserError: ExecuTorch is missing, or the program or its data file is missing, damaged or cut short.
    """
    require_release("executorch", VERSION)
    return _Inspected(ExecutorchWeights(path), path).description()


class _Inspected:
    """A program whose delegates' graphs are read once."""

    def __init__(self, weights: ExecutorchWeights, path: Path) -> None:
        self.weights, self.path = weights, path
        self.notes: list[str] = []

    def description(self) -> Description:
        plans = self.weights.program.execution_plan
        files = {path.name: path.stat().st_size for path in (self.weights.path, self.weights.data_path)
                 if path.is_file()}  # fmt: skip
        return Description(
            path=str(self.path),
            kind="executorch",
            size=sum(files.values()),
            files=files,
            graphs=[self._graph(plan) for plan in plans if plan.chains[0].instructions],
            weights=tally(self._weights()),
            facts={plan.name: _constant(plan) for plan in plans if not plan.chains[0].instructions},
            notes=self.notes,
        )

    # Methods

    def _graph(self, plan: Any) -> Graph:
        ids = {delegate.id for delegate in plan.delegates}
        calls = self.weights.operators(plan.name)
        inside = (name for graph in self._delegates[plan.name] for name in xnnpack.operators(graph))
        return Graph(
            name=plan.name,
            file=self.weights.path.name,
            inputs=[_port(plan, index, f"{plan.name}.{place}") for place, index in enumerate(plan.inputs)],
            outputs=[_port(plan, index, f"{plan.name}.{place}") for place, index in enumerate(plan.outputs)],
            operators={name: count for name, count in calls.items() if name not in ids},
            delegates={name: count for name, count in calls.items() if name in ids},
            delegated=dict(Counter(inside).most_common()),
            arenas=list(filter(None, plan.non_const_buffer_sizes)),
        )

    @cached_property
    def _delegates(self) -> dict[str, list[dict[str, Any]]]:
        """XNNPACK's graphs by method."""
        return {plan.name: list(self._read_delegates(plan)) for plan in self.weights.program.execution_plan}

    def _read_delegates(self, plan: Any) -> Iterator[dict[str, Any]]:
        for delegate in (delegate for delegate in plan.delegates if delegate.id == BACKEND):
            try:
                yield xnnpack.read_graph(self.weights.delegate_data(delegate.processed))
            except (ValueError, KeyError, RuntimeError, OSError, SubprocessError) as error:
                raise UserError(f"{self.weights.path}: an {BACKEND} of {plan.name} does not parse ({error}); "
                                "export the bundle again") from None  # fmt: skip

    # Weights

    def _weights(self) -> Iterator[Weights]:
        """Each once, whatever shares it; what nothing tells the type of as bytes."""
        named = dict(self._typed())
        if missing := named.keys() - self.weights.blobs.keys():
            self.notes.append(f"{len(missing)} weights are kept in {self.weights.data_path.name}, which is not there")
        for key, blob in self.weights.blobs.items():
            dtype = str(blob.dtype) if blob.dtype.itemsize > 1 else "bytes"
            unknown = Weights(dtype=dtype, part="values", bits=blob.itemsize * 8, values=blob.size, bytes=blob.nbytes)
            yield named.get(key, unknown)
        yield from self._own()

    def _typed(self) -> Iterator[tuple[str, Weights]]:
        """Data with a name. What a delegate says of it goes before what an operator reads it as."""
        for value in self._constants():
            if is_outside(value):
                yield value.extra_tensor_info.fully_qualified_name, _stored(value)
        for graph in (graph for graphs in self._delegates.values() for graph in graphs):
            yield from ((key, weights) for key, weights in xnnpack.constants(graph) if key)

    def _own(self) -> Iterator[Weights]:
        """Data without: constants of portable operators, which methods share, and what lies in delegates' own."""
        seen = {blob.ctypes.data for blob in self.weights.blobs.values()}  # a tied embedding is stored for the head
        for value in (value for value in self._constants() if not is_outside(value)):
            stored = _stored(value)
            place = self.weights.constant(value.data_buffer_idx, stored.bytes).ctypes.data
            if place not in seen:
                seen.add(place)
                yield stored
        for graph in (graph for graphs in self._delegates.values() for graph in graphs):
            yield from (weights for key, weights in xnnpack.constants(graph) if not key)

    def _constants(self) -> Iterator[Any]:
        for value in (value.val for plan in self.weights.program.execution_plan for value in plan.values):
            constant = hasattr(value, "scalar_type") and value.allocation_info is None
            if constant and (value.data_buffer_idx or is_outside(value)):
                yield value


def _stored(tensor: Any) -> Weights:
    dtype, bits = _dtype(tensor)
    values = prod(tensor.sizes)
    return Weights(dtype=dtype, part="values", bits=bits, values=values, bytes=values * bits // 8)


def _dtype(tensor: Any) -> tuple[str, int]:
    return DTYPES.get(int(tensor.scalar_type), (f"type {int(tensor.scalar_type)}", 8))


def _port(plan: Any, index: int, name: str) -> Port:
    """Ports have no names of their own: they go by the method's and their place. A size that may be less is a bound."""
    value = plan.values[index].val
    if not hasattr(value, "scalar_type"):
        return Port(name=name, dtype=type(value).__name__.lower(), shape=[])
    fixed = int(value.shape_dynamism) == STATIC
    shape: list[int | str] = [size if fixed or size <= 1 else f"<={size}" for size in value.sizes]
    return Port(name=name, dtype=_dtype(value)[0], shape=shape)


def _constant(plan: Any) -> Fact:
    """What a method without instructions returns."""
    found = [_plain(plan.values[index].val) for index in plan.outputs]
    return found[0] if len(found) == 1 else found


def _plain(value: Any) -> Any:
    """The one field of a scalar or list."""
    return next(iter(vars(value).values()), None)
