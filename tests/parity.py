"""Random models, quantized, and any engine's logits of a prompt: what the tests of every backend do."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.config import Model, read_model
from export.schemes import Scheme, quantize_rows
from export.weights import MemoryWeights, Packed
from runtime.sessions.base import Session
from tests import random_models as models
from tests.random_models import Prompt

Reference = Any  # transformers' model
DECODER = {"gemma4_unified": "model.language_model", "gemma3_text": "model"}  # begins its weights' names


def quantize(reference: Reference, scheme: Scheme | None) -> tuple[Model, MemoryWeights]:
    """Quantizes the decoder's linears and the embedding, in the reference too."""
    tensors: dict[str, NDArray[np.float32] | Packed] = {}
    for name, tensor in reference.state_dict().items():
        tensors[name] = tensor.numpy()
        if scheme and tensor.ndim == 2 and name.startswith(DECODER[reference.config.model_type]):
            rounded = quantize_rows(tensor, scheme)
            packed = Packed(scheme, rounded.packed.numpy(), rounded.scales.float().numpy())
            tensors[name] = packed
            tensor.copy_(torch.from_numpy(packed.dense))
    return read_model(reference.config), MemoryWeights(tensors)


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
