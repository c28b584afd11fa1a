"""A faithful bundle passes; each way of spoiling one is caught by the check made for it, checksums notwithstanding."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from runtime import goldens
from runtime.__main__ import app
from runtime.checks import lowering, quantization
from runtime.checks.files import sha256
from runtime.errors import UserError
from runtime.evaluation import Evaluation
from runtime.gates import GATES, override
from runtime.goldens import GoldenPrompt
from runtime.manifest import QUANTIZED, RECORD, Manifest, Measure, Verification, read_manifest, write_manifest
from runtime.prompt import Prompter, with_paths
from runtime.sessions.reference import ReferenceSession, load_model
from runtime.verify import CHECKS, make_job, verify

LAYER = "model.language_model.layers.3"
GATE, UP = f"{LAYER}.mlp.gate_proj.weight", f"{LAYER}.mlp.up_proj.weight"
NORM = f"{LAYER}.input_layernorm.weight"


def seal(bundle: Path) -> None:
    """Records sizes and checksums of the files as they are now: what was done to them must be seen otherwise."""
    manifest = read_manifest(bundle)
    files = [file.model_copy(update={"size": (bundle / file.path).stat().st_size, "sha256": sha256(bundle / file.path)})
             for file in manifest.files]  # fmt: skip
    write_manifest(bundle, manifest.model_copy(update={"files": files}))


def failures(result: Verification) -> set[str]:
    """Names of measures whose gates do not hold."""
    return {measure.name for measure in result.measures if not measure.passed}


def found(bundle: Path) -> Verification:
    """What its export measured."""
    verification = read_manifest(bundle).verification
    assert verification
    return verification


def values(verification: Verification, name: str) -> dict[str | None, Measure]:
    """By modality."""
    return {measure.modality: measure for measure in verification.measures if measure.name == name}


# Ways to spoil a bundle


def place(bundle: Path, initializer: str) -> tuple[int, int]:
    """Offset and length in model.data."""
    graph = onnx.load(bundle / "onnx/decoder.onnx", load_external_data=False).graph
    tensor = next(tensor for tensor in graph.initializer if tensor.name == initializer)
    where = {entry.key: int(entry.value) for entry in tensor.external_data if entry.key != "location"}
    return where["offset"], where["length"]


def edit_data(bundle: Path, edit: Callable[[np.ndarray], None]) -> None:
    """In place, as bytes."""
    data = np.memmap(bundle / "onnx/model.data", np.uint8, "r+")
    edit(data)
    data.flush()


def edit_graph(bundle: Path, edit: Callable[[onnx.GraphProto], None]) -> None:
    model = onnx.load(bundle / "onnx/decoder.onnx", load_external_data=False)
    edit(model.graph)
    (bundle / "onnx/decoder.onnx").write_bytes(model.SerializeToString())


def flip_a_nibble(bundle: Path) -> None:
    offset, length = place(bundle, f"{UP}.blocks")

    def edit(data: np.ndarray) -> None:
        data[offset + length // 2] ^= 0x10

    edit_data(bundle, edit)


def swap_two_weights(bundle: Path) -> None:
    """Codes and scales of two projections of one shape."""

    def edit(data: np.ndarray) -> None:
        for part in ("blocks", "scales"):
            places = [place(bundle, f"{name}.{part}") for name in (GATE, UP)]
            first, second = (slice(at, at + size) for at, size in places)
            data[first], data[second] = data[second].copy(), data[first].copy()

    edit_data(bundle, edit)


def change_a_scale(bundle: Path) -> None:
    """By the last bit of a bfloat16."""
    offset, length = place(bundle, f"{GATE}.scales")

    def edit(data: np.ndarray) -> None:
        data[offset + length // 8 * 4 + 2] ^= 1

    edit_data(bundle, edit)


def change_a_norm(bundle: Path) -> None:
    def edit(graph: onnx.GraphProto) -> None:
        tensor = next(tensor for tensor in graph.initializer if tensor.name == NORM)
        values = numpy_helper.to_array(tensor).copy()
        values[5] *= 2
        tensor.CopyFrom(numpy_helper.from_array(values, NORM))

    edit_graph(bundle, edit)


def rewire_two_weights(bundle: Path) -> None:
    """Every byte is in its place, but the graph multiplies by the wrong one."""

    def edit(graph: onnx.GraphProto) -> None:
        names = {f"{one}.{part}": f"{other}.{part}" for part in ("blocks", "scales")
                 for one, other in ((GATE, UP), (UP, GATE))}  # fmt: skip
        for node in graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]

    edit_graph(bundle, edit)


def change_the_template(bundle: Path) -> None:
    for path in (bundle / "chat_template.jinja", bundle / "onnx/chat_template.jinja"):
        path.write_text(path.read_text().replace("<|turn>model", "<|turn>assistant"))


def change_a_piece_of_the_template(bundle: Path) -> None:
    path = bundle / "manifest.json"
    facts = json.loads(path.read_text())
    facts["dialogue"]["turns"]["user"]["end"] += " "
    path.write_text(json.dumps(facts))


def change_a_copy_of_the_template(bundle: Path) -> None:
    with (bundle / "onnx/chat_template.jinja").open("a") as template:
        template.write(" ")


def exchange_gelu(bundle: Path) -> None:
    """The exact gelu instead of its tanh approximation, 6e-4 apart at most."""

    def edit(graph: onnx.GraphProto) -> None:
        for node in (node for node in graph.node if node.op_type == "Gelu"):
            del node.attribute[:]

    edit_graph(bundle, edit)


CONTROLS = [
    (flip_a_nibble, "bytes", "weights_wrong"),
    (swap_two_weights, "bytes", "weights_wrong"),
    (change_a_scale, "bytes", "weights_wrong"),
    (change_a_norm, "bytes", "weights_wrong"),
    (rewire_two_weights, "goldens", "golden_rms"),
    (change_the_template, "template", "prompts_wrong"),
    (change_a_copy_of_the_template, "template", "copies_wrong"),
    (change_a_piece_of_the_template, "template", "dialogue_wrong"),
]


@pytest.mark.parametrize(("spoil", "check", "measure"), CONTROLS, ids=[control[0].__name__ for control in CONTROLS])
def test_a_spoiled_bundle_is_caught(bundle_copy: Path, spoil: Callable[[Path], None], check: str, measure: str) -> None:
    spoil(bundle_copy)
    seal(bundle_copy)
    result = verify(bundle_copy, only=["files", check])
    assert measure in failures(result) and not result.passed
    assert "files_wrong" not in failures(result)


def test_bytes_alone_would_not_see_a_rewired_graph(bundle_copy: Path) -> None:
    rewire_two_weights(bundle_copy)
    assert not failures(verify(bundle_copy, only=["bytes"]))


def test_the_float_twin_sees_what_hides_below_int8(bundle_copy: Path, quantized_checkpoint: Path) -> None:
    """Its measures come first, so the rest need not run."""
    exchange_gelu(bundle_copy)
    job = make_job(bundle_copy, quantized_checkpoint, None, None, GATES, lambda text: None)
    assert {measure.passed for measure in islice(lowering.run(job), 4) if measure.name == "twin_rms"} == {False}


def other_model(checkpoint: Path) -> Any:
    """With the feed-forward parts of all layers in reverse order."""
    model = load_model(checkpoint)
    layers = model.model.language_model.layers
    for layer, part in zip(layers, [layer.mlp for layer in reversed(layers)], strict=True):
        layer.mlp = part
    return model


@pytest.mark.parametrize("at_hand", [False, True], ids=["alone", "beside the quantized checkpoint"])
def test_goldens_of_another_model_are_caught(
    bundle_copy: Path, tiny_checkpoint: Path, quantized_checkpoint: Path, tmp_path: Path, at_hand: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Torch, where it can be asked, is as far from them as engines are, and excuses nothing."""
    monkeypatch.chdir(tmp_path)  # where no export leaves a quantized checkpoint
    manifest, model = read_manifest(bundle_copy), other_model(tiny_checkpoint)
    media = shutil.copytree(bundle_copy / goldens.FOLDER, tmp_path / "media")
    recorded = (goldens.read(entry, bundle_copy) for entry in manifest.goldens if entry.modality in ("text", "audio"))
    prompts = [GoldenPrompt(golden.name, golden.modality, with_paths(golden.messages, lambda path: str(media / path)))
               for golden in recorded]  # fmt: skip
    goldens.record(prompts, bundle_copy, Prompter(bundle_copy), ReferenceSession(model), manifest.tokens, steps=8)
    seal(bundle_copy)
    quantized = quantized_checkpoint if at_hand else None
    assert "golden_rms" in failures(verify(bundle_copy, quantized, only=["goldens"]))
    assert not failures(verify(bundle_copy, only=["files", "bytes", "template"]))


def test_quantization_is_measured(
    bundle: Path, quantized_checkpoint: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A good recipe passes; a model that knows less than its source does not."""
    monkeypatch.setattr(quantization, "PIECES", 1)
    monkeypatch.setattr(quantization, "QUESTIONS", 10)
    job = make_job(bundle, quantized_checkpoint, tiny_checkpoint, None, GATES, lambda text: None)
    measures = {(measure.name, measure.modality): measure for measure in quantization.run(job)}
    assert {modality for _, modality in measures} == {"text", "image", "audio"}
    assert all(measure.passed for measure in measures.values() if measure.modality == "text")
    job.reference = ReferenceSession(other_model(tiny_checkpoint))
    assert not any(measure.passed for measure in quantization.run(job))


# Files


def test_a_truncated_file_is_caught(bundle_copy: Path) -> None:
    data = bundle_copy / "onnx/model.data"
    with data.open("r+b") as opened:
        opened.truncate(data.stat().st_size - 5000)
    result = verify(bundle_copy, only=["files", "bytes", "goldens"])
    assert {"files_wrong", "weights_wrong"} <= failures(result)
    notes = [measure.note for measure in result.measures if measure.name == "files_wrong"]
    assert "onnx/model.data has" in notes[0]


def test_missing_and_foreign_files_are_caught(bundle_copy: Path) -> None:
    (bundle_copy / "tokenizer_config.json").unlink()
    (bundle_copy / "onnx/extra.bin").write_bytes(b"?")
    (measure,) = verify(bundle_copy, only=["files"]).measures
    assert measure.value == 2 and "tokenizer_config.json missing" in measure.note and "extra.bin" in measure.note


@pytest.mark.parametrize("suffix", [".onnx", ".data", ".json", ".jinja", ".safetensors", ".png", ".wav"])
def test_a_changed_byte_is_caught_in_every_kind_of_file(bundle_copy: Path, suffix: str) -> None:
    """And damaged goldens are a failed gate, too, not bad input."""
    path = sorted(path for path in bundle_copy.rglob(f"*{suffix}") if "manifest" not in path.name)[-1]
    with path.open("r+b") as opened:
        opened.seek(path.stat().st_size // 2)
        byte = opened.read(1)
        opened.seek(-1, 1)
        opened.write(bytes([byte[0] ^ 0xFF]))
    result = CliRunner().invoke(app, ["verify", str(bundle_copy), "--only", "files", "--only", "template"])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    told = " ".join(result.stdout.split())
    assert "files_wrong" in told and f"{path.name} has another sha256" in told


# What runs, and what it says


def test_an_export_is_verified_whole(bundle: Path) -> None:
    """The fixture's export verified it with the quantized checkpoint at hand."""
    verification = read_manifest(bundle).verification
    assert verification is not None and verification.passed
    assert {"files", "bytes", "template", "goldens", "preprocessing", "lowering"} <= set(verification.ran)
    engines = {(measure.engine, measure.modality) for measure in verification.measures if measure.check == "lowering"}
    for modality in ("text", "image", "audio", "long"):
        assert {("onnxruntime", modality), ("onnxruntime-genai", modality)} <= engines


def test_the_bundle_alone_is_enough(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["verify", str(bundle), "--json"])
    found = Verification.model_validate_json(result.stdout)
    assert result.exit_code == 0 and found.passed
    assert found.ran == ["files", "bytes", "template", "goldens", "preprocessing"]
    assert set(found.skipped) == {"lowering", "rounding", "quantization"} and "--quantized" in found.skipped["lowering"]


def other_weights(quantized: Path, folder: Path) -> Path:
    """The checkpoint with a record of one weight less, which is all that tells whose it is."""
    folder.mkdir(parents=True)
    record = json.loads((quantized / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(record | {"tensors": record["tensors"][1:]}))
    return folder


def test_a_checkpoint_of_other_weights_is_not_asked(
    bundle: Path, quantized_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the usual place it is passed over, and named it is refused."""
    monkeypatch.chdir(tmp_path)
    place = other_weights(quantized_checkpoint, tmp_path / QUANTIZED / bundle.name)
    found = verify(bundle, only=["lowering"])
    assert found.ran == [] and "is of other weights than the bundle" in found.skipped["lowering"]
    with pytest.raises(UserError, match="other weights than the bundle: name its own checkpoint with --quantized"):
        verify(bundle, place, only=["lowering"])
    shutil.copyfile(quantized_checkpoint / RECORD, place / RECORD)
    job = make_job(bundle, None, None, None, GATES, lambda text: None)
    assert job.quantized and not job.unfit, "control: its own record"


def test_what_measures_nothing_is_not_verified(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert verify(bundle, only=["files"]).passed, "control"
    assert not verify(bundle, only=["lowering"]).passed, "skipped: there is no quantized checkpoint"
    with pytest.raises(UserError, match="check packages is about coreml, the bundle holds onnx: leave it out"):
        verify(bundle, only=["packages"])
    monkeypatch.setitem(CHECKS, "files", replace(CHECKS["files"], run=lambda job: iter(())))
    assert failures(verify(bundle, only=["files", "bytes"])) == {"stopped"}


def test_what_is_not_held_out_is_said(bundle: Path, quantized_checkpoint: Path, tiny_checkpoint: Path) -> None:
    job = make_job(bundle, quantized_checkpoint, tiny_checkpoint, None, GATES, lambda text: None)
    job.held_out = Evaluation(["Few words."], [], [])
    assert list(quantization.run(job)) == []
    assert set(job.skipped) == {"quantization error of text", "accuracy about image data", "accuracy about audio data"}


def test_people_get_a_table_and_a_verdict(bundle_copy: Path) -> None:
    result = CliRunner().invoke(app, ["verify", str(bundle_copy), "--only", "files", "--only", "bytes"])
    assert result.exit_code == 0 and "weights_wrong" in result.stdout and "verified" in result.stdout
    (bundle_copy / "config.json").unlink()
    result = CliRunner().invoke(app, ["verify", str(bundle_copy), "--only", "files"])
    assert result.exit_code == 1 and "1 gates failed" in result.stdout and "config.json missing" in result.stdout


def test_gates_can_be_moved(bundle_copy: Path) -> None:
    change_a_norm(bundle_copy)
    assert not verify(bundle_copy, only=["bytes"]).passed
    assert verify(bundle_copy, only=["bytes"], gates=override(GATES, ["weights_wrong=1"])).passed


def test_an_engine_that_refuses_is_a_failure_not_a_crash(bundle_copy: Path) -> None:
    (bundle_copy / "onnx/decoder.onnx").write_bytes(b"\x08\x07")
    result = verify(bundle_copy, only=["goldens", "template"])
    assert result.ran == ["template", "goldens"] and failures(result) == {"stopped"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{empty}"], "holds no manifest.json"),
        (["{bundle}", "--gate", "speed=1"], "no gate 'speed'"),
        (["{bundle}", "--only", "everything"], "no check 'everything'"),
        (["{bundle}", "--quantized", "{empty}/absent"], "is no folder"),
        (
            ["{bundle}", "--quantized", "{empty}"],
            "no {empty}/quantization.json: name the quantized checkpoint",
        ),
    ],
)
def test_bad_input_is_one_line(bundle: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    filled = [argument.format(bundle=bundle, empty=tmp_path) for argument in arguments]
    result = CliRunner().invoke(app, ["verify", *filled])
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert message.format(empty=tmp_path) in result.stderr


@pytest.mark.parametrize("damage", ["{", "[]", '{"format_version": 1}'])
def test_a_damaged_manifest_is_named(tmp_path: Path, damage: str) -> None:
    (tmp_path / "manifest.json").write_text(damage)
    with pytest.raises(UserError, match=r"manifest\.json"):
        verify(tmp_path)


def test_measures_survive_json(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
    assert all(isinstance(measure, Measure) for measure in manifest.verification.measures)  # type: ignore[union-attr]
