"""Where no reference could record goldens: does every engine take every kind of input, and answer with numbers?

That says nothing of fidelity, but a lowering that overflows, or whose encoder does not open, is seen before it ships.
Where a bundle has several engines, what they say behind the same prompt is compared, without a gate: each rounds in a
way of its own.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime import metrics
from runtime.engines import Engine
from runtime.exams import make_exam
from runtime.greedy import choose
from runtime.job import Job
from runtime.manifest import Measure
from runtime.sessions.base import ModelInputs

STEPS = 2  # decoded behind a prompt
TEXT = "What is the capital of France?"
Answers = Mapping[str, NDArray[np.float32]]  # logits [1 + STEPS, vocabulary], by modality


def run(job: Job) -> Iterator[Measure]:
    """Of each engine and modality: logits that are no numbers or all alike; KL from the first engine of sound ones."""
    prompts = _prompts(job)
    first: Answers = {}
    for engine, folder in job.engines():
        found = _answers(job, engine, folder, prompts)
        faults = {modality: _fault(logits) for modality, logits in found.items()}
        for modality, logits in found.items():
            fault = faults[modality]
            yield job.measure("answers", "answers_wrong", bool(fault), None, engine.name, modality, fault)
            if modality in first and not fault:
                kl = float(metrics.kl_divergence(first[modality][:1], logits[:1])[0])
                yield job.measure("answers", "engines_kl", kl, engine=engine.name, modality=modality)
        first = first or {modality: logits for modality, logits in found.items() if not faults[modality]}


def _prompts(job: Job) -> dict[str, ModelInputs]:
    """One of each kind that the model takes; media are the first of the held-out data."""
    prompts = {"text": job.prompter([{"role": "user", "content": TEXT}]).inputs}
    held_out, media = job.held_out, job.media
    kinds = {"image": (media.image, held_out and held_out.images), "audio": (media.audio, held_out and held_out.clips)}
    for modality, (token, questions) in kinds.items():
        if token is not None and questions:
            prompts[modality] = make_exam(job.prompter, modality, questions[0]).prompt
        elif token is not None:
            job.skipped[f"answers about {modality} data"] = "no question is held out"
    return prompts


def _answers(job: Job, engine: Engine, folder: Path, prompts: Mapping[str, ModelInputs]) -> Answers:
    """The engine is closed when it returns: two of a large model do not fit the memory."""
    session, found = engine.open(folder), {}
    for modality, inputs in prompts.items():
        job.status(f"{engine.name}: answers about {modality}")
        session.reset()
        steps = [session.prefill(inputs)]
        while len(steps) <= STEPS:
            steps.append(session.decode(choose(steps[-1], job.manifest.tokens.suppress)))
        found[modality] = np.stack(steps)
    return found


def _fault(logits: NDArray[np.float32]) -> str:
    """What is wrong with them, or nothing."""
    if not np.isfinite(logits).all():
        return "logits that are no numbers"
    if not logits.std(1).all() or np.array_equal(logits[0], logits[1]):
        return "logits that are all alike"
    return ""
