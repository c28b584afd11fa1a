"""The description in torch against transformers' own model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from export.checkpoint import CheckpointWeights
from export.config import read_model
from export.lowering.torch_program import TorchProgram
from export.media import HERE as MEDIA
from export.weights import MemoryWeights
from runtime.prompt import Prompter, split, user
from runtime.sessions.reference import ReferenceSession
from tests import random_models as models
from tests.random_models import Prompt

BAR = 2e-5  # relative rms, fp32
Pair = tuple[Any, Any, MemoryWeights]  # transformers' model, its config, our weights
KINDS: dict[str, dict[str, Any]] = {
    "published": {},
    "shallow": dict(num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"], sliding_window=8),
    "deep": dict(num_hidden_layers=12, num_attention_heads=8, num_key_value_heads=4, sliding_window=24),
    "values apart": dict(attention_k_eq_v=False, num_global_key_value_heads=None, head_dim=64, global_head_dim=32),
    "no audio": dict(audio=False, num_key_value_heads=1, sliding_window=12),
    "no vision": dict(vision=False, hidden_size=96, intermediate_size=160),
    "shared caches": dict(num_kv_shared_layers=3, layer_types=["sliding_attention", "full_attention"] * 3),
}


def run(program: TorchProgram, prompt: Prompt, chunks: list[int]) -> Tensor:
    """Prefills in chunks, decodes the rest token by token; all logits."""
    logits, at = [], 0
    for count in chunks + [1] * (prompt.length - sum(chunks)):
        piece = models.piece(prompt.inputs, at, at + count)
        logits.append(program.run(piece))
        at += count
    return torch.cat(logits)


@pytest.fixture(params=KINDS, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A random model and the weights of its saved checkpoint."""
    model = models.random_model(models.random_config(**KINDS[request.param]))
    weights = CheckpointWeights(models.save(model, tmp_path_factory.mktemp("model")))
    return model, weights.config, MemoryWeights({name: weights.dense(name) for name in weights.source.tensors})


def program_of(pair: Pair) -> TorchProgram:
    return TorchProgram(read_model(pair[1]), pair[2], max_context=128, max_step=64)


def test_text(pair: Pair) -> None:
    prompt = models.text_prompt(90, 40)
    wanted = models.reference_logits(pair[0], prompt)
    for chunks in ([40], [13, 13, 14], [1]):
        assert models.relative_rms(run(program_of(pair), prompt, chunks), wanted) < BAR


@pytest.mark.parametrize("images, clips", [(1, 0), (2, 0), (0, 1), (2, 1)])
def test_media(pair: Pair, images: int, clips: int) -> None:
    """A model without a modality is asked for the rest."""
    config = pair[1]
    prompt = models.media_prompt(images * bool(config.vision_config), clips * bool(config.audio_config), tail=30)
    wanted = models.reference_logits(pair[0], prompt)
    for chunks in ([prompt.decode_from], models.chunks_around_images(prompt)):
        assert models.relative_rms(run(program_of(pair), prompt, chunks), wanted) < BAR


@pytest.mark.parametrize("question", ["text", "image", "two images", "audio"])
def test_the_embedded_model(tiny_checkpoint: Path, question: str) -> None:
    """On real prompts of its own template and processor, past its window."""
    media = {"image": ["boot.png"], "two images": ["boot.png", "colours.png"]}.get(question, [])
    clips = ["seven.wav"] if question == "audio" else []
    messages = user("The wind blew from the north all day. " * 20, media, clips)
    inputs = Prompter(tiny_checkpoint)(messages, MEDIA).inputs
    weights = CheckpointWeights(tiny_checkpoint)
    assert len(inputs.input_ids) > weights.config.text_config.sliding_window
    program = TorchProgram(read_model(weights.config), weights, max_context=1024, max_step=512)
    found = torch.cat([program.run(step) for step in split(inputs, 70, Prompter(tiny_checkpoint).media)])
    wanted = torch.from_numpy(ReferenceSession.open(tiny_checkpoint).score(inputs))
    assert models.relative_rms(found, wanted) < BAR


@pytest.mark.parametrize("pair", ["published"], indirect=True)
def test_control_another_mask_fails(pair: Pair) -> None:
    """Images that see themselves in full layers, or not in sliding ones, are over the bar."""
    prompt = models.media_prompt(1, 0, tail=4)
    program = program_of(pair)
    layers = tuple(replace(layer, image_blocks=not layer.image_blocks) for layer in program.model.text.layers)
    program.model = replace(program.model, text=replace(program.model.text, layers=layers))
    found = run(program, prompt, [prompt.decode_from])
    assert models.relative_rms(found, models.reference_logits(pair[0], prompt)) > 10 * BAR
