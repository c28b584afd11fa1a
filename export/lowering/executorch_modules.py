"""The four methods of a `.pte`, made of the descriptions: what ExecuTorch's multimodal runner calls.

The runner hands embeddings from one method to the next and knows nothing of image blocks, so embeddings carry them:
one more channel, 1 inside an image and 0 elsewhere.
"""

from collections.abc import Callable
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.config import Audio, Image, Text
from export.graph.decoder import decode, embed_tokens
from export.graph.embedders import embed_audio, embed_image
from export.graph.vocabulary import weights_of
from export.lowering.executorch_ops import ExecutorchOps, Loader
from export.lowering.torch_modules import ParameterTree
from export.lowering.torch_ops import Step, new_caches
from export.weights import KvScales


class Method(nn.Module):
    """A module that owns the weights of its description."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.weights = ParameterTree(tensors)

    def ops(self, step: Step | None = None) -> ExecutorchOps:
        return ExecutorchOps(self.weights.find, step)


def _tensors(loader: Loader, description: Callable[..., Any], *arguments: Any) -> dict[str, Tensor]:
    return {name: loader.linear(name) for name in weights_of(description, *arguments)}


class TokenEmbedding(Method):
    """`token_embedding`"""

    def __init__(self, text: Text, loader: Loader) -> None:
        super().__init__(loader.embedding(f"{text.embedding}.weight"))
        self.text = text

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [1, T] -> [1, T, hidden + 1]"""
        return _flag(embed_tokens(self.ops(), ids, self.text), 0)


class VisionEncoder(Method):
    """`vision_encoder`"""

    def __init__(self, image: Image, loader: Loader) -> None:
        tensors, table = _tensors(loader, embed_image, None, None, image), f"{image.name}.pos_embedding"
        super().__init__(tensors | {table: _narrowed(tensors[table])})
        self.image = image

    def forward(self, pixels: Tensor) -> Tensor:
        """[1, 3, height, width] in 0..1, sides multiples of a patch's -> [1, T, hidden + 1], row by row"""
        side = patch_side(self.image)
        rows, columns = pixels.shape[2] // side, pixels.shape[3] // side
        patches = pixels.reshape(3, rows, side, columns, side).permute(1, 3, 2, 4, 0)
        patches = patches.reshape(1, rows * columns, self.image.patch_values)
        y, x = torch.arange(rows)[:, None].expand(rows, columns), torch.arange(columns).expand(rows, columns)
        cells = torch.stack((x, y), -1).reshape(1, rows * columns, 2)
        return _flag(embed_image(self.ops(), patches, cells, self.image), 1)


def _narrowed(table: Tensor) -> Tensor:
    """fp32 -> bf16 where it holds the table, whose rows are widened when they have been looked up."""
    narrow = table.bfloat16()
    return narrow if torch.equal(narrow.float(), table) else table


def patch_side(image: Image) -> int:
    """Pixels along a side of what becomes one soft token."""
    return isqrt(image.patch_values // 3)


class AudioEncoder(Method):
    """`audio_encoder`"""

    def __init__(self, audio: Audio, loader: Loader) -> None:
        super().__init__(_tensors(loader, embed_audio, None, audio))
        self.audio = audio

    def forward(self, frames: Tensor) -> Tensor:
        """[1, T, samples] of raw waveform -> [1, T, hidden + 1]"""
        return _flag(embed_audio(self.ops(), frames, self.audio), 0)


class TextDecoder(Method):
    """`text_decoder`"""

    def __init__(
        self, text: Text, loader: Loader, max_context: int, max_step: int, kv_scales: KvScales | None = None
    ) -> None:
        super().__init__(_tensors(loader, decode, None, text))
        self.text = text
        self.caches = new_caches(text, max_context, max_step, kv_scales)

    def forward(self, embeds: Tensor, positions: Tensor) -> Tensor:
        """[1, T, hidden + 1], int64 [T] -> logits after the last position, [1, 1, vocabulary]"""
        inside = embeds[0, :, -1].long()
        blocks = torch.where(inside > 0, (1 - inside).cumsum(0), -1)  # text before a block counts the blocks apart
        step = Step(positions, blocks, self.caches, last_only=True)
        return decode(self.ops(step), embeds[..., :-1], self.text)


def _flag(embeds: Tensor, value: float) -> Tensor:
    """[1, T, hidden] -> [1, T, hidden + 1]"""
    return F.pad(embeds, (0, 1), value=value)
