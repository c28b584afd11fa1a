"""Questions about images and clips as a model gets them, and whether it would answer them right."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.evaluation import Question
from runtime.greedy import choose
from runtime.manifest import Tokens
from runtime.prompt import Prompter, append
from runtime.references import Reference
from runtime.sessions.base import ModelInputs


@dataclass(frozen=True)
class Exam:
    """A question as the model gets it, and the tokens of its answer."""

    prompt: ModelInputs
    answer: NDArray[np.int64]

    @property
    def sequence(self) -> ModelInputs:
        return append(self.prompt, self.answer)

    @property
    def positions(self) -> NDArray[np.int64]:
        """After which the answer's tokens and its end are chosen."""
        return len(self.prompt.input_ids) - 1 + np.arange(len(self.answer) + 1)

    def passed(self, logits: NDArray[np.float32], tokens: Tokens) -> bool:
        """Whether greedy decoding would write the answer and end its turn: each token is the choice after those before.

        Args:
            logits: [positions, vocabulary]
        """
        *words, end = (choose(step, tokens.suppress) for step in logits)
        return words == self.answer.tolist() and end in tokens.eos


def make_exam(prompter: Prompter, modality: str, question: Question) -> Exam:
    """
    Args:
        modality: "image" or "audio".
    """
    content = [{"type": modality}, {"type": "text", "text": question.text}]
    text = prompter.render([{"role": "user", "content": content}])
    media = {"images" if modality == "image" else "clips": [question.medium]}
    return Exam(prompter.process(text, **media), prompter.encode(question.answer))


def sit(reference: Reference, exams: Sequence[Exam]) -> list[NDArray[np.float32]]:
    """Logits at the positions of each exam."""
    logits = reference.read([exam.sequence for exam in exams], [exam.positions for exam in exams])
    return np.split(logits, np.cumsum([len(exam.positions) for exam in exams])[:-1])


def share_passed(exams: Sequence[Exam], logits: Sequence[NDArray[np.float32]], tokens: Tokens) -> float:
    """Of all exams, by the logits of each."""
    return float(np.mean([exam.passed(rows, tokens) for exam, rows in zip(exams, logits, strict=True)]))
