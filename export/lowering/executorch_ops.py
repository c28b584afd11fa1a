"""The vocabulary as ExecuTorch wants it traced: torch's, with packed weights as tensors that its kernels know."""

from collections.abc import Callable
from dataclasses import dataclass

import executorch.kernels.quantized  # noqa: F401  registers the quantized embeddings
import torch
import torch.nn.functional as F
from torch import Tensor
from torchao.quantization.quantize_.workflows.intx.intx_unpacked_to_int8_tensor import (
    IntxUnpackedToInt8Tensor,
    IntxUnpackedToInt8TensorActivationQuantization,
)

from export.lowering.torch_modules import DTYPES, scales_of
from export.lowering.torch_ops import TorchOps
from export.schemes import Scheme, unpack
from export.weights import Packed, Weights

ACTIVATIONS = IntxUnpackedToInt8TensorActivationQuantization.INT8_ASYM_PER_TOKEN


class ExecutorchOps(TorchOps):
    """Vocabulary[Tensor]. A packed linear rounds what comes in to int8, token by token, as its weight's type says."""

    def embed(self, ids: Tensor, module: str) -> Tensor:
        """Where the table is packed, by ExecuTorch's own kernels, which touch no row but those asked for."""
        table = self.weight(f"{module}.weight")
        if table.is_floating_point():
            return F.embedding(ids, table)
        scales, kernels = self.weight(scales_of(f"{module}.weight")), torch.ops.quantized_decomposed
        if table.dtype == torch.uint8:
            return kernels.embedding_4bit.dtype(table, scales, None, -8, 7, ids, dtype=torch.float32)
        return kernels.embedding_byte.dtype(table, scales, None, -128, 127, ids, dtype=torch.float32)


@dataclass(frozen=True)
class Loader:
    """Weights as the tensors that a traced module owns."""

    weights: Weights
    codes: Callable[[Packed], Tensor]  # of a linear, int8 [out, in], and of an embedding as its kernel wants them
    scales: Callable[[Packed], Tensor]
    table: Callable[[Packed], Tensor]

    def linear(self, name: str) -> Tensor:
        """Of a linear, or dense."""
        packed = self.weights.packed(name)
        if packed is None:
            return torch.from_numpy(self.weights.dense(name))
        return _quantized(packed.scheme, self.codes(packed), self.scales(packed))

    def embedding(self, name: str) -> dict[str, Tensor]:
        """The table and, where it is packed, its scales."""
        packed = self.weights.packed(name)
        if packed is None:
            return {name: torch.from_numpy(self.weights.dense(name))}
        # Every scale is exact in fp16, which takes half the room and which the kernels read.
        return {name: self.table(packed), scales_of(name): torch.from_numpy(packed.scales).half()}


def whole(weights: Weights) -> Loader:
    """The weights themselves, unpacked: a byte for each code of a linear."""
    return Loader(
        weights,
        codes=lambda packed: unpack(torch.from_numpy(packed.codes), packed.scheme),
        scales=lambda packed: torch.from_numpy(packed.scales).clone(),
        table=lambda packed: as_table(torch.from_numpy(packed.codes), packed.scheme),
    )


def as_table(codes: Tensor, scheme: Scheme) -> Tensor:
    """Packed codes as the embedding kernels read them: uint8 with the even column high, or int8."""
    return codes >> 4 | codes << 4 if scheme.bits == 4 else (codes ^ 0x80).view(torch.int8)


def _quantized(scheme: Scheme, codes: Tensor, scales: Tensor) -> Tensor:
    """int8 [out, in] and fp32 [out, groups] as the weight of a linear."""
    zeros = torch.zeros(1, dtype=torch.int8).expand(scales.shape)
    block = (1, scheme.group or codes.shape[1])
    return IntxUnpackedToInt8Tensor(codes, scales, zeros, DTYPES[scheme.bits], block, torch.float32, ACTIVATIONS)
