"""Memory, as manifests state it: caches are what engines really make room for, weights what the quantizer wrote."""

import math
from pathlib import Path

import pytest

from export.config import Model, read_model
from export.lowering.torch_ops import new_caches
from export.memory import cache_memory
from runtime.manifest import read_manifest
from runtime.sessions.onnx import OnnxSession
from tests import random_models as models

STEP = 64


@pytest.fixture(scope="module")
def model() -> Model:
    return read_model(models.random_config())


def test_onnx(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    caches = OnnxSession(bundle / "onnx")._empty_caches()
    made = sum(cache.nbytes for _, cache in caches)
    assert manifest.artifacts["onnx"].cache.at(manifest.limits.context) == made


def test_all_weights_count(bundle: Path) -> None:
    """By the quantizer's own list of them: codes, fp32 scales and sums of groups, or fp32 values."""
    manifest = read_manifest(bundle)
    weights = 0
    for tensor in manifest.tensors:
        count = math.prod(tensor.shape)
        weights += count // 2 + 8 * count // tensor.group if tensor.group else 4 * count
    cache = manifest.artifacts["onnx"].cache.at(manifest.limits.context)
    assert {tensor.dtype for tensor in manifest.tensors} == {"int4", "bfloat16"}
    assert manifest.limits.minimum_memory == weights + cache


@pytest.mark.parametrize("scales, value", [(None, 4), ((0.1, 0.1), 1)])
@pytest.mark.parametrize("context", [40, 128, 512])
def test_torch_as_executorch_plans_it(
    model: Model, context: int, scales: tuple[float, float] | None, value: int
) -> None:
    kv_scales = {layer.index: scales for layer in model.text.layers} if scales else None
    step = min(STEP, context)
    made = sum(buffer.nbytes for buffer in new_caches(model.text, context, step, kv_scales).buffers())
    assert cache_memory(model.text, value, context, step - 1).at(context) == made


def test_control_sliding_layers_stop_growing(model: Model) -> None:
    short, long = (cache_memory(model.text, 4, context, STEP) for context in (1000, 2000))
    assert short == long and long.at(2000) - long.at(1000) == 1000 * long.per_position
