"""How much memory artifacts take when they run."""

from export.checkpoint import CheckpointWeights
from export.config import Layer, Text
from runtime.manifest import CacheMemory


def weight_bytes(weights: CheckpointWeights) -> int:
    """As ONNX Runtime holds them, the most of all engines: codes, fp32 scales and a sum for each block."""
    total = 0
    for name, stored in weights.source.tensors.items():
        packed = weights.packed(name) if name.endswith(".weight") else None
        if packed is None and not name.endswith(("_packed", "_scale", "_shape")):
            total += 4 * stored.bytes // stored.dtype.itemsize
        elif packed is not None:
            total += packed.codes.nbytes + 8 * packed.scales.size
    return total


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
