"""Where backends fetch weights: by checkpoint name, dense or as the packed bytes of the quantized checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from export.schemes import Scheme, dequantize

KvScales = Mapping[int, tuple[float, float]]  # by layer, what one step of an int8 key and of an int8 value is worth


@dataclass(frozen=True)
class Packed:
    """A quantized weight as it is stored."""

    scheme: Scheme
    codes: NDArray[np.uint8]  # [out, in * bits / 8], as schemes.pack lays them out; usually mapped from a file
    scales: NDArray[np.float32]  # [out, groups], every value exact in bf16 and in fp16

    @property
    def columns(self) -> int:
        """Inputs of the weight."""
        return self.codes.shape[1] * 8 // self.scheme.bits

    def rows(self, start: int, stop: int) -> "Packed":
        """Some of its outputs, without a copy."""
        return Packed(self.scheme, self.codes[start:stop], self.scales[start:stop])

    @property
    def dense(self) -> NDArray[np.float32]:
        """[out, in]"""
        return dequantize(torch.from_numpy(self.codes), torch.from_numpy(self.scales), self.scheme).numpy()


class Weights(Protocol):
    """A checkpoint, seen by a backend."""

    def dense(self, name: str) -> NDArray[np.float32]:
        """Dequantized where the checkpoint is packed. Raises UserError for a name it does not have."""

    def packed(self, name: str) -> Packed | None:
        """None where the weight is not quantized."""


class MemoryWeights:
    """Weights held in memory, for tests and small models."""

    def __init__(self, tensors: dict[str, NDArray[np.float32] | Packed]) -> None:
        self.tensors = tensors

    def dense(self, name: str) -> NDArray[np.float32]:
        tensor = self.tensors[name]
        return tensor.dense if isinstance(tensor, Packed) else tensor

    def packed(self, name: str) -> Packed | None:
        tensor = self.tensors[name]
        return tensor if isinstance(tensor, Packed) else None


class FloatTwin:
    """The same values, never packed: a program lowered from this has float linears and must agree to the last bits."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def dense(self, name: str) -> NDArray[np.float32]:
        return self.weights.dense(name)

    def packed(self, name: str) -> None:
        return None
