"""Embedding and head: two tables or one, as transformers has it; and tensors that belong to no model."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Gemma4UnifiedForConditionalGeneration

from export import checkpoint
from export import quantize as quantizer
from export.calibration.rounding import Weighted, rounding_of
from export.calibration.streamed import MOMENTS
from export.checkpoint import CheckpointWeights, QuantizationRecord
from export.config import read_model
from export.packed import open_checkpoint
from export.quantize import quantize
from export.recipes import PROJECTION, RECIPES
from export.schemes import INT4
from export.sources import SINGLE, open_source
from runtime.errors import UserError
from runtime.sessions.base import ModelInputs
from runtime.sessions.reference import ReferenceSession, load_model
from runtime.sessions.streamed import StreamedReference
from tests import random_models as models
from tests.test_trained_sources import ARGUMENTS, on_grid

EMBEDDING, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
Tables = dict[str, Tensor]
RANDOM = models.random_config()
# What becomes of the head that a checkpoint stores: a change of its tensors, by what it leaves there.
HEADS: dict[str, Callable[[Tables], object]] = {
    "none": lambda tensors: None,
    "equal": lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}),
    "wider": lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].float()}),
    "other": lambda tensors: tensors.update({HEAD: other_head(tensors[EMBEDDING])}),
}


def other_head(embedding: Tensor) -> Tensor:
    """Differs in the last row alone, which is the last that is compared."""
    head = embedding.clone()
    head[-1] = head[-1].flip(0)
    return head


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tied, without a head of its own."""
    return models.save(models.random_model(RANDOM), tmp_path_factory.mktemp("saved") / "source")


@pytest.fixture
def write(saved: Path, tmp_path: Path) -> Callable[..., Path]:
    """Of `saved`, with other tensors and settings."""

    def write(name: str, change: Callable[[Tables], object], config: dict[str, Any] | None = None) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        tensors = load_file(saved / SINGLE)
        change(tensors)
        save_file(tensors, folder / SINGLE, {"format": "pt"})
        settings = json.loads((saved / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(settings | (config or {})))
        return folder

    return write


def run(source: Path, out: Path, recipe: str = "int4") -> QuantizationRecord:
    return quantize(open_checkpoint(source), RECIPES[recipe], "tables", out)


def codes_on_disk(folder: Path) -> dict[str, str]:
    """sha256 of all packed codes, by weight, as safetensors reads them."""
    stored: Tables = {}
    for path in folder.glob("*.safetensors"):
        stored |= load_file(path)
    return {key.replace("_packed", ""): hashlib.sha256(codes.numpy().tobytes()).hexdigest()
            for key, codes in stored.items() if key.endswith(".weight_packed")}  # fmt: skip


def recorded(record: QuantizationRecord) -> dict[str, str]:
    return {digest.name: digest.sha256 for digest in record.tensors if digest.scales_sha256}


# Two tables


@pytest.mark.parametrize("recipe", ["int4", "int8"])
@pytest.mark.parametrize("size", [100_000, quantizer.SHARD_BYTES])
def test_both_tables_survive(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, recipe: str
) -> None:
    """Each as it is rounded alone: what a tied model has whose embedding it is. In shards of their own, or in one."""
    monkeypatch.setattr(quantizer, "SHARD_BYTES", size)
    source = write("source", HEADS["other"], UNTIED)
    alone = write("alone", lambda tensors: tensors.update({EMBEDDING: other_head(tensors[EMBEDDING])}))
    record, of_head = run(source, tmp_path / "out", recipe), run(alone, tmp_path / "of_head", recipe)
    wanted = recorded(run(write("tied", HEADS["none"]), tmp_path / "tied", recipe))
    wanted[HEAD] = recorded(of_head)[EMBEDDING]
    assert codes_on_disk(tmp_path / "out") == recorded(record) == wanted
    assert wanted[HEAD] != wanted[EMBEDDING], "control: one in place of the other shows"
    assert (len(list((tmp_path / "out").glob("model-*"))) > 1) == (size == 100_000)
    weights, model = CheckpointWeights(tmp_path / "out"), load_model(tmp_path / "out")
    for name in (EMBEDDING, HEAD):
        assert weights.packed(name) is not None
        assert torch.equal(model.get_parameter(name), torch.from_numpy(weights.dense(name))), name


def test_control_one_file_for_both_loses_one(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizer, "SHARD_BYTES", 100_000)
    monkeypatch.setattr(quantizer, "codes_file", lambda name: checkpoint.EMBEDDING_CODES)
    record = run(write("source", HEADS["other"], UNTIED), tmp_path / "out")
    assert recorded(record).keys() - codes_on_disk(tmp_path / "out").keys() in ({EMBEDDING}, {HEAD})


def test_an_untied_embedding_is_not_rounded_by_what_enters_the_head(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Plain rounding keeps it nearest; the head is calibrated."""
    source = tmp_path / "source"
    source.mkdir()
    for path in (path for path in tiny_checkpoint.iterdir() if path.is_file()):
        (source / path.name).write_bytes(path.read_bytes())
    tensors = load_file(source / SINGLE)
    save_file(tensors | {HEAD: tensors[EMBEDDING].flip(0).contiguous()}, source / SINGLE, {"format": "pt"})
    plain, calibrated = (run(source, tmp_path / name, name) for name in ("int4", "int4-gptq"))
    assert recorded(plain)[EMBEDDING] == recorded(calibrated)[EMBEDDING]
    assert recorded(plain)[HEAD] != recorded(calibrated)[HEAD], "control: calibration does change a table"


def test_only_a_tied_table_is_weighed_as_one_that_is_looked_up(tmp_path: Path) -> None:
    moments = torch.diag(torch.arange(1.0, 33))
    save_file({MOMENTS: moments}, tmp_path / "head.safetensors")
    tied, apart = (rounding_of(name, INT4, RECIPES["int4-weighted"], tmp_path) for name in (EMBEDDING, HEAD))
    assert isinstance(tied, Weighted) and isinstance(apart, Weighted)
    assert torch.equal(apart.importance, moments.diagonal())
    assert torch.equal(tied.importance, moments.diagonal() + moments.diagonal().mean())


def test_a_budget_for_two_tables_is_refused(write: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a head apart from its embedding, which recipe auto .* RECIPE=int4-gptq"):
        run(write("source", HEADS["other"], UNTIED), tmp_path / "out", "auto")


# One table, or two: transformers decides


@pytest.mark.parametrize("of_text", [None, True, False])
@pytest.mark.parametrize("of_all", [None, True, False])
@pytest.mark.parametrize("head", HEADS)
def test_the_head_is_the_one_that_transformers_has(
    write: Any, tmp_path: Path, head: str, of_all: bool | None, of_text: bool | None
) -> None:
    """Of the source and of the quantized checkpoint."""
    settings = {} if of_all is None else {"tie_word_embeddings": of_all}
    source = write("source", HEADS[head], settings)
    config = json.loads((source / "config.json").read_text())
    config["text_config"] |= {} if of_text is None else {"tie_word_embeddings": of_text}
    (source / "config.json").write_text(json.dumps(config))
    if head == "none" and of_all is False:
        with pytest.raises(UserError, match=r"the weights lack lm_head\.weight"):  # transformers makes up a random one
            open_source(source)
        return
    run(source, tmp_path / "out")
    tied = is_tied(load_model(source))
    assert tied == is_tied(load_model(tmp_path / "out")) == (head != "other" and of_all is not False)
    for folder in (source, tmp_path / "out"):
        assert read_model(open_source(folder).config).text.head == (EMBEDDING if tied else HEAD)[: -len(".weight")]
    assert (CheckpointWeights(tmp_path / "out").packed(HEAD) is None) == tied


def is_tied(model: Any) -> bool:
    return bool(model.lm_head.weight.data_ptr() == model.get_parameter(EMBEDDING).data_ptr())


def test_a_head_that_equals_the_embedding_leaves_no_trace(write: Any, tmp_path: Path) -> None:
    without, equal, other = (
        run(write(head, HEADS[head]), tmp_path / f"{head}-out") for head in ("none", "equal", "other")
    )
    assert without.tensors == equal.tensors
    assert (tmp_path / "equal-out" / checkpoint.EMBEDDING_CODES).exists()
    assert not (tmp_path / "equal-out" / checkpoint.HEAD_CODES).exists()
    assert {digest.name for digest in other.tensors} - {digest.name for digest in equal.tensors} == {HEAD}, "control"


def test_what_is_left_out_is_of_another_plan(write: Any, saved: Path) -> None:
    """So that what was made with a head that should not be there does not serve again."""
    source = open_source(write("source", HEADS["equal"]))
    before = source.fingerprint
    del source.fingerprint
    source.left_out.clear()
    assert source.fingerprint != before
    assert open_source(saved).fingerprint == open_source(saved).fingerprint, "control"


# Packed tables


def packing(*weights: str, shift: int = 0, bits: int = 4) -> Callable[[Tables], object]:
    """Packs tables, of which the head is the embedding with its first code moved by `shift`."""

    def change(tensors: Tables) -> None:
        embedding = tensors[EMBEDDING].float()
        for name in weights:
            codes, scales = on_grid(embedding) if bits == 4 else by_row(embedding)
            codes[0, 0] += shift if name == HEAD else 0
            tensors.pop(name, None)
            tensors |= {f"{name}_packed": pack_to_int32(codes, bits), f"{name}_scale": scales.bfloat16(),
                        f"{name}_shape": torch.tensor(codes.shape)}  # fmt: skip

    return change


def by_row(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 codes, and scales of 8 significant bits."""
    scales = (weight.abs().amax(-1, keepdim=True) / 120).bfloat16().float()
    return (weight / scales).round().to(torch.int8), scales


def packed_config(*weights: str, bits: int = 4) -> dict[str, Any]:
    targets = [name.removesuffix(".weight") for name in weights]
    by_row = {"num_bits": 8, "strategy": "channel", "group_size": None} if bits == 8 else {}
    return {"quantization_config": {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "ignore": [], "config_groups": {"group_0": {"weights": ARGUMENTS | by_row, "targets": targets}},
    }}  # fmt: skip


def test_a_packed_head_that_is_the_embedding_leaves_no_trace(write: Any, tmp_path: Path) -> None:
    both, alone = write("both", packing(EMBEDDING, HEAD)), write("alone", packing(EMBEDDING))
    assert run(both, tmp_path / "out").tensors == run(alone, tmp_path / "alone-out").tensors
    assert HEAD not in open_checkpoint(both).tensors and open_checkpoint(both).config.tie_word_embeddings


@pytest.mark.parametrize("change", [packing(EMBEDDING, HEAD, shift=1), packing(HEAD)])
def test_a_packed_head_that_is_not_the_embedding_is_refused(write: Any, change: Callable[[Tables], object]) -> None:
    """Where the config ties them. transformers fails on it."""
    folder = write("source", change, packed_config(HEAD))
    with pytest.raises(UserError, match=r"to which config\.json ties it, and one is packed: set tie_word_embeddings"):
        open_checkpoint(folder)
    with pytest.raises(AttributeError):
        load_model(folder)


@pytest.mark.parametrize("bits", [4, 8])
def test_an_untied_packed_head_passes_through(write: Any, tmp_path: Path, bits: int) -> None:
    """And the reference has its very products."""
    source = write("source", packing(HEAD, shift=1, bits=bits), packed_config(HEAD, bits=bits) | UNTIED)
    run(source, tmp_path / "out", "int4-embed8")
    model, wanted = load_model(tmp_path / "out"), load_model(source)
    dense = torch.from_numpy(CheckpointWeights(tmp_path / "out").dense(HEAD))
    assert torch.equal(model.get_parameter(HEAD), dense) and torch.equal(wanted.get_parameter(HEAD), dense)
    assert codes_on_disk(tmp_path / "out")[HEAD] == codes_on_disk(source)[HEAD]
    assert not torch.equal(model.get_parameter(EMBEDDING), wanted.get_parameter(EMBEDDING)), "control: rounded to int8"
    asked = [ModelInputs(np.array([200, 201]))], [[1]]
    streamed = StreamedReference.open(tmp_path / "out").read(*asked)
    assert np.allclose(streamed, ReferenceSession(model).read(*asked), atol=1e-4)
    with pytest.raises(UserError, match="its head is packed"):
        StreamedReference.open(source).read(*asked)


# Tensors of no model

UNUSED = (
    "model.language_model.layers.0.self_attn.rotary_emb.inv_freq",
    "model.language_model.layers.6.mlp.up_proj.weight",
    "mtp.head.weight",
)


def test_what_transformers_does_not_load_is_left_out(write: Any, tmp_path: Path) -> None:
    source = write("source", lambda tensors: tensors.update({name: torch.ones(32, 32).bfloat16() for name in UNUSED}))
    record, without = run(source, tmp_path / "out"), run(write("without", HEADS["none"]), tmp_path / "without-out")
    found = Gemma4UnifiedForConditionalGeneration.from_pretrained(source, output_loading_info=True)[1]
    assert set(found["unexpected_keys"]) <= set(open_source(source).left_out) == set(UNUSED)
    assert record.tensors == without.tensors
    assert {PROJECTION.search(name) is not None for name in UNUSED} == {True, False}, "control: a recipe would take one"


@pytest.mark.parametrize("name", ["mlp.up_proj.input_scale", "self_attn.k_scale", "mlp.up_proj.weight_scale"])
def test_other_quantizations_are_refused(write: Any, name: str) -> None:
    """transformers does load these, and no artifact would."""
    place = f"model.language_model.layers.0.{name}"
    folder = write("source", lambda tensors: tensors.update({place: torch.ones(1)}), packed_config(EMBEDDING))
    with pytest.raises(UserError, match=rf"{name} is of a quantization other than packed weights, .* unquantized"):
        open_checkpoint(folder)
    assert open_checkpoint(write("without", HEADS["none"], packed_config(EMBEDDING))).tensors, "control"
