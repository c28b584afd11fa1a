"""Whatever is wrong with files that go in: one line with cause and fix, exit code 2, and bounded work before it."""

import json
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

import export.__main__
import runtime.__main__
from runtime import goldens
from runtime.errors import LONGEST_LINE, UserError, bad_input_told, one_line
from runtime.manifest import FILE, FORMAT_VERSION, LARGEST, named_paths, read_manifest
from runtime.prompt import Prompter, user
from runtime.readback import OnnxWeights
from runtime.tensors import INDEX
from runtime.untrusted import JSON_BYTES, read_json
from tests.fuzz.targets import (
    manifest_facts,
)
from tests.refusals import HELD, OUTSIDE, place, refused, told, write

SECRET = "nobody may read this"
Facts = dict[str, Any]


# Manifests

COMMANDS = [["verify"], ["report"], ["inspect"], ["chat", "--prompt", "Hello"]]


def newer(facts: Facts) -> Facts:
    return {"format_version": FORMAT_VERSION + 1, "bundles": [], "files": {"config.json": 7}}


MANIFESTS: dict[str, tuple[Callable[[Facts], Any], str]] = {
    "newer": (
        newer,
        f"made by a newer version (format_version {FORMAT_VERSION + 1}, this one reads {FORMAT_VERSION}): update",
    ),
    "older": (lambda facts: facts | {"format_version": 0}, "export the bundle again"),
    "no version": (lambda facts: {}, "says no format_version"),
    "a list": (lambda facts: [facts], "holds no JSON object"),
    "another key": (lambda facts: facts | {"a\nb\x1b[31m": 1}, "Extra inputs are not permitted"),
    "a negative size": (lambda facts: facts | {"limits": facts["limits"] | {"context": -1}}, "limits.context"),
    "a huge number": (lambda facts: facts | {"limits": facts["limits"] | {"context": 10**400}}, "limits.context"),
    "many faults": (lambda facts: facts | {str(index): 0 for index in range(2000)}, "2000 faults"),
}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("name", MANIFESTS)
def test_another_manifest_is_told_by_every_command(thin_bundle: Path, command: list[str], name: str) -> None:
    change, line = MANIFESTS[name]
    write(thin_bundle, change(manifest_facts()))
    assert line in refused(command[0], str(thin_bundle), *command[1:])


TEXTS = {
    "empty": (b"", "is not JSON"),
    "cut short": (b'{"format_version": 1', "is not JSON"),
    "deep": (b"[" * 100_000, "is not JSON"),
    "not UTF-8": (b'{"format_version": "\xff"}', "is not JSON"),
    "huge": (b" " * (LARGEST + 1), "more than 4 MiB"),
    "a number without end": (b'{"format_version": ' + b"1" * 10_000 + b"}", "is not JSON"),
}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("name", TEXTS)
def test_a_manifest_that_is_no_json(thin_bundle: Path, command: list[str], name: str) -> None:
    (thin_bundle / FILE).write_bytes(TEXTS[name][0])
    assert TEXTS[name][1] in refused(command[0], str(thin_bundle), *command[1:])


def test_a_manifest_of_faults_takes_bounded_memory(thin_bundle: Path) -> None:
    """Telling each of a million faults took 4 GB."""
    head = json.dumps(manifest_facts() | {"files": []}).replace('"files": []', '"files": [')
    (thin_bundle / FILE).write_text(
        head.partition('"files": [')[0] + '"files": [' + "0," * (LARGEST // 2 - 4000) + "0]}"
    )
    tracemalloc.start()
    with pytest.raises(UserError):
        read_manifest(thin_bundle)
    assert tracemalloc.get_traced_memory()[1] < 32 * LARGEST
    tracemalloc.stop()


PLACES: list[tuple[str | int, ...]] = [
    ("files", 0, "path"),
    ("goldens", 0, "file"),
    ("goldens", 0, "tensors"),
    ("artifacts", "onnx", "programs", "decoder", "file"),
    ("artifacts", "coreml", "host", "chunks", 0),
    ("artifacts", "coreml", "host", "heads", 0),
    ("artifacts", "coreml", "host", "embedding", "codes"),
    ("artifacts", "coreml", "host", "embedding", "scales"),
    ("artifacts", "coreml", "load_options", "XnnpackBackend", "packed_cache_path"),
]


@pytest.mark.parametrize("keys", PLACES, ids=lambda keys: ".".join(map(str, keys)))
def test_no_path_of_a_manifest_leaves_the_bundle(thin_bundle: Path, keys: tuple[str | int, ...]) -> None:
    lay_links(thin_bundle)
    for outside in OUTSIDE:
        place(facts := manifest_facts(), *keys)(outside)
        write(thin_bundle, facts)
        with pytest.raises(UserError, match=r"no path inside the folder|a link out of the folder"):
            list(map(print, named_paths(read_manifest(thin_bundle))))


def test_no_name_of_an_artifact_does(thin_bundle: Path) -> None:
    facts = manifest_facts()
    write(thin_bundle, facts | {"artifacts": {"../secret": facts["artifacts"]["onnx"]}})
    for command in COMMANDS:
        line = refused(command[0], str(thin_bundle), *command[1:])
        assert "'../secret' is no path inside" in line


def test_links_that_stay_inside_may_be(thin_bundle: Path) -> None:
    (thin_bundle / "config.json").rename(thin_bundle / "renamed.json")
    (thin_bundle / "config.json").symlink_to("renamed.json")
    assert read_manifest(thin_bundle).files
    (thin_bundle / FILE).rename(thin_bundle.parent / "elsewhere.json")
    (thin_bundle / FILE).symlink_to(thin_bundle.parent / "elsewhere.json")
    assert "a link out of the folder" in refused("verify", str(thin_bundle))


def lay_links(thin_bundle: Path) -> None:
    (thin_bundle.parent / "secret").write_text(SECRET)
    (thin_bundle / "link").symlink_to(thin_bundle.parent)
    (thin_bundle / "loop").symlink_to("loop")


# What else a bundle or a checkpoint names


def test_media_of_goldens_stay_inside(thin_bundle: Path) -> None:
    entry = read_manifest(thin_bundle).goldens[0]
    (thin_bundle / goldens.FOLDER).mkdir()
    (thin_bundle / entry.tensors).write_bytes(b"")
    (thin_bundle / entry.file).write_text(json.dumps({"messages": user("?", images=["../../secret.png"])}))
    with pytest.raises(UserError, match="no path inside"):
        goldens.read(entry, thin_bundle)


@pytest.mark.parametrize("text", ["", "[" * 100_000, "[]", "{}", '{"messages": 3}', '{"messages": [3]}'])
def test_damaged_goldens(thin_bundle: Path, text: str) -> None:
    entry = read_manifest(thin_bundle).goldens[0]
    (thin_bundle / goldens.FOLDER).mkdir()
    (thin_bundle / entry.tensors).write_bytes(b"")
    (thin_bundle / entry.file).write_text(text)
    with pytest.raises(UserError, match="export the bundle again"):
        goldens.read(entry, thin_bundle)


def test_weights_of_graphs_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(64))
    folder = tmp_path / "onnx"
    folder.mkdir()
    weight = TensorProto(name="w", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="../secret")
    node = helper.make_node("Identity", ["w"], ["y"])
    graph = helper.make_graph([node], "g", [], [], [weight])
    (folder / "decoder.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(UserError, match="no path inside"):
        OnnxWeights(folder).arrays("w")
    assert "no path inside" in refused("inspect", str(folder))


CHECKPOINTS: dict[str, tuple[str, bytes, str]] = {
    "config.json, not JSON": ("config.json", b"{", "is not JSON"),
    "config.json, not UTF-8": ("config.json", b"\xff", "is not JSON"),
    "config.json, deep": ("config.json", b"[" * 100_000, "is not JSON"),
    "config.json, a list": ("config.json", b"[]", "holds no JSON object"),
    "config.json, huge": ("config.json", b" " * (JSON_BYTES + 1), "more than 8 MiB"),
    "a billion layers": ("config.json", b'{"model_type": "gemma4_unified", "text_config": {"num_hidden_layers": '
                         b'1000000000}}', "number of layers up to 512"),
    "other types": ("config.json", b'{"model_type": "gemma4_unified", "text_config": {"hidden_size": "wide"}}',
                    "no configuration"),
    "processor_config.json": ("processor_config.json", b"[]", "holds no JSON object"),
    "an index, not JSON": (INDEX, b"[" * 100_000, "is not JSON"),
    "an index without a map": (INDEX, b'{"weight_map": [1]}', "has no weight_map"),
    "an index that leaves": (INDEX, b'{"weight_map": {"w": "../secret"}}', "which is no file beside it"),
    "an index of a missing file": (INDEX, b'{"weight_map": {"w": "a.safetensors"}}', "a.safetensors is missing"),
    "weights, empty": ("model.safetensors", b"", "cut short or damaged"),
    "weights, a huge header": ("model.safetensors", struct.pack("<Q", 2**60) + bytes(99), "cut short or damaged"),
    "weights, no header": ("model.safetensors", bytes(range(256)) * 9, "cut short or damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_damaged_checkpoints_are_not_exported(checkpoint_copy: Path, tmp_path: Path, name: str) -> None:
    file, content, line = CHECKPOINTS[name]
    (checkpoint_copy / file).write_bytes(content)
    places = "--build", str(tmp_path / "build"), "--dist", str(tmp_path / "dist")
    assert line in told(export.__main__.app, "--model", str(checkpoint_copy), *places)
    assert not (tmp_path / "build").exists() and not (tmp_path / "dist").exists()


def test_a_folder_where_a_file_should_be(checkpoint_copy: Path, tmp_path: Path) -> None:
    (checkpoint_copy / "model.safetensors").unlink()
    (checkpoint_copy / "model.safetensors").mkdir()
    assert "model.safetensors" in told(export.__main__.app, "--model", str(checkpoint_copy))
    assert "is a file: name a GGUF file or the folder" in told(
        export.__main__.app, "--model", str(checkpoint_copy / "config.json")
    )
    assert "export" in refused("verify", str(checkpoint_copy / "config.json"))


INSPECTED = {
    "x.onnx": b"",
    "y.onnx": b"\xff" * 99,
    "x.pte": b"",
    "y.pte": bytes(99),
    "x.safetensors": b"{}",
    "x.txt": b"",
}


@pytest.mark.parametrize("name", INSPECTED)
def test_damaged_files_are_not_inspected(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(INSPECTED[name])
    assert name in refused("inspect", str(tmp_path / name))


def test_names_that_are_no_utf8(thin_bundle: Path) -> None:
    """They are told with escapes, by all that lists files."""
    (thin_bundle / "tokenizer.json").rename(thin_bundle / os.fsdecode(b"\xffstray"))
    result = CliRunner().invoke(runtime.__main__.app, ["verify", str(thin_bundle), "--only", "files", "--json"])
    assert result.exit_code == 1 and "udcffstray not listed" in result.stdout
    odd = thin_bundle.rename(thin_bundle.parent / os.fsdecode(b"b\xff"))
    result = CliRunner().invoke(runtime.__main__.app, ["verify", str(odd), "--only", "files"])
    assert result.exit_code == 1 and "gates failed" in result.stdout
    (odd / FILE).unlink()
    assert "b\\udcff holds no" in refused("verify", str(odd))


@pytest.mark.parametrize("name", sorted(HELD - {"config.json"}))
@pytest.mark.parametrize("content", [b"", b"\xff{", b"[" * 100_000, b"[1]"], ids=["empty", "bytes", "deep", "list"])
def test_damaged_processor_files(thin_bundle: Path, name: str, content: bytes) -> None:
    (thin_bundle / name).write_bytes(content)
    try:
        rendered = Prompter(thin_bundle)(user("Hello"))
    except UserError as error:
        assert str(error).count("again")
    else:
        assert "template" in name and rendered.text == content.decode()


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    """A pipe is not waited for; a file that cannot be read says so."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "memory").symlink_to("/proc/self/mem")
    for name, reason in {"pipe": "no regular file", "memory": "cannot be read", ".": "is a folder", "no": "is missing",
                         "x" * 300: "cannot be opened", "a\0b": "is missing"}.items():  # fmt: skip
        with pytest.raises(UserError, match=reason):
            read_json(tmp_path / name, "write it again")


def test_lines_are_short_and_whole() -> None:
    assert one_line("a\nb \x1b[31m" + "c" * 10**6).startswith("a b \\x1b[31mccc")
    assert len(one_line("c" * 10**6)) <= LONGEST_LINE + 3 and one_line(KeyError()) == "KeyError"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError()])
def test_what_the_machine_lacks_is_told(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match="2"), bad_input_told():
        raise error
    assert capsys.readouterr().err.startswith("error: ")
