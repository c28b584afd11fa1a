"""How far two models' logits are apart. Arrays are float [positions, vocabulary] unless said otherwise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Doubles = NDArray[np.float64]

AT_ONCE = 2**22  # values worked on in float64
NOTHING = -1  # in place of a token, after the last one


def _by_rows(measure: Callable[..., Doubles], *arrays: Array) -> Doubles:
    """`measure` of a few rows at a time: a row of the 12B's logits has 262144 values, and thousands may lie on disk."""
    rows = max(1, AT_ONCE // arrays[0].shape[-1])
    parts = range(0, len(arrays[0]), rows)
    return np.concatenate([measure(*(array[at : at + rows] for array in arrays)) for at in parts])


def log_softmax(logits: Array) -> NDArray[np.float64]:
    """log(exp(x) / sum(exp(x))) along the last axis, shifted by the maximum so that nothing overflows."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def kl_divergence(reference: Array, found: Array) -> NDArray[np.float64]:
    """[positions], nats: D(P || Q) = sum of P log(P / Q), P the reference (Kullback and Leibler 1951, eq. 2.2)."""

    def divergence(reference: Array, found: Array) -> Doubles:
        p, q = log_softmax(reference), log_softmax(found)
        return np.maximum((np.exp(p) * (p - q)).sum(-1), 0)  # rounding can leave -1e-17

    return _by_rows(divergence, reference, found)


def relative_rms(reference: Array, found: Array) -> float:
    """sqrt(mean((x - r)^2) / mean(r^2)), over all positions at once."""
    error, energy = _by_rows(_squares, reference, found).sum(0)
    return float(np.sqrt(error / energy))


def row_rms(reference: Array, found: Array) -> NDArray[np.float64]:
    """[positions]: the same of each position by itself."""
    error, energy = _by_rows(_squares, reference, found).T
    return np.sqrt(error / energy)


def _squares(reference: Array, found: Array) -> Doubles:
    """[positions, 2]: sums of (x - r)^2 and of r^2."""
    difference, wanted = found.astype(np.float64) - reference, reference.astype(np.float64)
    return np.stack([(difference**2).sum(-1), (wanted**2).sum(-1)], -1)


def largest_difference(reference: Array, found: Array) -> float:
    """max |x - r|, in logits."""
    return float(_by_rows(lambda r, x: np.abs(x.astype(np.float64) - r).max(-1), reference, found).max())


def top_1(reference: Array, found: Array) -> float:
    """Share of positions where both put the same token first."""
    return float(np.mean(reference.argmax(-1) == found.argmax(-1)))


def perplexity(logits: Array, tokens: NDArray[np.integer]) -> float:
    """exp(-mean log P(token)): `logits` [n, vocabulary] after each position, `tokens` [n] that followed there."""
    return float(np.exp(-token_log_probabilities(logits, tokens).mean()))


def token_log_probabilities(logits: Array, tokens: NDArray[np.integer]) -> NDArray[np.float64]:
    """[n], nats: log P(token) of the tokens that followed."""

    def of_tokens(logits: Array, tokens: NDArray[np.integer]) -> Doubles:
        return np.take_along_axis(log_softmax(logits), tokens[:, None], -1)[:, 0]

    return _by_rows(of_tokens, logits, np.asarray(tokens))


@dataclass(frozen=True)
class GreedyMatch:
    """Greedy tokens of an engine beside the reference's; positions count from the first generated token."""

    compared: int
    near_ties: tuple[int, ...]  # differences that the reference's top two logits excuse
    errors: tuple[int, ...]  # differences that nothing excuses

    @property
    def equal(self) -> bool:
        return not self.errors


def compare_forced(
    reference: Sequence[int], found: Sequence[int], gaps: Sequence[float], tolerance: float
) -> GreedyMatch:
    """Choices after the same tokens, so that each position stands for itself.

    A token may differ only where the reference's two largest logits are closer than `tolerance` (mobius-onnx compares
    generations this way).

    Args:
        gaps: by position, the largest logit less the second largest.
    """
    differences = [i for i, (want, got) in enumerate(zip(reference, found, strict=True)) if want != got]
    near_ties = tuple(i for i in differences if gaps[i] < tolerance)
    return GreedyMatch(len(reference), near_ties, tuple(i for i in differences if i not in near_ties))


def compare_generated(
    reference: Sequence[int], found: Sequence[int], gaps: Sequence[float], tolerance: float
) -> GreedyMatch:
    """Texts that each model wrote by itself: where they part they become different texts, so nothing later counts.

    Ending early is a difference too.
    """
    pairs = zip(reference, [*found, *[NOTHING] * len(reference)], strict=False)
    first = next((i + 1 for i, (want, got) in enumerate(pairs) if want != got), len(reference))
    return compare_forced(reference[:first], [*found, NOTHING][:first], gaps, tolerance)


def top_gaps(logits: Array) -> NDArray[np.float64]:
    """[positions]: the largest logit less the second largest."""
    return _by_rows(lambda some: np.diff(np.partition(some.astype(np.float64), -2)[:, -2:])[:, 0], logits)


def gap_shifts(reference: Array, found: Array) -> NDArray[np.float64]:
    """[positions]: by how much `found` moves the gap between the reference's two largest logits."""

    def shifts(reference: Array, found: Array) -> Doubles:
        two = np.argpartition(reference, -2)[:, -2:]
        before, after = (np.diff(np.take_along_axis(logits.astype(np.float64), two, 1))[:, 0]
                         for logits in (reference, found))  # fmt: skip
        return np.abs(after - before)

    return _by_rows(shifts, reference, found)


def top_k(logits: Array, count: int) -> tuple[NDArray[np.int64], Array]:
    """Ids and values [positions, count], largest first; equal values by id, so that files do not depend on chance."""
    ids = np.argsort(-logits, axis=-1, kind="stable")[:, :count]
    return ids.astype(np.int64), np.take_along_axis(logits, ids, -1)
