"""The vocabulary in torch: run eagerly it shows what the description means, traced it is the ExecuTorch program.

Heads are [1, T, heads, head_dim]. A sliding layer's cache is a ring that holds a window and one step; a full layer's
holds the whole context.
"""

import math
import mmap
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.config import Layer, Text
from export.weights import KvScales

HIDDEN = -1e30  # added to the score of a position that must not be seen; finite, so that no row becomes NaN
Load = Callable[[str], Tensor]  # a weight by its name, fp32


class Cache(nn.Module):
    """Keys and values of one layer, each [kv_heads, slots, head_dim]; with `scales`, int8 steps of them."""

    keys: Tensor
    values: Tensor

    def __init__(self, layer: Layer, max_context: int, max_step: int, scales: tuple[float, float] | None) -> None:
        super().__init__()
        self.slots = min(layer.window - 1 + max_step, max_context) if layer.window else max_context
        self.scales = scales
        shape, dtype = (layer.kv_heads, self.slots, layer.head_dim), torch.int8 if scales else torch.float32
        self.register_buffer("keys", _unwritten(shape, dtype), persistent=False)
        self.register_buffer("values", _unwritten(shape, dtype), persistent=False)

    def write(self, positions: Tensor, k: Tensor, v: Tensor) -> None:
        """Stores heads k, v at int [T] positions."""
        slots = positions % self.slots
        k, v = k[0].transpose(0, 1), v[0].transpose(0, 1)
        if self.scales:
            k, v = _to_steps(k, self.scales[0]), _to_steps(v, self.scales[1])
        self.keys.index_copy_(1, slots, k)
        self.values.index_copy_(1, slots, v)

    def read(self) -> tuple[Tensor, Tensor]:
        """fp32; where they are stored so, the caches themselves, without a view that a trace would keep."""
        if self.scales:
            return self.keys.float() * self.scales[0], self.values.float() * self.scales[1]
        return self.keys, self.values


def _unwritten(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros that take memory as they are written; those of `torch.zeros` do at once, which a trace never needs."""
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, access=mmap.ACCESS_COPY)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


def _to_steps(x: Tensor, scale: float) -> Tensor:
    """int8 clamp(round(x / scale), -128, 127), as ONNX Runtime's GroupQueryAttention rounds."""
    return (x / scale).round().clamp(-128, 127).to(torch.int8)


def new_caches(text: Text, max_context: int, max_step: int, kv_scales: KvScales | None = None) -> nn.ModuleDict:
    """By index, as strings, of the layers that own one.

    Args:
        kv_scales: of keys and values by layer; with them the caches are int8.
    """
    owners = [layer for layer in text.layers if layer.owns_cache]
    scales = kv_scales or {}
    return nn.ModuleDict(
        {str(layer.index): Cache(layer, max_context, max_step, scales.get(layer.index)) for layer in owners}
    )


@dataclass
class Step:
    """One call: where its tokens stand, which image each belongs to (-1: none), and the caches it extends."""

    positions: Tensor  # int64 [T], consecutive
    blocks: Tensor  # int64 [T]; an image is never split over two steps
    caches: nn.ModuleDict
    last_only: bool = False
    _masks: dict[str, Tensor] = field(default_factory=dict)
    _angles: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def angles(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each [T, 1, head_dim]; equal for all layers of a kind."""
        if layer.kind not in self._angles:
            turns = self.positions[:, None].float() * torch.tensor(layer.inverse_frequencies)
            turns = torch.cat((turns, turns), -1)[:, None]
            self._angles[layer.kind] = turns.cos(), turns.sin()
        return self._angles[layer.kind]

    def mask(self, layer: Layer) -> Tensor:
        """[T, slots], added to scores; equal for all layers of a kind."""
        if layer.kind not in self._masks:
            seen = self.seen(layer, self.cache(layer).slots)
            self._masks[layer.kind] = torch.where(seen, 0.0, HIDDEN)
        return self._masks[layer.kind]

    def cache(self, layer: Layer) -> Cache:
        """The one the layer attends over."""
        found = self.caches[str(layer.cache)]
        assert isinstance(found, Cache)
        return found

    def seen(self, layer: Layer, slots: int) -> Tensor:
        """bool [T, slots]: causal or of the same image, within the window, and ever written."""
        index = torch.arange(slots)
        held = index + torch.div(self.positions[-1:] - index, slots, rounding_mode="floor") * slots
        distance = self.positions[:, None] - held
        seen = distance >= 0
        if layer.image_blocks:
            written = held - self.positions[:1]  # by which position of this step; negative: by an earlier step
            block = torch.where(written >= 0, self.blocks.index_select(0, written.clamp(min=0)), -1)
            seen = seen | ((block == self.blocks[:, None]) & (block >= 0))
        if layer.window:
            seen = seen & (distance < layer.window)
        return seen & (held >= 0)


class TorchOps:
    """Vocabulary[Tensor]"""

    def __init__(self, load: Load, step: Step | None = None) -> None:
        self.weight = load
        self._step = step

    @property
    def step(self) -> Step:
        """Descriptions without attention need none."""
        assert self._step is not None
        return self._step

    def linear(self, x: Tensor, module: str) -> Tensor:
        return F.linear(x, self.weight(f"{module}.weight"))

    def embed(self, ids: Tensor, module: str) -> Tensor:
        return F.embedding(ids, self.weight(f"{module}.weight"))

    def grid_embed(self, cells: Tensor, table: str) -> Tensor:
        rows = self.weight(table)[cells.clamp(min=0), torch.arange(2)].float()
        return (rows * (cells >= 0)[..., None]).sum(-2)

    def rms_norm(self, x: Tensor, module: str | None, eps: float, offset: float = 0) -> Tensor:
        weight = self.norm_weight(module, offset) if module else None
        return F.rms_norm(x, x.shape[-1:], weight, eps)

    def norm_weight(self, module: str, offset: float) -> Tensor:
        """What a norm multiplies by."""
        weight = self.weight(f"{module}.weight")
        return weight + offset if offset else weight

    def layer_norm(self, x: Tensor, module: str, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight(f"{module}.weight"), self.weight(f"{module}.bias"), eps)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b

    def scale(self, x: Tensor, factor: float) -> Tensor:
        return x * factor

    def gelu_tanh(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")

    def softcap(self, x: Tensor, cap: float) -> Tensor:
        return torch.tanh(x / cap) * cap

    def split_heads(self, x: Tensor, heads: int) -> Tensor:
        return x.unflatten(-1, (heads, x.shape[-1] // heads))

    def attend(self, q: Tensor, k: Tensor | None, v: Tensor | None, layer: Layer) -> Tensor:
        cache, angles = self.step.cache(layer), self.step.angles(layer)
        if k is not None and v is not None:
            cache.write(self.step.positions, _rotate(k, *angles), v)
        keys, values = cache.read()
        # Keys come first: ExecuTorch would copy a whole cache to transpose it, and queries are few.
        scores = torch.bmm(keys, _by_kv_head(_rotate(q, *angles), layer)).transpose(1, 2).contiguous()
        scores = scores.unflatten(1, (layer.group, q.shape[1])) + self.step.mask(layer)
        found = torch.bmm(scores.softmax(-1).flatten(1, 2), values)
        return _by_position(found, layer)

    def keep_wanted(self, x: Tensor) -> Tensor:
        return x[:, -1:] if self.step.last_only else x


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Heads -> heads"""
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat((-right, left), -1) * sin


def _by_kv_head(q: Tensor, layer: Layer) -> Tensor:
    """Heads -> [kv_heads, head_dim, group * T], scaled: each key-value head meets its queries in one product."""
    scaled = q if layer.scale == 1 else q * layer.scale
    grouped = scaled[0].unflatten(1, (layer.kv_heads, layer.group)).permute(1, 3, 2, 0)
    return grouped.contiguous().flatten(2)


def _by_position(found: Tensor, layer: Layer) -> Tensor:
    """[kv_heads, group * T, head_dim] -> [1, T, query_heads * head_dim]"""
    grouped = found.unflatten(1, (layer.group, found.shape[1] // layer.group))
    return grouped.permute(2, 0, 1, 3).contiguous().flatten(1)[None]
