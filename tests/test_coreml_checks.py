"""Packages that coremltools writes without complaint and Core ML would not run as meant: each is refused."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.proto import Model_pb2
from numpy.typing import NDArray

from export.schemes import INT4
from runtime.checks import packages
from runtime.checks.packages import faults, size_of
from runtime.gates import GATES, override
from runtime.job import Job
from runtime.manifest import Manifest, Measure
from runtime.metrics import relative_rms
from runtime.mil import Package
from runtime.sessions.base import ModelInputs, Session
from runtime.sessions.reference import ReferenceSession
from tests import random_models as models
from tests.coreml_models import Lowered
from tests.mil_programs import Var, constant, ct, function, mb, model_file, save, state, tensor, types

SLOTS, WIDTH = 8, 64
PARITY = 3e-4  # relative rms of a float twin
RNG = np.random.default_rng(0)
CODES = RNG.integers(-8, 8, (WIDTH, WIDTH)).astype(np.int8).view(types.np_int4_dtype)
SCALES = (RNG.random((WIDTH, 2)) / 64 + 2**-6).astype(np.float16)
Spec = Any  # Model message
Operation = Any  # message


def step(tokens: int) -> Any:
    """A product with int4 weights, gelu, a cache and attention over it."""

    def describe(inputs: Mapping[str, Var]) -> dict[str, Var]:
        stored = constant(CODES, "w_codes"), constant(SCALES, "w_scales")
        weight = mb.constexpr_blockwise_shift_scale(data=stored[0], scale=stored[1], name="w")
        x = mb.gelu(x=mb.linear(x=inputs["x"], weight=weight), mode="TANH_APPROXIMATION")
        first = inputs["first"]
        end = mb.concat(values=[mb.add(x=first, y=[tokens]), [WIDTH]], axis=0)
        written = mb.slice_update(x=mb.read_state(input=inputs["rows"]), update=x,
                                  begin=mb.concat(values=[first, [0]], axis=0), end=end)  # fmt: skip
        rows = mb.expand_dims(x=mb.coreml_update_state(state=inputs["rows"], value=written), axes=[0])
        found = mb.scaled_dot_product_attention(query=mb.expand_dims(x=x, axes=[0]), key=rows, value=rows)
        return {"y": mb.squeeze(x=found, axes=[0])}

    return function(specs(tokens), describe)


def specs(tokens: int) -> dict[str, Any]:
    return {"x": tensor(tokens, WIDTH), "first": tensor(1, dtype=types.int32), "rows": state(SLOTS, WIDTH)}


@pytest.fixture(scope="module")
def faithful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save({"decode": step(1), "prefill": step(4)}, tmp_path_factory.mktemp("coreml") / "chunk.mlpackage")


def edited(package: Path, folder: Path, change: Callable[[Spec], None]) -> Path:
    """A copy with another program or description."""
    copy = shutil.copytree(package, folder / package.name, dirs_exist_ok=True)
    spec = Model_pb2.Model.FromString(model_file(copy).read_bytes())
    change(spec)
    model_file(copy).write_bytes(spec.SerializeToString())
    return copy


def operations(spec: Spec, kind: str, called: str = "decode") -> list[Operation]:
    block = spec.mlProgram.functions[called].block_specializations["CoreML8"]
    return [operation for operation in block.operations if operation.type == kind]


def test_a_faithful_package(faithful: Path) -> None:
    assert faults(faithful, "18.0") == []


# The description


def drop_state(spec: Spec) -> None:
    del spec.description.functions[0].state[:]


def drop_input(spec: Spec) -> None:
    del spec.description.functions[0].input[0]


def narrow_output(spec: Spec) -> None:
    spec.description.functions[1].output[0].type.multiArrayType.shape[1] = 32


def widen_input(spec: Spec) -> None:
    spec.description.functions[0].input[0].type.multiArrayType.dataType = 65568  # float32


def drop_function(spec: Spec) -> None:
    del spec.description.functions[1]


def other_default(spec: Spec) -> None:
    spec.description.defaultFunctionName = "encode"


@pytest.mark.parametrize(
    ("change", "fault"),
    [(drop_state, "decode: the state rows is float16 [8, 64], described is missing"),
     (drop_input, "decode: the input x is float16 [1, 64], described is missing"),
     (narrow_output, "prefill: the output y is float16 [4, 64], described is float16 [4, 32]"),
     (widen_input, "decode: the input x is float16 [1, 64], described is float32 [1, 64]"),
     (drop_function, "prefill is in the program or its description only"),
     (other_default, "the default function, encode, is missing")],
)  # fmt: skip
def test_descriptions(faithful: Path, tmp_path: Path, change: Callable[[Spec], None], fault: str) -> None:
    assert faults(edited(faithful, tmp_path, change)) == [fault]


# What coremltools' parser finds


def dangle(spec: Spec) -> None:
    operations(spec, "gelu")[0].inputs["x"].arguments[0].name = "nothing"


def misplace_weights(spec: Spec) -> None:
    operations(spec, "constexpr_blockwise_shift_scale")[0].inputs["data"].arguments[0].value.blobFileValue.offset += 64


def misdeclare(spec: Spec) -> None:
    operations(spec, "linear")[0].outputs[0].type.tensorType.dimensions[1].constant.size = 77


def misspell(spec: Spec) -> None:
    operations(spec, "gelu")[0].type = "geluu"


@pytest.mark.parametrize("change", [dangle, misplace_weights, misdeclare, misspell])
def test_types_are_found_wrong_without_reading_weights(
    faithful: Path, tmp_path: Path, change: Callable[[Spec], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with large weights; only where in the file they lie is for `bytes` to find then."""
    monkeypatch.setattr(packages, "LARGE", 1)
    assert faults(faithful) == []
    found = faults(edited(faithful, tmp_path, change))
    assert bool(found) == (change is not misplace_weights)


@pytest.mark.parametrize("change", [dangle, misplace_weights, misdeclare, misspell])
def test_programs_that_do_not_parse(faithful: Path, tmp_path: Path, change: Callable[[Spec], None]) -> None:
    found = faults(edited(faithful, tmp_path, change))
    assert found[0].startswith("decode does not parse: ")
    assert not any("prefill" in fault for fault in found)


def test_a_package_that_cannot_be_read(faithful: Path, tmp_path: Path) -> None:
    copy = edited(faithful, tmp_path, lambda spec: None)
    model_file(copy).unlink()
    assert len(found := faults(copy)) == 1 and "is no Core ML package" in found[0]


# Operators and systems


def test_operators_newer_than_the_target(faithful: Path, tmp_path: Path) -> None:
    def age(spec: Spec) -> None:
        spec.specificationVersion = 8  # iOS 17
        for called in spec.mlProgram.functions.values():
            called.block_specializations["CoreML7"].CopyFrom(called.block_specializations["CoreML8"])
            called.opset = "CoreML7"

    found = faults(edited(faithful, tmp_path, age))
    for newer in ("scaled_dot_product_attention", "constexpr_blockwise_shift_scale", "slice_update", "read_state"):
        assert f"decode: {newer} came with iOS18, the package is for iOS17" in found
    assert not any("linear" in fault for fault in found)


def test_opsets_must_be_those_of_the_target(faithful: Path, tmp_path: Path) -> None:
    def age(spec: Spec) -> None:
        spec.specificationVersion = 8

    found = faults(edited(faithful, tmp_path, age))
    assert "prefill: its opset is CoreML8, that of iOS17 is CoreML7" in found


def test_systems_that_are_promised(faithful: Path) -> None:
    assert faults(faithful, "17.0") == ["is for iOS18, promised is iOS 17.0"]


# States


def twice(inputs: Mapping[str, Var]) -> dict[str, Var]:
    """The sum of a state after x was added: read, written, read again."""
    mb.coreml_update_state(state=inputs["rows"], value=mb.add(x=mb.read_state(input=inputs["rows"]), y=inputs["x"]))
    extra = mb.mul(x=inputs["x"], y=np.float16(0))  # the read does not directly follow
    return {"y": mb.add(x=mb.reduce_sum(x=mb.read_state(input=inputs["rows"]), axes=[0], keep_dims=True), y=extra)}


def once(inputs: Mapping[str, Var]) -> dict[str, Var]:
    """The same, going on from the write."""
    added = mb.add(x=mb.read_state(input=inputs["rows"]), y=inputs["x"])
    rows = mb.coreml_update_state(state=inputs["rows"], value=added)
    return {"y": mb.reduce_sum(x=rows, axes=[0], keep_dims=True)}


def summed(describe: Any, folder: Path, passes: Any = None) -> tuple[Path, np.ndarray]:
    """The package, and what it computes from ones."""
    given = {"x": tensor(1, WIDTH), "rows": state(SLOTS, WIDTH)}
    path = save({"main": function(given, describe)}, folder / "sum.mlpackage", passes=passes)
    package = Package(path)
    return path, package.run("main", {"x": np.ones((1, WIDTH), np.float16)}, package.new_state())["y"]


def test_a_state_read_twice_across_a_write(tmp_path: Path) -> None:
    path, found = summed(twice, tmp_path)
    assert (found == SLOTS).all(), "as it is written the program is right"
    assert [fault for fault in faults(path) if "reads rows again, away from its last write" in fault]


def test_control_the_default_passes_merge_such_reads_and_the_result_is_wrong(tmp_path: Path) -> None:
    path, found = summed(twice, tmp_path, ct.PassPipeline.DEFAULT)
    assert (found == 0).all(), "coremltools mends this: the check is needed no more"
    assert [fault for fault in faults(path) if "uses rows as it was before a write" in fault]


@pytest.mark.parametrize("passes", [None, ct.PassPipeline.DEFAULT])
def test_a_state_read_once(tmp_path: Path, passes: Any) -> None:
    path, found = summed(once, tmp_path, passes)
    assert (found == SLOTS).all() and faults(path) == []


# Gelu and weights, in a lowered model


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    folder = tmp_path_factory.mktemp("bundle") / "coreml"
    folder.mkdir()
    return Lowered(folder, INT4)


def error_of(lowered: Lowered) -> float:
    """Relative rms of the float twin's logits, against transformers with fp16 keys and values."""
    ids = models.text_prompt(24, 20).inputs.input_ids
    reference = ReferenceSession(lowered.reference, half_cache=True)
    found, wanted = (_logits(session, ids) for session in (lowered.session(exact=True), reference))
    return relative_rms(wanted, found)


def _logits(session: Session, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """After a prefill, and after each of four tokens."""
    return np.stack([session.prefill(ModelInputs(ids[:-4])), *(session.decode(int(token)) for token in ids[-4:])])


@contextmanager
def spoilt(lowered: Lowered, change: Callable[[Spec], None]) -> Iterator[list[Path]]:
    """All chunks changed for a while."""
    chunks = sorted(lowered.folder.glob("chunk_*.mlpackage"))
    before = [model_file(chunk).read_bytes() for chunk in chunks]
    for chunk, data in zip(chunks, before, strict=True):
        spec = Model_pb2.Model.FromString(data)
        change(spec)
        model_file(chunk).write_bytes(spec.SerializeToString())
    try:
        yield chunks
    finally:
        for chunk, data in zip(chunks, before, strict=True):
            model_file(chunk).write_bytes(data)


def make_gelu_exact(spec: Spec) -> None:
    for operation in (each for name in ("decode", "prefill") for each in operations(spec, "const", name)):
        if operation.outputs[0].name.startswith("gelu"):
            operation.attributes["val"].immediateValue.tensor.strings.values[0] = "EXACT"


def test_lowered_packages(lowered: Lowered) -> None:
    assert [fault for path in sorted(lowered.folder.glob("*.mlpackage")) for fault in faults(path, "18.0")] == []
    assert error_of(lowered) < PARITY


def test_control_exact_gelu(lowered: Lowered) -> None:
    """Seen in the program, and in what it computes."""
    with spoilt(lowered, make_gelu_exact) as chunks:
        found = [fault for chunk in chunks for fault in faults(chunk) if "not the tanh approximation" in fault]
        assert len(found) == 2 * len(lowered.model.text.layers)
        assert error_of(lowered) > PARITY


# The measures


def measures(lowered: Lowered, *settings: str) -> dict[str, Measure]:
    manifest = Manifest.model_construct(artifacts={"coreml": lowered.artifact})
    found = packages.run(Job(lowered.folder.parent, manifest, override(GATES, settings)))
    return {measure.name: measure for measure in found}


def test_measures(lowered: Lowered) -> None:
    found = measures(lowered)
    assert found["packages_wrong"].value == 0 and found["packages_wrong"].passed
    size = found["package_size"]
    assert size.passed and size.value == max(map(size_of, lowered.folder.glob("*.mlpackage")))


def test_control_packages_that_are_too_large(lowered: Lowered) -> None:
    size = measures(lowered, "package_size=1000")["package_size"]
    assert not size.passed and size.note.endswith(".mlpackage")


def test_control_faults_are_counted_and_named(lowered: Lowered) -> None:
    with spoilt(lowered, drop_state) as chunks:
        wrong = measures(lowered)["packages_wrong"]
    assert not wrong.passed and wrong.value >= len(chunks)
    assert wrong.note.startswith("chunk_00.mlpackage: decode: the state kv_cache_")
