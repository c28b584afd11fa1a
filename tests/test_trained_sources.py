"""Sources whose weights have 4 bits already: what goes in comes out."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from safetensors.torch import load_file, save_file
from torch import Tensor

from export.checkpoint import CheckpointWeights, QuantizationRecord
from export.given import given_by
from export.notes import grid_warnings
from export.packed import open_checkpoint
from export.pipeline import Summary, show
from export.quantize import quantize
from export.recipes import PROJECTION, RECIPES
from export.schemes import quantize_rows
from export.sources import SINGLE
from runtime.errors import UserError
from runtime.sessions.reference import load_model
from tests import random_models as models

GROUP = 32
EMBEDDING = "model.language_model.embed_tokens.weight"
ARGUMENTS = {
    "num_bits": 4,
    "type": "int",
    "symmetric": True,
    "dynamic": False,
    "strategy": "group",
    "group_size": GROUP,
}


def on_grid(weight: Tensor, digits: int = 8) -> tuple[Tensor, Tensor]:
    """Codes and scales [rows, groups] of so many significant bits."""
    groups = weight.unflatten(1, (-1, GROUP))
    scales = groups.abs().amax(-1, keepdim=True) / 7
    step = 2.0 ** (scales.log2().floor() + 1 - digits)
    scales = (scales / step).ceil() * step
    return (groups / scales).round().flatten(1).to(torch.int8), scales.squeeze(-1)


def dense(codes: Tensor, scales: Tensor) -> Tensor:
    return (codes.unflatten(1, (-1, GROUP)) * scales[..., None]).flatten(1)


def save(model: Any, folder: Path) -> dict[str, Tensor]:
    """Returns what lies in its file, in the names of transformers' parameters."""
    models.save(model, folder)
    return load_file(folder / SINGLE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `-qat-q4_0-unquantized`: bf16 products of codes and scales, embedding included."""
    model = models.random_model(models.random_config())
    for name, tensor in model.state_dict().items():
        if PROJECTION.search(name) or name.endswith("embed_tokens.weight"):
            tensor.copy_(dense(*on_grid(tensor)).bfloat16())
    folder = tmp_path_factory.mktemp("trained") / "source"
    models.save(model, folder)
    return folder


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """As `-qat-w4a16-ct`: packed by compressed-tensors' own code, the embedding in bf16."""
    folder = tmp_path / "packed"
    tensors = save(models.random_model(models.random_config()), folder)
    for key in [key for key in tensors if PROJECTION.search(key)]:
        codes, scales = on_grid(tensors.pop(key).float())
        module = key.removesuffix(".weight")
        tensors |= {f"{module}.weight_packed": pack_to_int32(codes, 4), f"{module}.weight_scale": scales.bfloat16(),
                    f"{module}.weight_shape": torch.tensor(codes.shape)}  # fmt: skip
    save_file(tensors, folder / SINGLE, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "ignore": [], "config_groups": {"group_0": {"weights": ARGUMENTS, "targets": [
            key.removesuffix(".weight_packed") for key in tensors if key.endswith(".weight_packed")]}},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def run(source: Path, out: Path, recipe: str = "int4") -> QuantizationRecord:
    return quantize(open_checkpoint(source), RECIPES[recipe], "trained", out)


@pytest.mark.parametrize("recipe", ["int4", "int4-gptq"])
def test_a_grid_is_kept(trained: Path, tmp_path: Path, recipe: str) -> None:
    """Calibrating would leave it."""
    record = run(trained, tmp_path / "out", recipe)
    groups = sum(record.grid.values())
    assert record.grid["none"] == record.grid["unfit"] == 0
    assert record.grid["exact"] + record.grid["bf16"] > 0.9 * groups
    before, after = load_file(trained / SINGLE), CheckpointWeights(tmp_path / "out")
    kept = total = 0
    for name, weight in before.items():
        if PROJECTION.search(name) or name.endswith("embed_tokens.weight"):
            found = torch.from_numpy(after.dense(name))
            assert ((found - weight.float()).abs() <= 2**-8 * weight.float().abs()).all(), name
            kept, total = kept + int((found.bfloat16() == weight).sum()), total + weight.numel()
    assert kept > 0.9 * total
    assert record.error < 2**-9


def test_the_reference_has_the_very_products(trained: Path, tmp_path: Path) -> None:
    """So that an artifact, which multiplies in fp32, is held to its own weights."""
    run(trained, tmp_path / "out")
    model, weights = load_model(tmp_path / "out"), CheckpointWeights(tmp_path / "out")
    for name in ("layers.0.mlp.down_proj", "embed_tokens"):
        found = model.get_submodule(f"model.language_model.{name}").weight
        assert torch.equal(found, torch.from_numpy(weights.dense(f"model.language_model.{name}.weight"))), name


@pytest.mark.parametrize("recipe", ["int4-g128", "int4-g128-gptq", "int8", "int8-gptq", "auto"])
def test_a_recipe_that_would_leave_the_grid_is_refused(trained: Path, tmp_path: Path, recipe: str) -> None:
    with pytest.raises(UserError, match=rf"{recipe} would round anew: choose RECIPE=int4, which keeps them") as caught:
        run(trained, tmp_path / "out", recipe)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("recipe", ["int4-g128", "int8"])
def test_control_ordinary_weights_are_rounded_by_any_recipe(tmp_path: Path, recipe: str) -> None:
    models.save(models.random_model(models.random_config()), tmp_path / "source")
    assert not run(tmp_path / "source", tmp_path / "out", recipe).grid


def test_float_leaves_a_grid_as_it_is(trained: Path, tmp_path: Path) -> None:
    run(trained, tmp_path / "out", "float")
    before = load_file(trained / SINGLE)
    after: dict[str, Tensor] = {}
    for path in (tmp_path / "out").glob("model-*.safetensors"):
        after |= load_file(path)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_packed_weights_pass_through(packed: Path, tmp_path: Path) -> None:
    """Byte for byte; the embedding is quantized by the recipe."""
    before = load_file(packed / SINGLE)
    record = run(packed, tmp_path / "out", "int4-embed8")
    after: dict[str, Tensor] = {}
    for path in (tmp_path / "out").glob("model-*.safetensors"):
        after |= load_file(path)
    parts = [name for name in before if ".weight_" in name]
    assert parts and all(torch.equal(before[name], after[name]) for name in parts)
    assert record.grid["exact"] == sum(record.grid.values()) > 0
    embedding = next(digest for digest in record.tensors if "embed_tokens" in digest.name)
    assert embedding.dtype == "int8"
    sources = load_model(packed).state_dict(), load_model(tmp_path / "out").state_dict()
    assert torch.equal(*(each["model.language_model.layers.1.mlp.up_proj.weight"] for each in sources))


def set_embedding(folder: Path, values: Tensor) -> None:
    tensors = load_file(folder / SINGLE)
    assert tensors[EMBEDDING].shape == values.shape
    save_file(tensors | {EMBEDDING: values.bfloat16()}, folder / SINGLE, {"format": "pt"})


@pytest.mark.parametrize("recipe", ["int4", "int4-gptq"])
def test_an_embedding_on_a_grid_beside_packed_weights_is_kept(packed: Path, tmp_path: Path, recipe: str) -> None:
    """To the bit, also where a few special tokens are not on it: those are rounded."""
    values = dense(*on_grid(load_file(packed / SINGLE)[EMBEDDING].float(), digits=5))
    values[:3] = torch.randn(3, values.shape[1], generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(values, values.bfloat16().float())
    set_embedding(packed, values)
    record = run(packed, tmp_path / "out", recipe)
    kept = CheckpointWeights(tmp_path / "out").packed(EMBEDDING)
    assert kept is not None and torch.equal(torch.from_numpy(kept.dense)[3:], values[3:])
    assert not torch.equal(torch.from_numpy(kept.dense)[:3], values[:3]), "control"
    assert record.grid["none"] == 3 * values.shape[1] // GROUP and not record.notes
    assert torch.equal(load_model(tmp_path / "out").state_dict()[EMBEDDING][3:], values[3:])


@pytest.mark.parametrize(("recipe", "noted"), [("int4", False), ("int4-gptq", True), ("int4-g128-gptq", True)])
def test_control_an_embedding_on_no_grid_is_rounded_plainly_and_that_is_told(
    packed: Path, tmp_path: Path, recipe: str, noted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run(packed, tmp_path / "out", recipe)
    values, scheme = load_file(packed / SINGLE)[EMBEDDING].float(), RECIPES[recipe].scheme_of(EMBEDDING)
    found = CheckpointWeights(tmp_path / "out").packed(EMBEDDING)
    assert found is not None and scheme is not None and not torch.equal(torch.from_numpy(found.dense), values)
    assert torch.equal(torch.from_numpy(found.codes), quantize_rows(values, scheme).packed)
    told = f"{EMBEDDING} is rounded plainly, not as {recipe} says"
    assert [note.startswith(told) for note in record.notes] == [True] * noted
    assert (told in capsys.readouterr().err) == noted
    assert run(packed, tmp_path / "out", recipe).notes == record.notes, "and again, of the checkpoint that is there"


def test_an_embedding_that_was_rounded_is_made_again_where_it_can_be_kept(packed: Path, tmp_path: Path) -> None:
    """The plan tells what is kept; of sources with nothing to keep it is what it was before there was such a choice."""
    assert "grid" not in run(packed, tmp_path / "out").plan
    set_embedding(packed, dense(*on_grid(load_file(packed / SINGLE)[EMBEDDING].float(), digits=5)))
    assert run(packed, tmp_path / "out").plan["grid"] == [EMBEDDING]


# Names that promise a grid


@pytest.mark.parametrize(
    ("name", "folder", "config", "recipe", "noted"),
    [("gemma-4-12B-it-qat-q4_0", "source", {}, "int4", True), ("mine", "gemma-QAT", {}, "int8", True),
     ("mine", "source", {"_name_or_path": "google/gemma-qat"}, "int4-g128", True),
     ("mine", "source", {}, "int4", False), ("aquatic", "equator", {"_name_or_path": "some/Qatar"}, "int4", False),
     ("gemma-qat", "source", {}, "float", False)],
)  # fmt: skip
def test_a_name_that_promises_a_grid_which_is_not_there(
    tmp_path: Path, name: str, folder: str, config: dict[str, str], recipe: str, noted: bool
) -> None:
    source = tmp_path / folder
    models.save(models.random_model(models.random_config()), source)
    settings = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(settings | config))
    notes = given_by(open_checkpoint(source), RECIPES[recipe], name).notes
    wanted = "named QAT but not on a 4-bit grid: 0% of the sampled groups are; rounded anew"
    assert notes == [wanted] * noted


def test_control_a_name_that_holds(trained: Path, packed: Path) -> None:
    assert not given_by(open_checkpoint(trained), RECIPES["int4"], "gemma-qat").notes
    assert not given_by(open_checkpoint(packed), RECIPES["int4"], "gemma-qat").notes


@pytest.mark.parametrize(
    ("unfit", "told"), [(0, ""), (30, ""), (31, "3.1% of the groups"), (480, "48.0% of the groups")]
)
def test_groups_that_are_rounded_anew_are_warned_of(unfit: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    grid = {"none": unfit // 2, "exact": 900 - unfit, "bf16": 60, "scale": 40, "unfit": unfit - unfit // 2}
    found = grid_warnings(grid)
    assert [warning.partition(" were rounded anew")[0] for warning in found] == [told] * bool(told)
    show(Summary(bundle="b", bytes=0, bits_per_weight=0, rounding_error=0, plain_rounding_error=0, minimum_memory=0,
                 grid=grid, warnings=found, gates_held=0, compared=True, skipped={}, seconds=0))  # fmt: skip
    assert capsys.readouterr().out.count("warning") == bool(told)
    assert not grid_warnings({}), "control: nothing was on a grid"


def test_control_scales_that_no_format_holds_are_counted(packed: Path, tmp_path: Path) -> None:
    tensors = load_file(packed / SINGLE)
    name = next(name for name in tensors if name.endswith("weight_scale"))
    tensors[name][0, 0] *= -1
    tensors[name][1, 1] = 2.0**-20
    save_file(tensors, packed / SINGLE, {"format": "pt"})
    record = run(packed, tmp_path / "out")
    assert record.grid["unfit"] == 2
    scales = CheckpointWeights(tmp_path / "out").packed(name.replace("weight_scale", "weight"))
    assert scales is not None and (scales.scales > 0).all()


def test_packing_that_no_format_holds_is_refused(packed: Path) -> None:
    tensors = load_file(packed / SINGLE)
    name = next(name for name in tensors if name.endswith("weight_scale"))
    tensors[name.replace("weight_scale", "weight_zero_point")] = torch.zeros(4, 1, dtype=torch.int32)
    save_file(tensors, packed / SINGLE, {"format": "pt"})
    with pytest.raises(UserError, match="asymmetric codes, which cannot be exported"):
        open_checkpoint(packed)
