"""Each operation of a saved Core ML program against torch, over shapes and dtypes."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, mutually_broadcastable_shapes
from numpy.typing import NDArray
from torch.nn import functional

from runtime.mil import Package
from runtime.mil.operators import OPERATORS
from tests.mil_programs import Var, function, mb, save, tensor, types

quick = settings(max_examples=12, deadline=None)
TOLERANCES = {"float16": 2e-3, "float32": 1e-5}  # relative: two roundings, and sums in another order
FLOATS = st.sampled_from([np.float16, np.float32])
SEEDS = st.integers(0, 2**32 - 1)
tested: set[str] = set()  # operations


def run(describe: Callable[..., Var], *inputs: NDArray) -> NDArray:
    """By a saved program of one operation; `describe` gets the inputs in order."""
    names = [f"x{i}" for i in range(len(inputs))]
    specs = {name: tensor(*array.shape, dtype=types.numpy_type_to_builtin_type(array.dtype))
             for name, array in zip(names, inputs, strict=True)}  # fmt: skip
    built = function(specs, lambda found: {"out": describe(*(found[name] for name in names))})
    with tempfile.TemporaryDirectory() as folder:
        package = Package(save({"main": built}, Path(folder) / "one.mlpackage"))
        tested.update(operation.type for operation in package.functions["main"].operations)
        return package.run("main", dict(zip(names, inputs, strict=True)))["out"]


def agree(found: NDArray, wanted: torch.Tensor, dtype: Any) -> None:
    """`wanted` was computed in fp64; what the type has no number for is infinite."""
    tolerance, values = TOLERANCES[np.dtype(dtype).name], wanted.double().numpy()
    assert found.dtype == dtype
    values = np.where(np.abs(values) > np.finfo(dtype).max, np.copysign(np.inf, values), values)
    np.testing.assert_allclose(found.astype(np.float64), values, rtol=tolerance, atol=tolerance)


def random(shape: Sequence[int], dtype: Any, seed: int, scale: float = 1.0) -> NDArray:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(dtype)


def wide(array: NDArray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64))


# One value after another


def test_too_large_for_fp16() -> None:
    """exp(12) is 162755; the largest number of fp16 is 65504."""
    x = np.array([12, 11], np.float16)
    agree(run(lambda x: mb.exp(x=x), x), torch.exp(wide(x)), np.float16)


UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "exp": torch.exp, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "abs": torch.abs, "floor": torch.floor,
    "identity": lambda x: x,
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
@quick
@given(array_shapes(max_dims=4, max_side=4), FLOATS, SEEDS)
def test_unary(name: str, shape: tuple[int, ...], dtype: Any, seed: int) -> None:
    x = random(shape, dtype, seed, 3)
    agree(run(lambda x: getattr(mb, name)(x=x), x), UNARY[name](wide(x)), dtype)


@quick
@given(array_shapes(max_dims=4, max_side=4), FLOATS, SEEDS)
def test_roots(shape: tuple[int, ...], dtype: Any, seed: int) -> None:
    x = np.abs(random(shape, dtype, seed)) + dtype(0.1)
    agree(run(lambda x: mb.sqrt(x=x), x), wide(x).sqrt(), dtype)
    agree(run(lambda x: mb.rsqrt(x=x, epsilon=dtype(0.5)), x), (wide(x) + 0.5).rsqrt(), dtype)


@pytest.mark.parametrize("mode, approximate", [("EXACT", "none"), ("TANH_APPROXIMATION", "tanh")])
@quick
@given(array_shapes(max_dims=3, max_side=5), FLOATS, SEEDS)
def test_gelu(mode: str, approximate: str, shape: tuple[int, ...], dtype: Any, seed: int) -> None:
    x = random(shape, dtype, seed, 3)
    agree(run(lambda x: mb.gelu(x=x, mode=mode), x), functional.gelu(wide(x), approximate=approximate), dtype)


BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "real_div": torch.div, "maximum": torch.maximum,
    "minimum": torch.minimum, "floor_div": lambda x, y: (x / y).floor(), "pow": torch.pow,
}  # fmt: skip


@pytest.mark.parametrize("name", BINARY)
@quick
@given(mutually_broadcastable_shapes(num_shapes=2, min_dims=1, max_dims=3, max_side=4), FLOATS, SEEDS)
def test_binary(name: str, shapes: Any, dtype: Any, seed: int) -> None:
    x, y = (np.abs(random(shape, dtype, seed + i)) + dtype(0.3) for i, shape in enumerate(shapes.input_shapes))
    agree(run(lambda x, y: getattr(mb, name)(x=x, y=y), x, y), BINARY[name](wide(x), wide(y)), dtype)


COMPARISONS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "equal": torch.eq, "not_equal": torch.ne, "less": torch.lt, "less_equal": torch.le, "greater": torch.gt,
    "greater_equal": torch.ge,
}  # fmt: skip


@pytest.mark.parametrize("name", COMPARISONS)
@quick
@given(mutually_broadcastable_shapes(num_shapes=2, min_dims=1, max_dims=3, max_side=4), SEEDS)
def test_comparisons(name: str, shapes: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(0, 3, shape, dtype=np.int32) for shape in shapes.input_shapes)
    found = run(lambda x, y: mb.cast(x=getattr(mb, name)(x=x, y=y), dtype="int32"), x, y)
    assert np.array_equal(found, COMPARISONS[name](torch.from_numpy(x), torch.from_numpy(y)).int().numpy())


@quick
@given(array_shapes(max_dims=3, max_side=4), SEEDS)
def test_logic_and_select(shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(0, 2, shape, dtype=np.int32) for _ in range(2))

    def describe(x: Var, y: Var) -> Var:
        a, b = mb.cast(x=x, dtype="bool"), mb.cast(x=y, dtype="bool")
        both, either = mb.logical_and(x=a, y=b), mb.logical_or(x=mb.logical_not(x=a), y=b)
        return mb.select(cond=both, a=mb.cast(x=either, dtype="int32"), b=np.int32(7))

    assert np.array_equal(run(describe, x, y), np.where(x & y, (1 - x) | y, 7))


@quick
@given(array_shapes(max_dims=3, max_side=4), FLOATS, SEEDS)
def test_cast_and_clip(shape: tuple[int, ...], dtype: Any, seed: int) -> None:
    x = random(shape, dtype, seed, 5)
    assert np.array_equal(run(lambda x: mb.cast(x=x, dtype="int32"), x), np.trunc(x).astype(np.int32))
    assert np.array_equal(run(lambda x: mb.cast(x=x, dtype="fp16"), x), x.astype(np.float16))
    agree(run(lambda x: mb.clip(x=x, alpha=dtype(-1.5), beta=dtype(2)), x), wide(x).clamp(-1.5, 2), dtype)


# Sums and products


REDUCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "reduce_mean": torch.mean, "reduce_sum": torch.sum, "reduce_max": torch.amax,
    "reduce_sum_square": lambda x, axes, keep: x.square().sum(axes, keep),
}  # fmt: skip


@pytest.mark.parametrize("name", REDUCTIONS)
@quick
@given(st.data(), array_shapes(min_dims=2, max_dims=4, max_side=4), FLOATS, st.booleans(), SEEDS)
def test_reductions(name: str, data: Any, shape: tuple[int, ...], dtype: Any, keep: bool, seed: int) -> None:
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, max_size=len(shape) - 1, unique=True))
    signed = [axis - len(shape) if data.draw(st.booleans()) else axis for axis in axes]
    x = random(shape, dtype, seed)
    found = run(lambda x: getattr(mb, name)(x=x, axes=signed, keep_dims=keep), x)
    agree(found, REDUCTIONS[name](wide(x), axes, keep), dtype)


@quick
@given(st.data(), array_shapes(min_dims=2, max_dims=4, max_side=5), FLOATS, SEEDS)
def test_softmax(data: Any, shape: tuple[int, ...], dtype: Any, seed: int) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = random(shape, dtype, seed, 4)
    agree(run(lambda x: mb.softmax(x=x, axis=axis), x), wide(x).softmax(axis), dtype)


@quick
@given(st.integers(1, 2), array_shapes(min_dims=3, max_dims=4, min_side=2, max_side=5), FLOATS, st.booleans(), SEEDS)
def test_layer_norm(count: int, shape: tuple[int, ...], dtype: Any, scaled: bool, seed: int) -> None:
    x = random(shape, dtype, seed, 2)
    gamma, beta = (random(shape[-count:], dtype, seed + i) if scaled else None for i in (1, 2))

    def describe(x: Var) -> Var:
        return mb.layer_norm(x=x, axes=list(range(-count, 0)), gamma=gamma, beta=beta, epsilon=dtype(0.01))

    weight, bias = (None if part is None else wide(part) for part in (gamma, beta))
    wanted = functional.layer_norm(wide(x), shape[-count:], weight, bias, float(dtype(0.01)))
    agree(run(describe, x), wanted, dtype)


@quick
@given(array_shapes(min_dims=1, max_dims=3, max_side=6), st.integers(1, 5), FLOATS, st.booleans(), SEEDS)
def test_linear(shape: tuple[int, ...], rows: int, dtype: Any, biased: bool, seed: int) -> None:
    x, weight = random(shape, dtype, seed), random((rows, shape[-1]), dtype, seed + 1)
    bias = random((rows,), dtype, seed + 2) if biased else None
    wanted = functional.linear(wide(x), wide(weight), None if bias is None else wide(bias))
    agree(run(lambda x: mb.linear(x=x, weight=weight, bias=bias), x), wanted, dtype)


@quick
@given(st.tuples(*[st.integers(1, 4)] * 5), st.booleans(), st.booleans(), FLOATS, SEEDS)
def test_matmul(sizes: tuple[int, ...], flip_x: bool, flip_y: bool, dtype: Any, seed: int) -> None:
    outer, batch, rows, inner, columns = sizes
    x = random((1, batch, *((inner, rows) if flip_x else (rows, inner))), dtype, seed)
    y = random((outer, batch, *((columns, inner) if flip_y else (inner, columns))), dtype, seed + 1)
    wanted = (wide(x).mT if flip_x else wide(x)) @ (wide(y).mT if flip_y else wide(y))
    agree(run(lambda x, y: mb.matmul(x=x, y=y, transpose_x=flip_x, transpose_y=flip_y), x, y), wanted, dtype)


@pytest.mark.parametrize("mask", ["none", "float", "bool"])
@quick
@given(st.tuples(*[st.integers(1, 4)] * 4), FLOATS, SEEDS)
def test_attention(mask: str, sizes: tuple[int, ...], dtype: Any, seed: int) -> None:
    heads, queries, keys, width = sizes
    q, k, v = (random((1, heads, n, width), dtype, seed + i) for i, n in enumerate((queries, keys, keys)))
    added = random((1, 1, queries, keys), dtype, seed + 3)
    added[..., 0] = 1  # something is always seen
    seen = wide(added) > 0

    def describe(q: Var, k: Var, v: Var, added: Var) -> Var:
        given = {"none": None, "float": added, "bool": mb.greater(x=added, y=dtype(0))}[mask]
        return mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=given)

    wanted = functional.scaled_dot_product_attention(
        wide(q), wide(k), wide(v), {"none": None, "float": wide(added), "bool": seen}[mask]
    )
    agree(run(describe, q, k, v, added), wanted, dtype)


# Shapes, parts and places: exact, and the same for all dtypes


@quick
@given(st.data(), array_shapes(min_dims=2, max_dims=4, max_side=4), FLOATS, SEEDS)
def test_shapes(data: Any, shape: tuple[int, ...], dtype: Any, seed: int) -> None:
    x, rank = random(shape, dtype, seed), len(shape)
    perm = data.draw(st.permutations(range(rank)))
    axis = data.draw(st.integers(-rank, rank - 1))
    reps = data.draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    same = np.array_equal
    assert same(run(lambda x: mb.transpose(x=x, perm=perm), x), x.transpose(perm))
    assert same(run(lambda x: mb.reshape(x=x, shape=[shape[-1], -1]), x), x.reshape(shape[-1], -1))
    assert same(run(lambda x: mb.expand_dims(x=x, axes=[axis]), x), np.expand_dims(x, axis))
    assert same(run(lambda x: mb.squeeze(x=mb.expand_dims(x=x, axes=[axis]), axes=[axis]), x), x)
    assert same(run(lambda x: mb.tile(x=x, reps=reps), x), np.tile(x, reps))
    assert same(run(lambda x: mb.concat(values=[x, x, x], axis=axis), x), np.concatenate([x, x, x], axis))
    assert same(run(lambda x: mb.stack(values=[x, x], axis=axis), x), np.stack([x, x], axis))


@quick
@given(st.data(), array_shapes(min_dims=1, max_dims=3, max_side=3), FLOATS, SEEDS)
def test_split(data: Any, shape: tuple[int, ...], dtype: Any, seed: int) -> None:
    """In equal parts and in others."""
    axis = data.draw(st.integers(0, len(shape) - 1))
    x = np.repeat(random(shape, dtype, seed), 4, axis)
    sizes = [1, x.shape[axis] - 1]
    second = np.split(x, 2, axis)[1]
    assert np.array_equal(run(lambda x: mb.split(x=x, num_splits=2, axis=axis)[1], x), second)
    rest = np.split(x, [1], axis)[1]
    assert np.array_equal(run(lambda x: mb.split(x=x, split_sizes=sizes, axis=axis)[1], x), rest)


@st.composite
def parts(draw: st.DrawFn) -> tuple[tuple[int, ...], dict[str, list[Any]], tuple[Any, ...]]:
    """A shape, parameters of a slice, and NumPy's index for it."""
    shape = draw(array_shapes(min_dims=2, max_dims=4, max_side=5))
    ranges = [draw(st.tuples(st.integers(0, n - 1), st.integers(1, n)).filter(lambda r: r[0] < r[1])) for n in shape]
    begin = [start - n if draw(st.booleans()) else start for (start, _), n in zip(ranges, shape, strict=True)]
    end = [stop - n if stop < n and draw(st.booleans()) else stop for (_, stop), n in zip(ranges, shape, strict=True)]
    stride = [draw(st.integers(1, 2)) for _ in shape]
    flags = st.lists(st.booleans(), min_size=len(shape), max_size=len(shape))
    free, open_ = draw(flags), draw(flags)
    single = [False, *draw(flags)[1:]]
    index = tuple(
        (0 if free[i] else begin[i]) if single[i]
        else slice(None if free[i] else begin[i], None if open_[i] else end[i], stride[i])
        for i in range(len(shape))
    )  # fmt: skip
    masks = {"begin_mask": free, "end_mask": open_, "squeeze_mask": single}
    return shape, {"begin": begin, "end": end, "stride": stride, **masks}, index


@settings(max_examples=40, deadline=None)
@given(parts(), FLOATS, SEEDS)
def test_parts(part: Any, dtype: Any, seed: int) -> None:
    shape, options, index = part
    x = random(shape, dtype, seed)
    assert np.array_equal(run(lambda x: mb.slice_by_index(x=x, **options), x), x[index])
    update = random(x[index].shape, dtype, seed + 1)
    wanted = x.copy()
    wanted[index] = update
    assert np.array_equal(run(lambda x, update: mb.slice_update(x=x, update=update, **options), x, update), wanted)


@quick
@given(st.data(), array_shapes(min_dims=1, max_dims=3, max_side=5), FLOATS, SEEDS)
def test_slice_by_size(data: Any, shape: tuple[int, ...], dtype: Any, seed: int) -> None:
    begin = [data.draw(st.integers(0, n - 1)) for n in shape]
    size = [data.draw(st.sampled_from([-1, 1, n - start])) for start, n in zip(begin, shape, strict=True)]
    index = tuple(slice(b, None if s == -1 else b + s) for b, s in zip(begin, size, strict=True))
    x = random(shape, dtype, seed)
    assert np.array_equal(run(lambda x: mb.slice_by_size(x=x, begin=begin, size=size), x), x[index])


@quick
@given(st.data(), array_shapes(min_dims=2, max_dims=3, max_side=5), FLOATS, SEEDS)
def test_places(data: Any, shape: tuple[int, ...], dtype: Any, seed: int) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    rng, x = np.random.default_rng(seed), random(shape, dtype, seed)
    indices = rng.permutation(shape[axis])[: data.draw(st.integers(1, shape[axis]))].astype(np.int32)
    found = run(lambda x, indices: mb.gather(x=x, indices=indices, axis=axis), x, indices)
    assert np.array_equal(found, x.take(indices, axis))
    along = rng.integers(0, shape[axis], shape, dtype=np.int32)
    found = run(lambda x, along: mb.gather_along_axis(x=x, indices=along, axis=axis), x, along)
    assert np.array_equal(found, np.take_along_axis(x, along, axis))
    updates = random(x.take(indices, axis).shape, dtype, seed + 1)
    for mode in ("update", "add"):
        wanted = x.copy()
        place: Any = (*[slice(None)] * axis, indices)
        wanted[place] = updates if mode == "update" else wanted[place] + updates

        def describe(x: Var, indices: Var, updates: Var, mode: str = mode) -> Var:
            return mb.scatter(data=x, indices=indices, updates=updates, axis=axis, mode=mode)

        assert np.array_equal(run(describe, x, indices, updates), wanted)


def test_every_operation_was_tested() -> None:
    """Runs last in this file."""
    if len(tested) > 30:  # not when tests were selected
        assert OPERATORS.keys() <= tested
