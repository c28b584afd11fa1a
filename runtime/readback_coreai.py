"""Every weight read back out of an `.aimodel`, without Core AI: its program is a file of MLIR bytecode.

Weights carry no names there, so they are found by their digests. Large constants are blobs of the resource section,
small ones end entries of the attribute section. Format: https://mlir.llvm.org/docs/BytecodeFormat
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UserError
from runtime.manifest import TensorDigest
from runtime.readback import BITS, Difference, digest_of, narrow, pieces
from runtime.sessions.coreai import PROGRAM

MAGIC = b"ML\xefR"
ATTRIBUTES, ATTRIBUTE_OFFSETS, RESOURCES, RESOURCE_OFFSETS = 2, 3, 5, 6  # sections
BLOB = 0  # kind of a resource
LONGEST_HEAD = 8  # bytes of an attribute before its size
FLIPS = {4: 0x88, 8: 0x80}  # to the checkpoint's codes, which add half their range, from two's complement
Bytes = NDArray[np.uint8]


class Reader:
    """Goes through bytes, in MLIR's encoding."""

    def __init__(self, data: Bytes, at: int = 0) -> None:
        self.data = data
        self.at = at

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, size: int) -> Bytes:
        """Raises:
        UserError: there are not so many bytes.
        """
        if size > self.left:
            raise UserError("its program is cut short: export the bundle again")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self) -> int:
        """The zeros that end the first byte tell how many bytes follow it; all zero: eight."""
        first = int(self.take(1)[0])
        if not first:
            return int.from_bytes(self.take(8).tobytes(), "little")
        more = (first & -first).bit_length() - 1
        return int.from_bytes(bytes([first]) + self.take(more).tobytes(), "little") >> (more + 1)

    def align(self, alignment: int) -> None:
        self.take(-self.at % alignment)


@dataclass(frozen=True)
class CoreaiWeights:
    """The constants of a program, mapped: blobs of large ones, and the bytes of small ones."""

    blobs: list[Bytes]
    small: list[Bytes]

    @classmethod
    def open(cls, folder: Path) -> "CoreaiWeights":
        """Raises:
        UserError: no program there, or one that does not parse.
        """
        path = folder / PROGRAM
        if not path.is_file() or not path.stat().st_size:
            raise UserError(f"{path} is missing: name the Core AI folder of a bundle")
        data = np.memmap(path, np.uint8, "r")
        if data[: len(MAGIC)].tobytes() != MAGIC:
            raise UserError(f"{path} is no MLIR bytecode: export the bundle again")
        try:
            sections = _sections(data)
            return cls(list(_blobs(data, sections)), list(_small(data, sections)))
        except (KeyError, UserError) as error:
            raise UserError(f"{path}: {error}") from None


def _sections(data: Bytes) -> dict[int, tuple[int, int]]:
    """Start and end of each, by its number."""
    reader, found = Reader(data, len(MAGIC)), dict[int, tuple[int, int]]()
    reader.number()  # version
    while reader.take(1)[0]:  # the producer's name, which a zero ends
        pass
    while reader.left:
        head, size = int(reader.take(1)[0]), reader.number()
        if head & 0x80:
            reader.align(reader.number())
        found[head & 0x7F] = reader.at, reader.at + size
        reader.take(size)
    return found


def _reader(data: Bytes, section: tuple[int, int]) -> Reader:
    """Of a section. Alignments count from the beginning of the file, so its beginning is kept."""
    return Reader(data[: section[1]], section[0])


def _blobs(data: Bytes, sections: dict[int, tuple[int, int]]) -> Iterator[Bytes]:
    if RESOURCES not in sections:
        return
    start = sections[RESOURCES][0]
    for size, kind in _resource_sizes(_reader(data, sections[RESOURCE_OFFSETS])):
        if kind == BLOB:
            reader = Reader(data[: start + size], start)
            alignment, length = reader.number(), reader.number()
            reader.align(alignment)
            yield reader.take(length)
        start += size


def _resource_sizes(reader: Reader) -> Iterator[tuple[int, int]]:
    """Bytes and kind of each, in order; groups outside dialects come first, then those of dialects."""
    reader.number()  # of groups outside dialects, which look the same
    while reader.left:
        reader.number()  # the group's name
        for _ in range(reader.number()):
            reader.number()  # the resource's name
            yield reader.number(), int(reader.take(1)[0])


def _small(data: Bytes, sections: dict[int, tuple[int, int]]) -> Iterator[Bytes]:
    """What ends attributes as a size and as many bytes, behind a head of Core AI's own form."""
    start = sections[ATTRIBUTES][0]
    for size in _attribute_sizes(_reader(data, sections[ATTRIBUTE_OFFSETS])):
        yield from _tails(data[start : start + size])
        start += size


def _tails(entry: Bytes) -> Iterator[Bytes]:
    """Chance may find some that are none; digests tell."""
    for head in range(1, LONGEST_HEAD + 1):
        reader = Reader(entry, head)
        try:
            length = reader.number()
        except UserError:
            return
        if length and length == reader.left:
            yield reader.take(length)


def _attribute_sizes(reader: Reader) -> Iterator[int]:
    total, seen = reader.number(), 0
    reader.number()  # of types, which follow
    while seen < total:
        reader.number()  # the dialect
        count = reader.number()
        seen += count
        yield from (reader.number() >> 1 for _ in range(count))  # the last bit: whether the encoding is its own


def differences(folder: Path, tensors: Sequence[TensorDigest]) -> list[Difference]:
    """What does not match, over all weights recorded; empty for a faithful folder.

    Raises:
        UserError: no program there, or one that does not parse.
    """
    weights = CoreaiWeights.open(folder)
    dtypes = {tensor.dtype for tensor in tensors} - set(BITS) | {"bfloat16"}  # which is that of scales, too
    flips = {0} | {FLIPS[BITS[tensor.dtype]] for tensor in tensors if tensor.dtype in BITS}
    found = {digest for constant in [*weights.blobs, *weights.small] for digest in _digests(constant, dtypes, flips)}
    reasons = ((tensor.name, _explain(tensor, found, weights)) for tensor in tensors)
    return [Difference(name, reason) for name, reason in reasons if reason]


def _digests(constant: Bytes, dtypes: set[str], flips: set[int]) -> Iterator[str]:
    """Of the forms that a weight may have had: codes, or fp32 values in each dtype that holds them exactly."""
    for flip in flips:
        yield digest_of(part ^ flip for part in pieces(constant))
    for dtype in dtypes if constant.nbytes % 4 == 0 else ():
        try:
            yield digest_of(narrow(_floats(constant), dtype))
        except UserError:
            continue


def _floats(constant: Bytes) -> Iterator[NDArray[np.float32]]:
    return (part.copy().view(np.float32) for part in pieces(constant))


def _explain(tensor: TensorDigest, found: set[str], weights: CoreaiWeights) -> str | None:
    if tensor.sha256 not in found and not _is_splat(tensor, weights):
        return "codes not found" if tensor.dtype in BITS else "not found"
    return "scales not found" if tensor.scales_sha256 and tensor.scales_sha256 not in found else None


def _is_splat(tensor: TensorDigest, weights: CoreaiWeights) -> bool:
    """Whether it repeats one value, which is stored once."""
    values = {constant.tobytes() for constant in weights.small if constant.nbytes == 4}
    for value in values if tensor.dtype not in BITS else ():
        repeated = np.broadcast_to(np.frombuffer(value, np.float32), int(np.prod(tensor.shape)))
        try:
            if digest_of(narrow(pieces(repeated), tensor.dtype)) == tensor.sha256:
                return True
        except UserError:
            continue
    return False
