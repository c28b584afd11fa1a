"""Weights read back out of a hand-made ONNX folder."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtime.errors import UserError
from runtime.manifest import TensorDigest
from runtime.readback import OnnxWeights, differences

ROWS, COLUMNS, GROUP = 6, 64, 32
RNG = np.random.default_rng(0)
CODES = RNG.integers(0, 256, (ROWS, COLUMNS // 2), dtype=np.uint8)
SCALES = RNG.integers(0x3000, 0x3F00, (ROWS, COLUMNS // GROUP)).astype(np.uint16)  # bits of positive bfloat16
ROW_CODES = RNG.integers(0, 256, (ROWS, COLUMNS), dtype=np.uint8)
DENSE = RNG.integers(0, 0x3F00, (3, 8)).astype(np.uint16)
TABLE = RNG.integers(0, 0x3F00, (5, 2, 8)).astype(np.uint16)
NORM = RNG.integers(0, 0x3F00, 8).astype(np.uint16)


def widen(bits: np.ndarray) -> np.ndarray:
    """bfloat16 as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


DIGESTS = [
    TensorDigest(name="a.weight", shape=(ROWS, COLUMNS), dtype="int4", group=GROUP, sha256=sha256(CODES),
                 scales_sha256=sha256(SCALES)),
    TensorDigest(name="b.weight", shape=(ROWS, COLUMNS), dtype="int8", sha256=sha256(ROW_CODES),
                 scales_sha256=sha256(SCALES[:, :1])),
    TensorDigest(name="c.weight", shape=DENSE.shape, dtype="bfloat16", sha256=sha256(DENSE)),
    TensorDigest(name="table", shape=TABLE.shape, dtype="bfloat16", sha256=sha256(TABLE)),
    TensorDigest(name="norm.weight", shape=NORM.shape, dtype="bfloat16", sha256=sha256(NORM)),
]  # fmt: skip


class Builder:
    """Appends weights to model.data and lists their initializers."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, bytearray()
        self.tensors: dict[str, TensorProto] = {}

    def external(self, name: str, array: np.ndarray, offset: int | None = None) -> None:
        if offset is None:
            self.data += bytes(-len(self.data) % 64)
            offset = len(self.data)
            self.data += np.ascontiguousarray(array).tobytes()
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = TensorProto(name=name, dims=array.shape, data_type=kind, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", "model.data"), ("offset", offset), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        self.tensors[name] = tensor

    def offset(self, name: str) -> int:
        return int(next(entry.value for entry in self.tensors[name].external_data if entry.key == "offset"))

    def save(self) -> None:
        (self.folder / "model.data").write_bytes(self.data)
        shapes = [CODES.reshape(ROWS, 2, 16), ROW_CODES.reshape(ROWS, 2, 32)]
        nodes = [
            helper.make_node("MatMulNBits", ["x", f"{name}.weight.blocks", f"{name}.weight.scales"], [name],
                             domain="com.microsoft", block_size=shape.shape[2] * 8 // bits, bits=bits)
            for name, shape, bits in (("a", shapes[0], 4), ("b", shapes[1], 8))
        ]  # fmt: skip
        graph = helper.make_graph(nodes, "hand-made", [], [], list(self.tensors.values()))
        onnx.save(helper.make_model(graph), self.folder / "decoder.onnx")


@pytest.fixture
def built(tmp_path: Path) -> Builder:
    """A faithful folder: int4 seen twice, int8 with repeated scales, dense, a table in halves, a small norm inside."""
    builder = Builder(tmp_path)
    builder.external("a.weight.blocks", CODES.reshape(ROWS, 2, 16))
    builder.external("a.weight.rows", CODES, builder.offset("a.weight.blocks"))
    builder.external("a.weight.scales", widen(SCALES))
    builder.external("b.weight.blocks", ROW_CODES.reshape(ROWS, 2, 32))
    builder.external("b.weight.scales", widen(SCALES[:, :1]).repeat(2, 1))
    builder.external("c.weight", widen(DENSE))
    for half in (0, 1):
        builder.external(f"table.{half}", widen(TABLE[:, half]))
    builder.tensors["norm.weight"] = numpy_helper.from_array(widen(NORM), "norm.weight")
    return builder


def found(builder: Builder) -> dict[str, str]:
    builder.save()
    return {difference.name: difference.reason for difference in differences(builder.folder, DIGESTS)}


def test_a_faithful_folder_has_no_differences(built: Builder) -> None:
    assert found(built) == {}
    assert OnnxWeights(built.folder).block_sizes() == {"a": 32, "b": 32}


@pytest.mark.parametrize(
    ("weight", "initializer", "reason"),
    [("a.weight", "a.weight.blocks", "other codes"), ("b.weight", "b.weight.blocks", "other codes"),
     ("a.weight", "a.weight.scales", "other scales"), ("c.weight", "c.weight", "other values"),
     ("table", "table.1", "other values")],
)  # fmt: skip
def test_one_flipped_bit_is_found(built: Builder, weight: str, initializer: str, reason: str) -> None:
    """In the high half of a float, so that it stays exact in bfloat16."""
    built.data[built.offset(initializer) + 6] ^= 1
    assert found(built) == {weight: reason}


def test_a_second_view_of_other_bytes_is_found(built: Builder) -> None:
    built.external("a.weight.rows", CODES[::-1])
    assert found(built) == {"a.weight": "other codes"}


def test_scales_must_be_equal_within_a_group(built: Builder) -> None:
    built.external("b.weight.scales", widen(np.stack([SCALES[:, 0], SCALES[:, 0] + 1], 1)))
    assert "differ within a group" in found(built)["b.weight"]


def test_values_must_be_exact_in_their_dtype(built: Builder) -> None:
    built.external("c.weight", widen(DENSE) * np.float32(1.001))
    assert "not exact in bfloat16" in found(built)["c.weight"]


def test_a_changed_small_weight_inside_the_graph_is_found(built: Builder) -> None:
    built.tensors["norm.weight"] = numpy_helper.from_array(widen(NORM[::-1]), "norm.weight")
    assert found(built) == {"norm.weight": "other values"}


def test_every_weight_must_be_there(built: Builder) -> None:
    del built.tensors["a.weight.scales"], built.tensors["table.0"]
    assert found(built) == {"a.weight": "not found", "table": "not found"}


def test_a_short_data_file_is_named(built: Builder) -> None:
    del built.data[built.offset("table.1") + 3 :]
    reasons = found(built)
    assert list(reasons) == ["table"] and "cut short" in reasons["table"]


def test_folders_without_a_graph_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.onnx file"):
        OnnxWeights(tmp_path)
    (tmp_path / "decoder.onnx").write_bytes(b"\xff\xff")
    with pytest.raises(UserError, match="not a readable ONNX graph"):
        OnnxWeights(tmp_path)
