"""What recipes cost answers about images and clips: KL divergence at every token of an answer, and right answers."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from export.config import Model
from export.facts import tokens
from runtime import metrics
from runtime.evaluation import read_evaluation
from runtime.exams import Exam, make_exam, share_passed, sit
from runtime.prompt import Prompter
from runtime.sessions.reference import ReferenceSession
from runtime.verify import EVALUATION


def media_columns(model: Model, source: Path, checkpoints: Mapping[str, Path]) -> dict[str, dict[str, float]]:
    """For each checkpoint, and "source", its columns of the table: none where a model takes no media."""
    columns: dict[str, dict[str, float]] = {name: {} for name in ("source", *checkpoints)}
    for modality, exams in _exams(model, source):
        wanted = sit(ReferenceSession.open(source), exams)
        columns["source"][f"{modality}_right"] = round(share_passed(exams, wanted, tokens(source)), 4)
        for name, folder in checkpoints.items():
            found = sit(ReferenceSession.open(folder), exams)
            kl = metrics.kl_divergence(np.concatenate(wanted), np.concatenate(found))
            columns[name][f"{modality}_kl"] = round(float(kl.mean()), 5)
            columns[name][f"{modality}_right"] = round(share_passed(exams, found, tokens(source)), 4)
    return columns


def _exams(model: Model, source: Path) -> Iterator[tuple[str, list[Exam]]]:
    """All held-out questions of each modality that the model takes."""
    if not (model.image or model.audio):
        return
    prompter = Prompter(source)
    evaluation = read_evaluation(EVALUATION, prompter.sampling_rate)
    for modality, there, questions in (("image", model.image, evaluation.images),
                                       ("audio", model.audio, evaluation.clips)):  # fmt: skip
        if there:
            yield modality, [make_exam(prompter, modality, question) for question in questions]
