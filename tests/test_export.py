"""The command line from end to end: what users type, what they get, and what they are told."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from export.__main__ import app
from export.folders import locked, require_bundle, require_space
from export.recipes import RECIPES
from runtime.errors import UserError
from runtime.job import Job
from runtime.manifest import Manifest, Measure, read_manifest
from runtime.verify import CHECKS
from tests.conftest import NAME

DECODER = "onnx/decoder.onnx"


def export(folder: Path, *arguments: str) -> Result:
    places = ["--build", str(folder / "build"), "--dist", str(folder / "dist")]
    return CliRunner().invoke(app, [*arguments, *places])


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_bundle_is_where_the_interface_says(exported: Path, bundle: Path, quantized_checkpoint: Path) -> None:
    assert (bundle / "onnx" / "genai_config.json").is_file() and (bundle / "manifest.json").is_file()
    assert (quantized_checkpoint / "quantization.json").is_file()
    names = {path.name for path in (exported / "dist" / "desktop").iterdir()}
    assert names == {bundle.name}, "nothing of the work is left"


def test_manifest(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert manifest.target == "desktop" and set(manifest.artifacts) == {"onnx"}
    assert set(manifest.artifacts["onnx"].programs) == {"decoder", "embedding", "vision", "speech"}
    listed = {file.path for file in manifest.files} | {"manifest.json", "manifest.schema.json"}
    assert listed == {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert {golden.modality for golden in manifest.goldens} == {"text", "image", "audio", "long"}
    assert manifest.verification and manifest.verification.passed and not manifest.verification.skipped
    assert json.loads((bundle / "manifest.schema.json").read_text()) == Manifest.model_json_schema()
    assert manifest.source.licence == "apache-2.0" and len(manifest.source.sha256) == 64


# Other numbers in the layout of a recipe that is exported.
LIKE_ANOTHER = "int4", "int4-weighted", "int4-g128", "int8-gptq"


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name not in LIKE_ANOTHER])
def test_every_recipe_verifies(tmp_path: Path, recipe: str) -> None:
    result = export(tmp_path, "--target", "desktop", "--recipe", recipe, "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout.strip().splitlines()[-1])
    assert Path(summary["bundle"]) == tmp_path / "dist" / "desktop" / f"tiny-{recipe}" and not summary["skipped"]


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--target", "watch"], "no target 'watch'; there are android, desktop, ios"),
        (["--recipe", "q4"], "no recipe 'q4'; there are int4,"),
        (["--formats", "gguf"], "no format 'gguf'; there are onnx,"),
        (["--target", "desktop", "--formats", "coreml"], "target desktop does not ship coreml; it ships onnx"),
        (["--target", "ios", "--formats", "onnx"], "target ios does not ship onnx; it ships coreml, executorch"),
        (["--target", "ios", "--recipe", "int4-kv8"], "choose one of int4, int4-weighted, int4-gptq,"),
        (["--model", "no/such/folder"], "no model 'no/such/folder'"),
        (["--gate", "beauty=1"], "no gate 'beauty'; there are"),
    ],
)
def test_bad_input_is_told_in_one_line(tmp_path: Path, arguments: list[str], told: str) -> None:
    result = export(tmp_path, *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and told in result.stderr and result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing was written"


def test_model_that_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without network; a hub that does not answer is all the same to the user."""

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("export.models.snapshot_download", unreachable)
    result = export(tmp_path, "--model", "google/gemma-4-12B-it")
    assert result.exit_code == 2 and "files that are whole are kept; or name a folder" in result.stderr


def test_earlier_bundle_survives_a_gate_that_does_not_hold(exported: Path, bundle: Path) -> None:
    before = snapshot(bundle)
    result = export(exported, "--target", "desktop", "--reference", "none", "--gate", "weights_wrong=-1")
    assert result.exit_code == 1
    assert "the bundle fails" in result.stderr and "is as it was" in result.stderr
    assert snapshot(bundle) == before
    assert (bundle.parent / f".{bundle.name}.partial" / "manifest.json").is_file(), "kept for a look"


def test_interrupted_run_goes_on_with_the_stage_it_was_in(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--target", "desktop", "--build", str(exported / "build"), "--reference", "none"]
    work = tmp_path / "dist" / "desktop" / f".{NAME}.partial"

    def run(*more: str) -> Result:
        return export(tmp_path, *options, *more)

    def interrupted(*more: str) -> int:
        """When its second check begins; returns when the first artifact was written."""
        with monkeypatch.context() as patch:
            patch.setitem(CHECKS, "bytes", replace(CHECKS["bytes"], run=stop))
            assert run(*more).exit_code == 130
        return (work / DECODER).stat().st_mtime_ns

    def stop(job: Job) -> Iterator[Measure]:
        raise KeyboardInterrupt

    first = interrupted()
    assert interrupted() == first, "nothing was lowered again"
    second = interrupted("--context", "4096")
    assert second != first, "what another order left is of no use"
    assert run("--context", "4096").exit_code == 0
    bundle = tmp_path / "dist" / "desktop" / NAME
    assert (bundle / DECODER).stat().st_mtime_ns == second
    assert [path.name for path in bundle.parent.iterdir()] == [NAME], "nothing is left beside"


def test_a_check_is_of_the_files_that_it_saw(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage between an interrupted run and the next is found by a check that had already held."""
    options = "--target", "desktop", "--build", str(exported / "build"), "--reference", "none"
    data = tmp_path / "dist" / "desktop" / f".{NAME}.partial" / "onnx" / "model.data"

    def stop(job: Job) -> Iterator[Measure]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(CHECKS, "preprocessing", replace(CHECKS["preprocessing"], run=stop, needs_goldens=False))
        assert export(tmp_path, *options).exit_code == 130
    with data.open("r+b") as opened:
        opened.seek(data.stat().st_size // 2)
        byte = opened.read(1)[0]
        opened.seek(-1, 1)
        opened.write(bytes([byte ^ 0x10]))
    result = export(tmp_path, *options)
    assert result.exit_code == 1 and "weights_wrong" in result.stderr


def test_an_int8_cache_needs_no_reference(tmp_path: Path) -> None:
    """Its scales are of the goldens' prompts, whether or not anything could answer them."""
    result = export(tmp_path, "--target", "desktop", "--recipe", "int4-kv8", "--reference", "none")
    assert result.exit_code == 0, result.output
    manifest = read_manifest(tmp_path / "dist" / "desktop" / "tiny-int4-kv8")
    scales = manifest.artifacts["onnx"].kv_scales
    assert not manifest.goldens and scales and all(key > 0 and value > 0 for key, value in scales.values())


def test_a_folder_that_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("years of work")
    for out in tmp_path / "mine", tmp_path / "mine" / "notes.txt":
        result = export(tmp_path, "--target", "desktop", "--out", str(out))
        assert result.exit_code == 2 and "choose another folder" in result.stderr
    assert (tmp_path / "mine" / "notes.txt").read_text() == "years of work"
    require_bundle(tmp_path / "new", "manifest.json")  # control: nothing is there


def test_what_an_interrupted_run_left_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.folders.shutil.disk_usage", lambda path: type("usage", (), {"free": 1_000_000}))
    with pytest.raises(UserError, match="the export needs"):
        require_space(tmp_path / "bundle", 1_500_000, "the export")
    left = tmp_path / ".bundle.partial"
    left.mkdir()
    (left / "model.data").write_bytes(bytes(600_000))
    require_space(tmp_path / "bundle", 1_500_000, "the export")


def test_two_runs_at_once(exported: Path, bundle: Path) -> None:
    before = snapshot(bundle)
    with locked(bundle):
        result = export(exported, "--target", "desktop")
    assert result.exit_code == 2 and f"another run is writing {bundle}" in result.stderr
    assert snapshot(bundle) == before


def test_model_too_large_for_the_reference_is_exported_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the 12B on 24 GB: what needs no reference is verified, and the rest is said to be skipped."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("memory", (), {"available": 10_000_000}))
    result = export(tmp_path, "--target", "desktop", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout.strip().splitlines()[-1])
    skipped, found = told["skipped"], read_manifest(Path(told["bundle"])).verification
    assert not told["compared"] and found and "answers" in found.ran
    assert set(skipped) == {"template", "goldens", "preprocessing", "lowering", "rounding", "quantization"}
    assert "the fp32 reference takes" in skipped["lowering"]


def test_too_little_disk_is_told_before_work_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.folders.shutil.disk_usage", lambda path: type("usage", (), {"free": 1_000_000}))
    result = export(tmp_path, "--target", "desktop")
    assert result.exit_code == 2 and "the export needs" in result.stderr and "make room" in result.stderr
    assert not list(tmp_path.iterdir())


def test_optimum_exports_through_its_own_command(exported: Path, tmp_path: Path) -> None:
    """optimum-cli finds our command by its place in the installed package."""
    command = Path(sys.executable).with_name("optimum-cli")

    def run(model: str) -> subprocess.CompletedProcess[str]:
        options = ["--target", "desktop", "--reference", "none", "--build", str(exported / "build")]
        arguments = [str(command), "export", "edge", "-m", model, *options, str(tmp_path / "out")]
        return subprocess.run(arguments, capture_output=True, text=True)

    good = run("tiny")
    assert good.returncode == 0, good.stderr
    assert set(read_manifest(tmp_path / "out").artifacts) == {"onnx"}
    bad = run("no/such/folder")
    assert bad.returncode == 2 and "error: no model 'no/such/folder'" in bad.stderr
