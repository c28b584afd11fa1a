"""Symmetric group quantization to int4 and int8: choose scales, round, pack, unpack.

The packed bytes are those of compressed-tensors' `pack-quantized` format: codes plus half their range, little-endian,
the even column of an int4 pair in the low nibble. XNNPACK's blockwise int4 and ONNX Runtime's MatMulNBits store the
same bytes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

RATIOS = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.75, 0.7)  # of the scale that just covers a group; 1.0 comes first
SMALLEST_SCALE = 2.0**-14  # of fp16's normal numbers; Core ML stores scales as fp16


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
INT8 = Scheme(bits=8, group=None)


@dataclass(frozen=True)
class Quantized:
    """Some rows of a quantized weight, and how well it went."""

    packed: Tensor  # uint8 [rows, columns * bits / 8]
    scales: Tensor  # bf16 [rows, groups]
    error: float  # sum of squared differences from the source
    plain_error: float  # the same, had each scale just covered its group
    energy: float  # sum of squares of the source


def quantize_rows(rows: Tensor, scheme: Scheme) -> Quantized:
    """fp32 [rows, columns] -> codes and scales; each group's scale is the candidate of least squared error."""
    groups = rows.reshape(len(rows), -1, scheme.group or rows.shape[1])
    scales, error, plain_error = _choose_scales(groups, scheme)
    codes = _round(groups, scales, scheme).to(torch.int8).reshape(rows.shape)
    energy = float(torch.linalg.vector_norm(rows, dtype=torch.float64).square())
    return Quantized(pack(codes, scheme), scales.bfloat16(), error, plain_error, energy)


def _choose_scales(groups: Tensor, scheme: Scheme) -> tuple[Tensor, float, float]:
    """fp32 [rows, n, group] -> fp32 scales [rows, n], the summed error with them, and with the widest of them."""
    widest = groups.abs().amax(-1) / scheme.highest
    best = _representable(widest, scheme)
    least = plain = _errors(groups, best, scheme)
    for ratio in RATIOS[1:]:
        scales = _representable(widest * ratio, scheme)
        errors = _errors(groups, scales, scheme)
        best = torch.where(errors < least, scales, best)
        least = torch.minimum(errors, least)
    return best, float(least.sum(dtype=torch.float64)), float(plain.sum(dtype=torch.float64))


def _representable(scales: Tensor, scheme: Scheme) -> Tensor:
    """The nearest scales of few digits: exact in bf16 (XNNPACK), fp16 (Core ML) and fp32 (ONNX)."""
    mantissa, exponent = torch.frexp(scales)
    steps = 2.0**scheme.scale_digits
    return torch.ldexp(mantissa.mul_(steps).round_().div_(steps), exponent).clamp_(min=SMALLEST_SCALE)


def _errors(groups: Tensor, scales: Tensor, scheme: Scheme) -> Tensor:
    """Squared error of each group, [rows, n]."""
    rounded = _round(groups, scales, scheme).mul_(scales[..., None])
    return rounded.sub_(groups).square_().sum(-1)


def _round(groups: Tensor, scales: Tensor, scheme: Scheme) -> Tensor:
    """Codes as fp32, of the shape of `groups`."""
    return (groups / scales[..., None]).round_().clamp_(scheme.lowest, scheme.highest)


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
    codes = unpack(packed, scheme)
    groups = codes.float().reshape(len(codes), -1, scheme.group or codes.shape[1])
    return (groups * scales.float()[..., None]).reshape(codes.shape)
