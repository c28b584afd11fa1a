"""The `.pte`, run by ExecuTorch, against transformers' own model on the same dequantized weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.calibrate import calibrate_cache
from export.lowering.executorch_modules import TextDecoder
from export.lowering.executorch_ops import whole
from export.lowering.torch_program import TorchProgram
from export.schemes import INT4, INT8
from export.weights import FloatTwin
from runtime import metrics
from runtime.errors import UserError
from runtime.greedy import generate
from runtime.manifest import read_manifest
from runtime.prompt import Prompter
from runtime.sessions import executorch as engine
from runtime.sessions.base import ModelInputs
from runtime.sessions.executorch import ExecutorchSession, join_patches
from runtime.sessions.executorch_runner import StockRunner
from runtime.sessions.steps import steps
from tests import random_models as models
from tests.executorch_models import SHALLOW, SIZES, Lowered, lower
from tests.parity import error_of, logits_of, quantize
from tests.random_models import Prompt

BAR = 1e-5  # relative rms of a float twin


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    """Three layers with float linears: a ring behind a ring, and a cache of the whole context."""
    kinds = ["sliding_attention", "sliding_attention", "full_attention"]
    return Lowered(tmp_path_factory.mktemp("twin"), INT4, twin=True, num_hidden_layers=3, layer_types=kinds)


@pytest.fixture(scope="module", params=[INT4, INT8], ids=["int4", "int8"])
def shipped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    """Two layers with int8 activations."""
    if request.param is INT4:
        return request.getfixturevalue("shallow")
    return Lowered(tmp_path_factory.mktemp("shipped"), request.param, **SHALLOW)


def test_twin_on_text(twin: Lowered) -> None:
    """Long past the window, so that rings wrap several times."""
    prompt = models.text_prompt(128, 60)
    wanted = models.reference_logits(twin.reference, prompt)
    for chunks in ([60], [13, 13, 34], [1, 2, 57, 3], []):
        assert error_of(twin.session, prompt, chunks, wanted) < BAR


@pytest.mark.parametrize("images, clips", [(1, 0), (2, 0), (0, 1), (2, 1)])
def test_twin_on_media(twin: Lowered, images: int, clips: int) -> None:
    prompt = models.media_prompt(images, clips, tail=40)
    wanted = models.reference_logits(twin.reference, prompt)
    for chunks in ([prompt.decode_from], models.chunks_around_images(prompt)):
        assert error_of(twin.session, prompt, chunks, wanted) < BAR


def test_twin_on_frames_of_a_video_among_images(twin: Lowered) -> None:
    prompt = models.with_frames(models.media_prompt(3, 1, tail=20), [1])
    wanted = models.reference_logits(twin.reference, prompt)
    for chunks in ([prompt.decode_from], models.chunks_around_images(prompt)):
        assert error_of(twin.session, prompt, chunks, wanted) < BAR


def test_control_images_that_are_not_told_apart_fail(twin: Lowered, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the flag beside their embeddings their tokens do not see each other."""
    embed = ExecutorchSession._embed_image

    def unflagged(self: ExecutorchSession, patches: np.ndarray, cells: np.ndarray) -> np.ndarray:
        return embed(self, patches, cells) * np.append(np.ones(twin.model.text.hidden, np.float32), np.float32(0))

    prompt = models.media_prompt(1, 0, tail=4)
    wanted = models.reference_logits(twin.reference, prompt)
    monkeypatch.setattr(ExecutorchSession, "_embed_image", unflagged)
    assert error_of(twin.session, prompt, [prompt.decode_from], wanted) > 100 * BAR


def test_prompts_longer_than_a_step_are_cut(twin: Lowered) -> None:
    prompt = models.text_prompt(120, 110)
    wanted = models.reference_logits(twin.reference, prompt)
    assert error_of(twin.session, prompt, [prompt.decode_from], wanted) < BAR


def test_context_limit_leaves_the_sequence_intact(twin: Lowered) -> None:
    prompt = models.text_prompt(120, 100)
    with pytest.raises(UserError, match="129 positions do not fit the context of 128"):
        twin.session.reset()
        twin.session.prefill(models.text_prompt(129, 129).inputs)
    wanted = logits_of(twin.session, prompt, [100])
    twin.session.reset()
    twin.session.prefill(models.piece(prompt.inputs, 0, 119))
    with pytest.raises(UserError, match="context"):
        twin.session.prefill(models.text_prompt(10, 10).inputs)
    assert np.allclose(twin.session.decode(int(prompt.inputs.input_ids[119])), wanted[119], atol=1e-5)


def test_int8_caches(tmp_path: Path) -> None:
    """The same in torch, past the window; a rounding that falls otherwise stays in the cache for a while."""
    reference = models.random_model(models.random_config(vision=False, audio=False, **SHALLOW))
    model, weights = quantize(reference, INT4)
    prompt = models.text_prompt(100, 40)
    scales = calibrate_cache(model, weights, [prompt.inputs])
    folder = lower(model, FloatTwin(weights), tmp_path, sizes=replace(SIZES, kv_scales=scales))
    eager = TorchProgram(model, weights, SIZES.context, SIZES.step, scales)
    wanted = torch.cat([eager.run(models.piece(prompt.inputs, start, stop))
                        for start, stop in ((0, 40), *((at, at + 1) for at in range(40, 100)))])  # fmt: skip
    found = logits_of(ExecutorchSession(folder), prompt, [40])
    rows = metrics.row_rms(wanted[list(found)].numpy(), np.stack(list(found.values())))
    exact = models.reference_logits(reference, prompt)[list(found)].numpy()
    cost = metrics.row_rms(exact, np.stack(list(found.values())))
    assert rows.min() < BAR and np.median(rows) < np.median(cost) / 4 and cost.min() > 100 * BAR


def test_two_sessions_side_by_side(shipped: Lowered) -> None:
    prompts = models.text_prompt(60, 20), models.media_prompt(1, 1, tail=20)
    other = ExecutorchSession(shipped.folder)
    alone = [logits_of(shipped.session, prompt, [prompt.decode_from]) for prompt in prompts]
    sessions = shipped.session, other
    for session, prompt in zip(sessions, prompts, strict=True):
        session.reset()
        session.prefill(models.piece(prompt.inputs, 0, prompt.decode_from))
    for step in range(20):
        for session, prompt, wanted in zip(sessions, prompts, alone, strict=True):
            at = prompt.decode_from + step
            assert np.array_equal(session.decode(int(prompt.inputs.input_ids[at])), wanted[at])


def rows_apart(lowered: Lowered, prompt: Prompt) -> np.ndarray:
    """Relative difference of each position's logits from the same int8 arithmetic in torch."""
    found = logits_of(lowered.session, prompt, [prompt.decode_from])
    decoder = TextDecoder(lowered.model.text, whole(lowered.weights), SIZES.context, SIZES.step).eval()
    lowered.session.reset()
    embeds = torch.from_numpy(lowered.session._embed(prompt.inputs))[None]
    bounds = [(0, prompt.decode_from), *((at, at + 1) for at in range(prompt.decode_from, prompt.length))]
    wanted = [decoder(embeds[:, start:stop], torch.arange(start, stop)).flatten() for start, stop in bounds]
    return np.array([models.relative_rms(torch.from_numpy(row), want)
                     for row, want in zip(found.values(), wanted, strict=True)])  # fmt: skip


def test_shipped_is_the_same_arithmetic_in_torch(shipped: Lowered) -> None:
    """But for activations so close between two int8 steps that another order of sums turns them.

    Which ones those are depends on the processor. What is turned is remembered in the caches, so that positions after
    it differ as well, and only many short sequences show what most positions are like.
    """
    rows = np.concatenate([rows_apart(shipped, models.text_prompt(2, 1, seed)) for seed in range(30)])
    assert np.median(rows) < BAR
    assert max(rows.max(), rows_apart(shipped, models.media_prompt(1, 1, tail=60)).max()) < 5e-2


def test_shipped_activations_are_int8(shipped: Lowered) -> None:
    """Which costs some accuracy."""
    prompt = models.text_prompt(60, 40)
    wanted = models.reference_logits(shipped.reference, prompt)
    assert 1e-3 < error_of(shipped.session, prompt, [40], wanted) < 5e-2


@pytest.mark.parametrize("images, clips", [(0, 0), (1, 0), (0, 1), (2, 1)])
def test_stock_runner_writes_the_same_tokens(shipped: Lowered, images: int, clips: int) -> None:
    prompt = models.media_prompt(images, clips, tail=0).inputs if images or clips else models.text_prompt(100, 0).inputs
    if prompt.image_position_ids is not None:
        prompt = whole_images(prompt)
    shipped.session.reset()
    logits, wanted = shipped.session.prefill(prompt), []
    for _ in range(12):
        wanted.append(int(logits.argmax()))
        logits = shipped.session.decode(wanted[-1])
    assert StockRunner(shipped.folder).generate(prompt, 12) == wanted


def test_stock_runner_takes_a_clip_longer_than_a_step(executorch_bundle: Path) -> None:
    """Of 12 seconds; the control hands it over whole."""
    prompter, runner = Prompter(executorch_bundle), StockRunner(executorch_bundle / "executorch")
    text = prompter.render([{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "What is it?"}]}])
    noise = np.random.default_rng(0).normal(0, 0.1, 12 * prompter.sampling_rate).astype(np.float32)
    inputs, session = prompter.process(text, clips=[noise]), ExecutorchSession(executorch_bundle / "executorch")
    assert inputs.input_features_mask is not None and inputs.input_features_mask.sum() > runner.max_step
    tokens = read_manifest(executorch_bundle).tokens.model_copy(update={"suppress": []})
    found, wanted = runner.generate(inputs, 8), generate(session, inputs, tokens, 8).chosen
    # It hands out some ends of a turn and keeps others.
    assert [token for token in found if token not in tokens.eos] == [
        token for token in wanted if token not in tokens.eos
    ]
    runner.max_step = 1000
    with pytest.raises(UserError, match="the stock runner stopped"):
        runner.generate(inputs, 8)


def whole_images(inputs: ModelInputs) -> ModelInputs:
    """The runner knows no padding: images of 4x3 and 3x3 patches become as large as they have patches."""
    assert inputs.image_position_ids is not None
    inputs.image_position_ids[1::2] = [[i % 3, i // 3] if i < 9 else [-1, -1] for i in range(12)]
    return inputs


def test_patches_are_joined_to_the_image_they_were_cut_from() -> None:
    image = np.random.default_rng(0).random((3, 8, 12), np.float32)
    patches = image.reshape(3, 2, 4, 3, 4).transpose(1, 3, 2, 4, 0).reshape(6, 48)
    cells = np.stack(np.meshgrid(np.arange(3), np.arange(2)), -1).reshape(6, 2)
    padded = np.concatenate([patches, np.ones((2, 48), np.float32)]), np.concatenate([cells, np.full((2, 2), -1)])
    assert np.array_equal(join_patches(*padded)[0], image)


def test_steps_never_cut_an_image() -> None:
    inside = np.array([0, 0, 1, 1, 1, 0, 1, 1, 0, 0, 0, 0], bool)
    assert list(steps(inside, 4)) == [(0, 2), (2, 6), (6, 10), (10, 12)]
    with pytest.raises(UserError, match="an image takes more than the 2 positions"):
        list(steps(inside, 2))


def test_folders_and_engines_that_do_not_fit_are_named(
    shipped: Lowered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"model\.pte is missing"):
        ExecutorchSession(tmp_path)
    (tmp_path / engine.FILE).write_bytes(bytes(1000))
    with pytest.raises(UserError, match="does not load"):
        ExecutorchSession(tmp_path)
    with pytest.raises(UserError, match="has its threads already"):
        ExecutorchSession(shipped.folder, threads=7)
    monkeypatch.setattr(engine, "VERSION", "0.0.1")
    with pytest.raises(UserError, match=r"bundles are for 0\.0\.1"):
        ExecutorchSession(shipped.folder)
