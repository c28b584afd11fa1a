"""What `inspect` says of a Core ML package, beside coremltools' parser; and of one that was cut short."""

import shutil
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from coremltools.proto import Model_pb2

from runtime.inspection.kinds import inspect
from tests.mil_programs import Describe, Var, function, mb, model_file, save, state, tensor, types, weight_file
from tests.test_inspect import cut, refused, stored


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def step(rows: int) -> Describe:
        def describe(inputs: Mapping[str, Var]) -> Mapping[str, Var]:
            codes = np.zeros((64, 64), types.np_int4_dtype)
            scales = np.full((64, 2), 0.5, np.float16)
            weight = mb.constexpr_blockwise_shift_scale(data=codes, scale=scales, name="w")
            dense = mb.const(val=np.full((64, 64), 0.25, np.float16), name="dense")
            cache = mb.read_state(input=inputs["cache"])
            x = mb.matmul(x=mb.matmul(x=inputs["x"], y=weight), y=dense)
            return {"y": mb.add(x=x, y=mb.reduce_sum(x=cache, axes=[0], keep_dims=True))}

        return describe

    specs = {"x": tensor(1, 64), "cache": state(8, 64)}
    made = function(specs, step(1))
    return save({"main": made}, tmp_path_factory.mktemp("inspect") / "small.mlpackage")


def test_coreml(package: Path) -> None:
    found = inspect(package)
    (graph,) = found.graphs
    spec = Model_pb2.Model.FromString(model_file(package).read_bytes())
    (main,) = spec.mlProgram.functions.values()
    operations = next(iter(main.block_specializations.values())).operations
    counted = Counter(operation.type for operation in operations if operation.type != "const")
    assert graph.operators == dict(counted) and graph.operators["matmul"] == 2
    assert {port.name for port in (*graph.inputs, *graph.states)} == {value.name for value in main.inputs}
    (cache,) = graph.states
    assert (cache.name, cache.dtype, cache.shape) == ("cache", "float16", [8, 64])
    assert found.size == sum(path.stat().st_size for path in package.rglob("*") if path.is_file())


def test_coreml_weights(package: Path) -> None:
    found = inspect(package)
    codes, scales = stored(found, "int4", "codes"), stored(found, "float16", "scales")
    assert (codes.values, codes.bytes, scales.values) == (64 * 64, 64 * 32, 64 * 2)
    assert stored(found, "float16", "values").bytes == 64 * 64 * 2
    with weight_file(package).open("rb") as file:
        entries = struct.unpack("<I", file.read(4))[0]
    assert sum(weights.count for weights in found.weights) == entries


@pytest.mark.parametrize("place", [model_file, weight_file])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_coreml_cut_short(package: Path, tmp_path: Path, place: Callable[[Path], Path], share: float) -> None:
    copy = shutil.copytree(package, tmp_path / package.name)
    cut(place(copy), share)
    assert copy.name in refused(copy)
