"""Weights of a `.pte` that are written without ever being in memory.

The graph is lowered with stand-ins of the weights' shapes that take no memory; when ExecuTorch comes to store one, it
is handed the packed bytes of the quantized checkpoint, mapped from its file and written some rows at a time. Blobs go
by their sha256, as in the stock route: XNNPACK's on-disk cache looks them up by name alone.
"""

import hashlib
from collections.abc import Callable, Iterator
from functools import cached_property
from io import BufferedIOBase

import numpy as np
import torch
from executorch.exir._serialize._cord import FileBackedData
from numpy.typing import NDArray
from torch import Tensor

from export.lowering.executorch_ops import Loader
from export.schemes import Scheme
from export.weights import Packed, Weights

CHUNK = 1 << 24  # bytes in memory at once


class Stream(FileBackedData):
    """Bytes made of the rows of an array; ExecuTorch knows them as data that stays on disk."""

    def __init__(self, load: Callable[[], NDArray], make: Callable[[NDArray], NDArray]) -> None:
        """
        Args:
            load: the array; called whenever its bytes are wanted, so that nothing need be held until then.
            make: some rows to what is written of them, row by row.
        """
        self.load = load
        self.make = make

    @cached_property
    def size(self) -> int:
        """Values."""
        return self.load().size

    @cached_property
    def _length(self) -> int:
        rows = self.load()
        return self.make(rows[:1]).nbytes * len(rows)

    def __len__(self) -> int:
        return self._length

    def chunks(self) -> Iterator[bytes]:
        rows = self.load()
        count = max(1, CHUNK // rows[:1].nbytes)
        for start in range(0, len(rows), count):
            yield np.ascontiguousarray(self.make(rows[start : start + count])).tobytes()

    def prefix(self, size: int) -> bytes:
        rows = self.load()
        return self.make(rows[: size // rows[:1].nbytes + 1]).tobytes()[:size]

    def sha256(self) -> bytes:
        return self._digest

    @cached_property
    def _digest(self) -> bytes:
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.digest()

    @property
    def name(self) -> str:
        """Of the blob."""
        return self.sha256().hex()

    def to_bytes(self) -> bytes:
        return b"".join(self.chunks())

    def write_to_file(self, outfile: BufferedIOBase) -> None:
        for chunk in self.chunks():
            outfile.write(chunk)

    def close(self) -> None:
        """The file is the checkpoint's."""


def linear_codes(scheme: Scheme, load: Callable[[], Packed]) -> Stream:
    """As XNNPACK wants them: int4 as the checkpoint packs it, int8 in two's complement."""
    return Stream(lambda: load().codes, (lambda rows: rows) if scheme.bits == 4 else (lambda rows: rows ^ 0x80))


def linear_scales(scheme: Scheme, load: Callable[[], Packed]) -> Stream:
    """bf16 of groups, fp32 of rows."""
    return Stream(lambda: load().scales, _bfloat16 if scheme.group else lambda rows: rows)


def _bfloat16(rows: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Scales are exact in it."""
    return (np.ascontiguousarray(rows).view(np.uint32) >> 16).astype(np.uint16)


ORIGINAL = ".parametrizations.weight.original"  # what torch.export makes of the parts of a quantized weight
TREE = "weights."  # attribute of a method's module that holds its weights


class Sources:
    """Stand-ins for the weights of a checkpoint, and streams of what they stand for."""

    def __init__(self, weights: Weights, tag: str | None = None) -> None:
        """
        Args:
            tag: of the data file beside the program that is to hold all weights; None: the program holds them.
        """
        self.weights = weights
        self.tag = tag
        self._linears: dict[str, tuple[Stream, Stream] | None] = {}
        self._tables: dict[int, Stream] = {}  # by the address of the stand-in

    def loader(self) -> Loader:
        """Tensors of no memory. A table's is the mapped codes, whatever their order: nobody will read it."""
        return Loader(
            self.weights,
            codes=lambda packed: torch.zeros(1, dtype=torch.int8).expand(len(packed.codes), packed.columns),
            scales=lambda packed: torch.ones(1).expand(packed.scales.shape),
            table=self._stand_in,
        )

    def _stand_in(self, name: str, packed: Packed) -> Tensor:
        codes, parts = torch.from_numpy(packed.codes), self._parts(name)
        assert parts
        self._tables[codes.data_ptr()] = parts[0]
        return codes if packed.scheme.bits == 4 else codes.view(torch.int8)

    def linear(self, parameter: str | None) -> tuple[Stream, Stream] | None:
        """Codes and scales of a traced parameter; None where it is not packed."""
        if parameter is None or ORIGINAL not in parameter:
            return None
        return self._parts(parameter.partition(ORIGINAL)[0].removeprefix(TREE) + ".weight")

    def _parts(self, name: str) -> tuple[Stream, Stream] | None:
        if name not in self._linears:  # hashed once, for all methods and delegates
            self._linears[name] = self._streams(name)
        return self._linears[name]

    def _streams(self, name: str) -> tuple[Stream, Stream] | None:
        """The weight is opened anew for each: codes that are mapped and scales that are not take memory while held."""

        def load() -> Packed:
            packed = self.weights.packed(name)
            assert packed
            return packed

        packed = self.weights.packed(name)
        return (linear_codes(packed.scheme, load), linear_scales(packed.scheme, load)) if packed else None

    def table(self, address: int) -> Stream | None:
        """Of an embedding, by the address of its stand-in."""
        return self._tables.get(address)
