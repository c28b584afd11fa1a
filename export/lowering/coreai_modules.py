"""The functions of an `.aimodel`, made of the descriptions: traced by torch, then converted to Core AI."""

from collections.abc import Callable, Sequence
from typing import Any

import coreai_torch._compression.custom_layers  # noqa: F401  registers torch.ops.coreai
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.config import Audio, Image, Text
from export.graph.decoder import decode, embed_tokens
from export.graph.embedders import embed_audio, embed_image
from export.graph.vocabulary import weights_of
from export.lowering.torch_modules import DTYPES, ParameterTree, Sizes, scales_of
from export.lowering.torch_ops import Step, TorchOps, new_caches
from export.schemes import Scheme, unpack
from export.weights import Packed, Weights

Codes = Callable[[Packed], Tensor]  # of a quantized weight, as a function stores them


class PackedTree(ParameterTree):
    """Weights under their own names; of packed ones the codes, with their scales beside."""

    def __init__(self, weights: Weights, names: Sequence[str], codes: Codes) -> None:
        found = {name: packed for name in names if (packed := weights.packed(name))}
        tensors = {name: torch.from_numpy(weights.dense(name)) for name in names if name not in found}
        for name, packed in found.items():
            tensors |= {name: codes(packed), scales_of(name): torch.from_numpy(packed.scales)}
        super().__init__(tensors)
        self._schemes = {name: packed.scheme for name, packed in found.items()}

    def weight(self, name: str) -> Tensor:
        """fp32. The operator becomes Core AI's blockwise_shift_scale; without a dtype its converter would guess the
        width of codes from their range.
        """
        if name not in self._schemes:
            return self.find(name)
        dtype, expand = DTYPES[self._schemes[name].bits], torch.ops.coreai.constexpr_blockwise_shift_scale
        return expand(self.find(name), self.find(scales_of(name)), input_dtype=dtype)

    def rows(self, ids: Tensor, name: str) -> Tensor:
        """fp32 [1, T, width] of a table. Looked up and then expanded: the engine would expand the whole table."""
        rows = F.embedding(ids, self.find(name))
        if name not in self._schemes:
            return rows
        return _expand(rows.float(), F.embedding(ids, self.find(scales_of(name))), self._schemes[name])


def unpacked(packed: Packed) -> Tensor:
    """int8 [out, in], which the converter packs again"""
    return unpack(torch.from_numpy(packed.codes), packed.scheme)


def as_stored(packed: Packed) -> Tensor:
    """uint8 [out, in * bits / 8]"""
    return torch.from_numpy(packed.codes)


def _expand(packed: Tensor, scales: Tensor, scheme: Scheme) -> Tensor:
    """Bytes as fp32 [..., width * bits / 8] and their scales [..., groups] -> [..., width], exactly."""
    if scheme.bits == 4:
        high = (packed / 16).floor()
        packed = torch.stack((packed - high * 16, high), -1).flatten(-2)
    groups = (packed - scheme.offset).unflatten(-1, (scheme.groups(packed.shape[-1]), -1))
    return (groups * scales[..., None]).flatten(-2)


class CoreaiOps(TorchOps):
    """Vocabulary[Tensor]"""

    def __init__(self, weights: PackedTree, step: Step | None) -> None:
        super().__init__(weights.weight, step)
        self._weights = weights

    def embed(self, ids: Tensor, module: str) -> Tensor:
        return self._weights.rows(ids, f"{module}.weight")

    def layer_norm(self, x: Tensor, module: str, eps: float) -> Tensor:
        """Centred twice: the engine adds up fp32 values one by one, so that its mean is off by 1e-6, which is a lot in
        patches of nearly one colour; the mean of what is left puts that right.
        """
        centred = x - x.mean(-1, keepdim=True)
        centred = centred - centred.mean(-1, keepdim=True)
        scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
        return centred * scale * self.weight(f"{module}.weight") + self.weight(f"{module}.bias")


class FunctionModule(nn.Module):
    """A module that owns the weights of its description."""

    def __init__(
        self, weights: Weights, description: Callable[..., Any], *arguments: Any, codes: Codes = unpacked
    ) -> None:
        super().__init__()
        self.weights = PackedTree(weights, weights_of(description, *arguments), codes)

    def ops(self, step: Step | None = None) -> CoreaiOps:
        return CoreaiOps(self.weights, step)


class TokenEmbedding(FunctionModule):
    """`embedding`"""

    def __init__(self, text: Text, weights: Weights) -> None:
        super().__init__(weights, embed_tokens, None, text, codes=as_stored)
        self.text = text

    def forward(self, ids: Tensor) -> Tensor:
        """int [1, T] -> [1, T, hidden]"""
        return embed_tokens(self.ops(), ids, self.text)


class ImageEmbedder(FunctionModule):
    """`vision`"""

    def __init__(self, image: Image, weights: Weights) -> None:
        super().__init__(weights, embed_image, None, None, image)
        self.image = image

    def forward(self, patches: Tensor, cells: Tensor) -> Tensor:
        """[1, T, patch_values] and int [1, T, 2] -> [1, T, hidden]"""
        return embed_image(self.ops(), patches, cells, self.image)


class AudioEmbedder(FunctionModule):
    """`speech`"""

    def __init__(self, audio: Audio, weights: Weights) -> None:
        super().__init__(weights, embed_audio, None, audio)
        self.audio = audio

    def forward(self, frames: Tensor) -> Tensor:
        """[1, T, samples] -> [1, T, hidden]"""
        return embed_audio(self.ops(), frames, self.audio)


class TextDecoder(FunctionModule):
    """`decoder`. Its caches are buffers that it writes, which Core AI makes states of."""

    def __init__(self, text: Text, weights: Weights, sizes: Sizes) -> None:
        super().__init__(weights, decode, None, text)
        self.text = text
        self.caches = new_caches(text, sizes.context, sizes.step, sizes.kv_scales)

    def forward(self, embeds: Tensor, positions: Tensor, blocks: Tensor) -> Tensor:
        """[1, T, hidden], int [T], int [T] (-1: in no image) -> logits after the last position, [1, 1, vocabulary]"""
        return decode(self.ops(Step(positions, blocks, self.caches, last_only=True)), embeds, self.text)
