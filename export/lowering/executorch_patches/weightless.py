"""Where ExecuTorch would copy a weight's bytes out of a tensor, it is given a stream of them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from executorch.backends.xnnpack.operators import node_visitor
from executorch.backends.xnnpack.operators.node_visitor import NodeVisitor
from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import (
    ConstantDataOffset,
    PerChannelGroupQuant,
    PerChannelQuant,
)
from executorch.exir.emit import _emitter
from executorch.exir.schema import EValue
from executorch.exir.tensor import make_tensor_value
from torch import nn
from torch.fx import Node

from export.lowering.executorch_patches import replaced
from export.lowering.executorch_streams import Sources, Stream
from runtime.readback_executorch import SCALE


@contextmanager
def weightless(sources: Sources) -> Iterator[None]:
    """While it lasts, stand-ins are stored as the weights they stand for."""
    with ExitStack() as stack:
        for owner, name, value in (
            (NodeVisitor, "get_serialized_buffer_index", _codes(sources)),
            (NodeVisitor, "get_quant_params", _scales(sources)),
            (_emitter._Emitter, "_tensor_spec_to_evalue", _constant(sources)),
        ):
            stack.enter_context(replaced(owner, name, value))
        stack.enter_context(_shared_parameters())
        yield


@contextmanager
def _shared_parameters() -> Iterator[None]:
    """A deep copy of a program shares its weights: nothing here changes them."""
    usual = nn.Parameter.__deepcopy__
    nn.Parameter.__deepcopy__ = lambda parameter, memo: parameter  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Parameter.__deepcopy__ = usual  # type: ignore[method-assign]


def _codes(sources: Sources) -> Any:
    usual = NodeVisitor.get_serialized_buffer_index

    def index(self: NodeVisitor, tensor: Node, graph: Any, ids: Any, nhwc: bool, swap: bool, quant: Any,
              force_fp32: bool = False, groups: int = 1) -> int:  # fmt: skip
        found = None if quant is None else sources.linear(_parameter(self, quant.q_input))
        if found is None:
            tensor.meta["custom"] = (tensor.meta.get("custom") or {}) | {"delegate_constant_tag": sources.tag}
            return usual(self, tensor, graph, ids, nhwc, swap, quant, force_fp32, groups)
        codes, _ = found
        return _store(self, graph, codes.name, codes, sources.tag)

    return index


def _scales(sources: Sources) -> Any:
    usual = NodeVisitor.get_quant_params

    def params(self: NodeVisitor, quant: Any, graph: Any, external_tag: str | None = None) -> Any:
        found = sources.linear(_parameter(self, quant.q_input)) if quant.per_channel else None
        if found is None:
            return usual(self, quant, graph, sources.tag)
        _, scales = found
        place = dict(scale=[], channel_dim=quant.axis, num_scales=scales.size,
                     scale_buffer_idx=_store(self, graph, f"{SCALE}{scales.name}", scales, sources.tag))  # fmt: skip
        if quant.per_channel_group:
            return PerChannelGroupQuant(group_size=quant.group_size, **place)
        return PerChannelQuant(**place)

    return params


def _parameter(visitor: NodeVisitor, node: Node) -> str | None:
    return visitor.exported_program.graph_signature.inputs_to_parameters.get(node.name)


def _store(visitor: NodeVisitor, graph: Any, key: str, stream: Stream, tag: str | None) -> int:
    """Index of the data in the delegate."""
    place = ConstantDataOffset(offset=node_visitor.UINT64_MAX, size=len(stream), named_key=key)
    graph.constant_data.append(place)
    visitor._named_data_store.add_named_data(key, stream, node_visitor.CONSTANT_TENSOR_ALIGNMENT, tag)
    return len(graph.constant_data) - 1


def _constant(sources: Sources) -> Any:
    """Constants of portable operators: the embedding's table."""
    usual = _emitter._Emitter._tensor_spec_to_evalue

    def emit(self: Any, spec: Any, constant_tag: str | None = None) -> EValue:
        stream = sources.table(spec.storage.data_ptr()) if spec.const and spec.storage is not None else None
        if stream is None:
            return usual(self, spec, constant_tag)
        known = self.program_state.cached_spec_hash_values if constant_tag is None else {}
        index = known.get(stream.name, -1)
        if index == -1:
            index = self._save_new_const_tensor(spec, stream, stream.name, None, constant_tag)
        return EValue(make_tensor_value(index, None, spec))

    return emit
