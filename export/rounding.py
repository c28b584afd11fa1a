"""The search for scales, compiled: each weight is read once for all candidates, where torch would read it sixty times.

Equal to the same expressions in torch, operation by operation; `reassoc` lets sums of errors be taken in any order.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

RATIOS = np.array((1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.75, 0.7), np.float32)  # of the scale that just covers a group
SMALLEST_SCALE = np.float32(2.0**-14)  # of fp16's normal numbers; Core ML stores scales as fp16
DIGITS = 24  # significant bits of fp32

compiled = njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc"})


@compiled
def round_groups(
    groups: NDArray[np.float32], lowest: np.float32, highest: np.float32, scale_digits: int, importance: Any
) -> tuple[NDArray[np.int8], NDArray[np.float32], float, float, float]:
    """Codes and scales of least squared error.

    Args:
        groups: [n, size]
        lowest, highest: of the codes.
        scale_digits: significant bits of a scale.
        importance: float [m, size], factors of the squared errors that the search sums up: group i has those of row
            i % m. None: 1.

    Returns:
        Codes [n, size], scales [n], and sums of squares: of the differences from `groups`, of the same had each scale
        just covered its group, and of `groups`. The first is no finite number where a weight is none.
    """
    codes = np.empty(groups.shape, np.int8)
    scales = np.empty(len(groups), np.float32)
    error = plain_error = energy = 0.0
    for index in range(len(groups)):
        scale, least, plain = _best_scale(groups[index], lowest, highest, scale_digits, importance, index)
        for at in range(groups.shape[1]):
            codes[index, at] = np.int8(_code(groups[index, at], scale, lowest, highest))
        scales[index] = scale
        error, plain_error, energy = error + least, plain_error + plain, energy + _energy(groups[index])
    return codes, scales, error, plain_error, energy


@compiled
def _best_scale(
    group: NDArray[np.float32], lowest: np.float32, highest: np.float32, digits: int, importance: Any, index: int
) -> tuple:
    """The scale, its squared error, and that of the widest one, which comes first and wins ties."""
    covering = _largest(group) / highest
    best, least, plain = SMALLEST_SCALE, np.float32(np.inf), np.float32(0)
    for number in range(len(RATIOS)):
        scale = _representable(covering * RATIOS[number], digits)
        error = _error(group, scale, lowest, highest)
        if number == 0:
            plain = error
        if importance is not None:
            error = _weighted_error(group, scale, lowest, highest, importance[index % len(importance)])
        if error < least:
            best, least = scale, error
    if importance is not None:
        least = _error(group, best, lowest, highest)
    return best, least, plain


@compiled
def _representable(scale: np.float32, digits: int) -> np.float32:
    """The nearest scale of few digits: exact in bf16 (XNNPACK), fp16 (Core ML), fp32 (ONNX)."""
    return max(nearest(scale, digits), SMALLEST_SCALE)


@compiled
def nearest(value: np.float32, digits: int) -> np.float32:
    """To so many significant bits, halves to even."""
    dropped, one = np.uint32(DIGITS - digits), np.uint32(1)
    bits = np.float32(value).view(np.uint32)
    rounded = bits + ((one << (dropped - one)) - one) + ((bits >> dropped) & one)
    return np.uint32(rounded >> dropped << dropped).view(np.float32)


@compiled
def _error(group: NDArray[np.float32], scale: np.float32, lowest: np.float32, highest: np.float32) -> np.float32:
    total = np.float32(0)
    for at in range(len(group)):
        difference = _code(group[at], scale, lowest, highest) * scale - group[at]
        total += difference * difference
    return total


@compiled
def _weighted_error(
    group: NDArray[np.float32], scale: np.float32, lowest: np.float32, highest: np.float32,
    importance: NDArray[np.float32],
) -> np.float32:  # fmt: skip
    total = np.float32(0)
    for at in range(len(group)):
        difference = _code(group[at], scale, lowest, highest) * scale - group[at]
        total += difference * difference * importance[at]
    return total


@compiled
def _code(weight: np.float32, scale: np.float32, lowest: np.float32, highest: np.float32) -> np.float32:
    code = np.rint(weight / scale)
    code = lowest if code < lowest else code  # a NaN stays one
    return highest if code > highest else code


@compiled
def _largest(group: NDArray[np.float32]) -> np.float32:
    largest = np.float32(0)
    for at in range(len(group)):
        largest = max(largest, abs(group[at]))
    return largest


@compiled
def _energy(group: NDArray[np.float32]) -> np.float32:
    total = np.float32(0)
    for at in range(len(group)):
        total += group[at] * group[at]
    return total
