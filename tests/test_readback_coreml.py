"""Weights read back out of Core ML packages: hand-made ones, and those of a lowered model."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.schemes import INT4, INT8, Scheme, unpack
from export.weights import Packed
from runtime.architectures import embedding_weight
from runtime.errors import UserError
from runtime.manifest import Table, TensorDigest
from runtime.readback_coreml import CoremlWeights, compare, plain
from tests.coreml_models import Lowered
from tests.mil_programs import Var, constant, function, mb, model_file, save, tensor, types, weight_file

COLUMNS, GROUP = 64, 32
RNG = np.random.default_rng(0)


def sha256(array: NDArray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def narrow(values: NDArray) -> NDArray[np.uint16]:
    """bfloat16's bits."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def packed(scheme: Scheme, rows: int) -> Packed:
    codes = RNG.integers(0, 256, (rows, COLUMNS * scheme.bits // 8), dtype=np.uint8)
    bits = RNG.integers(0x3C00, 0x3F00, (rows, scheme.groups(COLUMNS)), dtype=np.uint32) & 0xFFF8
    return Packed(scheme, codes, (bits << 16).view(np.float32))


def digest(name: str, weight: Packed | NDArray[np.float32], dtype: str = "float32") -> TensorDigest:
    if isinstance(weight, Packed):
        scheme, shape = weight.scheme, (len(weight.codes), weight.columns)
        return TensorDigest(name=name, shape=shape, dtype=f"int{scheme.bits}", group=scheme.group,
                            sha256=sha256(weight.codes), scales_sha256=sha256(narrow(weight.scales)))  # fmt: skip
    values = narrow(weight) if dtype == "bfloat16" else weight
    return TensorDigest(name=name, shape=weight.shape, dtype=dtype, sha256=sha256(values))


BLOCK, ROWS, HEAD = packed(INT4, 6), packed(INT8, 5), packed(INT4, 10)
NORM = (RNG.integers(0, 0x3F00, 8).astype(np.uint32) << 16).view(np.float32)
DENSE = RNG.normal(size=(4, COLUMNS)).astype(np.float32)
UNIT = 2.0**-20  # of a matrix in fp16
HALVES = (np.arange(-500, 500, dtype=np.float32) * UNIT).reshape(-1, 8)
NAMES: dict[str, Packed | NDArray[np.float32]] = {
    "a.b.weight": BLOCK,
    "a.rows": ROWS,
    "norm": NORM,
    "dense": DENSE,
    "head": HEAD,
    "halves": HALVES,
}
DIGESTS = [digest(name, weight, "bfloat16" if name == "norm" else "float32") for name, weight in NAMES.items()]
TABLE = Table(rows=10, columns=COLUMNS, bits=4, codes="coreml/t.codes", scales="coreml/t.scales", group=GROUP)


def expanded(name: str, weight: Packed, rows: slice = slice(None)) -> Var:
    """The weight, in the program under its name."""
    codes = unpack(torch.from_numpy(weight.codes[rows]), weight.scheme).numpy()
    stored = codes.view(types.np_int4_dtype) if weight.scheme.bits == 4 else codes
    data, scale = constant(stored, f"{name}_c"), constant(weight.scales[rows].astype(np.float16), f"{name}_s")
    return mb.constexpr_blockwise_shift_scale(data=data, scale=scale, name=name)


def products(x: Var, *weights: Var) -> Mapping[str, Var]:
    return {"y": mb.concat(values=[mb.linear(x=x, weight=weight) for weight in weights], axis=-1)}


def in_halves(x: Var) -> Var:
    halves = constant((HALVES / UNIT).astype(np.float16), "halves_halves")
    product = mb.linear(x=x, weight=mb.constexpr_cast(source_val=halves, output_dtype="fp32", name="halves"))
    return mb.mul(x=product, y=mb.const(val=np.float32(UNIT), name="halves_unit"))


def write(folder: Path, second: slice = slice(8, 10)) -> None:
    """
    Args:
        second: rows of the head in its second package.
    """

    def chunk(inputs: Mapping[str, Var]) -> Mapping[str, Var]:
        x = mb.cast(x=mb.mul(x=inputs["n"], y=mb.const(val=NORM, name="norm")), dtype="fp16")
        dense = mb.cast(x=constant(DENSE, "dense"), dtype="fp16")
        wide = mb.tile(x=x, reps=[1, 8])
        found = products(wide, expanded("a_b_weight", BLOCK), expanded("a_rows", ROWS), dense)
        return {**found, "z": in_halves(inputs["n"])}

    specs = {"n": tensor(1, 8, dtype=types.fp32)}
    save({name: function(specs, chunk) for name in ("decode", "prefill")}, folder / "chunk_00.mlpackage")
    x = {"x": tensor(1, COLUMNS)}
    heads = [
        lambda found: products(found["x"], *(expanded(f"head_{i}", HEAD, slice(4 * i, 4 * i + 4)) for i in (0, 1))),
        lambda found: products(found["x"], expanded("head", HEAD, second)),
    ]
    for index, describe in enumerate(heads):
        save({"main": function(x, describe)}, folder / f"head_{index:02}.mlpackage")
    HEAD.codes.tofile(folder / "t.codes")
    HEAD.scales.astype(np.float16).tofile(folder / "t.scales")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two functions that share weights, a head over two packages, and a table of the same values."""
    (tmp_path / "coreml").mkdir()
    write(tmp_path / "coreml")
    return tmp_path / "coreml"


def found(folder: Path) -> dict[str, str]:
    weights = CoremlWeights(folder, {"head": TABLE})
    return {difference.name: difference.reason for difference in compare(weights, DIGESTS)}


def test_a_faithful_folder_has_no_differences(folder: Path) -> None:
    assert found(folder) == {}
    copies = {tensor.name: len(list(CoremlWeights(folder, {"head": TABLE}).copies(tensor))) for tensor in DIGESTS}
    assert copies == {"a.b.weight": 1, "a.rows": 1, "norm": 1, "dense": 1, "head": 2, "halves": 1}


def flip(file: Path, offset: int, bit: int = 1) -> None:
    data = np.memmap(file, np.uint8, "r+")
    data[offset] ^= bit


def offset_of(file: Path, array: NDArray) -> int:
    """Where its bytes begin in a file."""
    return file.read_bytes().index(np.ascontiguousarray(array).tobytes())


@pytest.mark.parametrize(
    ("package", "array", "name", "reason"),
    [("chunk_00", BLOCK.codes ^ 0x88, "a.b.weight", "other codes"),
     ("chunk_00", ROWS.codes ^ 0x80, "a.rows", "other codes"),
     ("chunk_00", BLOCK.scales.astype("f2"), "a.b.weight", "other values: some are not exact in bfloat16"),
     ("chunk_00", (HALVES / UNIT).astype("f2"), "halves", "other values"),
     ("chunk_00", DENSE, "dense", "other values"), ("head_00", HEAD.codes[4:8] ^ 0x88, "head", "other codes"),
     ("head_01", HEAD.codes[8:] ^ 0x88, "head", "other codes")],
)  # fmt: skip
def test_control_one_flipped_bit_is_found(folder: Path, package: str, array: NDArray, name: str, reason: str) -> None:
    """Of codes that is a flipped nibble. They lie there as the checkpoint's, but for the sign bit of each."""
    file = weight_file(folder / f"{package}.mlpackage")
    flip(file, offset_of(file, array))
    assert found(folder) == {name: reason}


def test_control_another_unit_is_found(folder: Path) -> None:
    """Which is in the program itself."""
    model = model_file(folder / "chunk_00.mlpackage")
    old, new = (np.float32(unit).tobytes() for unit in (UNIT, UNIT * 2))
    assert model.read_bytes().count(old) == 2, "in both functions"
    model.write_bytes(model.read_bytes().replace(old, new))
    assert found(folder) == {"halves": "other values"}


@pytest.mark.parametrize(("file", "reason"), [("t.codes", "other codes"), ("t.scales", "other scales")])
def test_control_tables_are_compared_too(folder: Path, file: str, reason: str) -> None:
    flip(folder / file, 0 if file == "t.codes" else 1)
    assert found(folder) == {"head": reason}


def test_control_rows_that_are_missing_or_elsewhere(folder: Path) -> None:
    write(folder, slice(8, 9))
    assert found(folder) == {"head": "cut short: only 576 values found"}
    write(folder, slice(7, 9))
    assert found(folder) == {"head": "other codes"}


def test_every_weight_must_be_there(folder: Path) -> None:
    weights = CoremlWeights(folder)
    missing = [*DIGESTS, digest("absent", DENSE)]
    assert [(each.name, each.reason) for each in compare(weights, missing)] == [("absent", "not found")]


def test_names_must_stay_apart(folder: Path) -> None:
    """Two names that differ only in what identifiers cannot hold."""
    assert plain("a.b.weight") == plain("a_b.weight") == "a_b_weight"
    two = [digest("a.b.weight", BLOCK), digest("a_b.weight", BLOCK)]
    assert {each.reason for each in compare(CoremlWeights(folder), two)} == {
        "its name in programs is another weight's too"
    }


def test_weights_must_be_packed_where_the_checkpoint_is(folder: Path) -> None:
    values = unpack(torch.from_numpy(ROWS.codes), INT8).numpy().astype(np.float32)
    assert [each.reason for each in compare(CoremlWeights(folder), [digest("a.rows", values)])] == ["packed"]
    codes = packed(INT4, 4)
    assert [each.reason for each in compare(CoremlWeights(folder), [digest("dense", codes)])] == ["not packed"]


def test_folders_without_packages_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no \.mlpackage"):
        CoremlWeights(tmp_path)


# A lowered model


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    folder = tmp_path_factory.mktemp("bundle") / "coreml"
    folder.mkdir()
    return Lowered(folder, INT4)


def recorded(lowered: Lowered) -> tuple[list[TensorDigest], dict[str, Table]]:
    """What a quantizer would record of the model, whose head is the embedding; and its table."""
    tensors: Any = lowered.weights
    host = lowered.artifact.host
    assert host is not None
    files = {"codes": f"coreml/{host.embedding.codes}", "scales": f"coreml/{host.embedding.scales}"}
    digests = [digest(name, weight) for name, weight in tensors.tensors.items() if name != "lm_head.weight"]
    return digests, {embedding_weight(tensors.tensors): host.embedding.model_copy(update=files)}


def test_a_lowered_model(lowered: Lowered) -> None:
    digests, tables = recorded(lowered)
    assert len(digests) > 90 and compare(CoremlWeights(lowered.folder, tables), digests) == []


def test_control_a_flipped_nibble_in_a_lowered_model(lowered: Lowered) -> None:
    """Too little to be seen in logits."""
    digests, tables = recorded(lowered)
    file = weight_file(lowered.folder / "chunk_00.mlpackage")
    flip(file, 128)
    try:
        assert len(compare(CoremlWeights(lowered.folder, tables), digests)) == 1
    finally:
        flip(file, 128)
