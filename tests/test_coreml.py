"""Core ML packages, run as a session, against transformers' own model on the same dequantized weights."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb

from export.lowering import coreml_ops, coreml_program
from export.lowering.coreml_ops import FP16, FP32, MilOps
from export.lowering.coreml_ports import Sizes
from export.schemes import INT4, INT8, Scheme
from runtime import metrics
from runtime.errors import UserError
from runtime.sessions import coreml_native
from runtime.sessions.base import ModelInputs
from runtime.sessions.coreml import CoremlSession
from runtime.sessions.coreml_native import NativePackage
from runtime.sessions.reference import ReferenceSession
from tests import random_models as models
from tests.coreml_models import SIZES, Lowered, tokens
from tests.executorch_models import SHALLOW
from tests.parity import logits_of
from tests.random_models import Prompt

RMS, KL = 3e-4, 1e-5  # of a float twin
FP16_KL = 2  # times that of transformers' own fp16 run


@pytest.fixture(scope="module", params=[INT4, INT8, None], ids=["int4", "int8", "float"])
def lowered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    """Six layers."""
    return Lowered(tmp_path_factory.mktemp("lowered"), request.param)


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    return Lowered(tmp_path_factory.mktemp("shallow"), INT4, **SHALLOW)


def errors(session: CoremlSession, prompt: Prompt, chunks: list[int], wanted: np.ndarray) -> tuple[float, float]:
    """Relative rms and mean KL over the logits of all steps."""
    found = logits_of(session, prompt, chunks)
    logits, want = np.stack(list(found.values())), wanted[list(found)]
    return metrics.relative_rms(want, logits), float(metrics.kl_divergence(want, logits).mean())


def twin_errors(lowered: Lowered, prompt: Prompt, chunks: list[int]) -> tuple[float, float]:
    reference = ReferenceSession(lowered.reference, half_cache=True)
    return errors(lowered.session(exact=True), prompt, chunks, reference.score(prompt.inputs))


def in_half(reference: Any) -> Any:
    """transformers' model in fp16; its rotation stays in fp32, as where it is loaded so."""
    rotations = {name: buffer for name, buffer in reference.named_buffers() if "inv_freq" in name}
    half = copy.deepcopy(reference).half()
    for name, buffer in rotations.items():
        module, _, leaf = name.rpartition(".")
        setattr(half.get_submodule(module), leaf, buffer)
    return half


def test_twin_on_text(lowered: Lowered) -> None:
    """Past the window, so that rings wrap several times, up to the last position of the context."""
    prompt = models.text_prompt(SIZES.context, 90)
    for chunks in [90], [13, 1, 40, 33, 3]:
        rms, kl = twin_errors(lowered, prompt, chunks)
        assert rms < RMS and kl < KL


def test_padding_at_the_end_of_the_context(shallow: Lowered) -> None:
    """A prefill of three positions, padded far beyond it."""
    prompt = models.text_prompt(SIZES.context, SIZES.context)
    rms, _ = twin_errors(shallow, prompt, [SIZES.context - 3, 3])
    assert rms < RMS


@pytest.mark.parametrize("images, clips", [(1, 0), (0, 1), (2, 1)])
def test_twin_on_media(lowered: Lowered, images: int, clips: int) -> None:
    prompt = models.media_prompt(images, clips, tail=20)
    for chunks in [prompt.decode_from], models.chunks_around_images(prompt):
        rms, kl = twin_errors(lowered, prompt, chunks)
        assert rms < RMS and kl < KL


def test_twin_on_frames_of_a_video_among_images(lowered: Lowered) -> None:
    prompt = models.with_frames(models.media_prompt(3, 1, tail=20), [1])
    for chunks in [prompt.decode_from], models.chunks_around_images(prompt):
        rms, kl = twin_errors(lowered, prompt, chunks)
        assert rms < RMS and kl < KL


def test_control_the_twin_needs_rounded_caches_in_its_reference(lowered: Lowered) -> None:
    prompt = models.text_prompt(100, 90)
    plain = ReferenceSession(lowered.reference).score(prompt.inputs)
    assert errors(lowered.session(exact=True), prompt, [90], plain)[0] > RMS


def test_control_images_that_are_not_told_apart_fail(lowered: Lowered) -> None:
    """Their positions do not see each other then."""
    prompt = models.media_prompt(1, 0, tail=4)
    wanted = ReferenceSession(lowered.reference, half_cache=True).score(prompt.inputs)
    session = lowered.session(exact=True)
    sliding = session.host.attention["sliding"].model_copy(update={"image_blocks": False})
    session.host = session.host.model_copy(update={"attention": session.host.attention | {"sliding": sliding}})
    assert errors(session, prompt, [prompt.decode_from], wanted)[0] > 10 * RMS


def test_shipped_is_as_good_as_fp16_in_torch(lowered: Lowered) -> None:
    half = ReferenceSession(in_half(lowered.reference))
    for prompt in models.text_prompt(100, 60), models.media_prompt(2, 1, tail=20):
        wanted = ReferenceSession(lowered.reference).score(prompt.inputs)
        found = errors(lowered.session(), prompt, models.chunks_around_images(prompt), wanted)[1]
        in_torch = metrics.kl_divergence(wanted, half.score(prompt.inputs)).mean()
        half.reset()
        assert 0 < found < FP16_KL * in_torch


def one_loud_channel(reference: Any) -> None:
    """Of what the first layer adds, as trained Gemmas have it."""
    norm = reference.model.language_model.layers[0].post_feedforward_layernorm
    norm.weight.data[5] = 2e5


def test_a_stream_beyond_fp16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Gemma 3 of 270M goes to 1e5, where transformers' own fp16 run is NaN."""
    prompt, options = models.text_prompt(40, 30), SHALLOW | {"change": one_loud_channel}
    loud = Lowered(tmp_path / "loud", INT4, **options)
    wanted = ReferenceSession(loud.reference).score(prompt.inputs)
    rms, kl = errors(loud.session(), prompt, [30], wanted)
    assert rms < 0.02 and kl < 1e-4
    assert np.isnan(ReferenceSession(in_half(loud.reference)).score(prompt.inputs)).any()
    for module in coreml_ops, coreml_program:
        monkeypatch.setattr(module, "STREAM", FP16)
    narrow = Lowered(tmp_path / "narrow", INT4, **options)
    assert not np.isfinite(errors(narrow.session(), prompt, [30], wanted)[0]), "control"


def test_twin_is_the_fp32_variant(shallow: Lowered, tmp_path: Path) -> None:
    """The shipped file without rounding, and the same description lowered with fp32 activations."""
    wide = Lowered(tmp_path, INT4, dtype=FP32, **SHALLOW)
    prompt = models.media_prompt(1, 1, tail=5)
    found, wanted = (
        logits_of(session, prompt, [prompt.decode_from]) for session in (shallow.session(True), wide.session())
    )
    assert all(np.allclose(found[at], wanted[at], atol=1e-6) for at in wanted)


def test_control_another_gelu_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MilOps, "gelu_tanh", lambda self, x: mb.gelu(x=x, mode="EXACT"))
    wrong = Lowered(tmp_path, INT4)
    assert twin_errors(wrong, models.text_prompt(40, 30), [30])[0] > RMS


LAYERS = [f"{kind}_attention" for kind in ("sliding", "full", "sliding", "sliding", "full")]


@pytest.mark.parametrize(
    "scheme, room, chunks, heads", [(INT4, 40_000, 5, 2), (INT8, 330_000, 3, 1), (None, 200_000, 5, 4)]
)
def test_other_patterns_of_layers_and_several_heads(
    scheme: Scheme | None, room: int, chunks: int, heads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packages that have little room for weights are cut further, and so are linears of many rows."""
    monkeypatch.setattr(coreml_program, "SPARE", coreml_program.LARGEST_PACKAGE - room)
    for module in coreml_program, coreml_ops:
        monkeypatch.setattr(module, "LARGEST_LINEAR", 256)
    lowered = Lowered(tmp_path, scheme, num_hidden_layers=len(LAYERS), layer_types=LAYERS)
    host = lowered.artifact.host
    assert host and (len(host.chunks), len(host.heads)) == (chunks, heads)
    prompt = models.media_prompt(1, 1, tail=10)
    rms, kl = twin_errors(lowered, prompt, models.chunks_around_images(prompt))
    assert rms < RMS and kl < KL


def test_context_shorter_than_a_ring(tmp_path: Path) -> None:
    sizes = Sizes(context=40, prefill=32, image_tokens=12, audio_tokens=4)
    prompt = models.text_prompt(40, 35)
    assert twin_errors(Lowered(tmp_path, INT4, sizes, **SHALLOW), prompt, [33, 2])[0] < RMS


def test_two_sessions_side_by_side(shallow: Lowered) -> None:
    prompts = models.text_prompt(50, 40), models.media_prompt(1, 0, tail=10)
    sessions = shallow.session(), shallow.session()
    alone = [logits_of(shallow.session(), prompt, [prompt.decode_from]) for prompt in prompts]
    for session, prompt in zip(sessions, prompts, strict=True):
        session.prefill(models.piece(prompt.inputs, 0, prompt.decode_from))
    for step in range(10):
        for session, prompt, wanted in zip(sessions, prompts, alone, strict=True):
            at = prompt.decode_from + step
            assert np.array_equal(session.decode(int(prompt.inputs.input_ids[at])), wanted[at])


def test_refusals_leave_the_sequence_intact(shallow: Lowered) -> None:
    session, ids = shallow.session(), models.text_prompt(100, 100).inputs
    session.prefill(ids)
    wanted = session.decode(7)
    session.reset()
    session.prefill(ids)
    with pytest.raises(UserError, match="129 positions do not fit the context of 128"):
        session.prefill(models.text_prompt(29, 29).inputs)
    session.reset()
    session.prefill(ids)
    with pytest.raises(UserError, match="positions do not fit"):
        session.prefill(models.text_prompt(100, 100).inputs)
    assert session.position == 100 and np.array_equal(session.decode(7), wanted)


def test_image_longer_than_a_prefill(shallow: Lowered) -> None:
    with pytest.raises(UserError, match="an image takes more than the 32 positions"):
        shallow.session().prefill(ModelInputs(np.full(33, 1000)))


def test_media_that_a_model_does_not_know(tmp_path: Path) -> None:
    deaf = Lowered(tmp_path, INT4, vision=False, audio=False, **SHALLOW).session()
    with pytest.raises(UserError, match="no vision package"):
        deaf.prefill(models.media_prompt(1, 0, tail=0).inputs)


def test_files_that_do_not_belong_together_are_named(shallow: Lowered, tmp_path: Path) -> None:
    host = shallow.artifact.host
    assert host
    other = shallow.artifact.model_copy(update={"host": host.model_copy(update={"identity": "another"})})
    with pytest.raises(UserError, match=r"chunk_00\.mlpackage is of another bundle"):
        CoremlSession(shallow.folder, other, tokens(shallow.model))
    with pytest.raises(UserError, match=r"embedding\.codes is missing"):
        CoremlSession(tmp_path, shallow.artifact, tokens(shallow.model))
    with pytest.raises(UserError, match="lacks the host's part"):
        CoremlSession(shallow.folder, other.model_copy(update={"host": None}), tokens(shallow.model))
    with pytest.raises(UserError, match=r"holds no manifest\.json"):
        CoremlSession.open(tmp_path / "coreml")


@pytest.mark.skipif(coreml_native.HERE, reason="this is a Mac")
def test_core_ml_itself_is_refused_elsewhere(shallow: Lowered) -> None:
    with pytest.raises(UserError, match="Core ML runs on macOS only"):
        NativePackage(shallow.folder / "chunk_00.mlpackage")
    assert shallow.session().name == "coreml-evaluator", "a session says what runs"


def test_table_rows_are_the_checkpoints(lowered: Lowered) -> None:
    ids = np.array([0, 1023, 17, 17])
    table = lowered.weights.dense(f"{lowered.model.text.embedding}.weight")
    assert np.array_equal(lowered.session()._embedding.rows(ids), table[ids])


def test_rotation_is_transformers_own(lowered: Lowered) -> None:
    from runtime.sessions.coreml_host import Call, inputs_of

    inputs = inputs_of(Call(90, np.full(32, -1), 32), lowered.artifact.host)  # type: ignore[arg-type]
    rotary, positions = lowered.reference.model.language_model.rotary_emb, torch.arange(90, 122)[None]
    for kind, (cos, sin) in {"sliding_attention": ("cos_s", "sin_s"), "full_attention": ("cos_f", "sin_f")}.items():
        wanted = rotary(torch.zeros(1), positions, kind)
        assert all(np.allclose(inputs[name][0], want, atol=1e-6) for name, want in zip((cos, sin), wanted, strict=True))
