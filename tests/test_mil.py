"""Core ML packages, run without Core ML: rounding, states, functions, and what is refused."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.proto import MIL_pb2, Model_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.errors import UserError
from runtime.mil import Package
from tests.mil_programs import Var, function, mb, model_file, save, state, tensor, types

SLOTS, WIDTH = 8, 3


def cache(tokens: int) -> Any:
    """Writes rows into a state at a position, and gives the sum over all slots before and after."""

    def describe(inputs: Mapping[str, Var]) -> dict[str, Var]:
        before = mb.read_state(input=inputs["rows"])
        first = inputs["first"]
        begin = mb.concat(values=[first, [0]], axis=0)
        end = mb.concat(values=[mb.add(x=first, y=[tokens]), [WIDTH]], axis=0)
        written = mb.slice_update(x=before, update=inputs["x"], begin=begin, end=end)
        after = mb.coreml_update_state(state=inputs["rows"], value=written)
        sums = {"before": before, "after": after}
        return {name: mb.reduce_sum(x=rows, axes=[0], keep_dims=False) for name, rows in sums.items()}

    specs = {"x": tensor(tokens, WIDTH), "first": tensor(1, dtype=types.int32), "rows": state(SLOTS, WIDTH)}
    return function(specs, describe)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save({"decode": cache(1), "prefill": cache(4)}, tmp_path_factory.mktemp("mil") / "cache.mlpackage")


@pytest.fixture(scope="module")
def package(path: Path) -> Package:
    return Package(path)


def rows(count: int, seed: int = 0) -> NDArray[np.float16]:
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float16)


def at(first: int) -> NDArray[np.int32]:
    return np.array([first], np.int32)


def test_functions_and_their_types(package: Package) -> None:
    prefill = package.functions["prefill"]
    assert list(package.functions) == ["decode", "prefill"]
    assert (prefill.inputs["x"].shape, prefill.inputs["x"].dtype) == ((4, WIDTH), "float16")
    assert (prefill.states["rows"].shape, prefill.states["rows"].dtype) == ((SLOTS, WIDTH), "float16")
    assert prefill.inputs["first"].dtype == "int32" and list(prefill.outputs) == ["before", "after"]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, SLOTS - 4)), min_size=1, max_size=6), st.integers(0, 99))
def test_functions_share_a_state(path: Path, calls: list[tuple[bool, int]], seed: int) -> None:
    """What one has written the other reads; the read before a write keeps its value."""
    package = Package(path)
    held = package.new_state()
    wanted = np.zeros((SLOTS, WIDTH), np.float16)
    for number, (several, first) in enumerate(calls):
        x = rows(4 if several else 1, seed + number)
        found = package.run("prefill" if several else "decode", {"x": x, "first": at(first)}, held)
        np.testing.assert_allclose(found["before"], wanted.astype("f4").sum(0), rtol=1e-3, atol=1e-3)
        wanted[first : first + len(x)] = x
        np.testing.assert_allclose(found["after"], wanted.astype("f4").sum(0), rtol=1e-3, atol=1e-3)
        assert np.array_equal(held["rows"], wanted)


def test_states_are_apart(package: Package) -> None:
    one, other = package.new_state(), package.new_state()
    package.run("decode", {"x": rows(1), "first": at(0)}, one)
    assert one["rows"].any() and not other["rows"].any()


# Rounding


def two_steps(inputs: Mapping[str, Var]) -> dict[str, Var]:
    """x * x - x, by way of a value that fp16 rounds or overflows."""
    return {"out": mb.sub(x=mb.mul(x=inputs["x"], y=inputs["x"]), y=inputs["x"])}


def once(path: Path, inputs: Mapping[str, NDArray], describe: Callable[..., Any], exact: bool = False) -> NDArray:
    specs = {name: tensor(*array.shape, dtype=types.numpy_type_to_builtin_type(array.dtype))
             for name, array in inputs.items()}  # fmt: skip
    opened = Package(save({"main": function(specs, describe)}, path / "one.mlpackage"), exact)
    given = {name: array.astype(opened.functions["main"].inputs[name].dtype) for name, array in inputs.items()}
    return opened.run("main", given)["out"]


def test_every_result_is_rounded_as_declared(tmp_path: Path) -> None:
    x = np.array([1.001, 0.1, 3e-4, 300], np.float16)
    found = once(tmp_path, {"x": x}, two_steps)
    with np.errstate(over="ignore"):
        wanted = x * x - x  # NumPy rounds after each operation
    assert found.dtype == np.float16 and np.array_equal(found, wanted) and np.isinf(found[3])


def test_exact_leaves_the_rounding_out(tmp_path: Path) -> None:
    x = np.array([1.001, 0.1, 3e-4, 300], np.float16)
    found, wide = once(tmp_path, {"x": x}, two_steps, exact=True), x.astype(np.float32)
    assert found.dtype == np.float32 and np.array_equal(found, wide * wide - wide)
    assert not np.array_equal(found[:3].astype(np.float16), once(tmp_path, {"x": x[:3]}, two_steps))


def test_exact_keeps_states_in_fp16(path: Path) -> None:
    package = Package(path, exact=True)
    held = package.new_state()
    x = np.full((1, WIDTH), 1 + 2**-14, np.float32)
    found = package.run("decode", {"x": x, "first": at(0)}, held)
    assert held["rows"].dtype == np.float16 and np.array_equal(found["after"], np.ones(WIDTH, np.float32))
    assert package.functions["decode"].inputs["x"].dtype == found["after"].dtype == "float32"


def test_exact_ignores_casts_to_fp16(tmp_path: Path) -> None:
    x = np.array([1 + 2**-14], np.float32)

    def describe(inputs: Mapping[str, Var]) -> dict[str, Var]:
        return {"out": mb.cast(x=mb.cast(x=inputs["x"], dtype="fp16"), dtype="fp32")}

    assert once(tmp_path, {"x": x}, describe) == 1
    assert once(tmp_path, {"x": x}, describe, exact=True) == x


# What is refused


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"x": None}, "the input x is missing; there are x, first"), ({"z": rows(1)}, "the input z is unknown"),
     ({"x": rows(2)}, r"x is float16 \[2, 3\], declared is float16 \[1, 3\]"),
     ({"x": rows(1).astype("f4")}, "x is float32"), ({"first": np.array([0])}, "first is int64"),
     ({"first": at(SLOTS)}, "decode: slice_update .*an update of")],
)  # fmt: skip
def test_other_inputs(package: Package, change: dict[str, Any], reason: str) -> None:
    given: dict[str, Any] = {"x": rows(1), "first": at(0)} | change
    held = package.new_state()
    with pytest.raises(UserError, match=reason):
        package.run("decode", {name: array for name, array in given.items() if array is not None}, held)
    assert not held["rows"].any()


def test_other_states_and_functions(package: Package) -> None:
    given: dict[str, NDArray] = {"x": rows(1), "first": at(0)}
    with pytest.raises(UserError, match="the state rows is missing"):
        package.run("decode", given)
    with pytest.raises(UserError, match="the state rows is float32"):
        package.run("decode", given, {"rows": np.zeros((SLOTS, WIDTH), np.float32)})
    with pytest.raises(UserError, match="no function 'encode'; there are decode, prefill"):
        package.run("encode", given, package.new_state())


def edited(folder: Path, change: Callable[[Any], None]) -> Path:
    """A copy of a package whose program was changed."""
    copy = save({"decode": cache(1), "prefill": cache(4)}, folder / "edited.mlpackage")
    spec = Model_pb2.Model.FromString(model_file(copy).read_bytes())
    called = spec.mlProgram.functions["decode"]
    change({operation.type: operation for operation in called.block_specializations[called.opset].operations})
    model_file(copy).write_bytes(spec.SerializeToString())
    return copy


def test_results_must_have_the_declared_shape_and_kind(tmp_path: Path) -> None:
    def shorten(operations: Any) -> None:
        operations["reduce_sum"].outputs[0].type.tensorType.dimensions[0].constant.size = 2

    def integers(operations: Any) -> None:
        operations["reduce_sum"].outputs[0].type.tensorType.dataType = MIL_pb2.INT32

    given: dict[str, NDArray] = {"x": rows(1), "first": at(0)}
    for change, reason in ((shorten, r"the result is \[3\], declared is \[2\]"), (integers, "declared is int32")):
        opened = Package(edited(tmp_path, change))
        with pytest.raises(UserError, match=f"decode: reduce_sum .*: .*{reason}"):
            opened.run("decode", given, opened.new_state())


def test_operations_that_cannot_be_executed_are_named(tmp_path: Path) -> None:
    def rename(operations: Any) -> None:
        operations["reduce_sum"].type = "reduce_everything"

    with pytest.raises(UserError, match="cannot execute reduce_everything"):
        Package(edited(tmp_path, rename))


def test_indices_outside(tmp_path: Path) -> None:
    """Core ML would give something undefined."""
    inputs: dict[str, NDArray] = {"x": rows(4), "indices": np.array([0, -1], np.int32)}
    with pytest.raises(UserError, match="an index is outside of 0"):
        once(tmp_path, inputs, lambda found: {"out": mb.gather(x=found["x"], indices=found["indices"], axis=0)})


def test_what_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no Core ML package"):
        Package(tmp_path)
    broken = save({"main": cache(1)}, tmp_path / "broken.mlpackage")
    model_file(broken).write_bytes(b"\xff\xff")
    with pytest.raises(UserError, match="does not parse"):
        Package(broken)
    other = Model_pb2.Model(specificationVersion=9)
    other.identity.SetInParent()
    model_file(broken).write_bytes(other.SerializeToString())
    with pytest.raises(UserError, match="holds no ML program"):
        Package(broken)
    (broken / "Manifest.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match="is no Core ML package"):
        Package(broken)
