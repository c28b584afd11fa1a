"""What the modules are made of that torch traces, whatever is made of the trace: sizes, and weights they own."""

import json
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import torch
from torch import Tensor, nn

from export.config import Model
from export.weights import KvScales

SHORTEST_STEP = 256  # positions that a step holds at least
DTYPES = {4: getattr(torch, "int4"), 8: torch.int8}  # of codes by their bits  # noqa: B009  mypy's torch has no int4


@dataclass(frozen=True)
class Sizes:
    """What memory is planned for."""

    context: int  # positions
    step: int  # positions of one call of the decoder, and so of an image
    image_tokens: int  # of one image
    audio_tokens: int  # of one clip
    kv_scales: KvScales | None = None  # with them the caches are int8

    @classmethod
    def of(cls, model: Model, checkpoint: Path, context: int, kv_scales: KvScales | None = None) -> "Sizes":
        """A step holds any image that the checkpoint's processor makes.

        A longer one would cost memory, in the rings and in the scores of attention.
        """
        path = checkpoint / "processor_config.json"
        processor = json.loads(path.read_text()) if path.exists() else {}
        image_tokens = processor.get("image_processor", {}).get("max_soft_tokens", 280)
        step = max(SHORTEST_STEP, image_tokens if model.image else 0)
        return cls(context, min(step, context), image_tokens, processor.get("audio_seq_length", 750), kv_scales)


class ParameterTree(nn.Module):
    """Weights under their own names, for a trace that must own what it uses."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            *path, leaf = name.split(".")
            node: nn.Module = self
            for part in path:
                if not hasattr(node, part):
                    node.add_module(part, nn.Module())
                node = getattr(node, part)
            node.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))

    def find(self, name: str) -> Tensor:
        return attrgetter(name)(self)


def scales_of(weight: str) -> str:
    """Name of the scales of a packed weight."""
    return weight.removesuffix("weight") + "scales"
