"""Symmetric group quantization to int4 and int8: choose scales, round, pack, unpack.

The packed bytes are those of compressed-tensors' `pack-quantized` format: codes plus half their range, little-endian,
the even column of an int4 pair in the low nibble. XNNPACK's blockwise int4 and ONNX Runtime's MatMulNBits store the
same bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from export.rounding import round_groups


@dataclass(frozen=True)
class Scheme:
    """How one weight [out, in] is quantized."""

    bits: int  # 4 or 8
    group: int | None  # consecutive inputs that share a scale; None: a whole row does

    @property
    def lowest(self) -> int:
        """Smallest code. XNNPACK's int8 kernels want a symmetric range."""
        return -8 if self.bits == 4 else -127

    @property
    def highest(self) -> int:
        return 2 ** (self.bits - 1) - 1

    @property
    def offset(self) -> int:
        """Added to a code before it is packed."""
        return 2 ** (self.bits - 1)

    @property
    def exact_dtype(self) -> torch.dtype:
        """The narrowest dtype that holds code times scale exactly, with `scale_digits`."""
        return torch.bfloat16 if self.bits == 4 else torch.float16

    @property
    def scale_digits(self) -> int:
        """Significant bits of a scale: with those of a code (3 and 7) no more than `exact_dtype` has (8 and 11).

        So an int4 model run in bf16 by anyone has our very weights. It costs 0.2 % of the rounding error, 5 % at int8.
        """
        return 5 if self.bits == 4 else 4

    def groups(self, columns: int) -> int:
        """Scales per row."""
        return columns // (self.group or columns)


INT4 = Scheme(bits=4, group=32)
INT4_64 = Scheme(bits=4, group=64)
INT4_128 = Scheme(bits=4, group=128)
INT8 = Scheme(bits=8, group=None)


@dataclass(frozen=True)
class Quantized:
    """Some rows of a quantized weight, and how well it went."""

    packed: Tensor  # uint8 [rows, columns * bits / 8]
    scales: Tensor  # bf16 [rows, groups]
    error: float  # sum of squared differences from the source
    plain_error: float  # the same, had each scale just covered its group
    energy: float  # sum of squares of the source
    fits: Sequence[int] = ()  # groups by how well they keep a grid that the source is on, see grid.Fit


Rounding = Callable[[Tensor, int, Scheme], Quantized]  # of fp32 rows [n, columns], the first of which has that number


def round_plainly(rows: Tensor, start: int, scheme: Scheme) -> Quantized:
    """A `Rounding` by least squared error."""
    return quantize_rows(rows, scheme)


def quantize_rows(rows: Tensor, scheme: Scheme, importance: Tensor | None = None) -> Quantized:
    """fp32 [rows, columns] -> codes and scales; each group's scale is the candidate of least squared error.

    Where a weight is no finite number, `error` is none either.

    Args:
        importance: fp32 [columns], factors of the squared errors among which the scale is chosen.
    """
    size = scheme.group or rows.shape[1]
    limits = np.float32(scheme.lowest), np.float32(scheme.highest)
    factors = None if importance is None else importance.reshape(-1, size).numpy()
    found = round_groups(rows.reshape(-1, size).numpy(), scheme.bits, *limits, scheme.scale_digits, factors)
    packed, scales = (torch.from_numpy(part).reshape(len(rows), -1) for part in found[:2])
    return Quantized(packed, scales.bfloat16(), *found[2:])


def pack(codes: Tensor, scheme: Scheme) -> Tensor:
    """int8 [rows, columns] -> uint8 [rows, columns * bits / 8]"""
    shifted = (codes.to(torch.int16) + scheme.offset).to(torch.uint8)
    return shifted[:, 0::2] | shifted[:, 1::2] << 4 if scheme.bits == 4 else shifted


def unpack(packed: Tensor, scheme: Scheme) -> Tensor:
    """uint8 [rows, columns * bits / 8] -> int8 [rows, columns]"""
    if scheme.bits == 4:
        packed = torch.stack([packed & 15, packed >> 4], -1).flatten(1)
    return (packed.to(torch.int16) - scheme.offset).to(torch.int8)


def dequantize(packed: Tensor, scales: Tensor, scheme: Scheme) -> Tensor:
    """Codes and scales of some rows -> fp32 [rows, columns]"""
    return dequantize_codes(unpack(packed, scheme), scales)


def dequantize_codes(codes: Tensor, scales: Tensor) -> Tensor:
    """int8 [rows, columns] and [rows, groups] -> fp32 [rows, columns]"""
    groups = codes.float().unflatten(1, (scales.shape[1], -1))
    return (groups * scales.float()[..., None]).flatten(1)


def measure(rows: Tensor, packed: Tensor, scales: Tensor, scheme: Scheme) -> Quantized:
    """Codes and scales that were chosen elsewhere, beside the fp32 rows they stand for."""
    plain = quantize_rows(rows, scheme)
    error = float((dequantize(packed, scales, scheme) - rows).square().sum())
    return Quantized(packed, scales.bfloat16(), error, plain.plain_error, plain.energy)
