"""What `inspect` says of files, beside what their own loaders and their bytes say; and that it reads headers only."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import numpy as np
import onnx
import pytest
from executorch.exir._serialize._program import deserialize_pte_binary
from onnx import TensorProto, helper
from safetensors import safe_open
from safetensors.numpy import save_file
from typer.testing import CliRunner

from runtime.__main__ import app
from runtime.errors import UserError
from runtime.inspection import bundle as bundles
from runtime.inspection import executorch
from runtime.inspection.description import Description, Weights
from runtime.inspection.kinds import inspect
from runtime.manifest import read_manifest
from runtime.sessions.executorch import DATA_FILE, FILE, open_program
from runtime.units import size

HUGE = 7 << 30  # bytes of a sparse file
MEMORY = 300 << 20  # bytes that looking into it may take


def stored(description: Description, dtype: str, part: str) -> Weights:
    return next(weights for weights in description.weights if (weights.dtype, weights.part) == (dtype, part))


def total(description: Description) -> int:
    return sum(weights.bytes for weights in description.weights)


def quantized(bundle: Path) -> list[int]:
    """Values of each weight that the manifest records as int4."""
    return [prod(tensor.shape) for tensor in read_manifest(bundle).tensors if tensor.dtype == "int4"]


# ONNX, beside its own loader


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from nodes(attribute.g)


@pytest.mark.parametrize("name", ["decoder", "embedding", "vision", "speech"])
def test_onnx_graphs(bundle: Path, name: str) -> None:
    path = bundle / "onnx" / f"{name}.onnx"
    (graph,) = inspect(path).graphs
    loaded = onnx.load(path).graph
    counted = Counter(node.op_type for node in nodes(loaded))
    assert {operator.rpartition(".")[2]: count for operator, count in graph.operators.items()} == dict(counted)
    assert list(graph.operators.values()) == sorted(graph.operators.values(), reverse=True)
    assert [port.name for port in graph.inputs] == [value.name for value in loaded.input]
    assert [port.name for port in graph.outputs] == [value.name for value in loaded.output]


def test_onnx_ports_are_the_manifests(bundle: Path) -> None:
    graphs = {graph.name: graph for graph in inspect(bundle / "onnx").graphs}
    for role, program in read_manifest(bundle).artifacts["onnx"].programs.items():
        assert graphs[role].inputs == program.inputs
        assert graphs[role].outputs == program.outputs


def test_onnx_weights_are_on_disk_once(bundle: Path) -> None:
    found = inspect(bundle / "onnx")
    inside = 0
    places: dict[tuple[str, str], int] = {}
    for path in (bundle / "onnx").glob("*.onnx"):
        for initializer in onnx.load(path, load_external_data=False).graph.initializer:
            where = {entry.key: entry.value for entry in initializer.external_data}
            inside += len(initializer.raw_data)
            if where:
                places[where["location"], where["offset"]] = int(where["length"])
    assert inside + sum(places.values()) <= total(found) < found.size
    assert found.size - total(found) < 0.1 * found.size, "little else is in these files"
    assert found.weights == sorted(found.weights, key=lambda weights: -weights.bytes)


def test_the_quantizers_weights_are_all_there(bundle: Path, quantized_checkpoint: Path) -> None:
    values = quantized(bundle)
    for path in (bundle / "onnx", quantized_checkpoint):
        codes = stored(inspect(path), "int4", "codes")
        assert (codes.count, codes.values, codes.bytes) == (len(values), sum(values), sum(values) // 2)


def sparse(path: Path, length: int) -> Path:
    """A file of zeros that take no room."""
    with path.open("wb") as file:
        file.truncate(length)
    return path


def big_onnx(folder: Path) -> Path:
    """A product with a matrix of HUGE bytes in a file apart."""
    weight = TensorProto(name="w", dims=(HUGE >> 12, 1 << 10), data_type=1, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "model.data"), ("offset", "0"), ("length", str(HUGE))):
        weight.external_data.add(key=key, value=value)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "n"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "big", ports[:1], ports[1:], [weight])
    onnx.save(helper.make_model(graph), folder / "big.onnx")
    sparse(folder / "model.data", HUGE)
    return folder / "big.onnx"


def big_checkpoint(folder: Path) -> Path:
    header = json.dumps({"w": {"dtype": "BF16", "shape": [HUGE >> 11, 1 << 10], "data_offsets": [0, HUGE]}}).encode()
    path = sparse(folder / "model.safetensors", 8 + len(header) + HUGE)
    with path.open("r+b") as file:
        file.write(struct.pack("<Q", len(header)) + header)
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("make", [big_onnx, big_checkpoint])
def test_only_headers_are_read(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """A process of its own tells what memory it took at most."""
    code = f"import sys; from runtime.__main__ import app; sys.argv[1:] = {['inspect', str(make(tmp_path)), '--json']}"
    code += "\ntry: app()\nfinally: print(open('/proc/self/status').read(), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = Description.model_validate_json(done.stdout)
    assert found.weights[0].bytes == HUGE and found.size > HUGE
    (peak,) = re.findall(r"VmHWM:\s*(\d+) kB", done.stderr)
    assert int(peak) * 1024 < MEMORY


@pytest.mark.parametrize(
    ("kind", "bits", "name"), [(TensorProto.INT4, 4, "int4"), (TensorProto.BFLOAT16, 16, "bfloat16")]
)
def test_onnx_types_that_numpy_lacks(tmp_path: Path, kind: int, bits: int, name: str) -> None:
    raw = helper.make_tensor("w", kind, [3, 8], bytes(3 * bits), raw=True)
    scale = helper.make_tensor("s", TensorProto.FLOAT, [], [2.0])
    graph = helper.make_graph([helper.make_node("DequantizeLinear", ["w", "s"], ["y"])], "packed", [], [], [raw, scale])
    onnx.save(helper.make_model(graph), tmp_path / "packed.onnx")
    codes, scales = inspect(tmp_path / "packed.onnx").weights
    assert codes == Weights(dtype=name, part="codes", bits=bits, values=24, bytes=len(raw.raw_data))
    assert scales == Weights(dtype="float32", part="scales", bits=32, values=1, bytes=4)


# Checkpoints, beside safetensors' own reader


def test_checkpoint(quantized_checkpoint: Path) -> None:
    found = inspect(quantized_checkpoint)
    count, length = 0, 0
    for path in quantized_checkpoint.glob("*.safetensors"):
        with safe_open(path, "pt") as opened:
            tensors = [opened.get_tensor(key) for key in opened.keys()]  # noqa: SIM118
        count, length = count + len(tensors), length + sum(tensor.nbytes for tensor in tensors)
    assert (sum(weights.count for weights in found.weights), total(found)) == (count, length)
    assert found.size == sum(path.stat().st_size for path in quantized_checkpoint.iterdir())
    record = json.loads((quantized_checkpoint / "quantization.json").read_bytes())
    assert found.recipe and found.recipe.bits_per_weight == record["recipe"]["bits_per_weight"]
    assert found.facts["digests"] == len(record["tensors"]) and found.facts["rms_error"] == record["error"]
    assert found.facts["quantization"] == "compressed-tensors pack-quantized"


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "int32", "uint64", "float16", "float64"])
def test_any_safetensors(tmp_path: Path, dtype: str) -> None:
    """Without a config or a record."""
    array = np.zeros((3, 5), dtype)
    save_file({"a": array, "b": array[:1]}, tmp_path / "other.safetensors")
    for path in (tmp_path, tmp_path / "other.safetensors"):
        (weights,) = inspect(path).weights
        bits = array.itemsize * 8
        assert weights == Weights(dtype=dtype, part="values", bits=bits, values=20, bytes=20 * array.itemsize, count=2)


# ExecuTorch, beside its own runtime


@pytest.fixture(scope="module")
def program(executorch_bundle: Path) -> Description:
    return inspect(executorch_bundle / "executorch" / FILE)


def test_executorch_methods(executorch_bundle: Path, program: Description) -> None:
    own = open_program(executorch_bundle / "executorch")
    plans = deserialize_pte_binary((executorch_bundle / "executorch" / FILE).read_bytes()).program.execution_plan
    arenas = {plan.name: plan.non_const_buffer_sizes[1:] for plan in plans}  # the first stands for no memory
    assert {*(graph.name for graph in program.graphs), *program.facts} == set(own.method_names)
    for graph in program.graphs:
        meta = own.metadata(graph.name)
        told = [[int(str(size).removeprefix("<=")) for size in port.shape] for port in graph.inputs]
        assert told == [list(meta.input_tensor_meta(place).sizes()) for place in range(meta.num_inputs())]
        assert graph.arenas == arenas[graph.name]
    for name, value in program.facts.items():
        result = own.load_method(name).execute([])
        assert result == (value if isinstance(value, list) else [value])


def test_executorch_weights(executorch_bundle: Path, program: Description) -> None:
    values = quantized(executorch_bundle)
    codes = stored(program, "int4", "codes")
    assert (codes.count, codes.values) == (len(values), sum(values))
    assert stored(program, "bfloat16", "scales").count == len(values)
    assert set(program.files) == {FILE, DATA_FILE} and not program.notes
    data = program.files[DATA_FILE]
    assert 0.9 * data < total(program) < program.size, "each weight once"


def test_executorch_delegates(executorch_bundle: Path, program: Description) -> None:
    decoder = next(graph for graph in program.graphs if graph.name == "text_decoder")
    assert set(decoder.delegates) == {"XnnpackBackend"} and not decoder.delegates.keys() & decoder.operators
    assert decoder.delegated["FullyConnected"] == len(quantized(executorch_bundle)), "a product for each"


def test_a_program_without_its_data_file_says_so(executorch_bundle: Path, tmp_path: Path) -> None:
    shutil.copyfile(executorch_bundle / "executorch" / FILE, tmp_path / FILE)
    (note,) = inspect(tmp_path / FILE).notes
    assert DATA_FILE in note and "not there" in note


# Bundles


def test_bundle(bundle: Path) -> None:
    found, manifest = inspect(bundle), read_manifest(bundle)
    assert found.kind == "bundle" and found.bundle and found.bundle.verdict
    assert found.size == sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    assert (found.source, found.recipe, found.bundle.limits) == (manifest.source, manifest.recipe, manifest.limits)
    assert found.bundle.verdict.passed and not found.bundle.verdict.failed and not found.notes
    artifact, context = found.bundle.artifacts["onnx"], manifest.limits.context
    assert artifact.cache[context] == manifest.artifacts["onnx"].cache.at(context) > artifact.cache[context // 2]
    assert artifact.bytes == sum(path.stat().st_size for path in (bundle / "onnx").iterdir())
    assert found.artifacts["onnx"].graphs == inspect(bundle / "onnx").graphs


def test_control_files_unlike_the_manifest_are_told(bundle_copy: Path) -> None:
    (bundle_copy / "config.json").unlink()
    (bundle_copy / "tokenizer.json").write_text("{}")
    (bundle_copy / "more.txt").touch()
    notes = "; ".join(inspect(bundle_copy).notes)
    assert "config.json is missing" in notes and "tokenizer.json has 2 bytes" in notes and "more.txt is not" in notes


def test_without_the_engine_a_bundle_tells_what_it_recorded(
    executorch_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executorch, "VERSION", "0.1")
    with pytest.raises(UserError, match=r"executorch .* is installed.*pip install executorch==0\.1"):
        inspect(executorch_bundle / "executorch" / FILE)
    found = inspect(executorch_bundle)
    assert ["pip install executorch==0.1" in note for note in found.notes] == [True]
    ports = {graph.name: graph.inputs for graph in found.artifacts["executorch"].graphs}
    recorded = read_manifest(executorch_bundle).artifacts["executorch"].programs
    assert ports == {role: program.inputs for role, program in recorded.items()}


def test_formats_that_only_the_manifest_describes(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(bundles.DESCRIBE, "onnx")
    found = inspect(bundle)
    assert len(found.artifacts["onnx"].graphs) == 4 and "as recorded" in found.notes[0]


# The command


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["inspect", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_json_is_one_document(bundle: Path) -> None:
    code, text, _ = run(str(bundle), "--json")
    assert code == 0 and Description.model_validate_json(text) == inspect(bundle)


def test_people_are_told_the_same(executorch_bundle: Path) -> None:
    code, text, _ = run(str(executorch_bundle))
    found = inspect(executorch_bundle)
    assert code == 0 and found.recipe
    for told in (size(found.size), found.recipe.description, "verified", "text_decoder", "XnnpackBackend", "int4",
                 "bfloat16", "FullyConnected", DATA_FILE, "get_eos_ids"):  # fmt: skip
        assert told in text


def test_ports_that_differ_in_a_number_share_a_line(bundle: Path) -> None:
    _, text, _ = run(str(bundle / "onnx" / "decoder.onnx"))
    assert "past_key_values.*.key" in text and "past_key_values.3.key" not in text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (7_470_000_000, "7.47 GB")])
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


# Bad input: one line


def refused(path: Path) -> str:
    """What is said of it."""
    code, text, error = run(str(path))
    (line,) = error.splitlines()
    assert (code, text) == (2, "") and line.startswith("error: ")
    return line


def test_wrong_paths(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nothing")
    assert "nothing that can be inspected" in refused(tmp_path)
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    assert "nothing that can be inspected" in refused(tmp_path / "some.gguf")
    (tmp_path / "manifest.json").write_text("{}")
    assert "export the bundle again" in refused(tmp_path)


@pytest.mark.parametrize("suffix", ["onnx", "pte", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"\xff" * 100, bytes(4096), b"not what its name says"])
def test_garbage(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(content)
    assert str(path) in refused(path)


def cut(path: Path, share: float) -> Path:
    os.truncate(path, int(path.stat().st_size * share))
    return path


@pytest.mark.parametrize("share", [0.001, 0.3, 0.99])
@pytest.mark.parametrize("name", [f"executorch/{FILE}", f"executorch/{DATA_FILE}"])
def test_executorch_cut_short(executorch_bundle: Path, tmp_path: Path, name: str, share: float) -> None:
    shutil.copytree(executorch_bundle / "executorch", tmp_path / "executorch")
    cut(tmp_path / name, share)
    assert Path(name).name in refused(tmp_path / "executorch" / FILE)


@pytest.mark.parametrize("share", [0.001, 0.5, 0.99])
@pytest.mark.parametrize("name", ["decoder.onnx", "model.data"])
def test_onnx_cut_short(bundle: Path, tmp_path: Path, name: str, share: float) -> None:
    folder = shutil.copytree(bundle / "onnx", tmp_path / "onnx")
    cut(folder / name, share)
    assert name in refused(folder)


def test_onnx_without_its_data(bundle: Path, tmp_path: Path) -> None:
    shutil.copyfile(bundle / "onnx" / "decoder.onnx", tmp_path / "decoder.onnx")
    assert "model.data is missing" in refused(tmp_path / "decoder.onnx")


@pytest.mark.parametrize("share", [0.001, 0.5, 0.99])
def test_checkpoint_cut_short(quantized_checkpoint: Path, tmp_path: Path, share: float) -> None:
    folder = shutil.copytree(quantized_checkpoint, tmp_path / "checkpoint")
    name = cut(next(folder.glob("model-*.safetensors")), share).name
    assert name in refused(folder)
    (folder / name).unlink()
    assert name in refused(folder), "the index names it"


@pytest.mark.parametrize("content", ["not JSON", "[]", '{"recipe": {"name": 3}}'])
def test_a_damaged_record(quantized_checkpoint: Path, tmp_path: Path, content: str) -> None:
    folder = shutil.copytree(quantized_checkpoint, tmp_path / "checkpoint")
    (folder / "quantization.json").write_text(content)
    assert "quantization.json" in refused(folder)
