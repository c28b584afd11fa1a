"""Small random Gemma 3 and 4 models, built and run by transformers' own code: what parity is measured against."""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Gemma4UnifiedConfig,
    Gemma4UnifiedForConditionalGeneration,
)

from runtime.sessions.base import ModelInputs

VOCABULARY = 1024
TOKENS = dict(image_token_id=1000, audio_token_id=1001, video_token_id=1002, boi_token_id=1003, eoi_token_id=1004,
              boa_token_id=1005, eoa_token_index=1006)  # fmt: skip
VISION = dict(patch_size=4, pooling_kernel_size=3, mm_embed_dim=64, mm_posemb_size=32, output_proj_dims=64)
PATCH_VALUES = 3 * (4 * 3) ** 2
SAMPLES = 64
TEXT = dict(
    vocab_size=VOCABULARY, hidden_size=128, intermediate_size=256, num_hidden_layers=6, num_attention_heads=4,
    num_key_value_heads=2, head_dim=32, global_head_dim=64, num_global_key_value_heads=1, attention_k_eq_v=True,
    sliding_window=16, max_position_embeddings=4096, final_logit_softcapping=30.0,
)  # fmt: skip

GEMMA3 = dict(
    vocab_size=VOCABULARY, hidden_size=128, intermediate_size=256, num_hidden_layers=6, num_attention_heads=4,
    num_key_value_heads=2, head_dim=32, sliding_window=16, max_position_embeddings=4096, query_pre_attn_scalar=2,
    rope_parameters=dict(sliding_attention=dict(rope_type="default", rope_theta=1e4),
                         full_attention=dict(rope_type="linear", rope_theta=1e6, factor=8.0)),
)  # fmt: skip


def random_config(vision: bool = True, audio: bool = True, **text: Any) -> Gemma4UnifiedConfig:
    return Gemma4UnifiedConfig(
        text_config=TEXT | text,
        vision_config=VISION if vision else None,
        audio_config=dict(audio_embed_dim=SAMPLES) if audio else None,
        **TOKENS,
    )


def random_text_config(**changes: Any) -> Gemma3TextConfig:
    """Gemma 3: scores are scaled, and the rotation of full layers is stretched, as in its larger sizes."""
    return Gemma3TextConfig(**GEMMA3 | changes)


def random_model(config: Any, seed: int = 0) -> Any:
    """fp32. Weights are exact in bf16, so that a saved checkpoint holds this very model.

    Args:
        config: from `random_config` or `random_text_config`.
    """
    torch.manual_seed(seed)
    text = isinstance(config, Gemma3TextConfig)
    model = Gemma3ForCausalLM(config) if text else Gemma4UnifiedForConditionalGeneration(config)
    model.set_attn_implementation("eager")
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            offset = 1 if text and name.endswith("norm.weight") else 0  # Gemma 3's norms add it
            tensor.copy_((_random(name, torch.randn_like(tensor)) - offset).bfloat16())
    return model.eval().requires_grad_(False)


def _random(name: str, noise: Tensor) -> Tensor:
    """Attention with scale 1.0 is chaotic unless queries and keys are small, and then parity figures mean nothing."""
    if "layer_scalar" in name:
        return 0.75 + 0.2 * noise.clamp(-1, 1)
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        return (1 + 0.2 * noise) * len(noise) ** -0.25
    if name.endswith(("norm.weight", "ln1.weight", "ln2.weight")):
        return 1 + 0.3 * noise
    if noise.ndim == 2:
        return noise * (0.05 if "embed_tokens" in name else noise.shape[1] ** -0.5)
    return 0.3 * noise


def save(model: Any, folder: Path, **options: Any) -> Path:
    """As bf16, in Hugging Face layout; options of save_pretrained."""
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder, **options)
    return folder


@dataclass
class Prompt:
    """Random ids with image and audio placeholders, and their media; `image_first` etc. are spans of positions."""

    inputs: ModelInputs
    decode_from: int  # positions before it are prefilled

    @property
    def length(self) -> int:
        return len(self.inputs.input_ids)


def text_prompt(length: int, decode_from: int, seed: int = 1) -> Prompt:
    ids = np.random.default_rng(seed).integers(5, 900, length)
    return Prompt(ModelInputs(ids), decode_from)


def media_prompt(images: int, clips: int, tail: int, seed: int = 2) -> Prompt:
    """Text, images of 4x3 and 3x3 patches with padding, audio of 7 frames, text; `tail` tokens to decode."""
    rng = np.random.default_rng(seed)

    def text(count: int) -> list[int]:
        return [int(token) for token in rng.integers(5, 900, count)]

    ids = text(5)
    for image in range(images):
        ids += [1003] + [1000] * (12 if image % 2 == 0 else 9) + [1004] + text(2)
    for _ in range(clips):
        ids += [1005] + [1001] * 7 + [1006] + text(2)
    decode_from = len(ids)
    grid = np.stack(np.meshgrid(np.arange(4), np.arange(3)), -1).reshape(1, 12, 2).repeat(images, 0).astype(np.int64)
    grid[1::2, 9:] = -1
    mask = np.ones((clips, 8), bool)
    mask[:, 7] = False
    return Prompt(
        ModelInputs(
            np.array(ids + text(tail)),
            rng.random((images, 12, PATCH_VALUES), np.float32) if images else None,
            grid if images else None,
            0.1 * rng.standard_normal((clips, 8, SAMPLES), np.float32) if clips else None,
            mask if clips else None,
        ),
        decode_from,
    )


def with_frames(prompt: Prompt, numbers: Sequence[int]) -> Prompt:
    """The images of these numbers as frames of one video, which are padded no more than the largest of them needs."""
    inputs = prompt.inputs
    assert inputs.pixel_values is not None and inputs.image_position_ids is not None
    here = inputs.input_ids == TOKENS["image_token_id"]
    image = np.cumsum(here & ~np.roll(here, 1)) - 1
    rest = np.setdiff1d(np.arange(len(inputs.pixel_values)), numbers)
    longest = (inputs.image_position_ids[numbers, :, 0] >= 0).sum(-1).max()
    changed = replace(
        inputs, input_ids=np.where(here & np.isin(image, numbers), TOKENS["video_token_id"], inputs.input_ids),
        pixel_values=inputs.pixel_values[rest] if len(rest) else None,
        image_position_ids=inputs.image_position_ids[rest] if len(rest) else None,
        pixel_values_videos=inputs.pixel_values[numbers, :longest],
        video_position_ids=inputs.image_position_ids[numbers, :longest],
        num_frames_per_video=np.array([len(numbers)]),
    )  # fmt: skip
    return Prompt(changed, prompt.decode_from)


@torch.no_grad()
def reference_logits(model: Any, prompt: Prompt) -> Tensor:
    """fp32 [T, vocabulary] of a prompt in one forward pass, with the masks of generate()."""
    arrays = {name: torch.from_numpy(array) for name, array in prompt.inputs.arrays().items()}
    ids = arrays.pop("input_ids")[None]
    if isinstance(model, Gemma3ForCausalLM):
        return model(input_ids=ids).logits[0]
    kinds = (ids == TOKENS["image_token_id"]) + 2 * (ids == TOKENS["video_token_id"])
    embeds = torch.zeros(1, ids.shape[1], model.config.text_config.hidden_size)
    cache = DynamicCache(config=model.config)
    masks = model.create_masks_for_generate(
        model.config, embeds, torch.ones_like(ids), cache, torch.arange(ids.shape[1])[None], mm_token_type_ids=kinds
    )
    return model(input_ids=ids, attention_mask=masks, past_key_values=cache, **arrays).logits[0]


def relative_rms(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).pow(2).mean().sqrt() / wanted.pow(2).mean().sqrt())


def piece(inputs: ModelInputs, start: int, stop: int) -> ModelInputs:
    """Positions start to stop, with the media whose placeholders begin there."""
    ids = inputs.input_ids

    def rows(token: int, array: np.ndarray | None) -> np.ndarray | None:
        begins = np.flatnonzero((ids == token) & (np.roll(ids, 1) != token))
        chosen = np.flatnonzero((begins >= start) & (begins < stop))
        return array[chosen] if array is not None and len(chosen) else None

    frames = rows(1002, inputs.video_position_ids)
    return ModelInputs(
        ids[start:stop],
        rows(1000, inputs.pixel_values),
        rows(1000, inputs.image_position_ids),
        rows(1001, inputs.input_features),
        rows(1001, inputs.input_features_mask),
        rows(1002, inputs.pixel_values_videos),
        frames,
        None if frames is None else np.array([len(frames)]),
    )


def chunks_around_images(prompt: Prompt) -> list[int]:
    """Lengths of uneven steps that cut the prefill wherever no medium is cut."""
    ids = prompt.inputs.input_ids[: prompt.decode_from]
    cuts = [at for at in range(3, len(ids), 7) if ids[at] < 1000 or ids[at - 1] not in (1000, 1001, 1002)]
    edges = [0, *cuts, len(ids)]
    return [stop - start for start, stop in itertools.pairwise(edges) if stop > start]
