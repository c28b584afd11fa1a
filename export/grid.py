"""Weights that lie on a grid already, as quantization-aware training leaves them: found again instead of rounded anew.

A group is on a 4-bit grid if one scale takes all its values to whole numbers from -8 to 8. Its scale is found from its
smallest value, which is 1 to 8 steps. Released values are products that were rounded to bf16, or products with an fp16
scale (Q4_0 of llama.cpp), so a value may be off by a share of itself.
"""

from collections.abc import Iterable
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.rounding import SMALLEST_SCALE, compiled, nearest
from export.schemes import INT4, Quantized, Scheme, pack, quantize_rows, unpack

GROUP = 32  # of Q4_0, and of every release for a grid
STEPS = 8  # the largest code's magnitude
SLACK = np.float32(2.0**-7)  # of a value: half a unit of bf16's last place, in the value and in the smallest one
BF16_DIGITS = 8
ON_GRID = 0.9  # of the groups looked at, in a checkpoint that was trained for a grid


class Fit(IntEnum):
    """How well a group's values are kept. All formats hold one scale: positive, in bf16, normal in fp16."""

    NONE = 0  # on no grid: rounded by the recipe
    EXACT = 1  # code times scale is each value
    BF16 = 2  # rounded to bf16 it is, and in bf16 the values came
    SCALE = 3  # the codes are kept, the scale had to be rounded to bf16
    UNFIT = 4  # a value is eight steps above zero (its scale is negative, XNNPACK has none), or the scale is too small


@compiled
def find_grid(groups: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int8]]:
    """fp32 [n, size] -> codes [n, size] from -8 to 7, scales [n], and the `Fit` of each group."""
    codes = np.zeros(groups.shape, np.int8)
    scales = np.full(len(groups), SMALLEST_SCALE, np.float32)
    fits = np.zeros(len(groups), np.int8)
    for index in range(len(groups)):
        group = groups[index]
        step = _step(group)
        if step > 0:
            steps = np.rint(group / step)
            scales[index], fits[index] = _scale(group, steps)
            for at in range(len(group)):
                codes[index, at] = np.int8(min(steps[at], np.float32(STEPS - 1)))
        elif step == 0:
            fits[index] = 1
    return codes, scales, fits


@compiled
def _step(group: NDArray[np.float32]) -> np.float32:
    """The widest one that fits; 0 for a group of zeros, -1 where none does."""
    smallest, largest = np.float32(np.inf), np.float32(0)
    for value in group:
        if value != 0:
            smallest, largest = min(smallest, abs(value)), max(largest, abs(value))
    if largest == 0:
        return np.float32(0)
    for number in range(1, STEPS + 1):
        step = smallest / np.float32(number)
        if largest > (STEPS + np.float32(0.5)) * step:
            return np.float32(-1)
        if _on_grid(group, step):
            return step
    return np.float32(-1)


@compiled
def _on_grid(group: NDArray[np.float32], step: np.float32) -> bool:
    highest = lowest = np.float32(0)
    for value in group:
        number = np.rint(value / step)
        highest, lowest = max(highest, number), min(lowest, number)
        if not abs(number * step - value) <= SLACK * abs(value):  # NaN is on no grid
            return False
    return bool(highest - lowest < 2 * STEPS)


@compiled
def _scale(group: NDArray[np.float32], steps: NDArray[np.float32]) -> tuple:
    """In bf16: the best fit beside the one of least squared error, which values that were rounded may have moved."""
    above = below = np.float32(0)
    for at in range(len(group)):
        above += group[at] * steps[at]
        below += steps[at] * steps[at]
    middle = nearest(above / below, BF16_DIGITS)
    if middle < SMALLEST_SCALE or steps.max() == STEPS:
        return np.float32(max(middle, SMALLEST_SCALE)), 4
    best, least = np.float32(middle), 3
    for ratio in (1.0, 1 + 2.0**-BF16_DIGITS, 1 - 2.0**-BF16_DIGITS):
        scale = np.float32(nearest(np.float32(middle * ratio), BF16_DIGITS))
        fit = _fit(group, steps, scale)
        if fit < least:
            best, least = scale, fit
    return best, least


@compiled
def _fit(group: NDArray[np.float32], steps: NDArray[np.float32], scale: np.float32) -> int:
    exact = rounded = True
    for at in range(len(group)):
        product = steps[at] * scale
        exact = exact and product == group[at]
        rounded = rounded and nearest(product, BF16_DIGITS) == group[at]
    return 1 if exact else 2 if rounded else 3


def keep_grid(rows: Tensor, start: int, scheme: Scheme) -> Quantized:
    """A `Rounding`: groups on a grid keep their codes."""
    if scheme != INT4:
        return quantize_rows(rows, scheme)
    codes, scales, fits = (torch.from_numpy(each) for each in find_grid(rows.reshape(-1, GROUP).numpy()))
    return better_of(rows, codes.reshape(rows.shape), scales.reshape(len(rows), -1), fits, scheme)


def better_of(rows: Tensor, codes: Tensor, scales: Tensor, fits: Tensor, scheme: Scheme) -> Quantized:
    """Codes and scales that were found, where they fit; the search's where it errs less, or there were none.

    Args:
        rows: fp32 [n, columns]
        codes: int8, likewise
        scales: fp32 [n, groups], exact in bf16
        fits: int, so many `Fit`s
    """
    searched = quantize_rows(rows, scheme)
    fits = fits.reshape(scales.shape)
    others = unpack(searched.packed, scheme), searched.scales.float()
    errors = [_errors(rows, *pair) for pair in ((codes, scales), others)]
    better = (errors[0] <= errors[1]) & (scales >= float(SMALLEST_SCALE))
    kept = fits.not_equal(Fit.NONE) & (fits.not_equal(Fit.UNFIT) | better)
    packed = pack(torch.where(_spread(kept, rows), codes, others[0]), scheme)
    error = float(torch.where(kept, errors[0], errors[1]).sum())
    counts = torch.bincount(fits.flatten().int(), minlength=len(Fit)).tolist()
    return Quantized(packed, torch.where(kept, scales, others[1]).bfloat16(), error, searched.plain_error,
                     searched.energy, counts)  # fmt: skip


def _errors(rows: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """Sum of squares of each group."""
    return (codes * _spread(scales, rows) - rows).square().unflatten(1, (scales.shape[1], -1)).sum(-1)


def _spread(groups: Tensor, rows: Tensor) -> Tensor:
    """[n, groups] -> [n, columns]"""
    return groups.repeat_interleave(rows.shape[1] // groups.shape[1], 1)


def share_on_grid(samples: Iterable[Tensor]) -> float:
    """Of groups of weights [n, columns]: ordinary ones are on none by chance; those of zeros, on any, do not count."""
    groups = torch.cat([torch.empty(0, GROUP), *(rows.float().reshape(-1, GROUP) for rows in samples)])
    groups = groups[groups.any(1)]
    fits = find_grid(groups.numpy())[2]
    return float((fits != Fit.NONE).mean()) if len(fits) else 0.0
