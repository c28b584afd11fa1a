"""Gates of what messages become: each fails where tokens or values are others, and holds where they are not."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.checks import preprocessing, template
from runtime.gates import GATES
from runtime.goldens import Golden
from runtime.job import Job
from runtime.manifest import Measure
from runtime.sessions.base import ModelInputs
from runtime.sessions.genai import GenaiSession
from runtime.verify import make_job

Change = Callable[[ModelInputs], ModelInputs]
TOKENS = {"other_tokens", "other_tokens_media", "own_kl"}  # gates that see other tokens
VALUES = {"other_values", "values_kl", "values_kl_resized", "own_kl"}  # and other values


@pytest.fixture
def job(bundle: Path) -> Job:
    return make_job(bundle, None, None, None, GATES, lambda text: None)


def failing(measures: Iterable[Measure]) -> set[str]:
    return {measure.name for measure in measures if not measure.passed}


# The engine's own processing


def more_tokens(found: ModelInputs) -> ModelInputs:
    """More than the blank lines that the engine may put around media."""
    return replace(found, input_ids=np.append(found.input_ids, [30] * 5))


def negatives(found: ModelInputs) -> ModelInputs:
    """Pictures in the opposite colours."""
    return found if found.pixel_values is None else replace(found, pixel_values=1 - found.pixel_values)


@pytest.fixture
def text_and_images(job: Job) -> Job:
    """One image that is resized and one that is not."""
    job.goldens = [golden for golden in job.goldens if golden.modality in ("text", "image")]
    images = [golden for golden in job.goldens if golden.modality == "image"]
    assert {preprocessing.is_resized(job, golden) for golden in images} == {False, True}
    return job


def test_the_engines_own_processing_passes(text_and_images: Job) -> None:
    """Control of those below, with all gates that they see fail."""
    measures = list(preprocessing.run(text_and_images))
    assert not failing(measures) and {measure.name for measure in measures} >= TOKENS | VALUES


@pytest.mark.parametrize(("change", "wanted"), [(more_tokens, TOKENS), (negatives, VALUES)])
def test_other_processing_fails(
    text_and_images: Job, monkeypatch: pytest.MonkeyPatch, change: Change, wanted: set[str]
) -> None:
    usual = GenaiSession.preprocess

    def changed(self: GenaiSession, *given: Any) -> ModelInputs:
        return change(usual(self, *given))

    monkeypatch.setattr(GenaiSession, "preprocess", changed)
    assert failing(preprocessing.run(text_and_images)) == wanted


# The checkpoint's processing, today


def later(inputs: ModelInputs) -> ModelInputs:
    """By one sample."""
    clips = inputs.input_features
    assert clips is not None
    return replace(inputs, input_features=np.roll(clips.reshape(len(clips), -1), 1, -1).reshape(clips.shape))


def louder(inputs: ModelInputs) -> ModelInputs:
    """By less than a pixel may be off."""
    assert inputs.input_features is not None
    return replace(inputs, input_features=inputs.input_features + np.float32(1e-3))


def exchanged(inputs: ModelInputs) -> ModelInputs:
    """The two patches of an image that differ most in their first value."""
    assert inputs.pixel_values is not None
    pixels = inputs.pixel_values.copy()
    pair = [pixels[0, :, 0].argmin(), pixels[0, :, 0].argmax()]
    pixels[0, pair] = pixels[0, pair[::-1]]
    return replace(inputs, pixel_values=pixels)


def wrong(job: Job, golden: Golden, inputs: ModelInputs) -> Measure:
    """With these inputs of a golden, and the others as they are."""
    job.goldens = [replace(some, inputs=inputs) if some.name == golden.name else some for some in job.goldens]
    return next(measure for measure in template.run(job) if measure.name == "prompts_wrong")


@pytest.mark.parametrize(("modality", "change"), [("audio", later), ("audio", louder), ("image", exchanged)])
def test_other_media_are_another_prompt(job: Job, modality: str, change: Change) -> None:
    golden = next(golden for golden in job.goldens if golden.modality == modality)
    assert wrong(job, golden, golden.inputs).passed, "control: as they were recorded"
    found = wrong(job, golden, change(golden.inputs))
    assert not found.passed and (found.value, found.note) == (1, golden.name)
