"""A checkpoint of the published Gemma 4 12B geometry with random weights, for speed and memory, never for quality.

Tokenizer, template and processor are those of the embedded model, and so are the ids of special tokens; the vocabulary
is the published one.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import Gemma4UnifiedConfig

from export.models import EMBEDDED
from export.shards import Entry, ShardWriter
from export.sources import INDEX, expected_shapes

SHARD_BYTES = 4 * 2**30
BLOCK = 2**22  # weights made at once
TEXT = {  # the keys of the published config.json
    "model_type": "gemma4_unified_text", "vocab_size": 262144, "hidden_size": 3840, "intermediate_size": 15360,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256, "global_head_dim": 512,
    "num_global_key_value_heads": 1, "attention_k_eq_v": True, "sliding_window": 1024,
    "max_position_embeddings": 262144, "final_logit_softcapping": 30.0, "use_bidirectional_attention": "vision",
    "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
}  # fmt: skip
IMAGE_TOKENS = 280  # of the published processor
COPIED = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"
Changes = Mapping[str, Mapping[str, object]]
# With 1, 48 layers are chaotic: what enters off by 1e-6 leaves off by 1e-2, and no engine can be compared with another.
# The first layer's stay: where a frame is silent nothing else is there for later ones to be small beside.
BRANCH, BRANCH_NORM = 2.0**-5, re.compile(r"\.layers\.[1-9]\d*\.post_(attention|feedforward)_layernorm\.weight$")
SPECIAL = "_token_id", "_token_index"  # how keys of special tokens end


def write_checkpoint(folder: Path, layers: int, changes: Changes | None = None, zeros: bool = False) -> int:
    """Writes `layers` decoder layers (of 48), embedding and media embedders as bf16; returns the bytes of weights.

    Args:
        changes: to sections of the config, by their names, for other widths than the published ones.
        zeros: instead of random weights, so that 48 layers take no disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_settings(folder, layers, changes or {})
    shards = _shards(expected_shapes(Gemma4UnifiedConfig.from_pretrained(folder)))
    names = [f"model-{index + 1:05}-of-{len(shards):05}.safetensors" for index in range(len(shards))]
    generator = torch.Generator().manual_seed(0)
    for name, entries in zip(names, shards, strict=True):
        with ShardWriter(folder / name, entries) as writer:
            for entry in entries:
                if zeros:
                    writer.leave_zero(entry.key)
                else:
                    _write(writer, entry, generator)
    weight_map = {entry.key: name for name, entries in zip(names, shards, strict=True) for entry in entries}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return sum(entry.bytes for entries in shards for entry in entries)


def _write_settings(folder: Path, layers: int, changes: Changes) -> None:
    """Everything but weights."""
    tiny = EMBEDDED["tiny"]
    ids = {key: value for key, value in _read(tiny / "config.json").items() if key.endswith(SPECIAL)}
    config = {"model_type": "gemma4_unified", "architectures": ["Gemma4UnifiedForConditionalGeneration"],
              "dtype": "bfloat16"}  # fmt: skip
    sections = {"text_config": TEXT | {"num_hidden_layers": layers, "layer_types": _kinds(layers)},
                "vision_config": {}, "audio_config": {}}  # fmt: skip
    changed = {name: {**keys, **changes.get(name, {})} for name, keys in sections.items()}
    _dump(folder / "config.json", config | ids | changed)
    processor = _read(tiny / "processor_config.json") | {"image_seq_length": IMAGE_TOKENS}
    processor["image_processor"]["max_soft_tokens"] = IMAGE_TOKENS
    _dump(folder / "processor_config.json", processor)
    for name in COPIED:
        shutil.copyfile(tiny / name, folder / name)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _dump(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1))


def _kinds(layers: int) -> list[str]:
    return ["full_attention" if (index + 1) % 6 == 0 or index + 1 == layers else "sliding_attention"
            for index in range(layers)]  # fmt: skip


def _shards(shapes: dict[str, tuple[int, ...]]) -> list[list[Entry]]:
    shards: list[list[Entry]] = [[]]
    for name, shape in shapes.items():
        if sum(entry.bytes for entry in shards[-1]) >= SHARD_BYTES:
            shards.append([])
        shards[-1].append(Entry(name, torch.bfloat16, shape))
    return shards


def _write(writer: ShardWriter, entry: Entry, generator: torch.Generator) -> None:
    """Values of a size that keeps activations finite: matrices by their width, norms 1 but for those of branches."""
    count, width = torch.Size(entry.shape).numel(), entry.shape[-1]
    if len(entry.shape) < 2:
        value = BRANCH if BRANCH_NORM.search(entry.key) else 1.0
        writer.append(entry.key, torch.full(entry.shape, value, dtype=torch.bfloat16))
        return
    step = max(1, BLOCK // width) * width
    for start in range(0, count, step):
        block = torch.randn(min(step, count - start), generator=generator)
        writer.append(entry.key, (block * width**-0.5).bfloat16())
