"""The benchmark of the whole export, at small widths: stages, resuming, what it deletes, and its bars."""

import json
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.full_size.__main__ import STATE, choose, clear, read_state
from benchmarks.full_size.report import rows_of, summarize
from benchmarks.full_size.stages import perform
from benchmarks.full_size.work import Work
from export.config import FULL, read_model
from export.sources import open_source
from runtime.errors import UserError
from runtime.manifest import read_manifest
from tests import random_models as models

TEXT = {key: models.TEXT[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads", "head_dim",
                                          "num_key_value_heads", "global_head_dim", "vocab_size")}  # fmt: skip
CHANGES = json.dumps({"text_config": TEXT, "vision_config": {"mm_embed_dim": 64, "output_proj_dims": 64}})
GIB = 2**30


def run(folder: Path, *options: str, largest: int = -1) -> subprocess.CompletedProcess[str]:
    """
    Args:
        largest: bytes of a file that may be written; none by default.
    """
    given = ["--layers=2", "--formats=onnx", "--threads=1", f"--folder={folder}", f"--changes={CHANGES}", *options]
    command = [sys.executable, "-m", "benchmarks.full_size", *given]
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (largest, largest))
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """With a source and a quantized checkpoint."""
    work = Work(tmp_path_factory.mktemp("work"), 2, CHANGES)
    perform("source", work)
    perform("quantize", work)
    return work


def test_source_has_the_published_keys_and_opens_as_a_checkpoint(work: Work) -> None:
    stated = json.loads((work.source / "config.json").read_text())["text_config"]
    assert "global_head_dim" in stated and "per_layer_config" not in stated
    model = read_model(open_source(work.source).config)
    (full,) = (layer for layer in model.text.layers if layer.kind == FULL)
    assert (full.head_dim, full.kv_heads) == (stated["global_head_dim"], 1)


def test_a_bundle_is_lowered_hashed_and_read_back(work: Work) -> None:
    steps = perform("onnx", work)
    assert [step["name"] for step in steps] == ["onnx: lower", "onnx: checksums", "onnx: verify"]
    assert all(step["seconds"] > 0 and step["peak_rss"] > step["anonymous"] >= 0 for step in steps)
    manifest = read_manifest(work.bundle("onnx"))
    assert manifest.verification and manifest.verification.passed
    assert {"files", "bytes"} <= set(manifest.verification.ran) and not manifest.goldens


def test_run_resumes_and_leaves_nothing_but_its_figures(tmp_path: Path) -> None:
    """Stopped after its first stages: their figures stay as they were, and the source is not written again."""
    work = Work(tmp_path / "2", 2, CHANGES)
    marked = perform("source", work)
    marked[0]["seconds"] = 12345.0
    (work.folder / STATE).write_text(json.dumps({"source": marked}))
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.split(" ...")[0] == "quantize", "the first stage that was left"
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["steps"][0]["seconds"] == 12345.0 and summary["weights"] == "random"
    assert [facts["threads"] for facts in summary["runs"]] == [1]
    assert [path.name for path in work.folder.iterdir()] == [STATE]
    again = run(tmp_path, "--json")
    assert json.loads(again.stdout) == summary and not again.stderr, "nothing was done again"


def test_what_was_deleted_is_made_again(work: Work, tmp_path: Path) -> None:
    other = Work(tmp_path, 2)
    other.quantized.mkdir()
    (tmp_path / STATE).write_text(json.dumps({"source": [], "quantize": [], "onnx": []}))
    assert read_state(other, ["source", "quantize", "onnx", "coreml"]).keys() == {"source", "quantize", "onnx"}
    clear(other)
    assert read_state(other, ["source", "quantize", "onnx"]).keys() == {"source", "quantize", "onnx"}
    assert not read_state(other, ["source", "quantize", "onnx", "coreml"])


def test_a_stage_that_cannot_write_says_so(tmp_path: Path) -> None:
    """In two lines, its own and what to do; what it measured the disk with is gone."""
    done = run(tmp_path, largest=50_000)
    cause, advice = done.stderr.splitlines()[-2:]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert cause.startswith("error: ") and cause.endswith("check the path, its rights and the disk")
    assert advice == "error: source failed: after what stands above is mended, the same command goes on there"
    assert not list(tmp_path.rglob("*.zeros"))


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no format 'gguf'; there are onnx"):
        choose("onnx,gguf")


def step(name: str, **facts: Any) -> list[dict[str, Any]]:
    base = dict(
        seconds=1.0,
        cpu_seconds=1.0,
        ratio_to_disk=1.0,
        disk_seconds=1.0,
        peak_rss=GIB,
        anonymous=GIB,
        read=10,
        written=10,
    )
    return [{"name": name} | base | facts]


def test_bars() -> None:
    """What exceeds one is named; those of time and size count for all layers only."""
    found = {"quantize": step("quantize", anonymous=2 * GIB), "onnx": step("onnx: lower", written=8e9),
             "executorch": step("executorch: lower", seconds=3000.0)}  # fmt: skip
    assert summarize(found, 6)["missed"] == ["quantize: anonymous"]
    assert summarize(found, 48)["missed"] == ["quantize: anonymous", "onnx: lower: artifact",
                                              "executorch: lower: seconds", "android, all of it: seconds"]  # fmt: skip
    together = rows_of(found)[-1]
    assert together["seconds"] == 3002 and together["anonymous"] == 2 * GIB
