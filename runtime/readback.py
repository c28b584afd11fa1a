"""Every weight read back out of an ONNX folder, to be compared with the digests that the quantizer recorded.

Initializers go by the weights' names: `NAME` dense in fp32; or `NAME.blocks` and `NAME.rows`, two views of packed
codes, with `NAME.scales` in fp32, one for each block; `NAME.0` and `NAME.1` are the halves [rows, width] of a
dense table [rows, 2, width]. Files are mapped and hashed some rows at a time: no weight is ever copied whole.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from runtime.errors import UserError, first_line
from runtime.manifest import TensorDigest
from runtime.untrusted import require_file, require_inside

AGAIN = "export the bundle again"
LARGEST = (1 << 31) - 1  # bytes of a graph: protobuf's own limit
CODES = (".blocks", ".rows")
SCALES = ".scales"
HALVES = (".0", ".1")
CHUNK = 1 << 24  # bytes hashed at once
BITS = {"int4": 4, "int8": 8}  # dtypes of codes


@dataclass(frozen=True)
class Difference:
    """A weight that is not what the quantizer made."""

    name: str
    reason: str


class OnnxWeights:
    """The initializers of all graphs in a folder, by name, each as arrays mapped from the data file."""

    def __init__(self, folder: Path) -> None:
        """Raises:
        UserError: no graph there, or one that does not parse.
        """
        self.folder = folder
        self.graphs = [load_graph(path) for path in sorted(folder.glob("*.onnx"))]
        if not self.graphs:
            raise UserError(f"{folder} holds no .onnx file: name the ONNX folder of a bundle")

    def arrays(self, name: str) -> list[NDArray]:
        """Different graphs may hold weights of the same name.

        Raises:
            UserError: one lies beyond the end of its file.
        """
        return [self._array(tensor) for tensor in self._tensors.get(name, [])]

    @cached_property
    def _tensors(self) -> dict[str, list[TensorProto]]:
        found: dict[str, list[TensorProto]] = {}
        for tensor in (tensor for graph in self.graphs for tensor in initializers(graph)):
            found.setdefault(tensor.name, []).append(tensor)
        return found

    def _array(self, tensor: TensorProto) -> NDArray:
        if tensor.data_location != TensorProto.EXTERNAL:
            return numpy_helper.to_array(tensor)
        place = {entry.key: entry.value for entry in tensor.external_data}
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        path = require_inside(self.folder, place.get("location", ""), AGAIN)
        shape, offset = tuple(tensor.dims), int(place.get("offset", 0))
        size = path.stat().st_size if path.is_file() else 0
        if min(shape, default=0) < 0 or offset < 0 or size < offset + dtype.itemsize * np.prod(shape, dtype=np.int64):
            raise UserError(f"{path} is cut short: {tensor.name} lies beyond its end")
        return np.memmap(path, dtype, "r", offset, shape)

    def block_sizes(self) -> dict[str, int]:
        """Inputs that share a scale, by the module of each packed linear."""
        sizes = {}
        for node in (node for graph in self.graphs for node in graph.node if node.op_type == "MatMulNBits"):
            module = node.input[1].removesuffix(CODES[0]).removesuffix(".weight")
            sizes[module] = next(attribute.i for attribute in node.attribute if attribute.name == "block_size")
        return sizes


def load_graph(path: Path) -> onnx.GraphProto:
    require_file(path, AGAIN, LARGEST)
    try:
        return onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's own, which has no public name
        raise UserError(f"{path}: not a readable ONNX graph ({first_line(error)}); {AGAIN}") from None


def initializers(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Those of its branches too."""
    yield from graph.initializer
    for branch in (attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")):
        yield from initializers(branch)


def differences(folder: Path, tensors: Sequence[TensorDigest]) -> list[Difference]:
    """What does not match, over all weights recorded; empty for a faithful folder.

    Raises:
        UserError: no graph there, or one that does not parse.
    """
    weights = OnnxWeights(folder)
    reasons = ((tensor.name, _explain(weights, tensor)) for tensor in tensors)
    return [Difference(name, reason) for name, reason in reasons if reason]


def _explain(weights: OnnxWeights, tensor: TensorDigest) -> str | None:
    """Why a weight does not match, or None."""
    try:
        return _packed(weights, tensor) if tensor.dtype in BITS else _dense(weights, tensor)
    except UserError as error:
        return str(error)


def _packed(weights: OnnxWeights, tensor: TensorDigest) -> str | None:
    codes = [array for view in CODES for array in weights.arrays(tensor.name + view)]
    scales = weights.arrays(tensor.name + SCALES)
    if not codes or not scales:
        return "not found"
    if any(digest_of(pieces(array)) != tensor.sha256 for array in codes):
        return "other codes"
    groups = tensor.shape[-1] // tensor.group if tensor.group else 1
    if any(digest_of(narrow(_unrepeated(array, groups), "bfloat16")) != tensor.scales_sha256 for array in scales):
        return "other scales"
    return None


def _dense(weights: OnnxWeights, tensor: TensorDigest) -> str | None:
    whole = [pieces(array) for array in weights.arrays(tensor.name)]
    halves = [weights.arrays(tensor.name + half) for half in HALVES]
    tables = [_woven(*pair) for pair in zip(*halves, strict=False)]
    if not whole and not tables:
        return "not found"
    if any(digest_of(narrow(rows, tensor.dtype)) != tensor.sha256 for rows in [*whole, *tables]):
        return "other values"
    return None


def pieces(array: NDArray) -> Iterator[NDArray]:
    """The array in pieces, in order."""
    flat = array.reshape(-1)
    size = CHUNK // array.itemsize
    yield from (flat[start : start + size] for start in range(0, flat.size, size))


def _woven(first: NDArray, second: NDArray) -> Iterator[NDArray]:
    """Two [rows, width] as [rows, 2, width]."""
    size = max(1, CHUNK // first[:1].nbytes)
    for start in range(0, len(first), size):
        yield np.stack([first[start : start + size], second[start : start + size]], 1)


def _unrepeated(scales: NDArray, groups: int) -> Iterator[NDArray]:
    """[rows, blocks] -> [rows, groups]: an operator may want a group's scale once for each of its blocks.

    Raises:
        UserError: the scales of a group differ.
    """
    size = max(1, CHUNK // scales[:1].nbytes)
    for start in range(0, len(scales), size):
        part = scales[start : start + size]
        repeated = part.reshape(len(part), groups, -1)
        if (repeated != repeated[..., :1]).any():
            raise UserError("other scales: they differ within a group")
        yield np.ascontiguousarray(repeated[..., 0])


def narrow(pieces: Iterator[NDArray], dtype: str) -> Iterator[NDArray]:
    """fp32 values in the width that they had in the checkpoint.

    Raises:
        UserError: a value does not fit there exactly.
    """
    for piece in pieces:
        if dtype == "bfloat16":
            bits = np.ascontiguousarray(piece, np.float32).view(np.uint32)
            lost, narrow = bits & 0xFFFF, (bits >> 16).astype(np.uint16)
        else:
            narrow = piece.astype(dtype)
            lost = narrow.astype(np.float32) != piece
        if lost.any():
            raise UserError(f"other values: some are not exact in {dtype}")
        yield narrow


def digest_of(pieces: Iterator[NDArray]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(np.ascontiguousarray(piece, piece.dtype.newbyteorder("<")).data)
    return digest.hexdigest()
