"""What enters the linears of a layer: second moments of their inputs, gathered while sequences pass through it."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

SAME_INPUT = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}  # what a linear shares its input with


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
        if self.sums.ndim == 2:
            self.sums.addmm_(rows.T, rows)
        else:
            self.sums += rows.square().sum(0)

    @property
    def importance(self) -> Tensor:
        """E[x^2] [width]"""
        return (self.sums.diagonal() if self.sums.ndim == 2 else self.sums) / max(self.rows, 1)


@contextmanager
def watched(layer: nn.Module, modules: Sequence[str], whole: bool) -> Iterator[dict[str, Moments]]:
    """While it lasts, inputs of the modules are added up; by `input_of` their names."""
    moments: dict[str, Moments] = {}
    with ExitStack() as stack:
        for name in dict.fromkeys(map(input_of, modules)):
            module = layer.get_submodule(name)
            found = moments[name] = Moments(module.weight.shape[1], whole)  # type: ignore[arg-type, index]
            hook = module.register_forward_pre_hook(lambda module, inputs, found=found: found.add(inputs[0]))
            stack.callback(hook.remove)
        yield moments
