"""What a check does otherwise, or must not do at all, where the model hardly fits the machine."""

import gc
import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime import job as job_module
from runtime.checks import goldens, preprocessing, probes
from runtime.engines import ENGINES
from runtime.gates import GATES
from runtime.job import Job
from runtime.sessions.genai import GenaiSession
from runtime.verify import make_job


@pytest.fixture
def job(bundle: Path, quantized_checkpoint: Path) -> Job:
    return make_job(bundle, quantized_checkpoint, None, None, GATES, lambda text: None)


def test_of_a_small_model_every_golden_is_continued(job: Job) -> None:
    found = list(probes.make_probes(job))
    wanted = Counter(golden.modality for golden in job.goldens if golden.modality != "text")
    assert Counter(probe.modality for probe in found if probe.modality != "text") == wanted
    assert sum(len(probe.continuation) for probe in found if probe.modality == "text") >= probes.WHOLE.text


def test_of_a_large_model_one_of_each_modality_is(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "LARGE", 10**6)
    found = list(probes.make_probes(job))
    text = sum(len(probe.continuation) for probe in found if probe.modality == "text")
    assert probes.SHORT.text <= text < probes.WHOLE.text
    others = [probe for probe in found if probe.modality != "text"]
    assert sorted(probe.modality for probe in others) == ["audio", "image"]
    assert all(len(probe.continuation) == probes.SHORT.continuation for probe in others)


def test_an_engine_is_gone_before_the_next_one_opens(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the 12B are more than 24 GB."""
    alive, opened = weakref.WeakSet[Any](), []

    def watched(engine: Any) -> Any:
        def open_alone(folder: Path) -> Any:
            assert not list(alive), f"{engine.name} opens beside {list(alive)}"
            session = engine.open(folder)
            alive.add(session)
            opened.append(engine.name)
            return session

        return replace(engine, open=open_alone)

    engines = {format_: tuple(map(watched, some)) for format_, some in ENGINES.items()}
    monkeypatch.setattr(job_module, "ENGINES", engines)
    gc.disable()  # what goes only with a cycle would go too late
    try:
        assert list(goldens.run(job))
    finally:
        gc.enable()
    assert len(opened) > 1


def test_preprocessing_opens_no_engine_that_has_none(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> Any:
        raise AssertionError(f"{folder} was opened")

    engines = {format_: tuple(engine if engine.open is GenaiSession else replace(engine, open=refuse)
                              for engine in some) for format_, some in ENGINES.items()}  # fmt: skip
    monkeypatch.setattr(job_module, "ENGINES", engines)
    assert list(preprocessing.run(job))
