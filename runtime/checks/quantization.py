"""Quantization error: the quantized reference against the source, a property of the recipe."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from runtime import metrics
from runtime.evaluation import Question
from runtime.greedy import choose
from runtime.job import Job
from runtime.manifest import Measure
from runtime.prompt import append
from runtime.references import Reference
from runtime.sessions.base import ModelInputs

LENGTH = 256  # tokens of a piece of text
PIECES = 8
QUESTIONS = 100  # of each modality, or as many as take ...
EFFORT = 6e13  # ... so many products of a position and a weight: 17 of the 12B's about images


def run(job: Job) -> Iterator[Measure]:
    """Held-out text, and the answers to questions about images and clips."""
    held_out = job.held_out
    assert held_out is not None
    if pieces := list(islice(_pieces(job, held_out.texts), PIECES)):
        yield from _text_measures(job, pieces)
    media = job.media
    for modality, token, questions in (("image", media.image, held_out.images), ("audio", media.audio, held_out.clips)):
        if questions and token is not None:
            yield _accuracy(job, modality, questions[:QUESTIONS])


def _pieces(job: Job, texts: Sequence[str]) -> Iterator[NDArray[np.int64]]:
    """Each a sequence of its own."""
    ids = np.concatenate([job.prompter.encode(text) for text in texts])
    for start in range(0, len(ids) - LENGTH + 1, LENGTH - 1):
        yield np.array([job.manifest.tokens.bos, *ids[start : start + LENGTH - 1]])


def _text_measures(job: Job, pieces: Sequence[NDArray[np.int64]]) -> Iterator[Measure]:
    job.status("source and quantized reference on held-out text")
    before, after = (_score(reference, pieces) for reference in (job.source_reference, job.reference))
    next_tokens = np.concatenate([piece[1:] for piece in pieces])
    perplexities = [metrics.perplexity(logits, next_tokens) for logits in (before, after)]
    kl = metrics.kl_divergence(before, after)

    def measure(name: str, value: float, note: str = "") -> Measure:
        return job.measure("quantization", name, value, modality="text", note=note)

    yield measure("quantization_kl", float(kl.mean()), f"{len(kl)} positions, largest {kl.max():.2f}")
    yield measure("quantization_top_1", metrics.top_1(before, after))
    yield measure("perplexity_ratio", perplexities[1] / perplexities[0], "{:.2f} to {:.2f}".format(*perplexities))


def _score(reference: Reference, pieces: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
    """Logits [n, vocabulary] before each token but the first of each piece."""
    sequences = [ModelInputs(piece[:-1]) for piece in pieces]
    return reference.read(sequences, [np.arange(len(sequence.input_ids)) for sequence in sequences])


def _accuracy(job: Job, modality: str, questions: Sequence[Question]) -> Measure:
    """Share of right answers before and after."""
    job.status(f"source and quantized reference asked about {modality} data")
    exams = _affordable([_exam(job, modality, question) for question in questions], job)
    before, after = (_share_right(job, reference, exams) for reference in (job.source_reference, job.reference))
    note = f"{before:.3f} to {after:.3f} of {len(exams)}"
    drop = round(before - after, 6)  # 0.75 - 0.7 is more than 0.05 otherwise
    return job.measure("quantization", "accuracy_drop", drop, modality=modality, note=note)


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


def _exam(job: Job, modality: str, question: Question) -> Exam:
    content = [{"type": modality}, {"type": "text", "text": question.text}]
    text = job.prompter.render([{"role": "user", "content": content}])
    media = {"images" if modality == "image" else "clips": [question.medium]}
    return Exam(job.prompter.process(text, **media), job.prompter.encode(question.answer))


def _affordable(exams: Sequence[Exam], job: Job) -> Sequence[Exam]:
    """The first of them, at least one."""
    weights = sum(math.prod(tensor.shape) for tensor in job.manifest.tensors)
    cost = np.cumsum([weights * len(exam.sequence.input_ids) for exam in exams])
    return exams[: max(1, int((cost <= EFFORT).sum()))]


def _share_right(job: Job, reference: Reference, exams: Sequence[Exam]) -> float:
    logits = reference.read([exam.sequence for exam in exams], [exam.positions for exam in exams])
    ends = np.cumsum([len(exam.positions) for exam in exams])[:-1]
    return float(np.mean([_is_right(job, *pair) for pair in zip(exams, np.split(logits, ends), strict=True)]))


def _is_right(job: Job, exam: Exam, logits: NDArray[np.float32]) -> bool:
    """Whether greedy decoding would write the answer and end its turn: each token is the choice after those before."""
    tokens = job.manifest.tokens
    *words, end = (choose(step, tokens.suppress) for step in logits)
    return words == exam.answer.tolist() and end in tokens.eos
