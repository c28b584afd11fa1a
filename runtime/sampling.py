"""Choosing the next token: greedily, or by chance as the checkpoint's generation defaults say."""

import numpy as np
from numpy.typing import NDArray

from runtime.greedy import choose, suppress
from runtime.manifest import Sampling, Tokens
from runtime.sessions.base import Logits


class Sampler:
    """Suppressed tokens never come. With one seed the same logits give the same tokens."""

    def __init__(self, sampling: Sampling, tokens: Tokens, seed: int | None = None) -> None:
        """
        Args:
            sampling: `temperature`, `top_k` and `top_p` apply unless `do_sample` is off.
            tokens: whose `suppress` applies.
            seed: None: another one each time.
        """
        self.sampling = sampling
        self.suppressed = tokens.suppress
        self._random = np.random.default_rng(seed)

    def __call__(self, logits: Logits) -> int:
        if not self.sampling.do_sample or self.sampling.temperature == 0:
            return choose(logits, self.suppressed)
        chances = probabilities(suppress(logits, self.suppressed), self.sampling)
        return draw(chances, self._random.random())


def draw(chances: NDArray[np.float64], number: float) -> int:
    """The first id at which chances add up to more than `number`, which is drawn evenly from [0, 1)."""
    sums = chances.cumsum()
    return int(np.searchsorted(sums / sums[-1], number, side="right"))


def probabilities(logits: Logits, sampling: Sampling) -> NDArray[np.float64]:
    """[vocabulary] after temperature, top-k and top-p, in this order, as generate() of transformers applies them.

    Top-p keeps the smallest set of the likeliest tokens whose chances add up to at least `top_p`.
    """
    count = min(sampling.top_k or len(logits), len(logits))
    kept = np.argpartition(logits, -count)[-count:]
    kept = kept[np.argsort(-logits[kept], kind="stable")]
    chances = _softmax(logits[kept] / np.float64(sampling.temperature))
    before = np.cumsum(chances) - chances
    chances[before >= sampling.top_p] = 0
    found = np.zeros(len(logits))
    found[kept] = chances / chances.sum()
    return found


def _softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    raised = np.exp(values - values.max())
    return raised / raised.sum()
