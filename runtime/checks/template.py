"""Do messages still become the tokens that the goldens were recorded with?"""

from collections.abc import Iterator

import numpy as np

from runtime.checks.dialogue import differing
from runtime.goldens import FOLDER, Golden
from runtime.job import Job
from runtime.manifest import Measure
from runtime.sessions.base import ModelInputs

ROUNDING = 0.01  # of a pixel, 0..1: library versions may round resized bytes differently
SAMPLES = 1e-5  # of sound, -1..1: a quiet clip is no smaller than a pixel's rounding


def run(job: Job) -> Iterator[Measure]:
    """The bundle's template, tokenizer and processor on each golden's messages; pieces and copies of it."""
    wrong = [golden.name for golden in job.goldens if not _renders(job, golden)]
    yield job.measure("template", "prompts_wrong", len(wrong), note=", ".join(wrong) or f"{len(job.goldens)} equal")
    if job.manifest.dialogue:
        differ = list(differing(job.prompter, job.manifest.dialogue))
        yield job.measure("template", "dialogue_wrong", len(differ), note=", ".join(differ))
    copies = list(_changed_copies(job))
    yield job.measure("template", "copies_wrong", len(copies), note=", ".join(copies))


def _renders(job: Job, golden: Golden) -> bool:
    rendered = job.prompter(golden.messages, job.bundle / FOLDER)
    return rendered.text == golden.text and same_inputs(rendered.inputs, golden.inputs)


def same_inputs(found: ModelInputs, wanted: ModelInputs) -> bool:
    """Equal tokens, and equal media but for rounding."""
    ours, theirs = found.arrays(), wanted.arrays()
    return ours.keys() == theirs.keys() and all(
        ours[name].shape == theirs[name].shape and np.allclose(ours[name], theirs[name], rtol=0, atol=_tolerance(name))
        for name in ours
    )


def _tolerance(name: str) -> float:
    return ROUNDING if name.startswith("pixel_values") else SAMPLES


def _changed_copies(job: Job) -> Iterator[str]:
    """Files of an artifact that bear the name of one beside the manifest but differ from it."""
    for format_ in job.manifest.artifacts:
        for path in sorted((job.bundle / format_).iterdir()):
            original = job.bundle / path.name
            if path.is_file() and original.is_file() and path.read_bytes() != original.read_bytes():
                yield f"{format_}/{path.name}"
