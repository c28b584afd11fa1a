"""Rounding with error compensation: GPTQ (Frantar et al. 2022, arXiv:2210.17323).

What a linear loses on its inputs X is tr(E H E^T), for H = X^T X and E the difference of its weights. With H = L L^T
that is, for each row of E, the sum over columns k of L_kk^2 (e_k + sum over j > k of e_j L_jk / L_kk)^2: columns are
rounded from the last to the first, each together with what the errors after it add up to. This is GPTQ without an
inverse of H (Chee et al. 2023, arXiv:2307.13304, theorem 6, have the equivalence).

Columns that matter most are rounded first. Those of a group stay together, so that the group's scale can be chosen when
its turn comes: by the very sum above, for each candidate. A scale of a whole row is chosen before, by its columns'
squared errors, each times the squares of what enters there; then columns go in blocks.
"""

from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from export.rounding import RATIOS, SMALLEST_SCALE, code_of, representable, round_groups
from export.schemes import Scheme
from runtime.errors import UserError

BLOCK = 32  # columns that are rounded together where a scale is that of a row
DAMPING = 0.01  # of the mean of H's diagonal, added to it, as in the paper
TRIES = 10  # of a damping ten times the one before: after a few, H's diagonal outweighs all else
SHARE = 0.5  # of a correction: all of it fits what the model was calibrated on too well
compiled = njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})


@dataclass(frozen=True)
class Factor:
    """A Hessian made ready for a scheme."""

    order: Tensor  # int64 [n]: column i of the permuted weight was column order[i]
    lower: Tensor  # fp32 [n, n]: L of the permuted, damped H, each column divided by its diagonal
    importance: Tensor  # fp32 [n]: the squares of that diagonal
    moments: Tensor  # fp32 [n]: H's own diagonal, of the columns in their own order
    group: int  # columns that are rounded together: those of a scale, or a block


def factorize(hessian: Tensor, scheme: Scheme, damping: float = DAMPING) -> Factor:
    """
    Args:
        hessian: fp32 [n, n], X^T X; its groups, or blocks of 32 where the scheme has none, divide n.

    Raises:
        UserError: X holds NaN or infinity, or values whose squares do.
    """
    group, diagonal = scheme.group or BLOCK, hessian.diagonal().clone()
    order = _order(diagonal, group)
    permuted = hessian[order[:, None], order]
    mean = float(diagonal.mean()) or 1.0
    lower = _cholesky(permuted, diagonal[order], damping * mean)
    pivots = lower.diagonal().clone()
    return Factor(order, lower.div_(pivots), pivots.square(), diagonal, group)


def _cholesky(hessian: Tensor, diagonal: Tensor, added: float) -> Tensor:
    """L of H with so much added to its diagonal, ten times as much while fp32 takes that for indefinite. Changes H.

    Raises:
        UserError: H holds NaN or infinity.
    """
    if isfinite(added):  # as infinity on the diagonal would pass for positive
        for _ in range(TRIES):
            hessian.diagonal().copy_(diagonal + added)
            lower, failed = torch.linalg.cholesky_ex(hessian)
            if not failed:
                return lower
            added *= 10
    raise UserError("what enters a layer in calibration is NaN or infinity, or too large to be squared: the checkpoint "
                    "is damaged, download it again; or name other data with --calibration")  # fmt: skip


def _order(diagonal: Tensor, group: int) -> Tensor:
    """Least important first, as rounding goes backwards: groups by the sum of their diagonal, columns within each."""
    groups = diagonal.reshape(-1, group)
    inner = groups.argsort(stable=True) + torch.arange(0, len(diagonal), group)[:, None]
    return inner[groups.sum(1).argsort(stable=True)].flatten()


def correct(weight: Tensor, pull: Tensor, factor: Factor) -> Tensor:
    """The weight that makes up for what linears before it lost: with inputs X in place of the source's X*, the least
    squares of X* W^T - X V^T are those of V = W + W (X* - X)^T X H^-1 (Li et al. 2025, arXiv:2504.02692).

    Args:
        weight: fp32 [rows, n], W.
        pull: fp32 [rows, n], W (X* - X)^T X.
    """
    lower = factor.lower  # of a unit diagonal
    once = torch.linalg.solve_triangular(lower.T, pull[:, factor.order], upper=True, left=False, unitriangular=True)
    once /= factor.importance
    twice = torch.linalg.solve_triangular(lower, once, upper=False, left=False, unitriangular=True)
    corrected = weight.clone()
    corrected[:, factor.order] += SHARE * twice
    return corrected


def round_rows(rows: Tensor, factor: Factor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """fp32 [rows, n] -> codes int8 [rows, n], scales fp32 [rows, groups]."""
    weights = rows[:, factor.order].contiguous()
    errors, codes = torch.zeros_like(weights), torch.zeros(weights.shape, dtype=torch.int8)
    scales = torch.zeros(len(rows), scheme.groups(weights.shape[1]))
    given = torch.zeros(len(rows)) if scheme.group else _scales_of_rows(rows, factor, scheme)
    limits = np.float32(scheme.lowest), np.float32(scheme.highest)
    for start in reversed(range(0, weights.shape[1], factor.group)):
        stop = start + factor.group
        carried = errors[:, stop:] @ factor.lower[stop:, start:stop]
        inner = factor.lower[start:stop, start:stop].T.contiguous()
        found = _round_group(
            weights[:, start:stop].contiguous().numpy(), carried.numpy(), inner.numpy(),
            factor.importance[start:stop].numpy(), *limits, scheme.scale_digits, given.numpy(),
        )  # fmt: skip
        index = factor.order[start] // factor.group if scheme.group else 0
        codes[:, start:stop], scales[:, index], errors[:, start:stop] = map(torch.from_numpy, found)
    unordered = torch.empty_like(codes)
    unordered[:, factor.order] = codes
    return unordered, scales


def _scales_of_rows(rows: Tensor, factor: Factor, scheme: Scheme) -> Tensor:
    """fp32 [rows, n] -> [rows], of least squared error weighted by H's diagonal."""
    limits = np.float32(scheme.lowest), np.float32(scheme.highest)
    importance = factor.moments[None].numpy()
    found = round_groups(rows.contiguous().numpy(), scheme.bits, *limits, scheme.scale_digits, importance)
    return torch.from_numpy(found[1])


@compiled
def _round_group(
    weights: NDArray[np.float32], carried: NDArray[np.float32], inner: NDArray[np.float32],
    importance: NDArray[np.float32], lowest: np.float32, highest: np.float32, digits: int, given: NDArray[np.float32],
) -> Any:  # fmt: skip
    """Codes [rows, size], scales [rows] and errors [rows, size] of one group.

    Args:
        weights: [rows, size]
        carried: [rows, size], what errors of later groups add to each.
        inner: [size, size]: at [k, j], j > k, the share of column j's error that is added to column k.
        importance: [size]
        lowest, highest: of the codes.
        digits: significant bits of a scale.
        given: [rows], scales; 0: choose one.
    """
    size = weights.shape[1]
    codes = np.empty(weights.shape, np.int8)
    scales = np.empty(len(weights), np.float32)
    errors = np.empty(weights.shape, np.float32)
    trial_codes, trial_errors = np.empty(size, np.int8), np.empty(size, np.float32)
    for row in range(len(weights)):
        if given[row]:
            scales[row] = given[row]
            _try_scale(weights[row], carried[row], inner, importance, lowest, highest, given[row], np.float32(np.inf),
                       codes[row], errors[row])  # fmt: skip
            continue
        largest = np.float32(0)
        for k in range(size):
            largest = max(largest, abs(weights[row, k] + carried[row, k]))
        least, scales[row] = np.float32(np.inf), np.float32(0)
        for ratio in RATIOS:
            scale = representable(largest / highest * ratio, digits)
            if scale == scales[row]:
                continue
            loss = _try_scale(weights[row], carried[row], inner, importance, lowest, highest, scale, least,
                              trial_codes, trial_errors)  # fmt: skip
            if loss < least:
                least, scales[row], codes[row], errors[row] = loss, scale, trial_codes, trial_errors
        scales[row] = max(scales[row], SMALLEST_SCALE)
    return codes, scales, errors


@compiled
def _try_scale(
    weights: NDArray[np.float32], carried: NDArray[np.float32], inner: NDArray[np.float32],
    importance: NDArray[np.float32], lowest: np.float32, highest: np.float32, scale: np.float32, enough: np.float32,
    codes: NDArray[np.int8], errors: NDArray[np.float32],
) -> np.float32:  # fmt: skip
    """Rounds a group; returns its loss, or what it is once that exceeds `enough`."""
    loss, inverse = np.float32(0), np.float32(1) / scale
    for k in range(len(weights) - 1, -1, -1):
        target = weights[k] + carried[k]
        for j in range(k + 1, len(weights)):
            target += errors[j] * inner[k, j]
        code = code_of(target, inverse, lowest, highest)
        codes[k] = np.int8(code)
        errors[k] = weights[k] - code * scale
        loss += importance[k] * (target - code * scale) ** 2
        if loss > enough:
            break
    return loss
