"""The search for scales, compiled: each weight is read once for all candidates, where torch would read it sixty times.

Equal to the same expressions in torch, operation by operation; `reassoc` lets sums of errors be taken in any order. A
weight is multiplied by 1 / scale, as divisions are slower; the two differ where a weight lies halfway.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

RATIOS = np.array((1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.75, 0.7), np.float32)  # of the scale that just covers a group
SMALLEST_SCALE = np.float32(2.0**-14)  # of fp16's normal numbers; Core ML stores scales as fp16
ONE = np.float32(1)
DIGITS = 24  # significant bits of fp32
MAGNITUDE = np.uint32(0x7FFFFFFF)  # its bits but the sign

compiled = njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc"})


@compiled
def round_groups(
    groups: NDArray[np.float32], bits: int, lowest: np.float32, highest: np.float32, scale_digits: int, importance: Any
) -> tuple[NDArray[np.uint8], NDArray[np.float32], float, float, float]:
    """Codes and scales of least squared error.

    Args:
        groups: [n, size]
        bits: of a code, 4 or 8.
        lowest, highest: of the codes.
        scale_digits: significant bits of a scale.
        importance: float [m, size], factors of the squared errors that the search sums up: group i has those of row
            i % m. None: 1.

    Returns:
        Codes [n, size * bits / 8], packed as by `schemes.pack`, scales [n], and sums of squares: of the differences
        from `groups`, of the same had each scale just covered its group, and of `groups`. The first is no finite number
        where a weight is none.
    """
    packed = np.empty((len(groups), groups.shape[1] * bits // 8), np.uint8)
    scales = np.empty(len(groups), np.float32)
    candidates, errors, ranks = np.empty((3, len(RATIOS)), np.float32)
    error = plain_error = energy = 0.0
    for index in range(len(groups)):  # its loops stand here, as functions given arrays would make it a third slower
        group = groups[index]
        covering = _largest(group) / highest
        for number in range(len(RATIOS)):
            candidates[number] = representable(covering * RATIOS[number], scale_digits)
        for number in range(len(RATIOS)):
            errors[number] = _error(group, candidates[number], lowest, highest)
            ranks[number] = errors[number]
            if importance is not None:
                factors = importance[index % len(importance)]
                ranks[number] = _weighted_error(group, candidates[number], lowest, highest, factors)
        best = 0
        for number in range(1, len(RATIOS)):  # the widest wins ties; a branch would be guessed wrong too often
            best = number if ranks[number] < ranks[best] else best
        scales[index] = candidates[best]
        _pack(group, ONE / candidates[best], bits, lowest, highest, packed[index])
        error, plain_error, energy = error + errors[best], plain_error + errors[0], energy + _energy(group)
    return packed, scales, error, plain_error, energy


@compiled
def representable(scale: np.float32, digits: int) -> np.float32:
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
    total, inverse = np.float32(0), ONE / scale
    for at in range(len(group)):
        difference = code_of(group[at], inverse, lowest, highest) * scale - group[at]
        total += difference * difference
    return total


@compiled
def _weighted_error(
    group: NDArray[np.float32], scale: np.float32, lowest: np.float32, highest: np.float32,
    importance: NDArray[np.float32],
) -> np.float32:  # fmt: skip
    total, inverse = np.float32(0), ONE / scale
    for at in range(len(group)):
        difference = code_of(group[at], inverse, lowest, highest) * scale - group[at]
        total += difference * difference * importance[at]
    return total


@compiled
def code_of(weight: np.float32, inverse: np.float32, lowest: np.float32, highest: np.float32) -> np.float32:
    """
    Args:
        inverse: of the scale.
    """
    code = np.rint(weight * inverse)
    code = lowest if code < lowest else code  # a NaN stays one
    return highest if code > highest else code


@compiled
def _pack(
    group: NDArray[np.float32], inverse: np.float32, bits: int, lowest: np.float32, highest: np.float32,
    packed: NDArray[np.uint8],
) -> None:  # fmt: skip
    """Codes plus half their range, as `schemes.pack` has them."""
    if bits == 4:
        for at in range(len(packed)):
            even = np.uint8(np.int32(code_of(group[2 * at], inverse, lowest, highest)) + 8)
            odd = np.uint8(np.int32(code_of(group[2 * at + 1], inverse, lowest, highest)) + 8)
            packed[at] = even | np.uint8(odd << 4)
    else:
        for at in range(len(packed)):
            packed[at] = np.uint8(np.int32(code_of(group[at], inverse, lowest, highest)) + 128)


@compiled
def _largest(group: NDArray[np.float32]) -> np.float32:
    """Of absolute values. Their bits are in the same order, and compared many at once, as a NaN is just one more."""
    bits, largest = group.view(np.uint32), np.uint32(0)
    for at in range(len(bits)):
        largest = max(largest, bits[at] & MAGNITUDE)
    return np.uint32(largest).view(np.float32)


@compiled
def _energy(group: NDArray[np.float32]) -> np.float32:
    total = np.float32(0)
    for at in range(len(group)):
        total += group[at] * group[at]
    return total
