"""Whatever is wrong with what goes in: one line that names cause and fix, exit code 2, and bounded work before it."""

import io
import json
import os
import shutil
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image
from typer.testing import CliRunner

import export.__main__
import runtime.__main__
from runtime import goldens, prompt
from runtime.errors import LONGEST_LINE, UserError, bad_input_told, one_line
from runtime.inspection.kinds import inspect
from runtime.manifest import FILE, FORMAT_VERSION, LARGEST, named_paths, read_manifest
from runtime.prompt import Prompter, read_audio, read_image, user
from runtime.readback import OnnxWeights
from runtime.tensors import INDEX
from runtime.untrusted import JSON_BYTES, read_json
from tests.fuzz.targets import (
    RATE,
    audio_files,
    check_audio,
    check_image,
    check_manifest,
    image_files,
    manifest_facts,
)

SECRET = "nobody may read this"
HELD = {"config.json", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "processor_config.json"}
Facts = dict[str, Any]


@pytest.fixture
def bundle(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """With a manifest and what prompts need, and no artifact: what is refused here is refused before one is opened."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    for name in HELD:
        shutil.copyfile(tiny_checkpoint / name, folder / name)
    write(folder, manifest_facts())
    return folder


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


def write(folder: Path, facts: Any) -> None:
    (folder / FILE).write_text(json.dumps(facts))


def told(app: Any, *arguments: str) -> str:
    """The one line that a command ends with."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), (result.exception, result.output)
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and not result.stdout
    return line


def refused(*arguments: str) -> str:
    return told(runtime.__main__.app, *arguments)


# Manifests

COMMANDS = [["verify"], ["report"], ["inspect"], ["chat", "--prompt", "Hello"]]


def newer(facts: Facts) -> Facts:
    return {"format_version": FORMAT_VERSION + 1, "bundles": [], "files": {"config.json": 7}}


MANIFESTS: dict[str, tuple[Callable[[Facts], Any], str]] = {
    "newer": (newer, "made by a newer version (format_version 2, this one reads 1): update"),
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
def test_another_manifest_is_told_by_every_command(bundle: Path, command: list[str], name: str) -> None:
    change, line = MANIFESTS[name]
    write(bundle, change(manifest_facts()))
    assert line in refused(command[0], str(bundle), *command[1:])


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
def test_a_manifest_that_is_no_json(bundle: Path, command: list[str], name: str) -> None:
    (bundle / FILE).write_bytes(TEXTS[name][0])
    assert TEXTS[name][1] in refused(command[0], str(bundle), *command[1:])


def test_a_manifest_of_faults_takes_bounded_memory(bundle: Path) -> None:
    """Telling each of a million faults took 4 GB."""
    head = json.dumps(manifest_facts() | {"files": []}).replace('"files": []', '"files": [')
    (bundle / FILE).write_text(head.partition('"files": [')[0] + '"files": [' + "0," * (LARGEST // 2 - 4000) + "0]}")
    tracemalloc.start()
    with pytest.raises(UserError):
        read_manifest(bundle)
    assert tracemalloc.get_traced_memory()[1] < 32 * LARGEST
    tracemalloc.stop()


def place(facts: Facts, *keys: str | int) -> Callable[[str], None]:
    def put(value: str) -> None:
        inner: Any = facts
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return put


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
OUTSIDE = ["../secret", "onnx/../../secret", "/etc/passwd", "..\\secret", "a\0b", "", "link/secret", "loop/secret"]


@pytest.mark.parametrize("keys", PLACES, ids=lambda keys: ".".join(map(str, keys)))
def test_no_path_of_a_manifest_leaves_the_bundle(bundle: Path, keys: tuple[str | int, ...]) -> None:
    lay_links(bundle)
    for outside in OUTSIDE:
        place(facts := manifest_facts(), *keys)(outside)
        write(bundle, facts)
        with pytest.raises(UserError, match=r"no path inside the folder|a link out of the folder"):
            list(map(print, named_paths(read_manifest(bundle))))


def test_no_name_of_an_artifact_does(bundle: Path) -> None:
    facts = manifest_facts()
    write(bundle, facts | {"artifacts": {"../secret": facts["artifacts"]["onnx"]}})
    for command in COMMANDS:
        line = refused(command[0], str(bundle), *command[1:])
        assert "'../secret' is no path inside" in line


def test_links_that_stay_inside_may_be(bundle: Path) -> None:
    (bundle / "config.json").rename(bundle / "renamed.json")
    (bundle / "config.json").symlink_to("renamed.json")
    assert read_manifest(bundle).files
    (bundle / FILE).rename(bundle.parent / "elsewhere.json")
    (bundle / FILE).symlink_to(bundle.parent / "elsewhere.json")
    assert "a link out of the folder" in refused("verify", str(bundle))


def lay_links(bundle: Path) -> None:
    (bundle.parent / "secret").write_text(SECRET)
    (bundle / "link").symlink_to(bundle.parent)
    (bundle / "loop").symlink_to("loop")


# What else a bundle or a checkpoint names


def test_media_of_goldens_stay_inside(bundle: Path) -> None:
    entry = read_manifest(bundle).goldens[0]
    (bundle / goldens.FOLDER).mkdir()
    (bundle / entry.tensors).write_bytes(b"")
    (bundle / entry.file).write_text(json.dumps({"messages": user("?", images=["../../secret.png"])}))
    with pytest.raises(UserError, match="no path inside"):
        goldens.read(entry, bundle)


@pytest.mark.parametrize("text", ["", "[" * 100_000, "[]", "{}", '{"messages": 3}', '{"messages": [3]}'])
def test_damaged_goldens(bundle: Path, text: str) -> None:
    entry = read_manifest(bundle).goldens[0]
    (bundle / goldens.FOLDER).mkdir()
    (bundle / entry.tensors).write_bytes(b"")
    (bundle / entry.file).write_text(text)
    with pytest.raises(UserError, match="export the bundle again"):
        goldens.read(entry, bundle)


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
def test_damaged_checkpoints_are_not_exported(checkpoint: Path, tmp_path: Path, name: str) -> None:
    file, content, line = CHECKPOINTS[name]
    (checkpoint / file).write_bytes(content)
    places = "--build", str(tmp_path / "build"), "--dist", str(tmp_path / "dist")
    assert line in told(export.__main__.app, "--model", str(checkpoint), *places)
    assert not (tmp_path / "build").exists() and not (tmp_path / "dist").exists()


def test_a_folder_where_a_file_should_be(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors").mkdir()
    assert "model.safetensors" in told(export.__main__.app, "--model", str(checkpoint))
    assert "is a file: name the folder" in told(export.__main__.app, "--model", str(checkpoint / "config.json"))
    assert "export" in refused("verify", str(checkpoint / "config.json"))


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


def test_names_that_are_no_utf8(bundle: Path) -> None:
    """They are told with escapes, by all that lists files."""
    (bundle / "tokenizer.json").rename(bundle / os.fsdecode(b"\xffstray"))
    result = CliRunner().invoke(runtime.__main__.app, ["verify", str(bundle), "--only", "files", "--json"])
    assert result.exit_code == 1 and "udcffstray not listed" in result.stdout
    odd = bundle.rename(bundle.parent / os.fsdecode(b"b\xff"))
    result = CliRunner().invoke(runtime.__main__.app, ["verify", str(odd), "--only", "files"])
    assert result.exit_code == 1 and "gates failed" in result.stdout
    (odd / FILE).unlink()
    assert "b\\udcff holds no" in refused("verify", str(odd))


@pytest.mark.parametrize("name", sorted(HELD - {"config.json"}))
@pytest.mark.parametrize("content", [b"", b"\xff{", b"[" * 100_000, b"[1]"], ids=["empty", "bytes", "deep", "list"])
def test_damaged_processor_files(bundle: Path, name: str, content: bytes) -> None:
    (bundle / name).write_bytes(content)
    try:
        rendered = Prompter(bundle)(user("Hello"))
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


# Media


def png(width: int, height: int) -> bytes:
    """Whose header says so, and whose pixels are not there."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
             for kind, data in chunks]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg() -> bytes:
    written = io.BytesIO()
    Image.effect_noise((200, 200), 90).convert("RGB").save(written, "JPEG")
    return written.getvalue()


IMAGES = {
    "a bomb": (png(60_000, 60_000), "more than 64 million pixels"),
    "too large": (png(8001, 8000), "8001 x 8000 pixels, at most 64 million"),
    "just not, but cut short": (png(8000, 8000), "not a readable image"),
    "a truncated JPEG": (jpeg()[:2000], "not a readable image"),
    "empty": (b"", "not a readable image"),
    "text": (b"What is shown?", "not a readable image"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a readable image"),
}


def sound(samples: Any, subtype: str = "FLOAT", format_: str = "WAV") -> bytes:
    written = io.BytesIO()
    soundfile.write(written, np.asarray(samples), RATE, format=format_, subtype=subtype)
    return written.getvalue()


def sounds() -> dict[str, tuple[bytes, str]]:
    long = sound(np.zeros(31 * RATE, np.int16), "PCM_16", "FLAC")
    return {
        "NaN": (sound([0.1, np.nan]), "no numbers"),
        "infinite": (sound([0.1, np.inf]), "no numbers"),
        "no samples": (sound(np.zeros(0)), "no samples"),
        "long": (long, "more than 30 seconds of sound"),
        "empty": (b"", "not a readable sound file"),
        "text": (b"What is said?", "not a readable sound file"),
    }


@pytest.mark.parametrize("name", IMAGES)
def test_images_that_chat_refuses(bundle: Path, tmp_path: Path, name: str) -> None:
    content, line = IMAGES[name]
    (tmp_path / "image").write_bytes(content)
    assert line in refused("chat", str(bundle), "--image", str(tmp_path / "image"), "--prompt", "What is shown?")


def test_clips_that_chat_refuses(bundle: Path, tmp_path: Path) -> None:
    for content, line in sounds().values():
        (tmp_path / "clip").write_bytes(content)
        assert line in refused("chat", str(bundle), "--audio", str(tmp_path / "clip"), "--prompt", "What is said?")


@pytest.mark.parametrize("option", ["--image", "--audio", "--tools"])
def test_options_of_chat_that_are_no_files(bundle: Path, option: str) -> None:
    for path, line in [(bundle / "no", "is missing"), (bundle, "is a folder"), (Path("/dev/zero"), "no regular file")]:
        assert line in refused("chat", str(bundle), option, str(path), "--prompt", "Hello")


def test_a_sound_file_that_promises_more_than_it_has(tmp_path: Path) -> None:
    """4 GB by its header, 800 samples by its size: these are read."""
    data = bytearray(sound(np.full(800, 0.5, np.float32), "PCM_16"))
    at = data.index(b"data") + 4
    data[4:8] = data[at : at + 4] = struct.pack("<I", 2**32 - 1)
    (tmp_path / "clip.wav").write_bytes(data)
    assert read_audio(tmp_path / "clip.wav", RATE).shape == (800,)


def test_the_limit_of_pixels_is_the_last_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt, "PIXELS", 100)
    Image.new("RGB", (10, 10)).save(tmp_path / "small.png")
    Image.new("RGB", (10, 11)).save(tmp_path / "large.png")
    assert read_image(tmp_path / "small.png").size == (10, 10)
    with pytest.raises(UserError, match="10 x 11 pixels"):
        read_image(tmp_path / "large.png")


def test_raw_sound_has_no_rate(tmp_path: Path) -> None:
    (tmp_path / "clip.raw").write_bytes(bytes(99))
    with pytest.raises(UserError, match="not a readable sound file"):
        read_audio(tmp_path / "clip.raw", RATE)


# Anything

scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.sampled_from(OUTSIDE))
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
few = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def inner_places(value: Any, *keys: str | int) -> Iterator[tuple[str | int, ...]]:
    if keys:
        yield keys
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from inner_places(inner, *keys, key)


@few
@given(st.lists(st.tuples(st.sampled_from(list(inner_places(manifest_facts()))), values), max_size=3))
def test_any_change_of_a_manifest(changes: list[tuple[tuple[str | int, ...], Any]]) -> None:
    facts = manifest_facts()
    for keys, value in changes:
        try:
            place(facts, *keys)(value)
        except (KeyError, TypeError, IndexError):  # the place went with an earlier change
            continue
    check_manifest(json.dumps(facts).encode(errors="surrogatepass"))


edits = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=4)), max_size=4)


def edited(data: bytes, places: list[tuple[float, bytes]]) -> bytes:
    """Overwritten here and there."""
    changed = bytearray(data)
    for where, new in places:
        at = int(where * len(changed))
        changed[at : at + len(new)] = new
    return bytes(changed)


@few
@given(st.one_of(st.binary(), st.builds(edited, st.sampled_from(list(image_files().values())), edits)))
def test_any_bytes_as_an_image(data: bytes) -> None:
    check_image(data)


@few
@given(st.one_of(st.binary(), st.builds(edited, st.sampled_from(list(audio_files().values())), edits)))
def test_any_bytes_as_sound(data: bytes) -> None:
    check_audio(data)


@pytest.mark.parametrize("check", [check_image, check_audio, check_manifest])
def test_the_control_what_escapes_is_seen(check: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise ValueError("escapes")

    for name in ("read_image", "read_audio", "read_manifest"):
        monkeypatch.setattr(f"tests.fuzz.targets.{name}", fail)
    with pytest.raises(ValueError, match="escapes"):
        check(b"")


def test_onnx_is_inspected_as_before(tmp_path: Path) -> None:
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [])
    onnx.save(helper.make_model(graph), tmp_path / "x.onnx")
    assert inspect(tmp_path / "x.onnx").graphs[0].operators == {"Relu": 1}
