"""Gemma 3's text models: the same descriptions and backends, against transformers' own model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.checkpoint import CheckpointWeights
from export.config import Model, read_model
from export.lowering.onnx_program import write_onnx
from export.lowering.torch_program import TorchProgram
from export.schemes import INT4
from export.sources import open_source
from export.weights import FloatTwin, MemoryWeights
from runtime import metrics
from runtime.errors import UserError
from runtime.sessions.coreml import CoremlSession
from runtime.sessions.executorch import ExecutorchSession
from runtime.sessions.genai import GenaiSession
from runtime.sessions.onnx import OnnxSession
from runtime.sessions.reference import ReferenceSession
from runtime.sessions.streamed import StreamedReference
from tests import coreml_models, executorch_models
from tests import random_models as models
from tests.parity import error_of, logits_of, quantize

TINY = Path(__file__).parent.parent / "export/tiny/checkpoint"  # its tokenizer
BAR = 1e-5  # relative rms of a float twin
PROMPT = models.text_prompt(120, 60)  # long past the window
CHUNKS = [13, 13, 34]
Quantized = tuple[Any, Model, MemoryWeights]  # transformers' model with rounded weights, and those


@pytest.fixture(scope="module")
def quantized() -> Quantized:
    reference = models.random_model(models.random_text_config())
    return reference, *quantize(reference, INT4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save(models.random_model(models.random_text_config()), tmp_path_factory.mktemp("gemma3"))


def test_references(checkpoint: Path) -> None:
    """Whole and streamed, against a plain forward of the model that was saved."""
    wanted = models.reference_logits(models.random_model(models.random_text_config()), PROMPT).numpy()
    ids = PROMPT.inputs
    assert metrics.relative_rms(wanted, ReferenceSession.open(checkpoint).score(ids)) < 1e-6
    streamed = StreamedReference.open(checkpoint).read([ids], [np.arange(PROMPT.length)])
    assert metrics.relative_rms(wanted, streamed) < 1e-6


def torch_error(model: Model, checkpoint: Path) -> float:
    wanted = models.reference_logits(models.random_model(models.random_text_config()), PROMPT)
    program = TorchProgram(model, CheckpointWeights(checkpoint), max_context=128, max_step=128)
    return models.relative_rms(program.run(PROMPT.inputs), wanted)


def test_description(checkpoint: Path) -> None:
    assert torch_error(read_model(open_source(checkpoint).config), checkpoint) < BAR


@pytest.mark.parametrize(
    "wrong", [{"norm_offset": 0.0}, {"scale": 1.0}, {"window": 17}, {"normalizes_values": True}], ids=str
)
def test_control_another_geometry_fails(checkpoint: Path, wrong: dict[str, Any]) -> None:
    model = read_model(open_source(checkpoint).config)
    changed = tuple(replace(layer, **wrong) if layer.window else layer for layer in model.text.layers)
    assert torch_error(replace(model, text=replace(model.text, layers=changed)), checkpoint) > 100 * BAR


def test_onnx(quantized: Quantized, tmp_path: Path) -> None:
    reference, model, weights = quantized
    write_onnx(model, weights, TINY, tmp_path, context=128)
    wanted = models.reference_logits(reference, PROMPT)
    assert error_of(OnnxSession(tmp_path, exact=True), PROMPT, CHUNKS, wanted) < BAR
    shipped = logits_of(OnnxSession(tmp_path), PROMPT, [60])
    genai = logits_of(GenaiSession(tmp_path), PROMPT, [60])
    assert all(np.allclose(logits, shipped[at], atol=1e-5) for at, logits in genai.items())


def test_executorch(tmp_path: Path) -> None:
    kinds = dict(num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"])
    reference = models.random_model(models.random_text_config(**kinds))
    model, weights = quantize(reference, INT4)
    session = ExecutorchSession(executorch_models.lower(model, FloatTwin(weights), tmp_path))
    assert error_of(session, PROMPT, CHUNKS, models.reference_logits(reference, PROMPT)) < BAR


def test_coreml(quantized: Quantized, tmp_path: Path) -> None:
    reference, model, weights = quantized
    artifact = coreml_models.write(model, weights, tmp_path)
    session = CoremlSession(tmp_path, artifact, coreml_models.tokens(model), exact=True)
    wanted = torch.from_numpy(ReferenceSession(reference, half_cache=True).score(PROMPT.inputs))
    assert error_of(session, PROMPT, CHUNKS, wanted) < 3e-4  # its caches are fp16


@pytest.mark.parametrize(
    "unknown", [{"attention_bias": True}, {"attn_logit_softcapping": 50.0}, {"hidden_activation": "silu"}], ids=str
)
def test_what_no_gemma_3_has_is_refused(unknown: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(unknown))):
        read_model(models.random_text_config(**unknown))
