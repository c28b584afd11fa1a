"""Compressed weights, expanded: the `constexpr` operations of a program, on fp32 values and integer codes."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor


def blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """scale * (data - offset), each scale for a block of equal size along every axis."""
    blocks = [size for total, count in zip(data.shape, scale.shape, strict=True) for size in (count, total // count)]
    spread = [size for count in scale.shape for size in (count, 1)]
    codes = data.reshape(blocks)
    shifted = codes if offset is None else codes - offset.float().reshape(spread)
    return (shifted * scale.reshape(spread)).reshape(data.shape)


def lut_to_dense(indices: Tensor, lut: Tensor, vector_axis: Tensor | None = None) -> Tensor:
    """
    Args:
        indices: int [...], into the table of their block.
        lut: [..., palettes, vector]; as many tables along each axis of `indices` as its size there says.
        vector_axis: along which the values of an entry follow each other; needed if there are several.
    """
    found = lut[(*_blocks(indices.shape, lut.shape[:-2]), indices.long())]
    if vector_axis is None:
        return found[..., 0]
    axis = int(vector_axis) % indices.ndim
    return found.movedim(-1, axis + 1).flatten(axis, axis + 1)


def _blocks(shape: Sequence[int], counts: Sequence[int]) -> Iterator[Tensor]:
    """Index of the block along each axis, ready to broadcast."""
    for axis, (size, count) in enumerate(zip(shape, counts, strict=True)):
        yield _along(torch.arange(size) // (size // count), axis, len(shape))


def _along(values: Tensor, axis: int, rank: int) -> Tensor:
    """A number, or [n] as [1, .., n, .., 1]."""
    return values.reshape([-1 if other == axis % rank else 1 for other in range(rank)])


def affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: Tensor) -> Tensor:
    """scale * (data - zero point), both a number or one for each index along the axis. Of iOS 16."""
    shift, factor = (_along(part.float(), int(axis), quantized_data.ndim) for part in (zero_point, scale))
    return (quantized_data.float() - shift) * factor


def widened(source_val: Tensor, output_dtype: str) -> Tensor:
    """As it is: its declared type says the rest. Of iOS 16."""
    return source_val


DECOMPRESSIONS: dict[str, Callable[..., Tensor]] = {
    "constexpr_blockwise_shift_scale": blockwise_shift_scale,
    "constexpr_lut_to_dense": lut_to_dense,
    "constexpr_affine_dequantize": affine_dequantize,
    "constexpr_cast": widened,
}
