"""The operations in which models are described, and which every backend implements.

A *description* (decoder.py, embedders.py) is an ordinary function whose first argument is a `Vocabulary`; it never
sees a shape, a mask, a position or a stored weight. `Tensor` is whatever the backend hands around: a torch tensor,
the name of an ONNX value, a MIL variable. Weights go by their names in the checkpoint.

Shapes: T positions of one sequence, always with a leading axis of 1. "Heads" are a tensor split into attention
heads, with the head's width last; the order of its other axes is the backend's own affair, so only `rms_norm` and
the operations that name heads may take them.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from export.config import Layer

Tensor = TypeVar("Tensor")


class Vocabulary(Protocol[Tensor]):
    """What a backend must be able to do."""

    # Weights: `module` is a name without its ".weight".

    def weight(self, name: str) -> Tensor:
        """A small dense weight as it is: a bias, a scalar."""

    def linear(self, x: Tensor, module: str) -> Tensor:
        """[1, T, in] -> [1, T, out], without a bias."""

    def embed(self, ids: Tensor, module: str) -> Tensor:
        """int [1, T] -> [1, T, width]: rows of a table, which may be the table of a tied `linear`."""

    def grid_embed(self, cells: Tensor, table: str) -> Tensor:
        """int [1, T, 2] (x, y) -> [1, T, width]: a row for x plus a row for y; -1 stands for none."""

    # Normalization, over the last axis.

    def rms_norm(self, x: Tensor, module: str | None, eps: float, offset: float = 0) -> Tensor:
        """Computed in fp32, times weight + offset; without a module, without a weight. Takes heads too."""

    def layer_norm(self, x: Tensor, module: str, eps: float) -> Tensor:
        """With weight and bias."""

    # Arithmetic.

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """Elementwise, with broadcasting."""

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        """Elementwise, with broadcasting."""

    def scale(self, x: Tensor, factor: float) -> Tensor:
        """Times a constant."""

    def gelu_tanh(self, x: Tensor) -> Tensor:
        """The tanh approximation of gelu; the exact one differs by up to 6e-4."""

    def softcap(self, x: Tensor, cap: float) -> Tensor:
        """cap * tanh(x / cap)."""

    # Attention. Here live positions, masks and caches: in the backend's step, never in a description.

    def split_heads(self, x: Tensor, heads: int) -> Tensor:
        """[1, T, heads * head_dim] -> heads."""

    def attend(self, q: Tensor, k: Tensor | None, v: Tensor | None, layer: Layer) -> Tensor:
        """Heads -> [1, T, query_heads * head_dim].

        Rotates q and k by the positions of this step, adds k and v to the layer's cache and attends over it.
        A layer that attends over the cache of an earlier one has no k and v.
        """

    def keep_wanted(self, x: Tensor) -> Tensor:
        """[1, T, width] -> the rows whose logits the caller of this step asked for."""


def weights_of(description: Callable[..., Any], *arguments: Any) -> list[str]:
    """Names of the weights a description uses, in order of first use."""
    recorder = _Recorder()
    description(recorder, *arguments)
    return list(recorder.names)


class _Recorder:
    """The smallest backend: every operation returns None, and those with weights note their names."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}

    def weight(self, name: str) -> None:
        self.names[name] = None

    def grid_embed(self, cells: None, table: str) -> None:
        self.weight(table)

    def rms_norm(self, x: None, module: str | None, eps: float, offset: float = 0) -> None:
        if module:
            self.weight(f"{module}.weight")

    def layer_norm(self, x: None, module: str, eps: float) -> None:
        self.weight(f"{module}.weight")
        self.weight(f"{module}.bias")

    def linear(self, x: None, module: str) -> None:
        self.weight(f"{module}.weight")

    embed = linear

    def __getattr__(self, operation: str) -> Callable[..., None]:
        return lambda *arguments: None
