"""Schemes for a budget: where bits are spent so that the divergence measured for each tensor falls most."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from export.calibration.sensitivity import SCHEMES, Sensitivity
from export.schemes import Scheme
from runtime.errors import UserError

BUDGET = re.compile(r"(\d+(?:\.\d+)?)\s*(bits|GB|MB)", re.IGNORECASE)
BYTES = {"gb": 10**9, "mb": 10**6}
SCALE_BITS = 16
POINTS = 9  # of the curve that is shown


@dataclass(frozen=True)
class Budget:
    """What the weights may take: so many bits for each that is quantized, or bytes for all of the checkpoint."""

    bits: float | None = None
    bytes: float | None = None

    def bits_for(self, weights: int, others: int) -> float:
        """
        Args:
            weights: that are quantized.
            others: bytes of all that is not.
        """
        return self.bits * weights if self.bits is not None else 8 * ((self.bytes or 0) - others)


DEFAULT_BUDGET = Budget(bits=4.5)  # what int4 in groups of 32 takes


def read_budget(text: str) -> Budget:
    """From "4.5bits", "6.2GB" or "900MB".

    Raises:
        UserError: it is none of these.
    """
    if not (found := BUDGET.fullmatch(text.strip())):
        raise UserError(f"no budget {text!r}: write it as 4.5bits (per quantized weight), 6.2GB or 900MB")
    unit = found[2].lower()
    return Budget(bits=float(found[1])) if unit == "bits" else Budget(bytes=float(found[1]) * BYTES[unit])


@dataclass(frozen=True)
class Step:
    """A tensor is given a larger scheme; where the whole model is then."""

    tensor: int
    scheme: Scheme
    bits: float  # of all quantized weights
    kl: float  # nats, the sum of what is predicted for all tensors


def trade_off(tensors: Sequence[Sensitivity], columns: Sequence[int]) -> list[Step]:
    """From the smallest schemes to the largest, each step the one that takes most divergence off for its bits.

    Args:
        columns: of each tensor.
    """
    bits = [[_bits(tensor, scheme, width) for scheme in SCHEMES]
            for tensor, width in zip(tensors, columns, strict=True)]  # fmt: skip
    steps = [step for index, tensor in enumerate(tensors) for step in _hull(index, tensor, bits[index])]
    total, kl = sum(some[0] for some in bits), sum(tensor.predicted(SCHEMES[0]) for tensor in tensors)
    curve = [Step(-1, SCHEMES[0], total, kl)]
    for _, index, scheme, cost, gain in sorted(steps, key=lambda step: -step[0]):
        total, kl = total + cost, kl - gain
        curve.append(Step(index, scheme, total, kl))
    return curve


def _bits(tensor: Sensitivity, scheme: Scheme, columns: int) -> float:
    return tensor.weights * (scheme.bits + SCALE_BITS / (scheme.group or columns))


def _hull(index: int, tensor: Sensitivity, bits: Sequence[float]) -> list[tuple[float, int, Scheme, float, float]]:
    """Steps of one tensor that each gain less for a bit than the one before: gain / bit, tensor, scheme, bits, gain."""
    steps, at = [], 0
    while at + 1 < len(SCHEMES):

        def rate(to: int, at: int = at) -> float:
            return (tensor.predicted(SCHEMES[at]) - tensor.predicted(SCHEMES[to])) / (bits[to] - bits[at])

        to = max(range(at + 1, len(SCHEMES)), key=rate)
        gain = tensor.predicted(SCHEMES[at]) - tensor.predicted(SCHEMES[to])
        steps.append((rate(to), index, SCHEMES[to], bits[to] - bits[at], gain))
        at = to
    return steps


def choose(tensors: Sequence[Sensitivity], curve: Sequence[Step], bits: float) -> dict[str, Scheme]:
    """By name of a tensor, with all steps of the curve that the bits pay for.

    Raises:
        UserError: they do not pay for the smallest schemes.
    """
    weights = sum(tensor.weights for tensor in tensors)
    if curve[0].bits > bits:
        raise UserError(f"the budget comes to {bits / weights:.2f} bits per quantized weight, the least is "
                        f"{curve[0].bits / weights:.2f}: raise BUDGET")  # fmt: skip
    schemes = [SCHEMES[0]] * len(tensors)
    spent, stuck = curve[0].bits, set[int]()
    for before, step in pairwise(curve):
        cost = step.bits - before.bits
        if spent + cost > bits or step.tensor in stuck:
            stuck.add(step.tensor)  # a tensor's later step begins where this one ends
            continue
        spent += cost
        schemes[step.tensor] = step.scheme
    return {tensor.name: scheme for tensor, scheme in zip(tensors, schemes, strict=True)}


def points(curve: Sequence[Step]) -> list[Step]:
    """A few of the curve, evenly spaced in bits."""
    first, last = curve[0].bits, curve[-1].bits
    wanted = [first + (last - first) * number / (POINTS - 1) for number in range(POINTS)]
    return [max((step for step in curve if step.bits <= bits + 1), key=lambda step: step.bits) for bits in wanted]
