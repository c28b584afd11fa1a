"""How much memory artifacts take when they run."""

import math

from export.checkpoint import CheckpointWeights
from export.config import Layer, Text
from runtime.manifest import CacheMemory


def weight_bytes(weights: CheckpointWeights) -> int:
    """As ONNX Runtime holds them, the most of all engines: codes, fp32 scales and a sum for each block."""
    stored = (name for name in weights.source.tensors if not name.endswith((".weight_scale", ".weight_shape")))
    return sum(_bytes(weights, name) for name in {name.removesuffix("_packed") for name in stored})


def _bytes(weights: CheckpointWeights, name: str) -> int:
    packed = weights.packed(name)
    if packed is None:
        return 4 * math.prod(weights.source.tensors[name].shape)
    return packed.codes.nbytes + 8 * packed.scales.size


def cache_memory(text: Text, value: int, context: int, ring_spare: int, spare: int = 0) -> CacheMemory:
    """
    Args:
        value: bytes of a key's or value's number.
        context: positions that the artifact is made for, which bound a ring.
        ring_spare: slots of a sliding layer's ring beyond its window.
        spare: slots of a full layer beyond the positions.
    """
    owners = [layer for layer in text.layers if layer.owns_cache]
    per_position = sum(value * _numbers(layer) for layer in owners if not layer.window)
    rings = sum(value * _numbers(layer) * min(layer.window + ring_spare, context) for layer in owners if layer.window)
    return CacheMemory(fixed=rings + spare * per_position, per_position=per_position)


def _numbers(layer: Layer) -> int:
    """Of a key and a value."""
    return 2 * layer.kv_heads * layer.head_dim
