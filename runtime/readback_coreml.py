"""Every weight read back out of Core ML packages and the table beside them, to be compared with recorded digests.

In a program a weight goes by its name with "_" for all that MIL's identifiers lack: `NAME` is a dense constant; a
`constexpr_cast` of one in fp16, in units of the constant `NAME_unit`; or a `constexpr_blockwise_shift_scale` of two's
complement codes and of scales. A weight of many rows is cut: into `NAME_0`, `NAME_1` and so on, and over packages, in
the order of their names. Files are mapped, never read whole.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.architectures import embedding_weight
from runtime.errors import UserError
from runtime.manifest import Table, TensorDigest, read_manifest
from runtime.mil.blobs import BlobFiles
from runtime.mil.program import Argument, Immediate, Operation, Program, Stored, read_program
from runtime.readback import BITS, Difference, digest_of, narrow, pieces

FORMAT = "coreml"
EXPANDED = "constexpr_blockwise_shift_scale"
DENSE = {"const": "val", "constexpr_cast": "source_val"}  # operations that give a dense weight, and where it is
UNIT = "_unit"
SIGNS = {"int4": 0x88, "int8": 0x80}  # what makes codes with an offset out of two's complement


@dataclass
class Copy:
    """A weight, whole: its parts in order, as bytes of codes or as floats."""

    parts: list[NDArray] = field(default_factory=list)
    scales: list[NDArray] = field(default_factory=list)
    flip: int = 0  # of each byte, before it is what the checkpoint holds
    count: int = 0  # values
    units: list[float] = field(default_factory=list)  # what parts of floats are multiplied with

    def add(self, part: "Copy") -> None:
        self.parts += part.parts
        self.scales += part.scales
        self.units += part.units
        self.flip = part.flip
        self.count += part.count


class CoremlWeights:
    """The constants of all packages in a folder, and the tables that their host looks up."""

    def __init__(self, folder: Path, tables: Mapping[str, Table] | None = None) -> None:
        """
        Args:
            tables: by the weight's name in the checkpoint, files relative to the folder above.

        Raises:
            UserError: no package there, or one that cannot be read.
        """
        self.folder = folder
        self.tables = tables or {}
        self.packages = [read_program(path) for path in sorted(folder.glob("*.mlpackage"))]
        if not self.packages:
            raise UserError(f"{folder} holds no .mlpackage: name the Core ML folder of a bundle")
        self._files = BlobFiles()
        self._parts = [_parts(package) for package in self.packages]

    def copies(self, tensor: TensorDigest) -> Iterator[Copy]:
        """Wherever the weight is stored.

        Raises:
            UserError: some of it is missing, or lies beyond the end of its file.
        """
        copy = Copy()
        for operation, unit in self._operations(plain(tensor.name)):
            copy.add(self._part(operation, unit))
            if copy.count >= np.prod(tensor.shape, dtype=np.int64):
                yield copy
                copy = Copy()
        if copy.count:
            raise UserError(f"cut short: only {copy.count} values found")
        if tensor.name in self.tables:
            yield self._table(self.tables[tensor.name])

    def _operations(self, name: str) -> Iterator[tuple[Operation, float]]:
        """Of a weight and its parts, in order, with the unit of its values in that package."""
        for parts in self._parts:
            units = [float(self._floats(unit.inputs["val"][0])) for _, unit in parts.get(f"{name}{UNIT}", [])]
            found = sorted(parts.get(name, []), key=itemgetter(0))
            yield from ((operation, units[0] if units else 1.0) for _, operation in found)

    def _part(self, operation: Operation, unit: float) -> Copy:
        if operation.type in DENSE:
            values = self._floats(operation.inputs[DENSE[operation.type]][0])
            return Copy([values], units=[unit], count=values.size)
        if operation.type != EXPANDED or operation.inputs.keys() != {"data", "scale"}:
            raise UserError(f"stored by {operation.type} of {', '.join(operation.inputs)}, which no export here writes")
        (data,), (scale,) = operation.inputs["data"], operation.inputs["scale"]
        if not isinstance(data, Stored) or data.type.dtype not in SIGNS:
            raise UserError("its codes are not in the weight file, as int4 or int8")
        count = int(np.prod(data.type.sizes, dtype=np.int64))
        codes = self._files[data.path].raw(data.offset, data.type.dtype, count)
        return Copy([codes], [self._floats(scale)], SIGNS[data.type.dtype], count)

    def _floats(self, argument: Argument) -> NDArray:
        if isinstance(argument, Stored):
            return self._files[argument.path].read(argument.offset, argument.type.dtype, argument.type.sizes)
        return np.asarray(argument.value)

    def _table(self, table: Table) -> Copy:
        codes = self._map(table.codes, np.dtype("<f4" if table.scales is None else "u1"))
        scales = [self._map(table.scales, np.dtype("<f2"))] if table.scales else []
        return Copy([codes], scales, units=[1], count=table.rows * table.columns)

    def _map(self, file: str, dtype: np.dtype) -> NDArray:
        path = self.folder.parent / file
        size = path.stat().st_size if path.is_file() else 0
        if not size or size % dtype.itemsize:
            raise UserError(f"{path} is missing or cut short: export the bundle again")
        return np.memmap(path, dtype, "r")


def plain(name: str) -> str:
    """Of a weight in the checkpoint, as it is called in a program."""
    return re.sub(r"\W", "_", name)


def _parts(package: Program) -> dict[str, list[tuple[int, Operation]]]:
    """Constants by name, and with their number by the name without it; each once, whatever functions share it."""
    found: dict[str, list[tuple[int, Operation]]] = {}
    for function in package.functions.values():
        for name, operation in function.constants.items():
            base, _, number = name.rpartition("_")
            for key, place in [(name, 0), *([(base, int(number))] if number.isdecimal() else [])]:
                known = found.setdefault(key, [])
                if not any(place == index and _same(operation, other) for index, other in known):
                    known.append((place, operation))
    return found


def _same(one: Operation, other: Operation) -> bool:
    """Whether two constants have the same arguments."""
    return one.type == other.type and one.inputs.keys() == other.inputs.keys() and all(
        _equal(argument, other.inputs[key][0]) for key, (argument,) in one.inputs.items()
    )  # fmt: skip


def _equal(one: Argument, other: Argument) -> bool:
    if isinstance(one, Immediate) and isinstance(other, Immediate):
        return np.array_equal(one.value, other.value)
    return one == other


def differences(folder: Path, tensors: Sequence[TensorDigest]) -> list[Difference]:
    """What does not match, over all weights recorded; empty for a faithful folder.

    Args:
        folder: of a bundle, whose manifest describes the embedding's table.

    Raises:
        UserError: no package there, or one that does not parse.
    """
    host = read_manifest(folder.parent).artifacts[FORMAT].host
    names = (tensor.name for tensor in tensors)
    weights = CoremlWeights(folder, {embedding_weight(names): host.embedding} if host else {})
    return compare(weights, tensors)


def compare(weights: CoremlWeights, tensors: Sequence[TensorDigest]) -> list[Difference]:
    """What of the weights recorded is missing or different."""
    names = Counter(plain(tensor.name) for tensor in tensors)
    shared = {tensor.name for tensor in tensors if names[plain(tensor.name)] > 1}
    reasons = {tensor.name: "its name in programs is another weight's too" if tensor.name in shared
               else _explain(weights, tensor) for tensor in tensors}  # fmt: skip
    return [Difference(name, reason) for name, reason in reasons.items() if reason]


def _explain(weights: CoremlWeights, tensor: TensorDigest) -> str | None:
    """Why a weight does not match, or None."""
    try:
        copies = list(weights.copies(tensor))
        wrong = (_differs(copy, tensor) for copy in copies)
        return next(filter(None, wrong), None) if copies else "not found"
    except UserError as error:
        return str(error)


def _differs(copy: Copy, tensor: TensorDigest) -> str | None:
    if (tensor.dtype in BITS) != bool(copy.scales):
        return "not packed" if tensor.dtype in BITS else "packed"
    if tensor.dtype not in BITS:
        return None if digest_of(narrow(_values(copy), tensor.dtype)) == tensor.sha256 else "other values"
    if digest_of(part ^ np.uint8(copy.flip) for part in _pieces(copy.parts)) != tensor.sha256:
        return "other codes"
    scales = digest_of(narrow(_pieces(copy.scales), "bfloat16"))
    return None if scales == tensor.scales_sha256 else "other scales"


def _values(copy: Copy) -> Iterator[NDArray[np.float32]]:
    for part, unit in zip(copy.parts, copy.units, strict=True):
        yield from (piece.astype(np.float32) * np.float32(unit) for piece in pieces(part))


def _pieces(arrays: Sequence[NDArray]) -> Iterator[NDArray]:
    return chain.from_iterable(pieces(array) for array in arrays)
