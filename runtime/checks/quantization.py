"""Quantization error: the quantized reference against the source, a property of the recipe."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from runtime import metrics
from runtime.evaluation import Question
from runtime.exams import Exam, make_exam, share_passed, sit
from runtime.job import Job
from runtime.manifest import Measure
from runtime.references import Reference
from runtime.sessions.base import ModelInputs

LENGTH = 256  # tokens of a piece of text
PIECES = 8
QUESTIONS = 100  # of each modality, or as many as take ...
EFFORT = 6e13  # ... so many products of a position and a weight: 17 of the 12B's about images

NOTHING_TO_LOSE = "the source answers none of {} questions in the very words: hold out questions that it does answer"


def run(job: Job) -> Iterator[Measure]:
    """Held-out text, and the answers to questions about images and clips."""
    held_out = job.held_out
    assert held_out is not None
    if pieces := list(islice(_pieces(job, held_out.texts), PIECES)):
        yield from _text_measures(job, pieces)
    else:
        job.skipped["quantization error of text"] = f"the held-out texts have less than {LENGTH} tokens"
    media = job.media
    for modality, token, questions in (("image", media.image, held_out.images), ("audio", media.audio, held_out.clips)):
        if token is not None and not questions:
            job.skipped[f"accuracy about {modality} data"] = "no question is held out"
        elif token is not None:
            yield from _accuracy(job, modality, questions[:QUESTIONS])


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


def _accuracy(job: Job, modality: str, questions: Sequence[Question]) -> Iterator[Measure]:
    """Share of right answers before and after; of nothing where the source itself is never right."""
    job.status(f"source and quantized reference asked about {modality} data")
    exams = _affordable([make_exam(job.prompter, modality, question) for question in questions], job)
    before, after = (share_passed(exams, sit(reference, exams), job.manifest.tokens)
                     for reference in (job.source_reference, job.reference))  # fmt: skip
    note = f"{before:.3f} to {after:.3f} of {len(exams)}"
    if not before:
        job.skipped[f"accuracy about {modality} data"] = NOTHING_TO_LOSE.format(len(exams))
        return
    drop = round(before - after, 6)  # 0.75 - 0.7 is more than 0.05 otherwise
    yield job.measure("quantization", "accuracy_drop", drop, modality=modality, note=note)


def _affordable(exams: Sequence[Exam], job: Job) -> Sequence[Exam]:
    """The first of them, at least one."""
    weights = sum(math.prod(tensor.shape) for tensor in job.manifest.tensors)
    cost = np.cumsum([weights * len(exam.sequence.input_ids) for exam in exams])
    return exams[: max(1, int((cost <= EFFORT).sum()))]
