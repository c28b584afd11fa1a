"""Scales of an int8 key-value cache, from the largest keys and values that some prompts bring up."""

from collections.abc import Sequence

from export.config import Model
from export.lowering.torch_ops import Cache
from export.lowering.torch_program import TorchProgram
from export.weights import Weights
from runtime.sessions.base import ModelInputs

HEADROOM = 1.1  # other prompts may go a little further; beyond that, values are clipped
LARGEST = 127


def calibrate_cache(model: Model, weights: Weights, prompts: Sequence[ModelInputs]) -> dict[int, tuple[float, float]]:
    """By layer, the scale of its keys and of its values: what one step of an int8 is worth."""
    largest: dict[int, tuple[float, float]] = {}
    for prompt in prompts:
        length = len(prompt.input_ids)
        program = TorchProgram(model, weights, max_context=length, max_step=length)
        program.run(prompt, last_only=True)
        for index, cache in program.caches.items():
            assert isinstance(cache, Cache)
            before = largest.get(int(index), (0.0, 0.0))
            found = float(cache.keys.abs().max()), float(cache.values.abs().max())
            largest[int(index)] = max(before[0], found[0]), max(before[1], found[1])
    return {index: (k * HEADROOM / LARGEST, v * HEADROOM / LARGEST) for index, (k, v) in largest.items()}
