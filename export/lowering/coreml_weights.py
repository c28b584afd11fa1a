"""Weights of a Core ML package that are written without ever being in memory.

The program is built with placeholders of the weights' shapes that take no memory; when the package is saved, each is
replaced by the packed bytes of the quantized checkpoint, mapped from its file and written some rows at a time.

`weight.bin` is MIL's blob storage, version 2 (https://github.com/apple/coremltools, mlmodel/src/MILBlob/Blob): a header
of 64 bytes with the number of entries, then entries that start at multiples of 64 bytes, each 64 bytes of metadata and
the data. Programs refer to an entry by the offset of its metadata.
"""

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from coremltools.converters.mil.backend.mil.helper import (
    create_file_value_tensor,
    create_immediate_value,
    types_to_proto_primitive,
)
from coremltools.converters.mil.backend.mil.load import MILProtoExporter
from coremltools.converters.mil.mil import types
from numpy.typing import DTypeLike, NDArray

from export.weights import Packed, Weights

CHUNK = 1 << 24  # bytes in memory at once
FILE = "@model_path/weights/weight.bin"
ALIGNMENT = 64
SENTINEL, VERSION = 0xDEADBEEF, 2
ENTRY, HEADER = struct.Struct("<IIQQQ32x"), struct.Struct("<II56x")
FP16, FP32, INT8, INT4 = 1, 2, 4, 8  # MILBlob's data types
BITS = {FP16: 16, FP32: 32, INT8: 8, INT4: 4}
SMALLEST_UNIT = -126  # exponent: of the smallest fp32 that no engine takes for zero
SMALLEST = 10  # values of a weight that goes to the file; coremltools, too, leaves less in the program


@dataclass(frozen=True)
class Blob:
    """A weight as Core ML stores it."""

    kind: int  # MILBlob's data type
    shape: tuple[int, ...]
    load: Callable[[], NDArray]  # its rows, when they are written
    make: Callable[[NDArray], NDArray]  # some rows to what is written of them, row by row

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * BITS[self.kind] // 8

    def chunks(self) -> Iterator[NDArray]:
        return (np.ascontiguousarray(self.make(part)) for part in chunks(self.load()))

    def placeholder(self) -> NDArray:
        """Zeros of the same shape and type in the memory of one."""
        dtypes: dict[int, DTypeLike] = {FP16: np.float16, FP32: np.float32, INT8: np.int8, INT4: types.np_int4_dtype}
        return np.broadcast_to(np.zeros((), dtypes[self.kind]), self.shape)


def chunks(rows: NDArray) -> Iterator[NDArray]:
    """Some rows at a time."""
    count = max(1, CHUNK // rows[:1].nbytes)
    return (rows[start : start + count] for start in range(0, len(rows), count))


def codes_of(packed: Packed) -> Blob:
    """Two's complement: what the checkpoint packs has an offset, whose bit is the sign's."""
    kind, flip = (INT4, 0x88) if packed.scheme.bits == 4 else (INT8, 0x80)
    return Blob(kind, (len(packed.codes), packed.columns), lambda: packed.codes, lambda rows: rows ^ np.uint8(flip))


def scales_of(packed: Packed, wide: bool) -> Blob:
    """fp16, in which every scale is exact, or fp32."""
    return _floats(packed.scales.shape, wide, lambda: packed.scales)


def zeros(count: int, wide: bool) -> Blob:
    """fp16 or fp32."""
    return _floats((count,), wide, lambda: np.zeros(count))


def _floats(shape: tuple[int, ...], wide: bool, load: Callable[[], NDArray]) -> Blob:
    kind, dtype = (FP32, np.float32) if wide else (FP16, np.float16)
    return Blob(kind, shape, load, lambda rows: rows.astype(dtype))


def dense_blob(weights: Weights, name: str, shape: tuple[int, ...]) -> Blob:
    """fp32; loaded when it is written, and dropped then.

    Args:
        shape: the weight's own, or another of as many values.
    """
    return Blob(FP32, shape, lambda: weights.dense(name).reshape(-1, shape[-1]), lambda rows: rows)


def halves_blob(weights: Weights, name: str, shape: tuple[int, ...], unit: float) -> Blob:
    """fp16, in units of `exact_unit`. Otherwise as `dense_blob`."""
    wide = dense_blob(weights, name, shape)
    return replace(wide, kind=FP16, make=lambda rows: _in_units(rows, unit))


def exact_unit(values: NDArray[np.float32]) -> float | None:
    """A power of two, of which each value is a multiple that fp16 holds exactly; None if there is no such.

    The largest value becomes 2^14 or more. fp16 has more bits than bf16 (11 to 8) and fewer exponents, so the bf16
    that it does not hold are some of those less than 2^-31 of the largest.
    """
    largest = float(np.abs(values).max(initial=0))
    if not math.isfinite(largest):
        return None
    unit = 2.0 ** max(math.frexp(largest)[1] - 15, SMALLEST_UNIT)
    exact = all(np.array_equal(_in_units(rows, unit) * np.float32(unit), rows) for rows in chunks(values))
    return unit if exact else None


def _in_units(rows: NDArray[np.float32], unit: float) -> NDArray[np.float16]:
    return (rows / np.float32(unit)).astype(np.float16)


def stored_bytes(weights: Weights, name: str) -> int:
    """In a `weight.bin`, at most."""
    packed = weights.packed(name)
    return packed.codes.nbytes + 2 * packed.scales.size if packed else weights.dense(name).nbytes


class RowsOf:
    """`Weights` of which one is cut down to some of its rows."""

    def __init__(self, weights: Weights, name: str, start: int, stop: int) -> None:
        self.weights = weights
        self.name = name
        self.start = start
        self.stop = stop

    def dense(self, name: str) -> NDArray[np.float32]:
        values = self.weights.dense(name)
        return values[self.start : self.stop] if name == self.name else values

    def packed(self, name: str) -> Packed | None:
        packed = self.weights.packed(name)
        return packed.rows(self.start, self.stop) if packed and name == self.name else packed


class WeightFile:
    """`weight.bin`, written one entry after another."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._count = 0
        self._file.write(bytes(HEADER.size))

    def __enter__(self) -> "WeightFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.seek(0)
        self._file.write(HEADER.pack(self._count, VERSION))
        self._file.close()

    def store(self, blob: Blob) -> int:
        """Appends an entry; returns its offset."""
        offset = -(-self._file.tell() // ALIGNMENT) * ALIGNMENT
        self._file.seek(offset)
        self._file.write(ENTRY.pack(SENTINEL, blob.kind, blob.bytes, offset + ENTRY.size, 0))
        for chunk in blob.chunks():
            self._file.write(chunk.data)
        self._count += 1
        return offset


class StreamingExporter(MILProtoExporter):
    """coremltools' own way from a MIL program to what is saved, but for the weights of `blobs`, known by weight id."""

    def __init__(self, program: Any, blobs: Mapping[str, Blob], file: WeightFile, specification: int) -> None:
        super().__init__(program, "", specification)
        self.blobs = blobs
        self.file = file
        self._offsets: dict[str, int] = {}

    def get_milproto_value(self, var: Any) -> Any:
        """MIL_pb2.Value: a place in the file, once for all functions of a package, or a small constant itself."""
        name = var.op.weight_id
        if name not in self.blobs:
            return create_immediate_value(var)
        if name not in self._offsets:
            self._offsets[name] = self.file.store(self.blobs[name])
        primitive = types_to_proto_primitive(var.sym_type.get_primitive())
        return create_file_value_tensor(FILE, self._offsets[name], self.blobs[name].shape, primitive)
