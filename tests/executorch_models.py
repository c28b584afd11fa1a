"""Random models as ExecuTorch programs, for the tests of lowering and of sessions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.config import Model, read_model
from export.lowering.executorch_program import Sizes, constant_methods, lower_streamed, write
from export.schemes import Scheme, quantize_rows
from export.weights import FloatTwin, MemoryWeights, Packed, Weights
from runtime.sessions.base import Session
from runtime.sessions.executorch import ExecutorchSession
from tests import random_models as models
from tests.random_models import Prompt

SIZES = Sizes(context=128, step=64, image_tokens=100, audio_tokens=8)
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


def lower(model: Model, weights: Weights, folder: Path, data_file: bool = False, sizes: Sizes = SIZES) -> Path:
    """By the product's route."""
    write(lower_streamed(model, weights, sizes, constants(model), data_file), folder)
    return folder


def constants(model: Model) -> dict[str, Any]:
    return constant_methods(model, SIZES, [1, 106], 2)


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

    def __init__(
        self, folder: Path, scheme: Scheme, twin: bool = False, data_file: bool = False, **options: Any
    ) -> None:
        self.reference = models.random_model(models.random_config(**options))
        self.model, self.weights = quantize(self.reference, scheme)
        folder.mkdir(exist_ok=True)
        self.folder = lower(self.model, FloatTwin(self.weights) if twin else self.weights, folder, data_file)
        self.session = ExecutorchSession(self.folder)
