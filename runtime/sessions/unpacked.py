"""Layers of a packed checkpoint as they are once unpacked, kept for later passes over the weights.

To unpack them takes compressed-tensors longer than a token takes to pass them, and each token that a text grows by is a
pass of all.
"""

import copy
import shutil
from dataclasses import dataclass
from tempfile import TemporaryFile, gettempdir
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

DTYPES = torch.bfloat16, torch.float16  # that hold what codes and scales stand for: int4's and int8's
ALIGNMENT = 8  # bytes: of the widest dtype
LEFT = 2**31  # bytes of the disk that stay free


class UnpackedLayers:
    """In nameless temporary files, which go when this does; where the disk has no room for all layers, none is kept.

    Where /tmp is itself memory, TMPDIR names another folder.
    """

    def __init__(self, weights: int) -> None:
        """
        Args:
            weights: of all layers.
        """
        self._wanted = weights * DTYPES[0].itemsize < shutil.disk_usage(gettempdir()).free - LEFT
        self._layers: dict[int, tuple[nn.Module, _Kept]] = {}  # modules without values

    def keep(self, index: int, layer: nn.Module) -> None:
        """What it holds, once it is unpacked. A disk that is full by now keeps none, and no run fails for it."""
        if not self._wanted:
            return
        try:
            self._layers[index] = _without_values(layer), _Kept.write(layer.state_dict())
        except OSError:
            self._wanted = False
            self._layers.clear()

    def __contains__(self, index: int) -> bool:
        return index in self._layers

    def __getitem__(self, index: int) -> tuple[nn.Module, dict[str, Tensor]]:
        """A layer without values, and its tensors, each in the narrowest dtype that holds it, backed by a file."""
        layer, kept = self._layers[index]
        return copy.deepcopy(layer), kept.tensors()


@dataclass(frozen=True)
class _Kept:
    """Tensors in a file."""

    file: IO[bytes]
    places: dict[str, tuple[int, torch.dtype, torch.Size]]  # offset in bytes, dtype, shape

    @classmethod
    def write(cls, tensors: dict[str, Tensor]) -> "_Kept":
        kept = cls(TemporaryFile(), {})  # noqa: SIM115  open as long as the layer is kept
        for name, tensor in tensors.items():
            narrow = narrowed(tensor).contiguous()
            kept.places[name] = kept.file.tell(), narrow.dtype, narrow.shape
            kept.file.write(narrow.reshape(-1).view(torch.uint8).numpy().data)
            kept.file.write(bytes(-kept.file.tell() % ALIGNMENT))
        kept.file.flush()
        return kept

    def tensors(self) -> dict[str, Tensor]:
        """Mapped anew each time, so that what was read leaves this process's memory with them."""
        stored = torch.from_numpy(np.memmap(self.file, np.uint8, "c"))
        return {name: stored[start : start + shape.numel() * dtype.itemsize].view(dtype).reshape(shape)
                for name, (start, dtype, shape) in self.places.items()}  # fmt: skip


def _without_values(module: nn.Module) -> nn.Module:
    """A copy on the device meta."""
    memo: dict[int, Any] = {id(one): nn.Parameter(one.to("meta"), one.requires_grad) for one in module.parameters()}
    memo |= {id(one): one.to("meta") for one in module.buffers()}
    return copy.deepcopy(module, memo)


def narrowed(tensor: Tensor) -> Tensor:
    """The same values in fewer bytes, where that is possible."""
    if tensor.dtype == torch.float32:
        for narrow in (tensor.to(dtype) for dtype in DTYPES):
            if torch.equal(narrow.float(), tensor):
                return narrow
    return tensor
