"""Data that delegates and portable operators share are stored once: a tied embedding is half a gigabyte.

Delegates find data by segments of the file, portable operators by offsets into the segment of constants. ExecuTorch
writes segments one after another, but whatever reads them knows where they begin and how long they are and no more. So
a delegate's segment may as well lie within that of the constants.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from executorch.exir._serialize import _program
from executorch.exir._serialize._cord import Cord, FileBackedData
from executorch.exir.schema import DataSegment, Program

from export.lowering.executorch_patches import replaced

SEGMENT_ALIGNMENT = 128  # bytes


@contextmanager
def stored_once() -> Iterator[None]:
    """While it lasts, named data that equal a constant are written as a segment within the constants'."""
    extract, to_flatbuffer = _program._extract_named_data, _program._program_to_flatbuffer
    inside = dict[int, DataSegment]()  # by the number of the segment, its place among the constants

    def extract_named_data(program: Program, segments: list[Any], *data: Any) -> None:
        constants, first = segments[0].data if program.constant_segment.offsets else Cord(), len(segments)
        extract(program, segments, *data)
        inside.clear()
        for number, segment in enumerate(segments[first:], first):
            offset = _find(constants, segment.data)
            if offset is not None:
                inside[number] = DataSegment(offset, len(segment.data))
                segment.data = Cord()

    def program_to_flatbuffer(program: Program, **options: Any) -> Any:
        for number, place in inside.items():
            program.segments[number] = place  # the constants' segment is the first, so their offsets are the data's
        return to_flatbuffer(program, **options)

    with (
        replaced(_program, "_extract_named_data", extract_named_data),
        replaced(_program, "_program_to_flatbuffer", program_to_flatbuffer),
    ):
        yield


def _find(constants: Cord, data: Cord) -> int | None:
    """Offset of the piece that equals the data."""
    offset = 0
    for piece in constants._buffers:
        if len(piece) == len(data) and [_digest(piece)] == [_digest(part) for part in data._buffers]:
            return offset
        offset += len(piece)
    return None


def _digest(piece: "bytes | FileBackedData") -> bytes:
    return hashlib.sha256(piece).digest() if isinstance(piece, bytes) else piece.sha256()
