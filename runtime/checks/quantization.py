"""Quantization error: the quantized reference against the source, a property of the recipe."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from runtime import metrics
from runtime.evaluation import Question
from runtime.goldens import choose
from runtime.job import Job
from runtime.manifest import Measure
from runtime.sessions.base import ModelInputs
from runtime.sessions.reference import ReferenceSession

LENGTH = 256  # tokens of a piece of text
PIECES = 8
QUESTIONS = 100  # of each modality


def run(job: Job) -> Iterator[Measure]:
    """Held-out text, and the answers to questions about images and clips."""
    held_out = job.held_out
    assert held_out is not None
    if pieces := list(islice(_pieces(job, held_out.texts), PIECES)):
        yield from _text_measures(job, pieces)
    for modality, questions in (("image", held_out.images), ("audio", held_out.clips)):
        if questions:
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


def _score(reference: ReferenceSession, pieces: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
    """Logits [n, vocabulary] before each token but the first of each piece."""
    logits = []
    for piece in pieces:
        reference.reset()
        logits.append(reference.score(ModelInputs(piece[:-1])))
    return np.concatenate(logits)


def _accuracy(job: Job, modality: str, questions: Sequence[Question]) -> Measure:
    """Share of right answers before and after."""
    job.status(f"source and quantized reference asked about {modality} data")
    prompts = [_prompt(job, modality, question) for question in questions]
    before, after = (
        np.mean([_is_right(job, reference, *pair) for pair in zip(prompts, questions, strict=True)])
        for reference in (job.source_reference, job.reference)
    )
    note = f"{before:.3f} to {after:.3f} of {len(questions)}"
    drop = round(float(before - after), 6)  # 0.75 - 0.7 is more than 0.05 otherwise
    return job.measure("quantization", "accuracy_drop", drop, modality=modality, note=note)


def _prompt(job: Job, modality: str, question: Question) -> ModelInputs:
    content = [{"type": modality}, {"type": "text", "text": question.text}]
    text = job.prompter.render([{"role": "user", "content": content}])
    return job.prompter.process(text, **{"images" if modality == "image" else "clips": [question.medium]})


def _is_right(job: Job, reference: ReferenceSession, prompt: ModelInputs, question: Question) -> bool:
    """Whether greedy decoding would write the answer and end its turn: each token is the choice after those before."""
    answer, tokens = job.prompter.encode(question.answer), job.manifest.tokens
    reference.reset()
    logits = [reference.prefill(prompt), *reference.score(ModelInputs(answer))]
    *words, end = (choose(step, tokens.suppress) for step in logits)
    return words == answer.tolist() and end in tokens.eos
