"""`weight.bin` of a Core ML package: MIL blob storage, version 2, mapped and never read whole.

A head of 64 bytes (count, version), then entries: 64 bytes of metadata (magic, dtype, size in bytes, offset of the
data, unused bits of the last byte), and the data, aligned to 64. A program names an entry by the offset of its
metadata. Codes of less than a byte lie in little-endian bit order: of two int4 the first in the low nibble.
(coremltools, mlmodel/src/MILBlob/Blob/StorageFormat.hpp)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UserError

VERSION = 2
MAGIC = 0xDEADBEEF
ALIGNMENT = 64  # bytes; also the size of the head and of an entry's metadata
DTYPES = {
    1: "float16", 2: "float32", 3: "uint8", 4: "int8", 6: "int16", 7: "uint16", 8: "int4", 9: "uint1", 10: "uint2",
    11: "uint4", 12: "uint3", 13: "uint6", 14: "int32", 15: "uint32",
}  # fmt: skip
NARROW = {"int4": 4, "uint1": 1, "uint2": 2, "uint3": 3, "uint4": 4, "uint6": 6}  # bits of dtypes below a byte


def bits(dtype: str) -> int:
    """Of one value."""
    return NARROW.get(dtype) or np.dtype(dtype).itemsize * 8


@dataclass(frozen=True)
class Entry:
    """Metadata of an array."""

    dtype: str
    start: int  # of the data
    size: int  # bytes
    unused: int  # bits


class BlobFile:
    """The arrays of one file."""

    def __init__(self, path: Path) -> None:
        """Raises:
        UserError: no such file, or of another format.
        """
        if not path.is_file() or path.stat().st_size < ALIGNMENT:
            raise UserError(f"{path} is missing or empty: export the bundle again")
        self.path = path
        self._bytes: NDArray[np.uint8] = np.memmap(path, np.uint8, "r")
        self._count, version = (int(field) for field in self._bytes[:8].view("<u4"))
        if version != VERSION:
            raise UserError(f"{path} is of format {version}, {VERSION} can be read: export the bundle again")

    def entries(self) -> Iterator[Entry]:
        """All, in the order of the file.

        Raises:
            UserError: one that is broken.
        """
        offset = ALIGNMENT
        for _ in range(self._count):
            entry = self.entry(offset)
            offset = -(-(entry.start + entry.size) // ALIGNMENT) * ALIGNMENT
            yield entry

    def entry(self, offset: int) -> Entry:
        """Raises:
        UserError: none begins there, or it lies beyond the end of the file.
        """
        head = self._bytes[offset : offset + ALIGNMENT]
        if len(head) < ALIGNMENT or int(head[:4].view("<u4")[0]) != MAGIC:
            raise UserError(f"{self.path} has no array at {offset}: export the bundle again")
        code = int(head[4:8].view("<u4")[0])
        size, start, unused = (int(field) for field in head[8:32].view("<u8"))
        if code not in DTYPES:
            raise UserError(f"{self.path}: the array at {offset} has an unknown dtype, {code}")
        if start % ALIGNMENT or start + size > len(self._bytes):
            raise UserError(f"{self.path} is cut short: the array at {offset} lies beyond its end")
        return Entry(DTYPES[code], start, size, unused)

    def raw(self, offset: int, dtype: str, count: int) -> NDArray[np.uint8]:
        """The bytes of an array as stored.

        Raises:
            UserError: what is stored there is of another dtype or size.
        """
        entry = self.entry(offset)
        if (entry.dtype, entry.size * 8 - entry.unused) != (dtype, count * bits(dtype)):
            raise UserError(f"{self.path}: {entry.size} bytes of {entry.dtype} lie at {offset}, "
                            f"the program expects {count} values of {dtype}")  # fmt: skip
        return self._bytes[entry.start : entry.start + entry.size]

    def read(self, offset: int, dtype: str, shape: tuple[int, ...]) -> NDArray:
        """Values; those below a byte as int8 or uint8."""
        count = int(np.prod(shape, dtype=np.int64))
        return values(self.raw(offset, dtype, count), dtype, count).reshape(shape)


class BlobFiles(dict[Path, BlobFile]):
    """By path, each opened when it is first asked for."""

    def __missing__(self, path: Path) -> BlobFile:
        return self.setdefault(path, BlobFile(path))


def values(raw: NDArray[np.uint8], dtype: str, count: int) -> NDArray:
    """Bytes as values, [count]; those below a byte as int8 or uint8."""
    if dtype not in NARROW:
        return raw.view(np.dtype(dtype).newbyteorder("<"))
    if NARROW[dtype] == 4:
        return _pairs(dtype)[raw].view(np.int8 if dtype == "int4" else np.uint8)[:count]
    columns = np.unpackbits(np.asarray(raw), bitorder="little", count=count * NARROW[dtype]).reshape(count, -1)
    return np.packbits(columns, axis=1, bitorder="little")[:, 0]


def _pairs(dtype: str) -> NDArray[np.uint16]:
    """Both codes of every byte, the low nibble's first: a look-up is many times faster than shifting."""
    byte = np.arange(256, dtype=np.uint8)
    codes = np.stack([byte & 15, byte >> 4], 1)
    return ((codes ^ 8) - 8 if dtype == "int4" else codes).astype(np.uint8).view("<u2")[:, 0]
