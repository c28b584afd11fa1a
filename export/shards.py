"""Safetensors files written a few rows at a time: the library wants whole tensors in memory, we must not hold them."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

DTYPE_NAMES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.int64: "I64",
               torch.int32: "I32", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
               torch.float64: "F64"}  # fmt: skip


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """As they lie in memory, row by row, without a copy where the tensor is contiguous."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


@dataclass(frozen=True)
class Entry:
    """A tensor that a file is going to hold."""

    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class ShardWriter:
    """One file. Each tensor's bytes are appended in row order; different tensors may take turns.

    The format: 8 bytes of header length, a JSON header with each tensor's dtype, shape and offsets, then the bytes
    (https://huggingface.co/docs/safetensors).
    """

    def __init__(self, path: Path, entries: list[Entry]) -> None:
        ends: dict[str, int] = {}
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for entry in entries:
            header[entry.key] = {"dtype": DTYPE_NAMES[entry.dtype], "shape": list(entry.shape),
                                 "data_offsets": [at, at + entry.bytes]}  # fmt: skip
            ends[entry.key] = at = at + entry.bytes
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # so that the bytes start aligned
        start = 8 + len(text)
        self._next = {entry.key: start + ends[entry.key] - entry.bytes for entry in entries}
        self._ends = {key: start + end for key, end in ends.items()}
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)
        self._file.truncate(start + at)

    def append(self, key: str, rows: torch.Tensor) -> None:
        """The next rows of a tensor, in its dtype."""
        data = bytes_of(rows)
        self._file.seek(self._next[key])
        self._file.write(data)
        self._next[key] += len(data)

    def leave_zero(self, key: str) -> None:
        """Makes the rest of a tensor zeros, which take no room on most disks."""
        self._next[key] = self._ends[key]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if error is None and self._next != self._ends:
            raise AssertionError("a tensor was not written to its end")
