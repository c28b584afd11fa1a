"""The quantized checkpoint: what transformers makes of it, what an interrupted run leaves, what bad input does."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import Gemma4UnifiedForConditionalGeneration

from export import quantize as quantizer
from export.checkpoint import CheckpointWeights, QuantizationRecord
from export.quantize import quantize
from export.recipes import RECIPES
from export.sources import INDEX, open_source
from runtime.errors import UserError
from tests import random_models as models

RECIPE = RECIPES["int4"]


@pytest.fixture(scope="module")
def model() -> Gemma4UnifiedForConditionalGeneration:
    return models.random_model(models.random_config())


@pytest.fixture
def source(model: Gemma4UnifiedForConditionalGeneration, tmp_path: Path) -> Path:
    """One file, in the names of transformers' save_pretrained."""
    return models.save(model, tmp_path / "source")


@pytest.fixture
def sharded(model: Gemma4UnifiedForConditionalGeneration, tmp_path: Path) -> Path:
    return models.save(model, tmp_path / "sharded", max_shard_size="400KB")


def run(source: Path, out: Path, recipe: str = "int4") -> QuantizationRecord:
    return quantize(open_source(source), RECIPES[recipe], "random", out)


def load(folder: Path) -> Any:
    """As transformers' users would, without a word about how it was quantized."""
    return Gemma4UnifiedForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )


@pytest.mark.parametrize("recipe", [name for name, recipe in RECIPES.items() if recipe.method == "plain"])
def test_transformers_loads_our_weights_exactly(model: Any, sharded: Path, tmp_path: Path, recipe: str) -> None:
    run(sharded, tmp_path / "out", recipe)
    weights = CheckpointWeights(tmp_path / "out")
    ours = models.random_model(model.config)
    ours.load_state_dict(
        {name: torch.from_numpy(weights.dense(name)) for name in ours.state_dict() if name != "lm_head.weight"},
        strict=False,
    )
    prompt = models.media_prompt(1, 1, tail=20)
    wanted = models.reference_logits(ours, prompt)
    assert torch.equal(models.reference_logits(load(tmp_path / "out"), prompt), wanted)
    assert (recipe == "float") == torch.equal(models.reference_logits(model, prompt), wanted), "control: it does differ"


def test_digests_are_those_of_the_bytes_on_disk(source: Path, tmp_path: Path) -> None:
    record = run(source, tmp_path / "out")
    stored: dict[str, torch.Tensor] = {}
    for path in (tmp_path / "out").glob("*.safetensors"):
        stored |= load_file(path)
    for digest in record.tensors:
        if digest.dtype == "int4":
            codes = stored[digest.name.removesuffix(".weight") + ".weight_packed"]
            assert hashlib.sha256(codes.numpy().tobytes()).hexdigest() == digest.sha256
    assert any(digest.dtype == "int4" for digest in record.tensors)


def test_both_config_layouts(source: Path, tmp_path: Path) -> None:
    """`per_layer_config`, as transformers writes it, and `global_head_dim`, as the published checkpoint has it."""
    first = run(source, tmp_path / "first")
    config = json.loads((source / "config.json").read_text())
    text = config["text_config"]
    assert text.pop("per_layer_config")
    text |= {"global_head_dim": 64, "num_global_key_value_heads": 1, "head_dim": 32, "num_key_value_heads": 2}
    (source / "config.json").write_text(json.dumps(config))
    second = run(source, tmp_path / "second")
    assert first.tensors == second.tensors


def test_quantized_source_passes_through(source: Path, tmp_path: Path) -> None:
    first = run(source, tmp_path / "first")
    second = run(tmp_path / "first", tmp_path / "second")
    assert CheckpointWeights(tmp_path / "second").packed("model.language_model.layers.0.mlp.up_proj.weight") is not None
    for path in (tmp_path / "first").glob("model-*.safetensors"):
        before, after = load_file(path), load_file(tmp_path / "second" / path.name)
        assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert first.recipe.bits_per_weight < 8 and second.tensors


def test_finished_work_is_not_done_again(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out")
    before = (tmp_path / "out" / "quantization.json").stat().st_mtime_ns
    run(source, tmp_path / "out")
    assert (tmp_path / "out" / "quantization.json").stat().st_mtime_ns == before
    weights = load_file(source / "model.safetensors")
    save_file({key: tensor + 1 for key, tensor in weights.items()}, source / "model.safetensors")
    run(source, tmp_path / "out")
    assert (tmp_path / "out" / "quantization.json").stat().st_mtime_ns != before, "another source"


# Interrupted and concurrent runs

SLOW_RUN = """
import sys, time
from pathlib import Path
from export import quantize as quantizer
from export.recipes import RECIPES
from export.sources import open_source

def slow(*arguments, write=quantizer._write_shard):
    time.sleep(0.3)
    return write(*arguments)

quantizer.SHARD_BYTES, quantizer._write_shard = 200_000, slow
quantizer.quantize(open_source(Path(sys.argv[1])), RECIPES["int4"], "random", Path(sys.argv[2]))
"""


def test_resumes_after_a_kill(sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after its first shards, the next run writes only the others, and the result is the same."""
    whole = run(sharded, tmp_path / "whole")
    monkeypatch.setattr(quantizer, "SHARD_BYTES", 200_000)
    whole_in_shards = run(sharded, tmp_path / "shards")
    child = subprocess.Popen([sys.executable, "-c", SLOW_RUN, str(sharded), str(tmp_path / "out")])
    partial = tmp_path / ".out.partial"
    while len(done := list(partial.glob(".shard-*.json"))) < 2 and child.poll() is None:
        time.sleep(0.05)
    with pytest.raises(UserError, match="another run is writing"):
        run(sharded, tmp_path / "out")
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert len(done) >= 2 and not (tmp_path / "out").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in sorted(partial.glob("model-*"))[:2]}
    record = run(sharded, tmp_path / "out")
    assert record.tensors == whole_in_shards.tensors == whole.tensors
    assert kept == {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in kept}, "they are not redone"
    assert not partial.exists()


def test_begun_work_of_another_recipe_is_dropped(source: Path, tmp_path: Path) -> None:
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    (partial / ".plan.json").write_text('{"recipe": "other"}')
    (partial / ".shard-00001.json").write_text("not even JSON")
    assert run(source, tmp_path / "out").tensors


# Bad input


def refuse(folder: Path, out: Path, match: str, recipe: str = "int4") -> None:
    """One line, and nothing but what was there before."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(UserError, match=match) as caught:
        run(folder, out, recipe)
    assert "\n" not in str(caught.value)
    assert not out.exists() and [path for path in sorted(out.parent.iterdir()) if path.name[0] != "."] == before


def test_missing_shard(sharded: Path, tmp_path: Path) -> None:
    min(sharded.glob("model-*.safetensors")).unlink()
    refuse(sharded, tmp_path / "out", "is missing: download")


def test_truncated_shard(sharded: Path, tmp_path: Path) -> None:
    path = min(sharded.glob("model-*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    refuse(sharded, tmp_path / "out", "cut short or damaged")


def test_index_names_an_absent_tensor(sharded: Path, tmp_path: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["model.nowhere.weight"] = next(iter(index["weight_map"].values()))
    (sharded / INDEX).write_text(json.dumps(index))
    refuse(sharded, tmp_path / "out", r"names model\.nowhere\.weight, which")


def test_missing_weight(source: Path, tmp_path: Path) -> None:
    weights = load_file(source / "model.safetensors")
    del weights["model.language_model.norm.weight"]
    save_file(weights, source / "model.safetensors")
    refuse(source, tmp_path / "out", r"lack model\.language_model\.norm\.weight")


def test_another_model_type(source: Path, tmp_path: Path) -> None:
    config = json.loads((source / "config.json").read_text()) | {"model_type": "llama"}
    (source / "config.json").write_text(json.dumps(config))
    refuse(source, tmp_path / "out", "'llama', only 'gemma4_unified'")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "key", ["model.language_model.layers.1.mlp.up_proj.weight", "model.language_model.norm.weight"]
)
def test_numbers_that_are_none(source: Path, tmp_path: Path, key: str, value: float) -> None:
    weights = load_file(source / "model.safetensors")
    weights[key].view(-1)[3] = value
    save_file(weights, source / "model.safetensors")
    refuse(source, tmp_path / "out", f"{key} holds NaN or infinity")


def test_shapes_that_contradict_the_config(source: Path, tmp_path: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 512
    (source / "config.json").write_text(json.dumps(config))
    refuse(source, tmp_path / "out", r"is \[256, 128\] but config.json makes it \[512, 128\]")


def test_full_disk(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.folders.shutil.disk_usage", lambda path: type("usage", (), {"free": 1000}))
    refuse(source, tmp_path / "out", "needs .* GB .* are free")


def test_output_that_cannot_be_written(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        run(source, tmp_path / "file" / "out")


def test_earlier_checkpoint_survives_a_failed_run(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    weights = load_file(source / "model.safetensors")
    weights["model.language_model.norm.weight"][0] = float("nan")
    save_file(weights, source / "model.safetensors")
    with pytest.raises(UserError):
        run(source, tmp_path / "out")
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}


def test_metadata_survives(source: Path, tmp_path: Path) -> None:
    """Files that were written a few rows at a time are those the library reads."""
    run(source, tmp_path / "out")
    for path in (tmp_path / "out").glob("*.safetensors"):
        with safe_open(path, framework="pt") as opened:
            assert opened.metadata() == {"format": "pt"} and list(opened.keys())
