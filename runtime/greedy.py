"""Greedy decoding: the likeliest token each time, suppressed ones left out, until a turn ends."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.manifest import Tokens
from runtime.sessions.base import Logits, ModelInputs, Session


class Greedy:
    """A text as it is written, the end-of-turn token included."""

    def __init__(self, tokens: Tokens, steps: int) -> None:
        """
        Args:
            tokens: whose `suppress` and `eos` apply.
            steps: largest number of tokens.
        """
        self.chosen: list[int] = []
        self._logits: list[Logits] = []
        self._tokens, self._steps = tokens, steps

    @property
    def ended(self) -> bool:
        return len(self.chosen) == self._steps or (bool(self.chosen) and self.chosen[-1] in self._tokens.eos)

    @property
    def logits(self) -> NDArray[np.float32]:
        """[steps, vocabulary] that chose the tokens."""
        return np.stack(self._logits)

    def add(self, logits: Logits) -> None:
        """Chooses the next token."""
        self._logits.append(logits)
        self.chosen.append(choose(logits, self._tokens.suppress))


def generate(session: Session, inputs: ModelInputs, tokens: Tokens, steps: int) -> Greedy:
    """What a session writes after a prompt."""
    session.reset()
    text = Greedy(tokens, steps)
    text.add(session.prefill(inputs))
    while not text.ended:
        text.add(session.decode(text.chosen[-1]))
    return text


def choose(logits: Logits, suppressed: Sequence[int]) -> int:
    """The greedy token."""
    return int(suppress(logits, suppressed).argmax())


def suppress(logits: NDArray[np.float32], suppressed: Sequence[int]) -> NDArray[np.float32]:
    """[..., vocabulary] with minus infinity at suppressed ids, as transformers' SuppressTokensLogitsProcessor."""
    kept = logits.copy()
    kept[..., list(suppressed)] = -np.inf
    return kept
