"""Weights of saved Core ML programs: decompressed here, and by coremltools before it wrote them."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.errors import UserError
from runtime.mil import Package
from runtime.mil.blobs import ALIGNMENT, BlobFile
from tests.mil_programs import IOS16, IOS18, Var, constant, function, mb, save, tensor, types, weight_file

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)
floats = st.sampled_from([np.float16, np.float32])
CODES = {"int4": types.np_int4_dtype, "uint4": types.np_uint4_dtype, "int8": np.dtype("i1"), "uint8": np.dtype("u1")}
RANGES = {"int4": (-8, 8), "uint4": (0, 16), "int8": (-128, 128), "uint8": (0, 256)}
INDICES = {1: types.np_uint1_dtype, 2: types.np_uint2_dtype, 3: types.np_uint3_dtype, 4: types.np_uint4_dtype,
           6: types.np_uint6_dtype, 8: np.dtype("u1")}  # fmt: skip


def expand(make: Callable[[], Var], dtype: Any, target: Any = IOS18) -> tuple[NDArray, NDArray]:
    """A compressed weight out of a saved program, and as coremltools expands it."""
    wanted: list[NDArray] = []

    def describe(inputs: Mapping[str, Var]) -> dict[str, Var]:
        weight = make()
        wanted.append(weight.op.materialized_val_inference())
        return {"out": mb.add(x=inputs["zero"], y=weight)}

    specs = {"zero": tensor(1, dtype=types.numpy_type_to_builtin_type(dtype))}
    with tempfile.TemporaryDirectory() as folder:
        path = save({"main": function(specs, describe, target)}, Path(folder) / "one.mlpackage", target)
        return Package(path).run("main", {"zero": np.zeros(1, dtype)})["out"], wanted[0]


def codes_of(dtype: str, shape: tuple[int, ...], seed: int) -> NDArray:
    values = np.random.default_rng(seed).integers(*RANGES[dtype], shape)
    return values.astype(np.int8 if dtype.startswith("i") else np.uint8).view(CODES[dtype])


@st.composite
def blocks(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Counts of blocks along each axis, a shape they divide. Few values stay in the program, odd ones are padded."""
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    return tuple(counts), tuple(count * draw(st.integers(1, 5)) for count in counts)


@pytest.mark.parametrize("dtype", CODES)
@quick
@given(blocks(), floats, st.booleans(), seeds)
def test_blocks(dtype: str, sizes: Any, scale: Any, shifted: bool, seed: int) -> None:
    counts, shape = sizes
    scales = (np.random.default_rng(seed).random(counts) + 0.1).astype(scale)
    offset = codes_of(dtype, counts, seed + 1) if shifted else None

    def make() -> Var:
        return mb.constexpr_blockwise_shift_scale(data=codes_of(dtype, shape, seed), scale=scales, offset=offset)

    found, wanted = expand(make, scale)
    assert found.shape == shape and np.array_equal(found, wanted)


@pytest.mark.parametrize("bits", INDICES)
@quick
@given(blocks(), floats, st.sampled_from([None, 0, -1]), seeds)
def test_palettes(bits: int, sizes: Any, dtype: Any, vector_axis: int | None, seed: int) -> None:
    counts, shape = sizes
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, 2**bits, shape).astype(np.uint8).view(INDICES[bits])
    lut = rng.normal(size=(*counts, 2**bits, 1 if vector_axis is None else 3)).astype(dtype)
    found, wanted = expand(lambda: mb.constexpr_lut_to_dense(indices=indices, lut=lut, vector_axis=vector_axis), dtype)
    assert found.shape == wanted.shape and np.array_equal(found, wanted)


@quick
@given(st.integers(1, 4), st.integers(1, 9), st.sampled_from(["int8", "uint8"]), st.integers(-2, 1), floats, seeds)
def test_affine(rows: int, columns: int, dtype: str, axis: int, scale: Any, seed: int) -> None:
    """As packages for iOS 16 and 17 hold them, with scales for each index along an axis."""
    data = codes_of(dtype, (rows, columns), seed)
    points = codes_of(dtype, (data.shape[axis],), seed + 1)
    scales = (np.random.default_rng(seed).random((data.shape[axis],)) + 0.1).astype(scale)

    def make() -> Var:
        return mb.constexpr_affine_dequantize(quantized_data=data, zero_point=points, scale=scales, axis=axis)

    found, wanted = expand(make, scale, IOS16)
    np.testing.assert_allclose(found, wanted, rtol=0 if scale is np.float32 else 2**-10)


@quick
@given(st.integers(1, 4), st.integers(1, 9), seeds)
def test_widened(rows: int, columns: int, seed: int) -> None:
    """fp16 that a product in fp32 takes."""
    halves = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float16)
    found, wanted = expand(lambda: mb.constexpr_cast(source_val=halves, output_dtype="fp32"), np.float32)
    np.testing.assert_array_equal(found, wanted)


def test_palettes_of_codes() -> None:
    """A table that is compressed itself."""
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 16, (8, 6)).astype(np.uint8).view(INDICES[4])
    entries = rng.integers(-128, 128, (2, 1, 16, 1)).astype(np.int8)
    scales = np.array([0.5, 0.25], np.float16).reshape(2, 1, 1, 1)

    def make() -> Var:
        lut = mb.constexpr_blockwise_shift_scale(data=entries, scale=scales)
        return mb.constexpr_lut_to_dense(indices=indices, lut=lut)

    built = function({"zero": tensor(1)}, lambda inputs: {"out": mb.add(x=inputs["zero"], y=make())})
    with tempfile.TemporaryDirectory() as folder:
        found = Package(save({"main": built}, Path(folder) / "a.mlpackage")).run("main", {"zero": np.zeros(1, "f2")})
    dense = entries[..., 0] * scales[..., 0]
    assert np.array_equal(found["out"], dense[np.arange(8)[:, None] // 4, 0, indices])


# The file


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """An int4 weight [16, 64] in two functions."""
    codes = codes_of("int4", (16, 64), 0)
    scales = np.linspace(0.5, 1, 32, dtype=np.float16).reshape(16, 2)

    def describe(inputs: Mapping[str, Var]) -> dict[str, Var]:
        stored = constant(codes, "w_codes"), constant(scales, "w_scales")
        weight = mb.constexpr_blockwise_shift_scale(data=stored[0], scale=stored[1], name="w")
        return {"y": mb.linear(x=inputs["x"], weight=weight)}

    functions = {name: function({"x": tensor(rows, 64)}, describe) for name, rows in (("one", 1), ("two", 2))}
    return save(functions, tmp_path / "two.mlpackage")


def test_entries(package: Path) -> None:
    """The functions share codes and scales; the bias of each linear is coremltools' own."""
    entries = list(BlobFile(weight_file(package)).entries())
    assert [(entry.dtype, entry.size) for entry in entries[:2]] == [("int4", 16 * 32), ("float16", 16 * 2 * 2)]
    assert all(entry.start % ALIGNMENT == 0 for entry in entries)


@pytest.mark.parametrize("budget", [0, 16 * 64 * 4, 1 << 20])
def test_weights_are_kept_within_a_budget(package: Path, budget: int) -> None:
    x = np.linspace(-1, 1, 128, dtype=np.float16).reshape(2, 64)
    opened = Package(package, budget=budget)
    for _ in range(2):
        both, one = opened.run("two", {"x": x})["y"], opened.run("one", {"x": x[1:]})["y"]
        np.testing.assert_allclose(one, both[1:], rtol=1e-3, atol=1e-3)
    assert sum(kept.nbytes for kept in opened._constants._kept.values()) <= budget
    assert opened._constants._kept or not budget


def damage(path: Path, offset: int, new: bytes) -> None:
    stored = bytearray(path.read_bytes())
    stored[offset : offset + len(new)] = new
    path.write_bytes(stored)


@pytest.mark.parametrize(
    ("offset", "new", "reason"),
    [(4, b"\3", "format 3"), (64, b"\0", "no array at 64"), (68, b"\5", "unknown dtype, 5"),
     (68, b"\4", "the program expects 1024 values of int4"), (72, b"\0\0\1", "cut short"), (72, b"\1", "513 bytes")],
)  # fmt: skip
def test_damaged_files_are_named(package: Path, offset: int, new: bytes, reason: str) -> None:
    damage(weight_file(package), offset, new)
    with pytest.raises(UserError, match=reason):
        Package(package).run("one", {"x": np.ones((1, 64), np.float16)})


def test_a_missing_file_is_named(package: Path) -> None:
    weight_file(package).unlink()
    with pytest.raises(UserError, match=r"weight\.bin is missing"):
        Package(package).run("one", {"x": np.ones((1, 64), np.float16)})


def test_control_a_flipped_nibble_changes_the_result(package: Path) -> None:
    x = {"x": np.ones((1, 64), np.float16)}
    before = Package(package).run("one", x)["y"]
    stored = weight_file(package).read_bytes()
    damage(weight_file(package), 128, bytes([stored[128] ^ 1]))
    after = Package(package).run("one", x)["y"]
    assert np.array_equal(before != after, [[True] + [False] * 15])
