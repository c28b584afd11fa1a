"""The bytes of Core ML packages: coremltools' own writer and readers against ours; sizes, and what writing takes."""

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from coremltools.converters.mil.frontend.milproto.load import load as parse
from coremltools.converters.mil.mil import types
from coremltools.libmilstoragepython import _BlobStorageReader as BlobReader
from coremltools.models.utils import load_spec
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from export.lowering import coreml_program, coreml_weights
from export.lowering.coreml_bundle import write_table
from export.lowering.coreml_ops import FP16
from export.lowering.coreml_weights import Blob, RowsOf, WeightFile, codes_of, dense_blob, exact_unit, scales_of
from export.schemes import INT4, INT8, Scheme, unpack
from export.weights import MemoryWeights, Packed
from runtime.errors import UserError
from runtime.mil.program import Immediate, Stored, read_program
from tests import mil_programs
from tests import random_models as models
from tests.coreml_models import SIZES, Lowered, write
from tests.executorch_models import SHALLOW
from tests.parity import quantize

ROWS, COLUMNS = 2**20, 256  # 128 MiB of int4
ALLOWED = 4 * coreml_weights.CHUNK  # bytes


@pytest.fixture(scope="module", params=[INT4, INT8, None], ids=["int4", "int8", "float"])
def lowered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    return Lowered(tmp_path_factory.mktemp("lowered"), request.param, **SHALLOW)


def weight_file(package: Path) -> Path:
    return package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"


def test_coremltools_reads_every_linear(lowered: Lowered) -> None:
    """Its own reader of weight files, at the places that its own parser finds in the program."""
    package = lowered.folder / "chunk_00.mlpackage"
    reader = BlobReader(str(weight_file(package)))
    constants = read_program(package).functions["prefill"].constants
    names = [name for name in lowered.weights.tensors if ".layers." in name and name.endswith("_proj.weight")]
    assert len(names) == 13, "a full layer has no values of its own"
    for name in names:
        inputs, packed = constants[name.replace(".", "_")].inputs, lowered.weights.packed(name)
        places = {key: argument.offset for key, (argument,) in inputs.items() if isinstance(argument, Stored)}
        if packed is None:
            halves = np.array(reader.read_fp16_data(places["source_val"]), np.uint16).view(np.float16)
            unit = constants[name.replace(".", "_") + "_unit"].inputs["val"][0]
            assert isinstance(unit, Immediate) and math.log2(float(unit.value)).is_integer()
            dense = halves.astype(np.float32) * float(unit.value)
            assert np.array_equal(dense, lowered.weights.dense(name).reshape(-1))
            continue
        read = reader.read_int4_data if packed.scheme.bits == 4 else reader.read_int8_data
        codes = unpack(torch.from_numpy(packed.codes), packed.scheme).numpy()
        assert np.array_equal(np.array(read(places["data"])), codes.reshape(-1))
        scales = np.array(reader.read_fp16_data(places["scale"]), np.uint16).view(np.float16)
        assert np.array_equal(scales.astype(np.float32), packed.scales.reshape(-1))


def test_coremltools_parses_every_package(lowered: Lowered) -> None:
    """Which infers all types again, and refuses programs of operators or shapes that it does not know."""
    for package in sorted(lowered.folder.glob("*.mlpackage")):
        spec = load_spec(str(package))
        program = parse(spec, spec.specificationVersion, file_weights_dir=str(weight_file(package).parent))
        assert spec.specificationVersion == 9, "iOS 18"
        described = {role: port for role, port in lowered.artifact.programs.items() if port.file == package.name}
        assert {port.function or "main" for port in described.values()} == set(program.functions)
        for port in described.values():
            given = program.functions[port.function or "main"].inputs
            assert {name: tuple(var.shape) for name, var in given.items()} == {
                port.name: tuple(port.shape) for port in (*port.inputs, *port.states)
            }


def whole(blob: Blob) -> np.ndarray:
    """The values that a placeholder stands for."""
    stored = np.concatenate(list(blob.chunks()))
    if blob.kind == coreml_weights.INT4:
        stored = unpack(torch.from_numpy(stored ^ 0x88), INT4).numpy().view(types.np_int4_dtype)
    return stored.view(np.int8).reshape(blob.shape) if blob.kind == coreml_weights.INT8 else stored.reshape(blob.shape)


def test_coremltools_writes_the_same_weight_file(
    lowered: Lowered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of whole weights in memory, by its stock way."""
    monkeypatch.setattr(Blob, "placeholder", whole)
    text = lowered.model.text
    functions = coreml_program.chunk(text.layers, text, lowered.sizes, FP16)
    built = {name: function.build(lowered.weights, {}) for name, function in functions.items()}
    stock = mil_programs.save(built, tmp_path / "stock.mlpackage")
    assert weight_file(stock).read_bytes() == weight_file(lowered.folder / "chunk_00.mlpackage").read_bytes()


def test_functions_share_their_weights(lowered: Lowered) -> None:
    functions = read_program(lowered.folder / "chunk_00.mlpackage").functions
    stored = [
        {
            place
            for operation in function.constants.values()
            for place in operation.arguments
            if isinstance(place, Stored)
        }
        for function in functions.values()
    ]
    assert len(stored) == 2 and stored[0] == stored[1] and stored[0]


@given(st.sampled_from([INT4, INT8]), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_entries_come_back(tmp_path_factory, scheme: Scheme, rows: int, groups: int, seed: int) -> None:  # type: ignore[no-untyped-def]
    """Of any size, one after another."""
    path = tmp_path_factory.mktemp("entries") / "weight.bin"
    rng = np.random.default_rng(seed)
    width = groups * 32 * scheme.bits // 8
    packed = Packed(scheme, rng.integers(0, 256, (rows, width), np.uint8), np.full((rows, groups), 0.5, np.float32))
    weights = MemoryWeights({"dense": rng.standard_normal((rows, 3)).astype(np.float32)})
    with WeightFile(path) as file:
        blobs = codes_of(packed), scales_of(packed, False), dense_blob(weights, "dense", (rows, 3))
        offsets = [file.store(blob) for blob in (*blobs, *blobs)]
    reader = BlobReader(str(path))
    codes = unpack(torch.from_numpy(packed.codes), scheme).numpy().reshape(-1)
    for at in 0, 3:
        read = reader.read_int4_data if scheme.bits == 4 else reader.read_int8_data
        assert np.array_equal(np.array(read(offsets[at])), codes)
        assert set(reader.read_fp16_data(offsets[at + 1])) == {np.float16(0.5).view(np.uint16)}
        assert np.array_equal(np.array(reader.read_float_data(offsets[at + 2])), weights.dense("dense").reshape(-1))


# Dense matrices in fp16


def bf16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


@given(hnp.arrays(np.uint16, (3, 5)))
def test_units_lose_nothing(bits: NDArray[np.uint16]) -> None:
    """Of any bf16 at all: infinite ones, numbers that are none, and others that fp16 does not hold, stay in fp32."""
    values = bf16(bits)
    unit = exact_unit(values)
    if unit is None:
        sizes = np.abs(values[values != 0].astype(np.float64))
        assert not np.isfinite(sizes).all() or sizes.max() > 2**31 * sizes.min()
        return
    assert unit > 0 and math.log2(unit).is_integer()
    halves = (values.astype(np.float64) / unit).astype(np.float16)
    assert np.array_equal(halves.astype(np.float64) * unit, values)


@given(st.integers(32, 254), hnp.arrays(np.uint16, 20, elements=st.integers(0, 2**12 - 1)))
def test_bf16_within_nine_orders_of_magnitude_are_exact(exponent: int, drawn: NDArray[np.uint16]) -> None:
    """Any mantissa, and exponents up to 31 below the largest."""
    assert exact_unit(bf16((exponent << 7) + (drawn & 127) - (drawn & ~np.uint16(127)))) is not None


def test_control_one_small_value_keeps_a_matrix_in_fp32() -> None:
    values = np.array([[1, 2**-30 * (1 + 2**-7)]], np.float32)
    assert exact_unit(values) == 2**-14
    values[0, 1] /= 4
    assert exact_unit(values) is None, "its last bit is lost"


def large() -> Packed:
    """Of no memory."""
    return Packed(INT4, np.broadcast_to(np.arange(COLUMNS // 2, dtype=np.uint8), (ROWS, COLUMNS // 2)),
                  np.broadcast_to(np.ones(COLUMNS // 32, np.float32), (ROWS, COLUMNS // 32)))  # fmt: skip


def test_writing_takes_the_memory_of_a_few_chunks(tmp_path: Path) -> None:
    packed = large()
    tracemalloc.start()
    with WeightFile(tmp_path / "weight.bin") as file:
        file.store(codes_of(packed))
        file.store(scales_of(packed, False))
    write_table(MemoryWeights({"table": packed}), "table", tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "weight.bin").stat().st_size > packed.codes.nbytes and peak < ALLOWED


def test_building_a_program_takes_no_memory_for_weights(tmp_path: Path) -> None:
    blob = codes_of(large())
    tracemalloc.start()
    assert blob.placeholder().shape == (ROWS, COLUMNS) and blob.bytes == blob.load().nbytes
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000


def test_rows_of_a_weight() -> None:
    weights = MemoryWeights({"table": large(), "dense": np.arange(12, dtype=np.float32).reshape(6, 2)})
    part = RowsOf(weights, "table", 10, 30).packed("table")
    assert part and part.codes.shape == (20, COLUMNS // 2) and part.scales.shape == (20, COLUMNS // 32)
    assert np.array_equal(RowsOf(weights, "dense", 1, 3).dense("dense"), [[2, 3], [4, 5]])
    assert RowsOf(weights, "dense", 1, 3).packed("table") is weights.tensors["table"]


def test_package_that_grows_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreml_program, "LARGEST_PACKAGE", 100_000)
    monkeypatch.setattr(coreml_program, "SPARE", 1000)
    with pytest.raises(UserError, match=r"chunk_00\.mlpackage takes \d+ bytes, a package may take 100000"):
        Lowered(tmp_path, INT8, **SHALLOW)


def test_caches_shared_between_packages_are_refused(tmp_path: Path) -> None:
    """Within a package they would work."""
    reference = models.random_model(models.random_config(vision=False, audio=False, num_kv_shared_layers=2,
                                                         num_hidden_layers=12))  # fmt: skip
    model, weights = quantize(reference, INT4)
    with pytest.raises(UserError, match="cannot share a cache between them"):
        write(model, weights, tmp_path, SIZES)


def test_sizes_come_from_the_processor(lowered: Lowered, tmp_path: Path) -> None:
    sizes = coreml_program.Sizes.of(lowered.model, tmp_path, 4096)
    assert (sizes.prefill, sizes.image_tokens, sizes.audio_tokens) == (288, 280, 750)
    (tmp_path / "processor_config.json").write_text('{"image_processor": {"max_soft_tokens": 1120}}')
    assert coreml_program.Sizes.of(lowered.model, tmp_path, 4096).prefill == 1120
    assert coreml_program.Sizes.of(lowered.model, tmp_path, 100).prefill == 100


def test_control_a_blob_of_another_kind_is_another(tmp_path: Path) -> None:
    """coremltools' reader knows them apart."""
    with WeightFile(tmp_path / "weight.bin") as file:
        offset = file.store(Blob(coreml_weights.INT4, (2, 4), lambda: np.zeros((2, 2), np.uint8), lambda rows: rows))
    with pytest.raises(RuntimeError, match=r"[Tt]ype"):
        BlobReader(str(tmp_path / "weight.bin")).read_int8_data(offset)
