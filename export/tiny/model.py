"""The tiny model: the 12B's architecture at 3 million parameters, and starting values that make it learn quickly."""

import itertools
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    Gemma4UnifiedAudioConfig,
    Gemma4UnifiedConfig,
    Gemma4UnifiedForConditionalGeneration,
    Gemma4UnifiedTextConfig,
    Gemma4UnifiedVisionConfig,
    GenerationConfig,
)

from export.tiny.tokenizer import VOCABULARY, token_id

HIDDEN, LAYERS, PATCH_WIDTH, FRAME, RATE = 128, 12, 64, 640, 16_000


def text_config() -> Gemma4UnifiedTextConfig:
    """Twelve layers, every sixth one full attention: a larger head, one KV head, keys that are also the values."""
    return Gemma4UnifiedTextConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=256, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=2, num_global_key_value_heads=1, head_dim=32, global_head_dim=64,
        attention_k_eq_v=True, sliding_window=128, max_position_embeddings=8192, final_logit_softcapping=30.0,
        use_bidirectional_attention="vision", pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip


def config() -> Gemma4UnifiedConfig:
    """The whole configuration, token ids from the tokenizer's list."""
    return Gemma4UnifiedConfig(
        text_config=text_config(),
        vision_config=Gemma4UnifiedVisionConfig(mm_embed_dim=PATCH_WIDTH, output_proj_dims=PATCH_WIDTH),
        audio_config=Gemma4UnifiedAudioConfig(),
        boi_token_id=token_id("<|image>"), image_token_id=token_id("<|image|>"), eoi_token_id=token_id("<image|>"),
        boa_token_id=token_id("<|audio>"), audio_token_id=token_id("<|audio|>"), eoa_token_index=token_id("<audio|>"),
        video_token_id=token_id("<|video|>"), pad_token_id=0, eos_token_id=[1, token_id("<turn|>")], bos_token_id=2,
    )  # fmt: skip


def generation_config() -> GenerationConfig:
    """Gemma 4's generation defaults; suppressing the closing media markers keeps the model from looping on them."""
    return GenerationConfig(
        do_sample=True, temperature=1.0, top_k=64, top_p=0.95, pad_token_id=0, bos_token_id=2,
        eos_token_id=[1, token_id("<turn|>"), token_id("<|tool_response>")],
        suppress_tokens=[token_id("<audio|>"), token_id("<image|>")],
    )  # fmt: skip


def waves(rows: int) -> Tensor:
    """float32[rows, 640]: windowed cosine and sine pairs at mel-spaced frequencies, shorter windows for higher ones."""
    pairs = rows // 2
    mel = np.linspace(2595 * math.log10(1 + 80 / 700), 2595 * math.log10(1 + 6500 / 700), pairs + 1)
    edges = 700 * (10 ** (mel / 2595) - 1)
    time = np.arange(FRAME) - (FRAME - 1) / 2
    basis = []
    for low, high in itertools.pairwise(edges):
        half = min(FRAME, 2.5 * RATE / (high - low)) / 2
        window = np.where(np.abs(time) < half, 0.5 + 0.5 * np.cos(np.pi * time / half), 0)
        for wave in (np.cos, np.sin):
            row = window * wave(2 * np.pi * low / RATE * time)
            # Speech falls off with frequency; the rising gain lets every band start equally loud.
            basis.append(row / np.linalg.norm(row) * math.sqrt(low / 1000))
    return torch.from_numpy(np.stack(basis)).float()


def ripples(rows: int) -> Tensor:
    """float32[rows, 6912]: two-dimensional cosines over a 48-pixel patch, equal in red, green and blue."""
    size = math.isqrt(rows)
    axis = np.cos(np.pi * (np.arange(48) + 0.5)[None] * np.arange(size)[:, None] / 48)
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    grid = np.einsum("ui,vj->uvij", axis, axis).reshape(rows, 48 * 48)
    gain = 1 + np.add.outer(np.arange(size), np.arange(size)).reshape(rows, 1)
    return torch.from_numpy(np.repeat(grid * gain, 3, axis=1) / 48).float()


@torch.no_grad()
def set_layer(layer: Any, index: int) -> None:
    """Starting values of one decoder layer; its `layer_scalar` becomes a trained parameter, unlike in transformers."""
    attention = layer.self_attn
    for norm in (attention.q_norm, attention.k_norm):
        norm.weight.fill_(attention.head_dim**-0.25)  # the attention scale is 1
    for norm in (layer.post_attention_layernorm, layer.post_feedforward_layernorm):
        norm.weight.fill_(0.3)
    for linear in layer.modules():
        if isinstance(linear, nn.Linear):
            linear.weight.normal_(0, linear.in_features**-0.5)
    del layer._buffers["layer_scalar"]
    layer.layer_scalar = nn.Parameter(torch.tensor([0.8 + 0.02 * ((7 * index) % LAYERS)]))


@torch.no_grad()
def build(seed: int = 0) -> Gemma4UnifiedForConditionalGeneration:
    """The untrained model in float32."""
    torch.manual_seed(seed)
    model = Gemma4UnifiedForConditionalGeneration(config())
    core = model.model
    core.language_model.embed_tokens.weight.normal_(0, HIDDEN**-0.5)
    for index, layer in enumerate(core.language_model.layers):
        set_layer(layer, index)
    core.embed_audio.embedding_projection.weight.copy_(waves(HIDDEN))
    vision = core.embed_vision
    vision.patch_dense.weight.copy_(ripples(PATCH_WIDTH))
    vision.pos_embedding.normal_(0, 0.3)
    vision.multimodal_embedder.embedding_projection.weight.normal_(0, PATCH_WIDTH**-0.5)
    return model


def save(model: Gemma4UnifiedForConditionalGeneration, folder: Path) -> None:
    """config.json, generation_config.json and model.safetensors (bfloat16) in `folder`, each moved into place whole."""
    state = {name: tensor.detach().to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    copy = Gemma4UnifiedForConditionalGeneration(config()).to(torch.bfloat16)
    copy.load_state_dict(state)
    copy.tie_weights()
    copy.generation_config = generation_config()
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        copy.save_pretrained(aside)
        for file in Path(aside).iterdir():
            file.chmod(0o644)
            file.rename(folder / file.name)
