"""The functions of an `.aimodel`, made of the descriptions: traced by torch, then converted to Core AI."""

from collections.abc import Callable, Sequence
from typing import Any

import coreai_torch._compression.custom_layers  # noqa: F401  registers torch.ops.coreai
import torch
from torch import Tensor, nn

from export.config import Audio, Image, Text
from export.graph.decoder import decode, embed_tokens
from export.graph.embedders import embed_audio, embed_image
from export.graph.vocabulary import weights_of
from export.lowering.executorch_modules import ParameterTree
from export.lowering.executorch_ops import DTYPES, scales_of
from export.lowering.torch_ops import Step, TorchOps, new_caches
from export.schemes import unpack
from export.weights import KvScales, Packed, Weights


class CoreaiOps(TorchOps):
    """Vocabulary[Tensor]"""

    def layer_norm(self, x: Tensor, module: str, eps: float) -> Tensor:
        """Centred twice: the engine adds up fp32 values one by one, so that its mean is off by 1e-6, which is a lot in
        patches of nearly one colour; the mean of what is left puts that right.
        """
        centred = x - x.mean(-1, keepdim=True)
        centred = centred - centred.mean(-1, keepdim=True)
        scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
        return centred * scale * self.weight(f"{module}.weight") + self.weight(f"{module}.bias")


class PackedTree(ParameterTree):
    """Weights under their own names; of packed ones the codes, with their scales beside."""

    def __init__(self, weights: Weights, names: Sequence[str]) -> None:
        found = {name: packed for name in names if (packed := weights.packed(name))}
        tensors = {name: torch.from_numpy(weights.dense(name)) for name in names if name not in found}
        for name, packed in found.items():
            tensors |= {name: _codes(packed), scales_of(name): torch.from_numpy(packed.scales)}
        super().__init__(tensors)
        self._dtypes = {name: DTYPES[packed.scheme.bits] for name, packed in found.items()}

    def find(self, name: str) -> Tensor:
        """fp32. The operator becomes Core AI's blockwise_shift_scale; without a dtype its converter would guess the
        width of codes from their range.
        """
        if name not in self._dtypes:
            return super().find(name)
        expand = torch.ops.coreai.constexpr_blockwise_shift_scale
        return expand(super().find(name), super().find(scales_of(name)), input_dtype=self._dtypes[name])


def _codes(packed: Packed) -> Tensor:
    """int8 [out, in]"""
    return unpack(torch.from_numpy(packed.codes), packed.scheme)


class Function(nn.Module):
    """A module that owns the weights of its description."""

    def __init__(self, weights: Weights, description: Callable[..., Any], *arguments: Any) -> None:
        super().__init__()
        self.weights = PackedTree(weights, weights_of(description, *arguments))

    def ops(self, step: Step | None = None) -> CoreaiOps:
        return CoreaiOps(self.weights.find, step)


class TokenEmbedding(Function):
    """`embedding`"""

    def __init__(self, text: Text, weights: Weights) -> None:
        super().__init__(weights, embed_tokens, None, text)
        self.text = text

    def forward(self, ids: Tensor) -> Tensor:
        """int [1, T] -> [1, T, hidden]"""
        return embed_tokens(self.ops(), ids, self.text)


class ImageEmbedder(Function):
    """`vision`"""

    def __init__(self, image: Image, weights: Weights) -> None:
        super().__init__(weights, embed_image, None, None, image)
        self.image = image

    def forward(self, patches: Tensor, cells: Tensor) -> Tensor:
        """[1, T, patch_values] and int [1, T, 2] -> [1, T, hidden]"""
        return embed_image(self.ops(), patches, cells, self.image)


class AudioEmbedder(Function):
    """`speech`"""

    def __init__(self, audio: Audio, weights: Weights) -> None:
        super().__init__(weights, embed_audio, None, audio)
        self.audio = audio

    def forward(self, frames: Tensor) -> Tensor:
        """[1, T, samples] -> [1, T, hidden]"""
        return embed_audio(self.ops(), frames, self.audio)


class TextDecoder(Function):
    """`decoder`. Its caches are buffers that it writes, which Core AI makes states of."""

    def __init__(
        self, text: Text, weights: Weights, max_context: int, max_step: int, kv_scales: KvScales | None
    ) -> None:
        super().__init__(weights, decode, None, text)
        self.text = text
        self.caches = new_caches(text, max_context, max_step, kv_scales)

    def forward(self, embeds: Tensor, positions: Tensor, blocks: Tensor) -> Tensor:
        """[1, T, hidden], int [T], int [T] (-1: in no image) -> logits after the last position, [1, 1, vocabulary]"""
        return decode(self.ops(Step(positions, blocks, self.caches, last_only=True)), embeds, self.text)
