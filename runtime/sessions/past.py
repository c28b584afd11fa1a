"""What transformers' model remembers of one sequence: its tokens, keys and values, rounded as an engine rounds them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.scratch import scratch

Scales = Mapping[int, tuple[float, float]]  # of int8 keys and values, by layer
Round = Callable[[Tensor], Tensor]
IMAGE_KIND, VIDEO_KIND = 1, 2  # in mm_token_type_ids


class Past:
    """Of one sequence, empty at first."""

    def __init__(self, config: Any, kv_scales: Scales | None = None, half_cache: bool = False) -> None:
        """
        Args:
            config: of the whole model.
            kv_scales: step of int8 keys and values, by layer.
            half_cache: keys and values are fp16.
        """
        from transformers import DynamicCache

        self.config = config
        self.ids = np.zeros(0, np.int64)
        self.cache = DynamicCache(config=config)
        if kv_scales:
            for index, layer in enumerate(self.cache.layers):
                _round_cache(layer, *(partial(to_int8_steps, scale=scale) for scale in kv_scales[index]))
        elif half_cache:
            for layer in self.cache.layers:
                _round_cache(layer, to_half, to_half)

    def extend(self, ids: NDArray[np.int64]) -> dict[str, Any]:
        """Appends tokens, before a model has seen them; returns its masks and position_ids."""
        self.ids = np.concatenate([self.ids, ids])
        positions = torch.arange(len(self.ids) - len(ids), len(self.ids))[None]
        return {"attention_mask": self._masks(positions), "position_ids": positions}

    def compact(self, index: int) -> None:
        """Frees what a sliding layer's cache no longer shows, as its tensors are views of all that went in, and lets a
        file back the rest: keys and values of many sequences are more than a layer's weights."""
        layer = self.cache.layers[index]
        layer.keys, layer.values = _in_file(layer.keys), _in_file(layer.values)

    def _masks(self, positions: Tensor) -> dict[str, Tensor]:
        """Those of generate(): image blocks see all of themselves in sliding layers only.

        forward(mm_token_type_ids=...) would open them in full layers too, which the model was not made for.
        """
        from transformers import Gemma4UnifiedForConditionalGeneration
        from transformers.masking_utils import create_masks_for_generate

        config, common = self.config, (torch.empty(1, positions.shape[1], 1), None, self.cache, positions)
        if not hasattr(config, "image_token_id"):  # a text model
            return create_masks_for_generate(config, *common)
        kinds = IMAGE_KIND * (self.ids == config.image_token_id) + VIDEO_KIND * (self.ids == config.video_token_id)
        return Gemma4UnifiedForConditionalGeneration.create_masks_for_generate(
            config, *common,
            mm_token_type_ids=torch.from_numpy(kinds)[None],  # of the whole sequence: masks look them up by position
        )  # fmt: skip


def _round_cache(layer: Any, round_keys: Round, round_values: Round) -> None:
    """Makes the cache layer round keys and values as they come in."""
    update = layer.update

    def rounding_update(keys: Tensor, values: Tensor, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        return update(round_keys(keys), round_values(values), *arguments, **options)

    layer.update = rounding_update


def _in_file(x: Tensor) -> Tensor:
    """A copy in a nameless temporary file."""
    return torch.from_numpy(scratch(1, x.nbytes // 4))[0].view(x.dtype).view(x.shape).copy_(x)


def to_int8_steps(x: Tensor, scale: float) -> Tensor:
    """clamp(round(x / scale), -128, 127) * scale, ONNX Runtime's GroupQueryAttention with PER_TENSOR scales."""
    return (x / scale).round().clamp(-128, 127) * scale


def to_half(x: Tensor) -> Tensor:
    """The nearest fp16, in the dtype of x."""
    return x.half().to(x.dtype)
