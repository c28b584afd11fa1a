"""Bundles without goldens: engines must answer with numbers, and what is no number, or always the same, is caught."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.folders import write_atomically
from runtime.errors import UserError
from runtime.manifest import FILE, Measure, read_manifest
from runtime.sessions.genai import GenaiSession
from runtime.sessions.onnx import OnnxSession
from runtime.verify import verify


@pytest.fixture
def untold(bundle_copy: Path) -> Path:
    """As where no reference could record what the model says."""
    manifest = read_manifest(bundle_copy).model_copy(update={"goldens": []})
    write_atomically(bundle_copy / FILE, manifest.model_dump_json())
    return bundle_copy


def answers(bundle: Path) -> list[Measure]:
    result = verify(bundle, only=["answers"])
    assert not result.compared
    return result.measures


def test_every_engine_answers_to_every_kind_of_input(untold: Path) -> None:
    """And as the other does, which rounds as it does here."""
    measures = answers(untold)
    asked = [(measure.engine, measure.modality) for measure in measures if measure.name == "answers_wrong"]
    kinds = ("text", "image", "audio")
    assert asked == [(engine, kind) for engine in (OnnxSession.name, GenaiSession.name) for kind in kinds]
    apart = [measure.value for measure in measures if measure.name == "engines_kl"]
    assert all(measure.passed for measure in measures) and len(apart) == 3 and max(apart) < 1e-6


def no_numbers(logits: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(logits)) == 7, np.nan, logits)


@pytest.mark.parametrize(
    "spoil, fault",
    [
        (no_numbers, "no numbers"),
        (np.zeros_like, "all alike"),
        (lambda logits: np.arange(len(logits), dtype=np.float32), "all alike"),
    ],
    ids=["NaN", "zeros", "always the same"],
)
def test_control_other_answers_fail(
    untold: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Any], Any], fault: str
) -> None:
    advance = OnnxSession._advance
    monkeypatch.setattr(OnnxSession, "_advance", lambda *given: spoil(advance(*given)))
    found = answers(untold)
    wrong = [measure for measure in found if not measure.passed]
    assert not any(measure.name == "engines_kl" for measure in found), "nobody is compared with such answers"
    assert [measure.modality for measure in wrong] == ["text", "image", "audio"]
    assert all(fault in measure.note and measure.engine == OnnxSession.name for measure in wrong)


def test_an_encoder_that_does_not_open_fails(untold: Path) -> None:
    (untold / "onnx" / "vision.onnx").write_bytes(b"\xff" * 1000)
    assert [measure.name for measure in answers(untold)][-1] == "stopped"


def test_where_there_are_goldens_they_say_more(bundle: Path) -> None:
    with pytest.raises(UserError, match="is for bundles without goldens"):
        verify(bundle, only=["answers"])
