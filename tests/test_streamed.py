"""The streamed reference against transformers' own whole model, and how little of the model it holds."""

import json
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from export.quantize import quantize
from export.recipes import RECIPES
from export.sources import open_source
from runtime.errors import UserError
from runtime.manifest import Tokens
from runtime.sessions.reference import ReferenceSession
from runtime.sessions.streamed import Step, StreamedModel, StreamedReference
from tests import random_models as models
from tests.random_models import Prompt, media_prompt, random_config, random_model, reference_logits, text_prompt

BAR = 1e-6  # relative rms
PROMPTS = [text_prompt(60, 50), media_prompt(2, 0, 6), media_prompt(0, 1, 4), media_prompt(1, 1, 30), text_prompt(1, 1)]
TOKENS = Tokens(bos=2, eos=[1], pad=0, suppress=[3, 4], image=None, audio=None, video=None, begin_image=None,
                end_image=None, begin_audio=None, end_audio=None)  # fmt: skip
KINDS = ["bfloat16", "int4", "int8", "int4-embed8"]
LAYER = "model.language_model.layers.{}."


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In bf16, in several files."""
    return models.save(random_model(random_config()), tmp_path_factory.mktemp("source"), max_shard_size="300KB")


@pytest.fixture(scope="module", params=KINDS)
def checkpoint(request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source and what recipes make of it."""
    if request.param == "bfloat16":
        return source
    folder = tmp_path_factory.mktemp(request.param) / "quantized"
    quantize(open_source(source), RECIPES[request.param], "random", folder)
    return folder


@pytest.fixture(scope="module")
def whole(checkpoint: Path) -> ReferenceSession:
    return ReferenceSession.open(checkpoint)


@pytest.fixture(scope="module")
def streamed(checkpoint: Path) -> StreamedReference:
    return StreamedReference.open(checkpoint)


def read_all(reference: Any, prompts: list[Prompt] = PROMPTS) -> list[np.ndarray]:
    """Logits at all positions of each."""
    lengths = [prompt.length for prompt in prompts]
    logits = reference.read([prompt.inputs for prompt in prompts], [np.arange(length) for length in lengths])
    return np.split(logits, np.cumsum(lengths)[:-1])


def errors(found: list[np.ndarray], wanted: list[Any]) -> list[float]:
    return [models.relative_rms(torch.from_numpy(np.array(got)), torch.as_tensor(np.array(want)))
            for got, want in zip(found, wanted, strict=True)]  # fmt: skip


# The same as the whole model


def test_a_batch_equals_one_forward_of_each(whole: ReferenceSession, streamed: StreamedReference) -> None:
    """Text past the window of 16, images, audio, both, a single token; masks are those of generate()."""
    wanted = [reference_logits(whole.model, prompt) for prompt in PROMPTS]
    assert max(errors(read_all(streamed), wanted)) < BAR


def test_weights_are_the_same_bits(whole: ReferenceSession, streamed: StreamedReference) -> None:
    for index in range(streamed.model.depth):
        wanted = whole.model.model.language_model.layers[index].state_dict()
        with streamed.model.layer(index) as layer:
            for name, tensor in layer.state_dict().items():
                assert torch.equal(tensor, wanted[name]) and tensor.dtype == wanted[name].dtype


def test_it_may_be_read_again(streamed: StreamedReference) -> None:
    assert all(map(np.array_equal, read_all(streamed), read_all(streamed)))


@pytest.mark.parametrize(
    "options",
    [
        {"half_cache": True},
        {"kv_scales": dict.fromkeys(range(6), (0.01, 0.02))},
        {"blocks": {"lm_head": 32, "model.language_model.layers.0.mlp.up_proj": 32}},
        {"blocks": {"lm_head": None, "model.language_model.layers.5.self_attn.o_proj": None}},
    ],
    ids=["half", "int8-cache", "blocks", "rows"],
)
def test_roundings_are_those_of_the_whole(
    whole: ReferenceSession, streamed: StreamedReference, options: dict[str, Any]
) -> None:
    """They act, and equally, but for values on the edge of a rounding."""
    wanted, plain = read_all(whole.variant(**options)), read_all(whole)
    found = read_all(streamed.variant(**options))
    acted = np.mean(errors(wanted, plain))
    assert acted > 1e-5 and np.mean(errors(found, wanted)) < 0.2 * acted


def test_fp16_too(checkpoint: Path) -> None:
    whole, streamed = (kind.open(checkpoint, torch.float16) for kind in (ReferenceSession, StreamedReference))
    assert max(errors(read_all(streamed), read_all(whole))) < 1e-3


def test_texts_grow_together_as_they_would_alone(whole: ReferenceSession, streamed: StreamedReference) -> None:
    """With caches that pass the window; `eos` ends one text, the others go on."""
    prompts = [prompt.inputs for prompt in PROMPTS]
    plain = whole.generate(prompts, TOKENS, 8)
    tokens = TOKENS.model_copy(update={"eos": [plain[0].chosen[3]]})
    wanted, found = whole.generate(prompts, tokens, 8), streamed.generate(prompts, tokens, 8)
    assert [text.chosen for text in found] == [text.chosen for text in wanted]
    assert len(found[0].chosen) <= 4 and len({len(text.chosen) for text in found}) > 1
    assert max(errors([text.logits for text in found], [text.logits for text in wanted])) < BAR


@pytest.mark.parametrize("kinds", [["sliding_attention", "full_attention"], ["full_attention"]], ids=len)
def test_models_without_media_and_without_one_kind_of_layer(tmp_path: Path, kinds: list[str]) -> None:
    model = random_model(random_config(vision=False, audio=False, num_hidden_layers=len(kinds), layer_types=kinds))
    folder = models.save(model, tmp_path)
    found = read_all(StreamedReference.open(folder), PROMPTS[:1])
    assert errors(found, [reference_logits(model, PROMPTS[0])])[0] < BAR


# Controls: what is wrong with the weights is seen


def swap_layers(weights: dict[str, torch.Tensor]) -> None:
    """Two sliding ones."""
    for name in [name for name in weights if name.startswith(LAYER.format(0))]:
        other = name.replace(LAYER.format(0), LAYER.format(1))
        weights[name], weights[other] = weights[other], weights[name]


def swap_tensors(weights: dict[str, torch.Tensor]) -> None:
    gate, up = (f"{LAYER.format(3)}mlp.{part}_proj.weight" for part in ("gate", "up"))
    weights[gate], weights[up] = weights[up], weights[gate]


def change_a_norm(weights: dict[str, torch.Tensor]) -> None:
    weights["model.language_model.norm.weight"][3] *= 1.5


def change_the_image_embedder(weights: dict[str, torch.Tensor]) -> None:
    (name,) = (name for name in weights if name.endswith("patch_dense.weight"))
    weights[name][3] *= 1.5


def rewrite(source: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """The source with other weights."""
    files = set(json.loads((source / "model.safetensors.index.json").read_text())["weight_map"].values())
    weights = {key: tensor for file in files for key, tensor in load_file(source / file).items()}
    change(weights)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text((source / "config.json").read_text())


@pytest.mark.parametrize("spoil", [swap_layers, swap_tensors, change_a_norm, change_the_image_embedder])
def test_other_weights_are_seen(source: Path, tmp_path: Path, spoil: Callable[[dict[str, torch.Tensor]], None]) -> None:
    rewrite(source, tmp_path, spoil)
    wanted = read_all(ReferenceSession.open(source))
    assert max(errors(read_all(StreamedReference.open(tmp_path)), wanted)) > 1000 * BAR


@pytest.mark.parametrize("name", [f"{LAYER.format(2)}mlp.up_proj.weight", "model.language_model.norm.weight",
                                  "model.language_model.embed_tokens.weight"])  # fmt: skip
def test_missing_weights_are_named(source: Path, tmp_path: Path, name: str) -> None:
    """transformers itself would go on with random ones."""
    rewrite(source, tmp_path, lambda weights: weights.pop(name))
    with pytest.raises(UserError, match=name.rsplit(".", 2)[1]) as caught:
        read_all(StreamedReference.open(tmp_path))
    assert "\n" not in str(caught.value) and tmp_path.name in str(caught.value)


def test_the_masks_of_plain_forward_are_others(source: Path) -> None:
    """Which opens image blocks in full layers too: the bar is far below that."""
    model, prompt = ReferenceSession.open(source).model, PROMPTS[1]
    arrays = {name: torch.from_numpy(array) for name, array in prompt.inputs.arrays().items()}
    ids = arrays.pop("input_ids")[None]
    kinds = (ids == models.TOKENS["image_token_id"]).long()
    plain = model(input_ids=ids, mm_token_type_ids=kinds, **arrays).logits[0]
    assert errors(read_all(StreamedReference.open(source), [prompt]), [plain])[0] > 1000 * BAR


# Memory


@contextmanager
def layers_watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many layers had weights in memory each time that one had been loaded."""
    known: weakref.WeakSet[nn.Module] = weakref.WeakSet()
    counts: list[int] = []
    fill = StreamedModel._filled_layer

    def filled(self: StreamedModel, index: int) -> nn.Module:
        found = fill(self, index)
        known.add(found)
        counts.append(sum(any(not weight.is_meta for weight in layer.parameters()) for layer in known))
        return found

    monkeypatch.setattr(StreamedModel, "_filled_layer", filled)
    yield counts


def test_one_layer_at_a_time(streamed: StreamedReference, monkeypatch: pytest.MonkeyPatch) -> None:
    with layers_watched(monkeypatch) as counts:
        read_all(streamed)
        assert counts == [1] * streamed.model.depth
        with streamed.model.layer(0), streamed.model.layer(1):
            assert counts[-1] == 2  # it would be seen


def test_weights_stay_in_their_files(streamed: StreamedReference) -> None:
    """What is held of layers has no memory, and nothing but the media embedders has; the embedding is mapped."""
    assert all(tensor.is_meta for layer in streamed.model._layers for tensor in layer.state_dict().values())
    table = streamed.model.stem.model.language_model.embed_tokens.table
    assert table.dtype in (torch.bfloat16, torch.float16)
    held = {name for name, weight in streamed.model.stem.named_parameters() if not weight.is_meta}
    assert held and all(name.startswith(("model.embed_vision.", "model.embed_audio.")) for name in held)


def test_keys_and_values_are_let_go(streamed: StreamedReference) -> None:
    past = streamed._past()
    with torch.inference_mode(), streamed.model.layer(0) as layer:
        streamed.model.begin(PROMPTS[0].inputs, past).through(layer, 0, keep=False)
    assert past.cache.layers[0] is None and past.cache.layers[1] is not None


def test_kept_caches_hold_a_window_and_no_more(streamed: StreamedReference) -> None:
    """A slice of all keys would keep them all."""
    past = streamed._past()
    streamed._run([Step(PROMPTS[0].inputs, past)], [[-1]], keep=True)
    lengths = {kind: layer.keys.untyped_storage().nbytes() // layer.keys[:, :, :1].nbytes
               for kind, layer in zip(past.config.text_config.layer_types, past.cache.layers, strict=True)}  # fmt: skip
    assert lengths == {"sliding_attention": 15, "full_attention": 60}


@pytest.mark.parametrize("damage", ["config", "absent", "cut", "index"])
def test_what_cannot_be_read_is_named(source: Path, tmp_path: Path, damage: str) -> None:
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    file = sorted(tmp_path.glob("*.safetensors"))[-1]
    match damage:
        case "config":
            (tmp_path / "config.json").unlink()
        case "absent":
            file.unlink()
        case "cut":
            file.write_bytes(file.read_bytes()[:-100])
        case "index":
            (tmp_path / "model.safetensors.index.json").write_text("{")
    with pytest.raises(UserError, match=tmp_path.name):
        StreamedReference.open(tmp_path)
