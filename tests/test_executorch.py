"""The `.pte`, run by ExecuTorch, against transformers' own model on the same dequantized weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.config import Model, read_model
from export.lowering.executorch_modules import TextDecoder
from export.lowering.executorch_ops import whole
from export.lowering.executorch_program import Sizes, constant_methods, lower_streamed, write
from export.schemes import INT4, INT8, Scheme, quantize_rows
from export.weights import FloatTwin, MemoryWeights, Packed, Weights
from runtime.errors import UserError
from runtime.sessions import executorch as engine
from runtime.sessions.base import Session
from runtime.sessions.executorch import ExecutorchSession
from tests import random_models as models
from tests.random_models import Prompt

BAR = 1e-5  # relative rms of a float twin
SIZES = Sizes(context=128, step=64, image_tokens=16, audio_tokens=8)
SHALLOW: dict[str, Any] = dict(num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"])
Reference = Any  # transformers' model


def quantize(reference: Reference, scheme: Scheme | None) -> tuple[Model, MemoryWeights]:
    """Quantizes the decoder's linears and the embedding, in the reference too."""
    tensors: dict[str, NDArray[np.float32] | Packed] = {}
    for name, tensor in reference.state_dict().items():
        tensors[name] = tensor.numpy()
        if scheme and tensor.ndim == 2 and name.startswith("model.language_model"):
            rounded = quantize_rows(tensor, scheme)
            packed = Packed(scheme, rounded.packed.numpy(), rounded.scales.float().numpy())
            tensors[name] = packed
            tensor.copy_(torch.from_numpy(packed.dense))
    return read_model(reference.config), MemoryWeights(tensors)


def lower(model: Model, weights: Weights, folder: Path, sizes: Sizes = SIZES) -> Path:
    write(lower_streamed(model, weights, sizes, constant_methods(model, sizes, [1, 106], 2)), folder)
    return folder


def logits_of(session: Session, prompt: Prompt, chunks: Sequence[int]) -> dict[int, NDArray[np.float32]]:
    """Prefills in chunks, decodes the rest token by token; logits by the position they follow."""
    session.reset()
    found, at = {}, 0
    for count in chunks:
        logits = session.prefill(models.piece(prompt.inputs, at, at + count))
        at += count
        found[at - 1] = logits
    for position in range(at, prompt.length):
        found[position] = session.decode(int(prompt.inputs.input_ids[position]))
    return found


def error_of(session: Session, prompt: Prompt, chunks: Sequence[int], wanted: torch.Tensor) -> float:
    """Relative rms over the logits of all steps."""
    found = logits_of(session, prompt, chunks)
    return models.relative_rms(torch.from_numpy(np.stack(list(found.values()))), wanted[list(found)])


class Lowered:
    """A random model in transformers, and what was made of it."""

    def __init__(self, folder: Path, scheme: Scheme, twin: bool, **options: Any) -> None:
        self.reference = models.random_model(models.random_config(**options))
        self.model, self.weights = quantize(self.reference, scheme)
        self.folder = lower(self.model, FloatTwin(self.weights) if twin else self.weights, folder)
        self.session = ExecutorchSession(self.folder)


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    """Six layers with float linears."""
    return Lowered(tmp_path_factory.mktemp("twin"), INT4, True)


@pytest.fixture(scope="module", params=[INT4, INT8], ids=["int4", "int8"])
def shipped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    """Two layers with int8 activations."""
    return Lowered(tmp_path_factory.mktemp("shipped"), request.param, False, **SHALLOW)


def test_twin_on_text(twin: Lowered) -> None:
    """Long past the window, so that rings wrap several times."""
    prompt = models.text_prompt(128, 60)
    wanted = models.reference_logits(twin.reference, prompt)
    for chunks in ([60], [13, 13, 34], [1, 2, 57, 3], []):
        assert error_of(twin.session, prompt, chunks, wanted) < BAR


@pytest.mark.parametrize("images, clips", [(1, 0), (2, 0), (0, 1), (2, 1)])
def test_twin_on_media(twin: Lowered, images: int, clips: int) -> None:
    prompt = models.media_prompt(images, clips, tail=40)
    wanted = models.reference_logits(twin.reference, prompt)
    for chunks in ([prompt.decode_from], models.chunks_around_images(prompt)):
        assert error_of(twin.session, prompt, chunks, wanted) < BAR
