"""Goldens and what a device made of them, with the comparison of runtime/goldens.py."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime import metrics
from runtime.gates import GATES
from runtime.goldens import Golden, compare
from runtime.greedy import choose, suppress
from runtime.sessions.base import ModelInputs

STEPS, VOCABULARY, TOP = 4, 24, 8
SUPPRESSED = [5, 7]
NEAR = GATES["near_tie"].bound
Rows = NDArray[np.float32]


class Replay:
    """A session whose logits were computed elsewhere."""

    name = "replay"

    def __init__(self, logits: Rows) -> None:
        self._logits = logits
        self.position = 0

    def reset(self) -> None:
        self.position = 0

    def prefill(self, inputs: ModelInputs) -> Rows:
        return self.decode(0)

    def decode(self, token: int) -> Rows:
        self.position += 1
        return self._logits[self.position - 1]


def goldens() -> dict[str, Any]:
    reference = _reference()
    golden = _golden(reference)
    return {
        "about": "A golden and the logits of a device, fed the golden's tokens -> figures, and whether they pass.",
        "near_tie": NEAR,
        "bounds": {name: GATES[name].bound for name in ("golden_greedy", "golden_kl_mean", "golden_rms")},
        "suppress": SUPPRESSED,
        "golden": {"tokens": golden.tokens, "gaps": golden.gaps, "top_ids": golden.top_ids.tolist(),
                   "top_logits": golden.top_logits.tolist()},
        "cases": [_case(name, golden, logits) for name, logits in _devices(reference).items()],
    }  # fmt: skip


def _reference() -> Rows:
    """Of the second step the largest two are a near tie; a suppressed token is the largest of the third."""
    logits = np.random.default_rng(0).normal(0, 4, (STEPS, VOCABULARY)).astype(np.float32)
    first, second = np.argsort(-suppress(logits, SUPPRESSED)[1])[:2]
    logits[1, second] = logits[1, first] - np.float32(NEAR / 2)
    logits[2, SUPPRESSED[0]] = logits[2].max() + 1
    return logits


def _golden(logits: Rows) -> Golden:
    ids, values = metrics.top_k(logits, TOP)
    gaps = [round(gap, 4) for gap in metrics.top_gaps(suppress(logits, SUPPRESSED)).tolist()]
    tokens = [choose(row, SUPPRESSED) for row in logits]
    return Golden("text", "text", [], "", ModelInputs(np.zeros(1, np.int64)), tokens, gaps, ids, values)


def _devices(reference: Rows) -> dict[str, Rows]:
    noise = np.random.default_rng(1).normal(0, 1, reference.shape).astype(np.float32)
    order = np.argsort(-suppress(reference, SUPPRESSED), axis=-1)
    tie, wrong = reference.copy(), reference.copy()
    tie[1, order[1, 1]] = tie[1, order[1, 0]] + np.float32(0.05)
    wrong[3, order[3, 1]] = wrong[3, order[3, 0]] + np.float32(0.05)
    return {
        "equal": reference,
        "rounded": reference + np.float32(0.01) * noise,
        "another token in a near tie": tie,
        "another token": wrong,
        "noise": reference + np.float32(0.7) * noise,
        "another scale": reference * np.float32(1.2),
        "steps exchanged": reference[::-1].copy(),
    }


def _case(name: str, golden: Golden, logits: Rows) -> dict[str, Any]:
    found = compare(golden, Replay(logits), SUPPRESSED, NEAR)
    kl = float(found.kl.mean())
    values = {"golden_greedy": float(not found.greedy.equal), "golden_kl_mean": kl, "golden_rms": found.rms}
    return {
        "name": name, "logits": logits.tolist(), "near_ties": list(found.greedy.near_ties),
        "errors": list(found.greedy.errors), "kl": found.kl.tolist(), "kl_mean": kl, "rms": found.rms,
        "largest": found.largest, "passed": all(GATES[gate].holds(value) for gate, value in values.items()),
    }  # fmt: skip
