"""Logits and parameters, with the chances that transformers' own warpers leave, and draws by given numbers."""

from typing import Any

import numpy as np
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from runtime.greedy import choose, suppress
from runtime.manifest import Sampling
from runtime.sampling import draw, probabilities

NUMBERS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.999, 1 - 2**-53)
EDGE = 1e-6  # numbers so close to a sum of chances are left out: rounding decides there


def sampling() -> dict[str, Any]:
    return {
        "about": "float32 logits -> the greedy token, or chances by id after suppressing, temperature, top-k and top-p;"
        " draws: number -> the first id, in ascending order, at which chances add up to more.",
        "cases": [_case(name, *rest) for name, rest in _cases().items()],
    }


def _cases() -> dict[str, tuple[np.ndarray, Sampling, list[int]]]:
    def told(top_k: int = 64, top_p: float = 0.95, temperature: float = 1.0, do_sample: bool = True) -> Sampling:
        return Sampling(do_sample=do_sample, temperature=temperature, top_k=top_k, top_p=top_p)

    def logits(seed: int, size: int = 100) -> np.ndarray:
        return np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)

    peak = np.zeros(8, np.float32)
    peak[5] = 80
    return {
        "defaults": (logits(1), told(), []),
        "suppressed": (logits(1), told(), [int(logits(1).argmax()), 3]),
        "cold": (logits(2), told(temperature=0.3), []),
        "hot": (logits(3), told(temperature=2.5), []),
        "top 5": (logits(4), told(top_k=5, top_p=1), []),
        "top 1": (logits(4), told(top_k=1), []),
        "all, top p alone": (logits(5), told(top_k=0, top_p=0.5), []),
        "top k beyond the vocabulary": (logits(6, 10), told(top_k=64, top_p=1), []),
        "small top p": (logits(7), told(top_p=0.01), []),
        "one peak": (peak, told(top_p=1), []),
        "greedy": (logits(8), told(do_sample=False), []),
        "temperature 0": (logits(8), told(temperature=0), [int(logits(8).argmax())]),
        "greedy, equal logits": (np.array([1, 3, 3, 2], np.float32), told(do_sample=False), []),
    }


def _case(name: str, logits: np.ndarray, told: Sampling, suppressed: list[int]) -> dict[str, Any]:
    case = {"name": name, "logits": logits.tolist(), "sampling": told.model_dump(), "suppress": suppressed}
    if not told.do_sample or told.temperature == 0:
        return case | {"token": choose(logits, suppressed)}
    chances = probabilities(suppress(logits, suppressed), told)
    _require_transformers(suppress(logits, suppressed), told, chances)
    kept = {str(i): float(chances[i]) for i in np.flatnonzero(chances)}
    sums = chances.cumsum()
    draws = [[number, draw(chances, number)] for number in NUMBERS if np.abs(sums - number).min() > EDGE or number == 0]
    return case | {"chances": kept, "draws": draws}


def _require_transformers(logits: np.ndarray, told: Sampling, chances: np.ndarray) -> None:
    scores, ids = torch.from_numpy(logits).double()[None], torch.zeros(1, 0, dtype=torch.long)
    warpers = [TemperatureLogitsWarper(told.temperature), TopPLogitsWarper(told.top_p)]
    if told.top_k:
        warpers.insert(1, TopKLogitsWarper(told.top_k))
    for warp in warpers:
        scores = warp(ids, scores)
    assert np.allclose(chances, scores.softmax(-1)[0].numpy(), atol=1e-9)
