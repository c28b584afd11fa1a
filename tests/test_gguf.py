"""GGUF files as sources, against what transformers' own loader makes of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from export import gguf as unpacking
from export.checkpoint import CheckpointWeights
from export.gguf import STAMP, unpack
from export.models import find_model, model_name
from export.quantize import quantize
from export.recipes import RECIPES
from export.sources import open_source
from runtime.errors import UserError
from runtime.sessions.reference import ReferenceSession
from tests import random_models as models

gguf = pytest.importorskip("gguf", reason="pip install 'gemma4-edge[gguf]'")
TYPES = ["Q4_0", "Q8_0", "F16", "BF16", "Q4_K"]
WIDE = dict(
    hidden_size=256, intermediate_size=512, head_dim=64, query_pre_attn_scalar=64
)  # rows of Q4_K are multiples of 256


def write(path: Path, kind: str, architecture: str = "gemma3", tokenizer: bool = True) -> Any:
    """A random model whose matrices are of this type, by gguf's own quantizers; norms are stored as weight + 1."""
    model = models.random_model(models.random_text_config(**WIDE))
    writer = gguf.GGUFWriter(path, architecture)
    _describe(writer, model.config)
    if tokenizer:
        _add_tokenizer(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, model.config.num_hidden_layers)
    for name, tensor in model.model.state_dict().items():
        called = names.get_name(f"model.{name}", try_suffixes=(".weight",))
        _add(writer, called, tensor.numpy(), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _add(writer: Any, name: str, values: np.ndarray, kind: str) -> None:
    if values.ndim == 1:
        writer.add_tensor(name, values + np.float32(1))
    elif kind == "F16":
        writer.add_tensor(name, values.astype(np.float16))
    else:
        type_ = gguf.GGMLQuantizationType[kind]
        stored = _random_blocks(values.shape, type_) if kind == "Q4_K" else gguf.quantize(values, type_)
        writer.add_tensor(name, stored, raw_dtype=type_)


def _random_blocks(shape: tuple[int, ...], type_: Any) -> np.ndarray:
    """gguf unpacks Q4_K but does not make it: random codes, with scales that keep values small."""
    _, size = gguf.GGML_QUANT_SIZES[type_]
    rng = np.random.default_rng(shape[0])
    blocks = rng.integers(0, 256, (shape[0], shape[1] // 256, size), np.uint8)
    blocks[..., :4] = np.array([1e-4, 5e-4], np.float16).view(np.uint8)
    return blocks.reshape(shape[0], -1)


def _describe(writer: Any, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(1e6)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(8.0)
    writer.add_sliding_window(config.sliding_window)
    writer.add_vocab_size(config.vocab_size)
    writer.add_license("gemma")


def _add_tokenizer(writer: Any) -> None:
    """Special tokens, bytes and made up words."""
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<end_of_turn>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += [*"▁abcdefghij", "▁a"]
    words += [f"▁w{i}" for i in range(models.VOCABULARY - len(words))]
    kinds = [3, 3, 3, 2, 3, *[6] * 256, *[1] * (models.VOCABULARY - 261)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([-float(i) for i in range(len(words))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_eot_token_id(4)
    writer.add_pad_token_id(0)


def theirs(path: Path, model: Any) -> dict[str, torch.Tensor]:
    """Every tensor by transformers' own loader."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    return load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]


@pytest.mark.parametrize("kind", TYPES)
def test_values(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, however few rows go at once; a flipped bit in the file is a control."""
    monkeypatch.setattr(unpacking, "BLOCK", 5000)
    path = tmp_path / "model.gguf"
    wanted = theirs(path, write(path, kind))
    source = open_source(unpack(path, tmp_path / "sources"))
    assert source.tensors.keys() == wanted.keys()
    assert all(torch.equal(source.rows(name).float(), wanted[name].float()) for name in wanted)
    kept = {"F16": torch.float16, "BF16": torch.bfloat16}.get(kind, torch.float32)
    assert source.tensors["model.embed_tokens.weight"].dtype == kept
    flip(path, gguf.GGUFReader(path).tensors[-1].data_offset)
    other = open_source(unpack(path, tmp_path / "sources"))
    assert sum(not torch.equal(other.rows(name).float(), wanted[name].float()) for name in wanted) == 1


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset + 1] ^= 0x10
    path.write_bytes(data)


def test_the_model_runs(tmp_path: Path) -> None:
    """F16 holds nearly all values of the random model, so logits are the model's own: its scale of scores and its
    rotations are right."""
    path = tmp_path / "model.gguf"
    model = write(path, "F16")
    folder = unpack(path, tmp_path / "sources")
    prompt = models.text_prompt(40, 40)
    found = ReferenceSession.open(folder).score(prompt.inputs)
    assert np.allclose(found, models.reference_logits(model, prompt).numpy(), atol=2e-3)
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [1, 4] and "license: gemma" in (folder / "README.md").read_text()
    assert AutoTokenizer.from_pretrained(folder).convert_ids_to_tokens([2, 4]) == ["<bos>", "<end_of_turn>"]


def test_a_folder_serves_again_until_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(path, "Q4_0")
    folder = unpack(path, tmp_path / "sources")
    made = (folder / STAMP).stat().st_mtime_ns
    assert unpack(path, tmp_path / "sources") == folder and (folder / STAMP).stat().st_mtime_ns == made
    write(path, "Q8_0")
    unpack(path, tmp_path / "sources")
    assert (folder / STAMP).stat().st_mtime_ns != made


def test_names(tmp_path: Path) -> None:
    path = tmp_path / "gemma.gguf"
    path.touch()
    assert find_model(str(path)) == path and model_name(str(path)) == "gemma"
    assert unpack(tmp_path, tmp_path) == tmp_path, "a folder is taken as it is"


def test_refusals(tmp_path: Path) -> None:
    """In one line, and nothing is left in the place of a result."""
    damaged, other, bare = (tmp_path / f"{name}.gguf" for name in ("damaged", "other", "bare"))
    damaged.write_bytes(b"GGUF and no more")
    write(other, "F16", architecture="llama")
    write(bare, "F16", tokenizer=False)
    for path, told in (damaged, "no GGUF file"), (other, "cannot be exported|no configuration"), (bare, "no tokenizer"):
        with pytest.raises(UserError, match=told):
            unpack(path, tmp_path / "sources")
        assert not (tmp_path / "sources" / path.stem).exists()


def test_codes_of_q4_0_are_kept(tmp_path: Path) -> None:
    """Read out of the file's own blocks: each code times its scale in bf16, which all formats can hold. Groups with a
    negative scale, which XNNPACK cannot, are counted, and are the control: they differ."""
    path = tmp_path / "model.gguf"
    write(path, "Q4_0")
    record = quantize(open_source(unpack(path, tmp_path / "sources")), RECIPES["int4"], "model", tmp_path / "quantized")
    weights, unfit = CheckpointWeights(tmp_path / "quantized"), 0
    names = {f"blk.0.{theirs}.weight": f"model.layers.0.{ours}.weight" for theirs, ours in PROJECTIONS.items()}
    for stored in (tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name in names):
        codes, scales = blocks_of(stored)
        found = torch.from_numpy(weights.dense(names[stored.name])).unflatten(1, (-1, 32))
        positive = scales >= 2.0**-14  # fp16's normal numbers
        assert torch.equal(found[positive], (codes * scales.bfloat16().float()[..., None])[positive])
        assert positive.any() and not torch.equal(found, codes * scales[..., None])
    for tensor in (tensor for tensor in gguf.GGUFReader(path).tensors if tensor.tensor_type.name == "Q4_0"):
        unfit += int((blocks_of(tensor)[1] < 0).sum())
    assert record.grid["unfit"] == unfit and record.grid["none"] == 0


PROJECTIONS = {"attn_q": "self_attn.q_proj", "attn_output": "self_attn.o_proj", "ffn_down": "mlp.down_proj"}


def blocks_of(tensor: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Of Q4_0, 18 bytes each: an fp16 scale, then 16 low nibbles and 16 high ones. Codes [n, groups, 32], scales."""
    blocks = tensor.data.reshape(tensor.data.shape[0], -1, 18)
    scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0].astype(np.float32)
    codes = np.concatenate([blocks[..., 2:] & 15, blocks[..., 2:] >> 4], -1).astype(np.float32) - 8
    return torch.from_numpy(codes), torch.from_numpy(scales)
