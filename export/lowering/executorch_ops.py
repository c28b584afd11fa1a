"""The vocabulary as ExecuTorch wants it traced: torch's, with packed weights as tensors that its kernels know."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchao.quantization.quantize_.workflows.intx.intx_unpacked_to_int8_tensor import (
    IntxUnpackedToInt8Tensor,
    IntxUnpackedToInt8TensorActivationQuantization,
)

from export.lowering.torch_modules import DTYPES, scales_of
from export.lowering.torch_ops import TorchOps
from export.schemes import INT4, Scheme, unpack
from export.weights import Packed, Weights

ACTIVATIONS = IntxUnpackedToInt8TensorActivationQuantization.INT8_ASYM_PER_TOKEN


class ExecutorchOps(TorchOps):
    """Vocabulary[Tensor]. A packed linear rounds what comes in to int8, token by token, as its weight's type says."""

    def rms_norm(self, x: Tensor, module: str | None, eps: float, offset: float = 0) -> Tensor:
        """With a product for the square: the kernel of powers calls pow for each value."""
        normed = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps)
        return normed * self.norm_weight(module, offset) if module else normed

    def embed(self, ids: Tensor, module: str) -> Tensor:
        """Where the table is packed, of the rows asked for alone, and exactly: a code times its scale is."""
        rows = F.embedding(ids, self.weight(f"{module}.weight"))
        if rows.is_floating_point():
            return rows
        scales = F.embedding(ids, self.weight(scales_of(f"{module}.weight"))).float()
        codes = _pairs(rows) - INT4.offset if rows.dtype == torch.uint8 else rows.float()
        groups = codes.unflatten(-1, (scales.shape[-1], codes.shape[-1] // scales.shape[-1]))
        return (groups * scales[..., None]).flatten(-2)


def _pairs(rows: Tensor) -> Tensor:
    """uint8 [..., n] -> fp32 [..., 2 n], the low nibble first."""
    return torch.stack((rows & 15, torch.bitwise_right_shift(rows, 4)), -1).flatten(-2).float()


@dataclass(frozen=True)
class Loader:
    """Weights as the tensors that a traced module owns."""

    weights: Weights
    codes: Callable[[Packed], Tensor]  # of a linear, int8 [out, in]
    scales: Callable[[Packed], Tensor]
    table: Callable[[str, Packed], Tensor]  # codes of an embedding, by its name

    def linear(self, name: str) -> Tensor:
        """Of a linear, or dense."""
        packed = self.weights.packed(name)
        if packed is None:
            return torch.from_numpy(self.weights.dense(name))
        return _quantized(packed.scheme, self.codes(packed), self.scales(packed))

    def embedding(self, name: str) -> dict[str, Tensor]:
        """The table and, where it is packed, its scales: the very bytes that the delegate of a tied head has."""
        packed = self.weights.packed(name)
        if packed is None:
            return {name: torch.from_numpy(self.weights.dense(name))}
        scales = torch.from_numpy(packed.scales)
        return {name: self.table(name, packed), scales_of(name): scales.bfloat16() if packed.scheme.group else scales}


def whole(weights: Weights) -> Loader:
    """The weights themselves, unpacked: a byte for each code of a linear."""
    return Loader(
        weights,
        codes=lambda packed: unpack(torch.from_numpy(packed.codes), packed.scheme),
        scales=lambda packed: torch.from_numpy(packed.scales).clone(),
        table=lambda name, packed: as_table(torch.from_numpy(packed.codes), packed.scheme),
    )


def as_table(codes: Tensor, scheme: Scheme) -> Tensor:
    """Packed codes as XNNPACK wants them: int4 in uint8 as they are, int8 in two's complement."""
    return codes if scheme.bits == 4 else (codes ^ 0x80).view(torch.int8)


def _quantized(scheme: Scheme, codes: Tensor, scales: Tensor) -> Tensor:
    """int8 [out, in] and fp32 [out, groups] as the weight of a linear."""
    zeros = torch.zeros(1, dtype=torch.int8).expand(scales.shape)
    block = (1, scheme.group or codes.shape[1])
    return IntxUnpackedToInt8Tensor(codes, scales, zeros, DTYPES[scheme.bits], block, torch.float32, ACTIVATIONS)
