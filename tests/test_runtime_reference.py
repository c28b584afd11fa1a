"""The reference session against transformers' own forward and generate()."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from runtime.errors import UserError
from runtime.greedy import generate, suppress
from runtime.manifest import Tokens
from runtime.prompt import MediaTokens, split
from runtime.sessions.past import to_int8_steps
from runtime.sessions.reference import ReferenceSession, int8_activations, load_model, round_to_int8
from tests.random_models import TOKENS, Prompt, media_prompt, random_config, random_model, reference_logits, text_prompt

MEDIA = MediaTokens(TOKENS["image_token_id"], TOKENS["audio_token_id"])
SUPPRESSED = [3, 4]


@pytest.fixture(scope="module")
def session() -> ReferenceSession:
    return ReferenceSession(random_model(random_config()))


@pytest.fixture(autouse=True)
def fresh(session: ReferenceSession) -> Iterator[None]:
    session.reset()
    yield


@pytest.mark.parametrize("size", [1, 5, 17, 40])
@pytest.mark.parametrize("prompt", [text_prompt(60, 50), media_prompt(2, 1, 12)], ids=["text", "media"])
def test_steps_equal_one_forward(session: ReferenceSession, prompt: Prompt, size: int) -> None:
    """Also far past the window of 16, and after images."""
    wanted = reference_logits(session.model, prompt).numpy()
    found = np.concatenate([session.score(step) for step in split(prompt.inputs, size, MEDIA)])
    assert np.abs(found - wanted).max() < 2e-5 * np.abs(wanted).max()
    assert session.position == prompt.length


def test_prefill_and_decode_return_last_logits(session: ReferenceSession) -> None:
    prompt = text_prompt(30, 25).inputs
    wanted = session.score(prompt)
    session.reset()
    first, *rest = split(prompt, 28, MEDIA)
    found = [session.prefill(first), *(session.decode(int(token)) for step in rest for token in step.input_ids)]
    assert np.allclose(found, wanted[27:], atol=1e-5)


def test_image_blocks_see_themselves_in_sliding_layers_only(session: ReferenceSession) -> None:
    prompt = media_prompt(1, 0, 3)
    masks = session.past.extend(prompt.inputs.input_ids)["attention_mask"]
    seen = {kind: mask[0, 0] == 0 for kind, mask in masks.items()}
    image = np.flatnonzero(prompt.inputs.input_ids == MEDIA.image)
    first, last = image[0], image[-1]
    assert seen["sliding_attention"][first, last] and not seen["full_attention"][first, last]
    assert not seen["sliding_attention"][first, last + 1] and not seen["sliding_attention"][first - 1, first]


def test_generates_like_transformers(session: ReferenceSession) -> None:
    """Independent code for masks, cache, image placement and suppressed tokens."""
    inputs = media_prompt(1, 1, 1).inputs
    arrays = {name: torch.from_numpy(array) for name, array in inputs.arrays().items()}
    ids = arrays.pop("input_ids")[None]
    kinds = (inputs.input_ids == MEDIA.image) * 1 + (inputs.input_ids == MEDIA.audio) * 3
    made = session.model.generate(
        input_ids=ids, mm_token_type_ids=torch.from_numpy(kinds)[None], attention_mask=torch.ones_like(ids), **arrays,
        do_sample=False, max_new_tokens=24, suppress_tokens=SUPPRESSED, eos_token_id=-1,
    )  # fmt: skip
    tokens = Tokens(bos=2, eos=[], pad=0, suppress=SUPPRESSED, image=None, audio=None, video=None, begin_image=None,
                    end_image=None, begin_audio=None, end_audio=None)  # fmt: skip
    assert generate(session, inputs, tokens, 24).chosen == made[0, ids.shape[1] :].tolist()


def test_suppressed_tokens_are_never_largest() -> None:
    logits = np.array([1.0, 5, 3], np.float32)
    assert suppress(logits, [1]).argmax() == 2 and logits[1] == 5


# Int8 arithmetic


def test_activations_round_by_block() -> None:
    """Scale absmax / 127 in each block; a block of zeros stays one; a last block may be short."""
    x = torch.tensor([[127.0, 0.4, 0.6, 0, 0, 0, 2.54, 0.011]])
    assert torch.allclose(round_to_int8(x, 3), torch.tensor([[127.0, 0, 1, 0, 0, 0, 2.54, 0.02]]))


def test_rounded_products_equal_integer_ones() -> None:
    """The very sum that an int8 kernel computes: int8 codes times weights, times the block's scale."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(4, 64, generator=generator), torch.randn(8, 64, generator=generator)
    scales = x.reshape(4, 2, 32).abs().amax(-1, keepdim=True) / 127
    codes = (x.reshape(4, 2, 32) / scales).round()
    wanted = (torch.einsum("tbi,obi->tbo", codes, weight.reshape(8, 2, 32)) * scales).sum(1)
    assert torch.allclose(round_to_int8(x, 32) @ weight.T, wanted, atol=1e-5)


def test_int8_activations_leave_no_trace(session: ReferenceSession) -> None:
    prompt = text_prompt(20, 10).inputs
    plain = session.score(prompt)
    rounded = session.variant(blocks={"lm_head": 32, "model.language_model.layers.0.mlp.up_proj": 32}).score(prompt)
    session.reset()
    assert np.array_equal(session.score(prompt), plain)
    assert 0 < np.abs(rounded - plain).max() < 0.2 * np.abs(plain).max()
    with int8_activations(session.model, {"lm_head": 32}):
        assert len(session.model.lm_head._forward_pre_hooks) == 1
    assert not session.model.lm_head._forward_pre_hooks


def test_int8_caches_hold_whole_steps(session: ReferenceSession) -> None:
    prompt, layers = text_prompt(20, 10).inputs, range(session.model.config.text_config.num_hidden_layers)
    plain = session.score(prompt)
    rounding = session.variant(kv_scales=dict.fromkeys(layers, (0.01, 0.02)))
    rounded = rounding.score(prompt)
    for keys, values, _ in rounding.past.cache:
        assert torch.equal(keys, to_int8_steps(keys, 0.01)) and torch.equal(values, to_int8_steps(values, 0.02))
    assert 0 < np.abs(rounded - plain).max() < 0.2 * np.abs(plain).max()


def test_int8_steps_are_clipped() -> None:
    assert to_int8_steps(torch.tensor([0.26, 99.0, -99.0]), 0.5).tolist() == [0.5, 63.5, -64.0]


# Checkpoints


def test_a_quantized_checkpoint_loads_dequantized(quantized_checkpoint: Path) -> None:
    model = load_model(quantized_checkpoint)
    assert model.lm_head.weight.data_ptr() == model.model.language_model.embed_tokens.weight.data_ptr()
    weight = model.model.language_model.layers[0].mlp.up_proj.weight
    assert weight.dtype == torch.float32 and len(weight[0, :32].unique()) <= 16  # an int4 group has no more values


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=tmp_path.name):
        ReferenceSession.open(tmp_path)
