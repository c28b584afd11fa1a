"""The operations of a program, by MIL's names for them and for their parameters.

Floats arrive in fp32 and leave in fp32; whoever calls rounds them. (coremltools' documentation of MIL operations)
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

Operator = Callable[..., Tensor | Sequence[Tensor]]


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda x: function(x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda x, y: function(x, y)


def _ints(value: Tensor) -> list[int]:
    return [int(number) for number in value.reshape(-1)]


def _axes(axes: Tensor | None, x: Tensor) -> list[int]:
    """All of them where none is named."""
    return list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in _ints(axes)]


def clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return x.clamp(float(alpha), float(beta))


def cast(x: Tensor, dtype: str) -> Tensor:
    """By the declared type of its result; floats lose their fraction on the way to integers."""
    return x


def rsqrt(x: Tensor, epsilon: Tensor | float = 1e-12) -> Tensor:
    return torch.rsqrt(x + epsilon)


GELU = {"EXACT": "none", "TANH_APPROXIMATION": "tanh"}


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    return functional.gelu(x, approximate=GELU[mode])


def softmax(x: Tensor, axis: Tensor | int = -1) -> Tensor:
    return x.softmax(int(axis))


def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond, a, b)


# Products and sums


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.linear(x, weight, bias)


def matmul(x: Tensor, y: Tensor, transpose_x: Tensor | bool = False, transpose_y: Tensor | bool = False) -> Tensor:
    return (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    scores = query @ key.mT / query.shape[-1] ** 0.5
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1) @ value


def reduce_mean(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | bool = False) -> Tensor:
    return x.mean(_axes(axes, x), bool(keep_dims))


def reduce_sum(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | bool = False) -> Tensor:
    return x.sum(_axes(axes, x), bool(keep_dims))


def reduce_sum_square(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | bool = False) -> Tensor:
    return reduce_sum(x.square(), axes, keep_dims)


def reduce_max(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | bool = False) -> Tensor:
    return x.amax(_axes(axes, x), bool(keep_dims))


def layer_norm(
    x: Tensor, axes: Tensor | None = None, gamma: Tensor | None = None, beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:  # fmt: skip
    """`gamma` and `beta` have the sizes of the axes that are normalized."""
    over = _axes(axes, x)
    spread = [size if axis in over else 1 for axis, size in enumerate(x.shape)]
    centred = x - x.mean(over, True)
    normed = centred * torch.rsqrt(centred.square().mean(over, True) + epsilon)
    scaled = normed if gamma is None else normed * gamma.reshape(spread)
    return scaled if beta is None else scaled + beta.reshape(spread)


# Shapes


def concat(values: Sequence[Tensor], axis: Tensor, interleave: Tensor | bool = False) -> Tensor:
    if interleave:
        raise ValueError("interleaving is not supported")
    return torch.cat(list(values), int(axis))


def stack(values: Sequence[Tensor], axis: Tensor) -> Tensor:
    return torch.stack(list(values), int(axis))


def split(
    x: Tensor, axis: Tensor, num_splits: Tensor | None = None, split_sizes: Tensor | None = None
) -> Sequence[Tensor]:
    sizes = x.shape[int(axis)] // int(num_splits) if num_splits is not None else _ints(torch.as_tensor(split_sizes))
    return x.split(sizes, int(axis))


def reshape(x: Tensor, shape: Tensor) -> Tensor:
    return x.reshape(_ints(shape))


def transpose(x: Tensor, perm: Tensor) -> Tensor:
    return x.permute(_ints(perm))


def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    """Axes count in the result."""
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in _ints(axes)):
        x = x.unsqueeze(axis)
    return x


def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    """All axes of size 1 where none is named."""
    if axes is None:
        return x.squeeze()
    if any(x.shape[axis] != 1 for axis in _ints(axes)):
        raise ValueError(f"an axis of {_ints(axes)} is longer than 1")
    return x.squeeze(_ints(axes))


def tile(x: Tensor, reps: Tensor) -> Tensor:
    return x.repeat(_ints(reps))


# Parts


def _part(
    x: Tensor, begin: Tensor, end: Tensor, stride: Tensor | None = None, begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None, squeeze_mask: Tensor | None = None,
) -> tuple[slice | int, ...]:  # fmt: skip
    """An index like NumPy's. A mask frees a begin or end, or takes a single index and drops its axis."""
    starts, stops = _ints(begin), _ints(end)
    steps = _ints(stride) if stride is not None else [1] * x.ndim
    free, open_, single = (_flags(mask, x) for mask in (begin_mask, end_mask, squeeze_mask))
    return tuple(
        starts[i] * (not free[i]) if single[i]
        else slice(None if free[i] else starts[i], None if open_[i] else stops[i], steps[i])
        for i in range(x.ndim)
    )  # fmt: skip


def _flags(mask: Tensor | None, x: Tensor) -> list[bool]:
    return [False] * x.ndim if mask is None else [bool(flag) for flag in mask]


def slice_by_index(x: Tensor, begin: Tensor, end: Tensor, **options: Tensor) -> Tensor:
    return x[_part(x, begin, end, **options)]


def slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    """Size -1 reaches to the end."""
    starts = [start % length for start, length in zip(_ints(begin), x.shape, strict=True)]
    sizes = zip(starts, _ints(size), x.shape, strict=True)
    return x[tuple(slice(start, length if count == -1 else start + count) for start, count, length in sizes)]


def slice_update(x: Tensor, update: Tensor, begin: Tensor, end: Tensor, **options: Tensor) -> Tensor:
    part = _part(x, begin, end, **options)
    if x[part].shape != update.shape:
        raise ValueError(f"an update of {tuple(update.shape)} for a part of {tuple(x[part].shape)}")
    updated = x.clone()
    updated[part] = update
    return updated


def _inside(indices: Tensor, size: int) -> Tensor:
    """Core ML leaves open what others do, since iOS 17 negative ones too."""
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < size:
        raise ValueError(f"an index is outside of 0 .. {size - 1}")
    return indices.long()


def gather(
    x: Tensor, indices: Tensor, axis: Tensor | int = 0, batch_dims: Tensor | int = 0,
    validate_indices: Tensor | bool = False,
) -> Tensor:  # fmt: skip
    """The axis gives way to those of the indices."""
    if int(batch_dims):
        raise ValueError("batch_dims other than 0 are not supported")
    at = int(axis) % x.ndim
    found = x.index_select(at, _inside(indices, x.shape[at]).reshape(-1))
    return found.reshape(*x.shape[:at], *indices.shape, *x.shape[at + 1 :])


def gather_along_axis(
    x: Tensor, indices: Tensor, axis: Tensor | int = 0, validate_indices: Tensor | bool = False
) -> Tensor:
    return x.gather(int(axis), _inside(indices, x.shape[int(axis)]))


def scatter(
    data: Tensor, indices: Tensor, updates: Tensor, axis: Tensor | int = 0, mode: str = "update",
    validate_indices: Tensor | bool = False,
) -> Tensor:  # fmt: skip
    write = {"update": torch.index_copy, "add": torch.index_add}[mode]
    return write(data, int(axis), _inside(indices, data.shape[int(axis)]), updates)


OPERATORS: dict[str, Operator] = {
    "abs": _unary(torch.abs), "exp": _unary(torch.exp), "sqrt": _unary(torch.sqrt), "tanh": _unary(torch.tanh),
    "sigmoid": _unary(torch.sigmoid), "floor": _unary(torch.floor), "logical_not": _unary(torch.logical_not),
    "identity": _unary(lambda x: x),
    "add": _binary(torch.add), "sub": _binary(torch.sub), "mul": _binary(torch.mul),
    "real_div": _binary(torch.true_divide), "floor_div": _binary(torch.floor_divide), "pow": _binary(torch.pow),
    "maximum": _binary(torch.maximum), "minimum": _binary(torch.minimum), "equal": _binary(torch.eq),
    "not_equal": _binary(torch.ne), "less": _binary(torch.lt), "less_equal": _binary(torch.le),
    "greater": _binary(torch.gt), "greater_equal": _binary(torch.ge),
    "logical_and": _binary(torch.logical_and), "logical_or": _binary(torch.logical_or),
    **{
        function.__name__: function
        for function in (
            cast, clip, concat, expand_dims, gather, gather_along_axis, gelu, layer_norm, linear, matmul, reduce_max,
            reduce_mean, reduce_sum, reduce_sum_square, reshape, rsqrt, scaled_dot_product_attention, scatter, select,
            slice_by_index, slice_by_size, slice_update, softmax, split, squeeze, stack, tile, transpose,
        )
    },
}  # fmt: skip
