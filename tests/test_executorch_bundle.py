"""A bundle for phones: the embedded model in ExecuTorch, verified whole, and what its checks catch."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from runtime.checks import delegation, rounding
from runtime.gates import GATES
from runtime.job import Job, twin_folder
from runtime.manifest import read_manifest
from runtime.sessions.executorch import DATA_FILE, FILE, artifact_files
from runtime.sessions.executorch_runner import NAME
from runtime.verify import make_job, verify
from runtime.weight_cache import cache_name
from tests.executorch_models import Lowered
from tests.test_verify import failures, found, seal, values


@pytest.fixture
def copy(executorch_bundle: Path, tmp_path: Path) -> Path:
    """To be changed."""
    return shutil.copytree(executorch_bundle, tmp_path / executorch_bundle.name)


def job_of(bundle: Path, quantized: Path) -> Job:
    return make_job(bundle, quantized, None, None, GATES, lambda text: None)


def test_an_export_is_verified_whole(executorch_bundle: Path) -> None:
    verification = found(executorch_bundle)
    assert verification.passed and not verification.skipped
    assert {"bytes", "delegation", "goldens", "runner", "lowering", "rounding"} <= set(verification.ran)
    for name in ("twin_rms", "kl_mean", "golden_greedy"):
        assert set(values(verification, name)) == {"text", "image", "audio", "long"}
    assert {measure.engine for measure in values(verification, "runner_greedy").values()} == {NAME}


def test_manifest(executorch_bundle: Path) -> None:
    manifest = read_manifest(executorch_bundle)
    programs = manifest.artifacts["executorch"].programs
    assert set(programs) == {"embedding", "decoder", "vision", "speech"}
    assert {"executorch", "torchao"} <= set(manifest.tools)
    folder = executorch_bundle / "executorch"
    assert {path.name for path in folder.iterdir()} == {FILE, DATA_FILE}
    assert (folder / FILE).stat().st_size < (folder / DATA_FILE).stat().st_size
    options = {"weight_cache_enabled": True, "packed_cache_path": cache_name(artifact_files(folder))}
    assert manifest.artifacts["executorch"].load_options == {"XnnpackBackend": options}


def test_control_float_arithmetic_is_no_int8(executorch_bundle: Path, quantized_checkpoint: Path) -> None:
    """Against the reference without rounding the median row is far off."""
    job = job_of(executorch_bundle, quantized_checkpoint)
    median, _ = rounding.run(job)
    assert median.passed and median.value < 1e-6
    job.blocks = lambda engine, folder: {}  # type: ignore[method-assign]
    median, _ = rounding.run(job)
    assert not median.passed and median.value > 1e-3


def test_control_one_flipped_bit(copy: Path) -> None:
    data = np.memmap(copy / "executorch" / DATA_FILE, np.uint8, "r+")
    data[len(data) // 2] ^= 0x10
    data.flush()
    assert "files_wrong" in failures(verify(copy, only=["files"]))
    seal(copy)
    assert failures(verify(copy, only=["files", "bytes"])) == {"weights_wrong"}


def test_a_missing_twin_is_told(executorch_bundle: Path, quantized_checkpoint: Path) -> None:
    job = job_of(executorch_bundle, quantized_checkpoint)
    engine, folder = next(job.engines())
    twin = twin_folder(quantized_checkpoint, "executorch", job.manifest.limits.context)
    assert twin.is_dir() and job.open_twin(engine, folder)
    kept = twin.rename(twin.with_name("kept"))
    try:
        assert job.open_twin(engine, folder) is None
        assert "where an export writes it" in job.skipped["executorch's float twin"]
    finally:
        kept.rename(twin)


def test_a_twin_of_another_program_is_told(executorch_bundle: Path, quantized_checkpoint: Path) -> None:
    job = job_of(executorch_bundle, quantized_checkpoint)
    engine, folder = next(job.engines())
    files = [file.model_copy(update={"sha256": "0" * 64}) for file in job.manifest.files]
    job.manifest = job.manifest.model_copy(update={"files": files})
    assert job.open_twin(engine, folder) is None
    assert "is of another export" in job.skipped["executorch's float twin"]


def test_a_tied_head_must_be_delegated(
    executorch_bundle: Path, quantized_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a head with weights of its own the embedding is only looked up."""
    job = job_of(executorch_bundle, quantized_checkpoint)
    assert next(delegation.run(job)).passed
    monkeypatch.setattr("runtime.readback_executorch.BACKEND", "OtherBackend")
    assert "embed_tokens" in next(delegation.run(job)).note
    head = job.manifest.tensors[0].model_copy(update={"name": "lm_head.weight", "dtype": "bfloat16"})
    job.manifest = job.manifest.model_copy(update={"tensors": [*job.manifest.tensors, head]})
    assert "embed_tokens" not in next(delegation.run(job)).note


def test_an_absent_data_file_fails_in_one_line(copy: Path) -> None:
    (copy / "executorch" / DATA_FILE).unlink()
    result = verify(copy, only=["files", "goldens"])
    assert failures(result) == {"files_wrong", "stopped"}
    notes = [measure.note for measure in result.measures if measure.name == "stopped"]
    assert f"if it has a {DATA_FILE}" in notes[0] and "\n" not in notes[0]


def test_a_program_of_another_model_fails(copy: Path, shallow_apart: Lowered) -> None:
    for name in (FILE, DATA_FILE):
        shutil.copyfile(shallow_apart.folder / name, copy / "executorch" / name)
    seal(copy)
    (measure,) = verify(copy, only=["bytes"]).measures
    wrong = len(read_manifest(copy).tensors)
    assert not measure.passed and measure.value == wrong, "none of its weights is ours"
