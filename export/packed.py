"""Sources that are quantized already, such as the releases `-qat-w4a16-ct`: their codes and scales pass through.

compressed-tensors' `pack-quantized` format holds three tensors for a weight: `weight_packed`, `weight_scale` and
`weight_shape`. Here they are one tensor of the weight's own name, whose rows are codes times scales.
"""

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.grid import Fit, better_of
from export.rounding import SMALLEST_SCALE
from export.schemes import INT4, INT4_64, INT4_128, INT8, Quantized, Rounding, Scheme, dequantize, unpack
from export.sources import Source, Stored, compare_with_config, open_source
from runtime.errors import UserError

PACKED, SCALE, SHAPE = (f".weight_{part}" for part in ("packed", "scale", "shape"))
REFUSED = {".weight_zero_point": "asymmetric codes", ".weight_g_idx": "groups of inputs in another order"}
KNOWN = INT4, INT4_64, INT4_128, INT8


def open_checkpoint(folder: Path) -> Source:
    """`open_source`, with packed weights as tensors of their own names."""
    source = open_source(folder)
    return PackedSource(source) if any(name.endswith(PACKED) for name in source.tensors) else source


class PackedSource(Source):
    """Packed weights among others."""

    def __init__(self, raw: Source) -> None:
        """Raises:
        UserError: weights are packed in a way that no format here holds.
        """
        merged = (_merged(raw, stored) for stored in raw.tensors.values())
        super().__init__(raw.folder, raw.config, {stored.name: stored for stored in merged if stored})
        self.raw = raw
        compare_with_config(self)
        for name in raw.tensors:
            if reason := next((REFUSED[end] for end in REFUSED if name.endswith(end)), None):
                raise UserError(f"{raw.folder}: {name} stands for {reason}, which cannot be exported: choose the "
                                "unquantized checkpoint")  # fmt: skip
        for name in filter(self._is_packed, self.tensors):
            if (scheme := self.scheme_of(name)) not in KNOWN:
                raise UserError(f"{raw.folder}: {name} is packed as {scheme}, which cannot be exported: choose the "
                                "unquantized checkpoint")  # fmt: skip

    @cached_property
    def fingerprint(self) -> str:
        return self.raw.fingerprint

    def _is_packed(self, name: str) -> bool:
        return name.removesuffix(".weight") + PACKED in self.raw.tensors

    def scheme_of(self, name: str) -> Scheme | None:
        """Of a packed weight; None for another."""
        if not self._is_packed(name):
            return None
        module, columns = name.removesuffix(".weight"), self.tensors[name].shape[1]
        groups = self.raw.tensors[module + SCALE].shape[1]
        return Scheme(
            self.raw.tensors[module + PACKED].shape[1] * 32 // columns, columns // groups if groups > 1 else None
        )

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Of a packed weight in fp32."""
        scheme = self.scheme_of(name)
        return dequantize(*self.codes(name, start, stop), scheme) if scheme else self.raw.rows(name, start, stop)

    def codes(self, name: str, start: int, stop: int | None) -> tuple[Tensor, Tensor]:
        """Of some rows of a packed weight: uint8 as `schemes.pack` lays them out, and scales in fp32."""
        module = name.removesuffix(".weight")
        packed = self.raw.rows(module + PACKED, start, stop).contiguous().view(torch.uint8)
        return packed, self.raw.rows(module + SCALE, start, stop).float()

    def rounding(self, name: str) -> Rounding:
        """Passes codes and scales of a packed weight through, but for groups that no format here holds."""

        def keep(rows: Tensor, start: int, scheme: Scheme) -> Quantized:
            packed, scales = self.codes(name, start, start + len(rows))
            return better_of(rows, unpack(packed, scheme), *_held(scales.numpy()), scheme)

        return keep


def _merged(raw: Source, stored: Stored) -> Stored | None:
    """Codes become the weight; scales and shapes are a part of it."""
    if stored.name.endswith((SCALE, SHAPE)):
        return None
    if not stored.name.endswith(PACKED):
        return stored
    module = stored.name.removesuffix(PACKED)
    shape = tuple(raw.rows(module + SHAPE).tolist())
    return replace(stored, name=module + ".weight", shape=shape, dtype=torch.float32)


def _held(scales: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """[rows, groups] -> scales in bf16, as XNNPACK has them, and how each group fares."""
    rounded = torch.from_numpy(scales).bfloat16().float()
    fits = torch.full(scales.shape, int(Fit.EXACT))
    fits[rounded != torch.from_numpy(scales)] = int(Fit.SCALE)
    fits[rounded < SMALLEST_SCALE] = int(Fit.UNFIT)
    return rounded, fits
