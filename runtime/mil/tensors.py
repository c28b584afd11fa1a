"""Values while a program runs. Floats are fp32; what is declared as fp16 is rounded to it after each operation."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.mil.program import Type


def tensor(array: NDArray) -> Tensor:
    """In memory of its own where `array` cannot be written."""
    if array.dtype.kind == "f":
        return torch.from_numpy(np.array(array, np.float32))
    return torch.from_numpy(array if array.flags.writeable else np.array(array))


def rounded(value: Tensor, declared: Type) -> Tensor:
    """As an operation leaves its result: fp32 inside, the declared type outside."""
    if declared.dtype == "float16":
        return value.half().float()
    return value.to(getattr(torch, declared.dtype))


def fits(shape: tuple[int, ...], declared: Type) -> bool:
    """Whether a shape is the declared one, as far as that is known."""
    if len(shape) != len(declared.shape):
        return False
    return all(wanted in (None, size) for size, wanted in zip(shape, declared.shape, strict=True))


def kind(dtype: str) -> str:
    """Types between which only `cast` converts."""
    return {"f": "float", "i": "int", "u": "int", "b": "bool"}[np.dtype(dtype).kind]
