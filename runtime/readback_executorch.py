"""Every weight read back out of a `.pte` and its data file, and what of it runs in a delegate.

Delegates' data go by their sha256 and portable operators' constants by nothing, so weights are found by their digests:
each piece of data is hashed in the forms that the lowering may have given a weight. Files are mapped, never read whole.
"""

import mmap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UserError
from runtime.manifest import TensorDigest
from runtime.quiet import quiet
from runtime.readback import BITS, Difference, digest_of, narrow, pieces
from runtime.sessions.executorch import DATA_FILE, FILE

HEAD = 4096  # bytes that hold a file's header
SCALE = "scale_"  # begins the names of scales
OUTSIDE = 1  # TensorDataLocation.EXTERNAL
HASH = 64  # characters of a name that is a sha256
BACKEND = "XnnpackBackend"
DECODER = "text_decoder"
CONSTANTS = {0: np.uint8, 1: np.int8, 6: np.float32, 15: np.uint16}  # ScalarType of those that hold weights


class ExecutorchWeights:
    """The data of a program."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: of a `.pte`, or of a folder with ours. Its data file, if it has one, is called like it.

        Raises:
            UserError: no program there, one that does not parse, or one that is cut short.
        """
        self.path = path / FILE if path.is_dir() else path
        self.data_path = self.path.with_suffix(Path(DATA_FILE).suffix)
        self._bytes = _map(self.path)
        self.program, self._base = _parse(self.path, self._bytes)
        self._digests: dict[_Wanted, dict[str, set[str]]] = {}
        ends = (self._base + segment.offset + segment.size for segment in self.program.segments)
        if max(ends, default=0) > len(self._bytes):
            raise UserError(f"{self.path} is cut short: export the bundle again")

    @cached_property
    def blobs(self) -> dict[str, NDArray]:
        """Data of delegates as bytes, by name, and constants that are in the data file, in their dtype."""
        named = self.program.named_data or []
        inside = {entry.key: self._segment(entry.segment_index) for entry in named}
        return inside | (_read_data(self.data_path) if self.data_path.exists() else {})

    def constants(self) -> Iterator[NDArray]:
        """Data of portable operators that may be weights."""
        seen = set[int]()
        for value in (value.val for plan in self.program.execution_plan for value in plan.values):
            index = getattr(value, "data_buffer_idx", 0)  # 0: none, or in the data file
            held = index and value.allocation_info is None and int(value.scalar_type) in CONSTANTS
            if held and index not in seen and not is_outside(value):
                seen.add(index)
                dtype = np.dtype(CONSTANTS[int(value.scalar_type)])
                size = int(np.prod(value.sizes, dtype=np.int64)) * dtype.itemsize
                yield self.constant(index, size).view(dtype)

    def constant(self, index: int, size: int) -> NDArray[np.uint8]:
        """The bytes of a portable operator's, which may be a delegate's too."""
        place = self.program.constant_segment
        return self._segment(place.segment_index)[place.offsets[index] :][:size]

    def digests(self, wanted: "_Wanted") -> dict[str, set[str]]:
        """Of each piece of delegates' data and of the data file, as the quantizer would have taken them; taken once."""
        if wanted not in self._digests:
            self._digests[wanted] = {name: _taken(blob, _blob_digests(name, blob, wanted))
                                     for name, blob in self.blobs.items()}  # fmt: skip
        return self._digests[wanted]

    def _segment(self, index: int) -> NDArray[np.uint8]:
        segment = self.program.segments[index]
        start = self._base + segment.offset
        return self._bytes[start : start + segment.size]

    # Delegation

    def delegated(self) -> set[str]:
        """Names of the data that delegates of the decoder ask for."""
        found = set[str]()
        for delegate in self._plan(DECODER).delegates:
            if delegate.id == BACKEND:
                data = self.delegate_data(delegate.processed).tobytes()
                found |= {name for name in self.blobs if name.encode() in data}
        return found

    def delegate_data(self, place: Any) -> NDArray[np.uint8]:
        """What a delegate was given to make itself of."""
        if int(place.location) == 0:  # inline
            return np.frombuffer(bytes(self.program.backend_delegate_data[place.index].data), np.uint8)
        return self._segment(place.index)

    def operators(self, method: str = DECODER) -> dict[str, int]:
        """Calls of one step by the operator's name: what runs in portable kernels, and how many delegates."""
        plan, calls = self._plan(method), Counter[str]()
        for call in (step.instr_args for chain in plan.chains for step in chain.instructions):
            if hasattr(call, "op_index"):
                operator = plan.operators[call.op_index]
                calls[f"{operator.name}.{operator.overload}".removesuffix(".")] += 1
            elif hasattr(call, "delegate_index"):
                calls[plan.delegates[call.delegate_index].id] += 1
        return dict(calls.most_common())

    def planned_bytes(self, method: str = DECODER) -> int:
        """Memory of a method beside its weights: caches, and activations of the longest step."""
        return sum(self._plan(method).non_const_buffer_sizes)

    def _plan(self, method: str) -> Any:
        plans = [plan for plan in self.program.execution_plan if plan.name == method]
        if not plans:
            raise UserError(f"{self.path} has no method {method}: export the bundle again")
        return plans[0]


def differences(folder: Path, tensors: Sequence[TensorDigest]) -> list[Difference]:
    """What does not match, over all weights recorded; empty for a faithful folder.

    Raises:
        UserError: no program there, or one that does not parse.
    """
    return compare(ExecutorchWeights(folder), tensors)


def compare(weights: ExecutorchWeights, tensors: Sequence[TensorDigest]) -> list[Difference]:
    """What of the weights recorded is not found."""
    wanted = _Wanted.of(tensors)
    found = {digest for digests in weights.digests(wanted).values() for digest in digests}
    found |= {digest for constant in weights.constants() for digest in _constant_digests(constant, wanted)}
    reasons = ((tensor.name, _explain(tensor, found)) for tensor in tensors)
    return [Difference(name, reason) for name, reason in reasons if reason]


def _explain(tensor: TensorDigest, found: set[str]) -> str | None:
    if tensor.sha256 not in found:
        return "codes not found" if tensor.dtype in BITS else "not found"
    return "scales not found" if tensor.scales_sha256 and tensor.scales_sha256 not in found else None


@dataclass(frozen=True)
class _Wanted:
    """What is looked for, so that large data need not be hashed in every form."""

    digests: frozenset[str]
    dtypes: frozenset[str]  # of weights that are not quantized, and of scales

    @classmethod
    def of(cls, tensors: Sequence[TensorDigest]) -> "_Wanted":
        digests = {digest for tensor in tensors for digest in (tensor.sha256, tensor.scales_sha256) if digest}
        return cls(frozenset(digests), frozenset(tensor.dtype for tensor in tensors) - frozenset(BITS) | {"bfloat16"})


def _taken(mapped: NDArray, digests: Iterator[str]) -> set[str]:
    """All of them; what was read of the file is no memory of this process any more."""
    found, base = set(digests), mapped
    while isinstance(base.base, np.ndarray):
        base = base.base
    if isinstance(base, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
        base._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
    return found


def _blob_digests(name: str, blob: NDArray, wanted: _Wanted) -> Iterator[str]:
    """Of a delegate's data: scales are bf16 of groups or fp32 of rows, codes int4 or int8, and the rest fp32."""
    if len(name.removeprefix(SCALE)) != HASH:
        yield from _constant_digests(blob, wanted)
        return
    as_is = digest_of(pieces(blob))
    yield as_is
    if as_is in wanted.digests:
        return
    if not name.startswith(SCALE):
        yield digest_of(part ^ 0x80 for part in pieces(blob))
    yield from _floats(blob, wanted.dtypes)


def _constant_digests(constant: NDArray, wanted: _Wanted) -> Iterator[str]:
    if constant.dtype in (np.uint8, np.uint16):  # an embedding's codes and scales, int4 and bf16
        yield digest_of(pieces(constant))
    elif constant.dtype == np.int8:
        yield digest_of(part.view(np.uint8) ^ 0x80 for part in pieces(constant))
    else:
        yield from _floats(constant.view(np.uint8), wanted.dtypes)


def _floats(data: NDArray[np.uint8], dtypes: frozenset[str]) -> Iterator[str]:
    """Of fp32 values, in each dtype that holds them exactly."""
    for dtype in dtypes if data.nbytes % 4 == 0 else ():
        try:
            yield digest_of(narrow(pieces(data.view(np.float32)), dtype))
        except UserError:
            continue


def undelegated(weights: ExecutorchWeights, tensors: Sequence[TensorDigest], embedding: str | None = None) -> list[str]:
    """Quantized linears whose codes no XNNPACK delegate of the decoder asks for.

    Args:
        embedding: weight that is only looked up and needs no delegate; None where it is tied to the head.
    """
    digests = weights.digests(_Wanted.of(tensors))
    held = {digest for name in weights.delegated() for digest in digests[name]}
    return [tensor.name for tensor in tensors if tensor.dtype in BITS and tensor.name != embedding
            and tensor.sha256 not in held]  # fmt: skip


def _parse(path: Path, data: NDArray[np.uint8]) -> tuple[Any, int]:
    """The program, and where its segments begin."""
    from executorch.exir._serialize._flatbuffer_program import _flatbuffer_to_program
    from executorch.exir._serialize._program import _get_extended_header

    header = _get_extended_header(data[:HEAD].tobytes())
    if header is None:
        raise UserError(f"{path} is no ExecuTorch program: export the bundle again")
    if header.program_size > len(data):
        raise UserError(f"{path} is cut short: export the bundle again")
    try:
        return _flatbuffer_to_program(data[: header.program_size].tobytes()), header.segment_base_offset
    except Exception as error:  # whatever its tables of offsets lead to
        raise UserError(f"{path}: its program does not parse ({error}); export the bundle again") from None


def _map(path: Path) -> NDArray[np.uint8]:
    if not path.is_file() or not path.stat().st_size:
        raise UserError(f"{path} is missing: name the ExecuTorch folder of a bundle")
    return np.memmap(path, np.uint8, "r")


def is_outside(tensor: Any) -> bool:
    """Whether a constant lies in the data file, whose index it carries then."""
    return tensor.extra_tensor_info is not None and int(tensor.extra_tensor_info.location) == OUTSIDE


def _read_data(path: Path) -> dict[str, NDArray]:
    """Of a `.ptd`, by name; constants of portable operators in their dtype."""
    from executorch.extension.flat_tensor.serialize.serialize import FlatTensorHeader, _deserialize_to_flat_tensor

    data = _map(path)
    try:
        header = FlatTensorHeader.from_bytes(data[8 : 8 + HEAD].tobytes())
        if not header.is_valid():
            raise ValueError("another header")
        with quiet():  # the compiler that it runs has its own words for damage
            table = _deserialize_to_flat_tensor(data[: header.flatbuffer_offset + header.flatbuffer_size].tobytes())
    except Exception as error:  # whatever its tables of offsets lead to
        raise UserError(f"{path} is no ExecuTorch data file ({error}): export the bundle again") from None

    def read(entry: Any) -> NDArray:
        segment = table.segments[entry.segment_index]
        start = header.segment_base_offset + segment.offset
        if start + segment.size > len(data):
            raise UserError(f"{path} is cut short: export the bundle again")
        found = data[start : start + segment.size]
        return (
            found
            if entry.tensor_layout is None
            else found.view(CONSTANTS.get(int(entry.tensor_layout.scalar_type), np.uint8))
        )

    return {entry.key: read(entry) for entry in table.named_data}
