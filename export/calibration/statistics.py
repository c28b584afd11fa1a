"""What enters the linears of a layer: their inputs, or second moments of them, while sequences pass through it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from runtime.errors import UserError
from runtime.scratch import scratch

SAME_INPUT = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}  # what a linear shares its input with
BLOCK = 2048  # columns of X whose products with those behind them are taken at once


def input_of(module: str) -> str:
    """Of linears with one input, the module that stands for all."""
    parent, _, name = module.rpartition(".")
    return f"{parent}.{SAME_INPUT.get(name, name)}"


class Moments:
    """X^T X of all rows X that were seen, or its diagonal alone."""

    def __init__(self, width: int, whole: bool) -> None:
        self.sums = torch.zeros(width, width) if whole else torch.zeros(width)
        self.rows = 0

    def add(self, x: Tensor) -> None:
        """[..., width]"""
        rows = x.reshape(-1, x.shape[-1])
        self.rows += len(rows)
        if self.sums.ndim == 1:
            self.sums += rows.square().sum(0)
            return
        for start in range(0, rows.shape[1], BLOCK):  # half of a symmetric product is enough
            stop = start + BLOCK
            product = rows[:, start:stop].T @ rows[:, start:]
            self.sums[start:stop, start:] += product
            self.sums[stop:, start:stop] += product[:, BLOCK:].T

    @property
    def importance(self) -> Tensor:
        """E[x^2] [width]"""
        return (self.sums.diagonal() if self.sums.ndim == 2 else self.sums) / max(self.rows, 1)

    def require_finite(self, name: str) -> None:
        """
        Args:
            name: of the linear whose inputs the rows are.

        Raises:
            UserError: one of them holds NaN or infinity.
        """
        if not torch.isfinite(self.importance).all():
            raise UserError(f"{name} is fed NaN or infinity: the checkpoint is damaged, download it again")


class Inputs:
    """Of a linear, those of all sequences, one behind another, in a temporary file."""

    def __init__(self, rows: int, width: int) -> None:
        self.rows = torch.from_numpy(scratch(rows, width))
        self._count = 0

    def add(self, x: Tensor) -> None:
        """[1, T, width]"""
        self.rows[self._count : self._count + x.shape[1]] = x[0]
        self._count += x.shape[1]


class Collector(Protocol):
    """What is told of each input of a linear, [1, T, width]."""

    def add(self, x: Tensor) -> None: ...


Told = TypeVar("Told", bound=Collector)


@contextmanager
def watched(layer: nn.Module, modules: Sequence[str], begin: Callable[[int], Told]) -> Iterator[dict[str, Told]]:
    """While it lasts, inputs of the modules are told to what `begin` makes for their width; by `input_of` their names,
    in the order of the modules.
    """
    told: dict[str, Told] = {}
    with ExitStack() as stack:
        for name in dict.fromkeys(map(input_of, modules)):
            module = layer.get_submodule(name)
            found = told[name] = begin(module.weight.shape[1])  # type: ignore[arg-type, index]
            stack.callback(module.register_forward_pre_hook(lambda _, given, found=found: found.add(given[0])).remove)
        yield told


class _Reached(Exception):
    """A forward has come as far as it is wanted."""


def input_to(module: nn.Module, run: Callable[[], object]) -> Tensor:
    """[T, width], what enters a module in `run`, which goes no further."""
    found: list[Tensor] = []

    def stop(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        found.append(given[0])
        raise _Reached

    hook = module.register_forward_pre_hook(stop)
    try:
        with suppress(_Reached):
            run()
    finally:
        hook.remove()
    return found[0][0]
