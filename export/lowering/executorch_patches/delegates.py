"""Prepares each distinct delegate once: the 48 layers of Gemma 4 12B have seven between them.

Delegates of layers alike differ in nothing but the names of their blobs, which are hashes and so of one length, and
the numbers that profilers know their nodes by. A delegate is prepared with numbers that are easy to find and replace.
"""

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend
from executorch.exir._serialize._named_data_store import NamedDataStore, NamedDataStoreOutput
from executorch.exir.backend.backend_details import PreprocessResult
from torch.export import ExportedProgram
from torch.fx import Node

from export.lowering.executorch_patches import replaced
from export.lowering.executorch_streams import Sources, Stream
from runtime.readback_executorch import SCALE

FINDABLE = 0x7E570000  # first of the numbers of nodes in a prepared delegate
UNNUMBERED = 65535  # XNNPACK's number of a node without one
Blobs = dict[str, Stream]  # by name


@dataclass(frozen=True)
class Prepared:
    """A delegate with findable numbers, and its blobs in the order of its graph's parameters."""

    result: PreprocessResult
    blobs: Blobs


@contextmanager
def prepared_once(sources: Sources) -> Iterator[None]:
    """While it lasts, a delegate like an earlier one is that one with other names."""
    usual, known = XnnpackBackend.preprocess, dict[str, Prepared]()

    def preprocess(program: ExportedProgram, specs: Any) -> PreprocessResult:
        blobs = _blobs(program, sources)
        if blobs is None:
            return usual(copy.deepcopy(program), specs)
        key = f"{_shape(program)} {specs}"
        if key not in known:
            known[key] = Prepared(usual(_findable(program), specs), blobs)
        return _like(known[key], blobs, program)

    with (
        replaced(XnnpackBackend, "preprocess", staticmethod(preprocess)),
        _uncopied(),
    ):
        yield


@contextmanager
def _uncopied() -> Iterator[None]:
    """Programs are copied when they are prepared, not before; the method is inherited, so there is none to restore."""
    XnnpackBackend.copy_exported_program_for_preprocess = classmethod(lambda cls, program, specs: program)
    try:
        yield
    finally:
        del XnnpackBackend.copy_exported_program_for_preprocess


def _blobs(program: ExportedProgram, sources: Sources) -> Blobs | None:
    """All data of a delegate, or None where it is not packed weights alone, each other than the rest."""
    signature, blobs = program.graph_signature, Blobs()
    if signature.inputs_to_buffers or signature.inputs_to_lifted_tensor_constants:
        return None
    parts = [sources.linear(parameter) for parameter in signature.inputs_to_parameters.values()]
    for part in parts:
        if part is None:
            return None
        blobs |= {part[0].name: part[0], f"{SCALE}{part[1].name}": part[1]}
    return blobs if len(blobs) == 2 * len({id(part) for part in parts}) else None


def _findable(program: ExportedProgram) -> ExportedProgram:
    """A copy with other numbers."""
    copied = copy.deepcopy(program)
    for index, node in enumerate(copied.graph.nodes):
        node.meta["debug_handle"] = FINDABLE + index
    return copied


def _like(prepared: Prepared, blobs: Blobs, program: ExportedProgram) -> PreprocessResult:
    """The delegate of a program like the one it was prepared from."""
    new = dict(zip(prepared.blobs, blobs, strict=True))
    changes = {old.encode(): name.encode() for old, name in new.items()}
    for index, node in enumerate(program.graph.nodes):
        number = node.meta.get("debug_handle", UNNUMBERED)
        changes[(FINDABLE + index).to_bytes(4, "little")] = number.to_bytes(4, "little")
    patterns = sorted(map(re.escape, changes), key=len, reverse=True)  # the name of scales ends like that of codes
    data = re.sub(b"|".join(patterns), lambda match: changes[match[0]], prepared.result.processed_bytes)
    assert prepared.result.data_store_output is not None
    return PreprocessResult(data, {}, _restored(prepared.result.data_store_output, new, blobs))


def _restored(stored: NamedDataStoreOutput, new: dict[str, str], blobs: Blobs) -> NamedDataStoreOutput:
    store = NamedDataStore()
    for tag, entries in {None: stored.pte_data, **stored.external_data}.items():
        for name, entry in entries.items():
            store.add_named_data(new[name], blobs[new[name]], entry.alignment, tag)
    return store.get_named_data_store_output()


def _shape(program: ExportedProgram) -> str:
    """All of a graph but its weights."""
    index = {node: number for number, node in enumerate(program.graph.nodes)}
    parameters = program.graph_signature.inputs_to_parameters

    def describe(value: Any) -> Any:
        if isinstance(value, Node):
            return index[value]
        if isinstance(value, torch.Tensor):
            return [str(size) for size in value.shape], str(value.dtype)
        if isinstance(value, (list, tuple)):
            return [describe(part) for part in value]
        return str(value)

    def line(node: Node) -> list[Any]:
        target = node.target if node.op != "placeholder" else None  # a placeholder's is its own name
        kind = parameters.get(node.name, "").rpartition(".")[2]
        return [node.op, str(target), describe(node.args), describe(list(node.kwargs.items())),
                describe(node.meta.get("val")), kind]  # fmt: skip

    return repr([line(node) for node in program.graph.nodes])
