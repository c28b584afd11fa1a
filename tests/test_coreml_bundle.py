"""A bundle for iPhones: the embedded model in Core ML, verified whole on any system, and what its checks catch."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from runtime.manifest import read_manifest
from runtime.mil.program import read_program
from runtime.sessions.coreml import CoremlSession
from runtime.verify import verify
from tests.test_verify import failures, found, seal, values

MODALITIES = {"text", "image", "audio", "long"}


@pytest.fixture
def copy(coreml_bundle: Path, tmp_path: Path) -> Path:
    """To be changed."""
    return shutil.copytree(coreml_bundle, tmp_path / coreml_bundle.name)


def test_an_export_is_verified_whole(coreml_bundle: Path) -> None:
    verification = found(coreml_bundle)
    assert verification.passed and not verification.skipped
    assert {"bytes", "packages", "goldens", "lowering", "quantization"} <= set(verification.ran)
    assert "rounding" not in verification.ran, "nothing is rounded to int8"
    for name in ("twin_rms", "twin_kl", "kl_fp16", "golden_greedy"):
        assert set(values(verification, name)) == MODALITIES
    assert {measure.engine for measure in values(verification, "twin_rms").values()} == {CoremlSession.name}


def test_manifest(coreml_bundle: Path) -> None:
    """What an app needs is said: files that are there, and inputs that the host makes."""
    manifest = read_manifest(coreml_bundle)
    artifact, host = manifest.artifacts["coreml"], manifest.artifacts["coreml"].host
    assert host and manifest.tools["coremltools"]
    made = {
        name for layers in host.attention.values() for name in layers.model_dump().values() if isinstance(name, str)
    }
    for role, program in artifact.programs.items():
        assert (coreml_bundle / program.file).is_dir()
        if role.startswith("chunk_"):
            assert {port.name for port in program.inputs} <= made | {"hidden_states"}
            assert {port.name for port in program.states} <= made
    for file in host.chunks + host.heads:
        assert read_program(coreml_bundle / file).spec.description.metadata.userDefined["identity"] == host.identity


def test_memory_of_caches(coreml_bundle: Path) -> None:
    manifest = read_manifest(coreml_bundle)
    artifact = manifest.artifacts["coreml"]
    states = {(program.file, port.name): math.prod(map(int, port.shape)) * np.dtype(port.dtype).itemsize
              for program in artifact.programs.values() for port in program.states}  # fmt: skip
    assert artifact.cache.at(manifest.limits.context) == sum(states.values())


def test_control_one_flipped_nibble(copy: Path) -> None:
    data = np.memmap(copy / "coreml/chunk_00.mlpackage/Data/com.apple.CoreML/weights/weight.bin", np.uint8, "r+")
    data[len(data) // 2] ^= 0x10
    data.flush()
    assert failures(verify(copy, only=["files"])) == {"files_wrong"}
    seal(copy)
    assert failures(verify(copy, only=["files", "bytes"])) == {"weights_wrong"}


def test_control_packages_in_another_order(copy: Path) -> None:
    """Both are whole and of this bundle: only the answers tell."""
    folder = copy / "coreml"
    for old, new in (("chunk_00", "kept"), ("chunk_01", "chunk_00"), ("kept", "chunk_01")):
        (folder / f"{old}.mlpackage").rename(folder / f"{new}.mlpackage")
    seal(copy)
    assert failures(verify(copy, only=["files", "packages", "goldens"])) & {"golden_greedy", "golden_kl_mean"}
