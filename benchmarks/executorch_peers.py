"""Other ways to lower the same decoder to ExecuTorch, with the same weights: what ours is compared with.

`stock` is made of the choices of executorch.examples.models.gemma4, ExecuTorch's own export of smaller Gemma 4 models,
which cannot take the geometry of the 12B: caches of the whole context in every layer, sliced to what is written;
its kernel `custom_sdpa`; all of XNNPACK's partitioner; no reuse of buffers that are written in place.
`sdpa` is ours with `custom_sdpa` over the same rings.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
    XnnpackDynamicallyQuantizedPartitioner,
    XnnpackPartitioner,
)
from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig
from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  registers custom_sdpa
from torch import Tensor, nn
from torch.export import ExportedProgram

from export.config import Layer, Model, Text
from export.lowering import executorch_program
from export.lowering.executorch_modules import TextDecoder
from export.lowering.executorch_ops import ExecutorchOps, Loader
from export.lowering.executorch_patches import replaced
from export.lowering.executorch_program import write_executorch
from export.lowering.torch_modules import Sizes
from export.lowering.torch_ops import Cache, Step, _rotate
from export.weights import Weights

CHANGED = "run_reinplace_pass", "do_quant_fusion_and_const_prop"  # options that the stock route leaves alone


class SdpaCache(Cache):
    """Keys and values of one layer as custom_sdpa wants them, each [1, slots, kv_heads, head_dim]."""

    def __init__(self, layer: Layer, max_context: int, max_step: int) -> None:
        nn.Module.__init__(self)
        self.slots = min(layer.window - 1 + max_step, max_context) if layer.window else max_context
        shape = (1, self.slots, layer.kv_heads, layer.head_dim)
        self.register_buffer("keys", torch.zeros(shape), persistent=False)
        self.register_buffer("values", torch.zeros(shape), persistent=False)

    def write(self, positions: Tensor, k: Tensor, v: Tensor) -> None:
        slots = positions % self.slots
        self.keys.index_copy_(1, slots, k)
        self.values.index_copy_(1, slots, v)


class SdpaOps(ExecutorchOps):
    """Vocabulary[Tensor], attention in one kernel."""

    def attend(self, q: Tensor, k: Tensor | None, v: Tensor | None, layer: Layer) -> Tensor:
        cache, angles = self.step.cache(layer), self.step.angles(layer)
        if k is not None and v is not None:
            cache.write(self.step.positions, _rotate(k, *angles), v)
        mask = self.step.mask(layer)  # where there is one, the kernel asks for no position
        return sdpa(_rotate(q, *angles), cache.keys, cache.values, 0, mask, layer.scale).flatten(2)


class SdpaDecoder(TextDecoder):
    def __init__(self, text: Text, loader: Loader, max_context: int, max_step: int, kv_scales: None = None) -> None:
        super().__init__(text, loader, max_context, max_step)
        self.caches = nn.ModuleDict({str(layer.index): SdpaCache(layer, max_context, max_step)
                                     for layer in text.layers if layer.owns_cache})  # fmt: skip

    def ops(self, step: Step | None = None) -> ExecutorchOps:
        return SdpaOps(self.weights.find, step)


class StockCache(Cache):
    """Keys and values of one layer, each [1, kv_heads, context, head_dim], whether or not it slides."""

    def __init__(self, layer: Layer, max_context: int) -> None:
        nn.Module.__init__(self)
        self.slots = max_context
        shape = (1, layer.kv_heads, max_context, layer.head_dim)
        self.register_buffer("keys", torch.zeros(shape), persistent=False)
        self.register_buffer("values", torch.zeros(shape), persistent=False)

    def write(self, positions: Tensor, k: Tensor, v: Tensor) -> None:
        start, count = first(positions), k.shape[1]
        self.keys.narrow(2, start, count).copy_(k.transpose(1, 2))
        self.values.narrow(2, start, count).copy_(v.transpose(1, 2))


class StockOps(ExecutorchOps):
    """Vocabulary[Tensor], attention as in ExecuTorch's own Gemma 4."""

    def attend(self, q: Tensor, k: Tensor | None, v: Tensor | None, layer: Layer) -> Tensor:
        cache, angles = self.step.cache(layer), self.step.angles(layer)
        if k is not None and v is not None:
            cache.write(self.step.positions, _rotate(k, *angles), v)
        start = first(self.step.positions)
        end = start + q.shape[1]
        torch._check(end >= q.shape[1])
        torch._check(end <= cache.slots)
        keys, values = (cached.narrow(2, 0, end).transpose(1, 2) for cached in (cache.keys, cache.values))
        mask = self.step.mask(layer).narrow(1, 0, end)
        return sdpa(_rotate(q, *angles), keys, values, start, mask, layer.scale).flatten(2)


class StockDecoder(TextDecoder):
    def __init__(self, text: Text, loader: Loader, max_context: int, max_step: int, kv_scales: None = None) -> None:
        super().__init__(text, loader, max_context, max_step)
        self.caches = nn.ModuleDict({str(layer.index): StockCache(layer, max_context)
                                     for layer in text.layers if layer.owns_cache})  # fmt: skip

    def ops(self, step: Step | None = None) -> ExecutorchOps:
        return StockOps(self.weights.find, step)


def sdpa(q: Tensor, keys: Tensor, values: Tensor, start: Any, mask: Tensor, scale: float) -> Tensor:
    """[1, T, heads, head_dim], [1, slots, kv_heads, head_dim] twice, and a mask [T, slots] -> as q"""
    return torch.ops.llama.custom_sdpa(q, keys, values, start, mask, 0.0, False, scale)


def first(positions: Tensor) -> Any:
    """As a number that the program reads while it runs."""
    start = positions[0].item()
    torch._check(start >= 0)
    return start


DECODERS = {"ours": TextDecoder, "sdpa": SdpaDecoder, "stock": StockDecoder}


def write_peer(name: str, model: Model, weights: Weights, checkpoint: Path, folder: Path, sizes: Sizes) -> None:
    """Text alone, in a folder that ExecutorchSession opens."""
    with ExitStack() as stack:
        stack.enter_context(replaced(executorch_program, "TextDecoder", DECODERS[name]))
        if name == "stock":
            stack.enter_context(_stock_lowering())
        write_executorch(replace(model, image=None, audio=None), weights, checkpoint, folder, sizes)


@contextmanager
def _stock_lowering() -> Iterator[None]:
    def to_edge(methods: dict[str, ExportedProgram], **options: Any) -> Any:
        both = [XnnpackDynamicallyQuantizedPartitioner(), XnnpackPartitioner()]
        config = EdgeCompileConfig(_check_ir_validity=False)
        return usual(methods, **options | {"partitioner": dict.fromkeys(methods, both), "compile_config": config})

    def configure(**options: Any) -> ExecutorchBackendConfig:
        return ExecutorchBackendConfig(**{name: value for name, value in options.items() if name not in CHANGED})

    usual = executorch_program.to_edge_transform_and_lower
    with (
        replaced(executorch_program, "to_edge_transform_and_lower", to_edge),
        replaced(executorch_program, "ExecutorchBackendConfig", configure),
    ):
        yield
