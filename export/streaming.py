"""One tensor of a source checkpoint on its way into the quantized one: in blocks of rows, on all cores, hashed."""

import hashlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from export.grid import keep_grid
from export.pool import in_order
from export.recipes import EMBEDDING
from export.schemes import INT4, Quantized, Rounding, Scheme, dequantize, round_plainly
from export.shards import Entry, bytes_of
from export.sources import Source, Stored
from runtime.errors import UserError
from runtime.manifest import Record, TensorDigest
from runtime.progress import Advance

BLOCK = 2**18  # weights in one block: a few copies of it stay in a core's cache
Write = Callable[[str, Tensor], None]  # appends rows to the tensor of this key


@dataclass(frozen=True)
class Job:
    """One source tensor and what becomes of it."""

    stored: Stored
    scheme: Scheme | None
    rounding: Rounding = round_plainly
    given: bool = False  # the source has codes and scales already

    @property
    def is_embedding(self) -> bool:
        """Whether its codes are kept apart, because the standard part must hold it dense."""
        return self.scheme is not None and bool(EMBEDDING.search(self.stored.name))

    @property
    def dense_dtype(self) -> torch.dtype:
        """That holds an embedding's codes times scales exactly: a source's scales have 8 significant bits."""
        assert self.scheme is not None
        if not self.given or (self.rounding is keep_grid and self.scheme != INT4):  # which is rounded as usual
            return self.scheme.exact_dtype
        return torch.float16 if self.scheme.bits == 4 else torch.float32

    @property
    def dense_key(self) -> str:
        """Of an embedding's values, which the source may hold packed."""
        return f"{self._module}.weight"

    def key(self, part: str) -> str:
        """Of a part of the packed weight."""
        return f"{self._module}.weight_{part}"

    @property
    def _module(self) -> str:
        return self.stored.key.removesuffix(".weight").removesuffix(".weight_packed")

    def entries(self) -> list[Entry]:
        """What the standard part of the checkpoint holds of it."""
        if self.scheme is None:
            return [Entry(self.stored.key, self.stored.dtype, self.stored.shape)]
        if self.is_embedding:
            return [Entry(self.dense_key, self.dense_dtype, self.stored.shape)]
        return self.packed_entries()

    def packed_entries(self) -> list[Entry]:
        """Codes, scales and shape, as compressed-tensors names them."""
        assert self.scheme is not None
        rows, columns = self.stored.shape
        return [
            Entry(self.key("packed"), torch.int32, (rows, columns * self.scheme.bits // 32)),
            Entry(self.key("scale"), torch.bfloat16, (rows, self.scheme.groups(columns))),
            Entry(self.key("shape"), torch.int64, (2,)),
        ]


class TensorResult(Record):
    """What is known of a tensor once it has been written. Sums of squares are those of schemes.Quantized."""

    digest: TensorDigest
    source_sha256: str
    error: float
    plain_error: float
    energy: float
    fits: list[int]  # of schemes.Quantized, added up


def stream_tensor(source: Source, job: Job, write: Write, pool: Executor, advance: Advance) -> TensorResult:
    """Reads, quantizes where a scheme says so, hashes and writes one tensor.

    Raises:
        UserError: the tensor holds NaN or infinity.
    """
    hasher = _Hasher(job)
    if job.scheme:
        write(job.key("shape"), torch.tensor(job.stored.shape))
    for rows, quantized in in_order(pool, _blocks(source, job)):
        for key, piece in hasher.add(rows, quantized):
            write(key, piece)
        advance(rows.nbytes)
    return hasher.result()


def _blocks(source: Source, job: Job) -> Iterator[Callable[[], tuple[Tensor, Quantized | None]]]:
    """Work that may be done at any time, block by block."""
    shape = job.stored.shape
    count = shape[0] if shape else 1
    step = max(1, BLOCK * count // max(1, torch.Size(shape).numel()))
    for start in range(0, count, step):
        yield lambda start=start: _read_block(source, job, start, start + step)  # type: ignore[misc]


def _read_block(source: Source, job: Job, start: int, stop: int) -> tuple[Tensor, Quantized | None]:
    rows = source.rows(job.stored.name, start, stop)
    quantized = job.rounding(rows.float(), start, job.scheme) if job.scheme else None
    if not (math.isfinite(quantized.error) if quantized else torch.isfinite(rows).all()):
        raise UserError(f"{source.folder}: {job.stored.name} holds NaN or infinity (rows {start} to {stop}): "
                        "the checkpoint is damaged, download it again")  # fmt: skip
    return rows, quantized


class _Hasher:
    """Digests of a tensor before and after, and its errors, block by block."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.source, self.codes, self.scales = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        self.sums = [0.0, 0.0, 0.0]
        self.fits: list[int] = []

    def add(self, rows: Tensor, quantized: Quantized | None) -> Iterator[tuple[str, Tensor]]:
        """Takes note of a block; yields what is to be written, by key."""
        self.source.update(bytes_of(rows))
        if quantized is None:
            yield self.job.stored.key, rows
            return
        self.codes.update(bytes_of(quantized.packed))
        self.scales.update(bytes_of(quantized.scales))
        errors = quantized.error, quantized.plain_error, quantized.energy
        self.sums = [total + error for total, error in zip(self.sums, errors, strict=True)]
        self.fits = [sum(pair) for pair in zip_longest(self.fits, quantized.fits, fillvalue=0)]
        yield self.job.key("packed"), quantized.packed
        yield self.job.key("scale"), quantized.scales
        if self.job.is_embedding and self.job.scheme:
            dense = dequantize(quantized.packed, quantized.scales, self.job.scheme)
            yield self.job.dense_key, dense.to(self.job.dense_dtype)

    def result(self) -> TensorResult:
        stored, scheme = self.job.stored, self.job.scheme
        digest = TensorDigest(
            name=stored.name,
            shape=stored.shape,
            dtype=f"int{scheme.bits}" if scheme else str(stored.dtype).removeprefix("torch."),
            group=scheme.group if scheme else None,
            sha256=(self.codes if scheme else self.source).hexdigest(),
            scales_sha256=self.scales.hexdigest() if scheme else None,
        )
        error, plain_error, energy = self.sums
        return TensorResult(digest=digest, source_sha256=self.source.hexdigest(), error=error,
                            plain_error=plain_error, energy=energy, fits=self.fits)  # fmt: skip
