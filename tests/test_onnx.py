"""The ONNX folder, run by both engines, against transformers' own model on the same dequantized weights."""

import json
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession
from PIL import Image

from export.calibrate import calibrate_cache
from export.lowering import onnx_graph
from export.lowering.onnx_program import write_onnx
from export.schemes import INT4, INT8, Scheme
from runtime.errors import UserError
from runtime.sessions import onnx as onnx_session
from runtime.sessions.base import ModelInputs
from runtime.sessions.genai import GenaiSession
from runtime.sessions.onnx import OnnxSession
from tests import random_models as models
from tests.parity import Reference, error_of, logits_of, quantize

BAR = 1e-5  # relative rms of a float twin
CONTEXT = 128
TINY = Path(__file__).parent.parent / "export/tiny/checkpoint"
KINDS: dict[str, dict[str, Any]] = {
    "published": {},
    "deep": {"num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 4, "sliding_window": 24},
    "values apart": {
        "attention_k_eq_v": False,
        "num_global_key_value_heads": None,
        "head_dim": 64,
        "global_head_dim": 32,
    },
    "no audio": {"audio": False, "num_key_value_heads": 1, "sliding_window": 12},
    "no vision": {"vision": False, "hidden_size": 96, "intermediate_size": 160},
}


def lower(reference: Reference, folder: Path, scheme: Scheme | None = INT4, context: int = CONTEXT) -> Path:
    model, weights = quantize(reference, scheme)
    write_onnx(model, weights, TINY, folder, context)
    return folder


@pytest.fixture(params=KINDS, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Reference, Path]:
    reference = models.random_model(models.random_config(**KINDS[request.param]))
    return reference, lower(reference, tmp_path_factory.mktemp("onnx"))


published = pytest.mark.parametrize("pair", ["published"], indirect=True)


def test_text(pair: tuple[Reference, Path]) -> None:
    prompt = models.text_prompt(100, 40)
    wanted = models.reference_logits(pair[0], prompt)
    session = OnnxSession(pair[1], exact=True)
    for chunks in ([40], [13, 13, 14], [1, 2, 57, 3], []):
        assert error_of(session, prompt, chunks, wanted) < BAR


@pytest.mark.parametrize("images, clips", [(2, 0), (0, 1), (2, 1)])
def test_media(pair: tuple[Reference, Path], images: int, clips: int) -> None:
    """A model without a modality is asked for the rest."""
    config = pair[0].config
    prompt = models.media_prompt(images * bool(config.vision_config), clips * bool(config.audio_config), tail=40)
    wanted = models.reference_logits(pair[0], prompt)
    session = OnnxSession(pair[1], exact=True)
    for chunks in ([prompt.decode_from], models.chunks_around_images(prompt)):
        assert error_of(session, prompt, chunks, wanted) < BAR


@published
def test_long_prompts_are_cut_around_images(pair: tuple[Reference, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_session, "LONGEST_STEP", 8)
    prompt = models.media_prompt(2, 1, tail=20)
    wanted = models.reference_logits(pair[0], prompt)
    assert error_of(OnnxSession(pair[1], exact=True), prompt, [prompt.decode_from], wanted) < BAR


@published
@pytest.mark.parametrize("images", [0, 1])
def test_context_shorter_than_the_window(pair: tuple[Reference, Path], tmp_path: Path, images: int) -> None:
    """The engine's windowed attention refuses such caches; the graph then takes its other way."""
    reference = models.random_model(models.random_config(num_hidden_layers=3, sliding_window=64))
    folder = lower(reference, tmp_path, context=50)
    prompt = models.media_prompt(1, 0, tail=20) if images else models.text_prompt(50, 30)
    wanted = models.reference_logits(reference, prompt)
    assert error_of(OnnxSession(folder, exact=True), prompt, [prompt.decode_from], wanted) < BAR


@pytest.mark.parametrize("scheme", [INT8, None])
def test_other_schemes(scheme: Scheme | None, tmp_path: Path) -> None:
    reference = models.random_model(models.random_config())
    folder = lower(reference, tmp_path, scheme)
    prompt = models.media_prompt(1, 1, tail=30)
    wanted = models.reference_logits(reference, prompt)
    assert error_of(OnnxSession(folder, exact=True), prompt, [prompt.decode_from], wanted) < BAR


@published
def test_shipped_activations_are_int8(pair: tuple[Reference, Path]) -> None:
    """Which costs some accuracy, and shows that `exact` changes something."""
    prompt = models.text_prompt(60, 40)
    wanted = models.reference_logits(pair[0], prompt)
    assert 1e-3 < error_of(OnnxSession(pair[1]), prompt, [40], wanted) < 5e-2


@published
def test_control_one_flipped_nibble_fails(pair: tuple[Reference, Path], tmp_path: Path) -> None:
    for file in pair[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    offset, _ = spans(tmp_path / "decoder.onnx")["model.language_model.layers.2.mlp.down_proj.weight.blocks"]
    with (tmp_path / "model.data").open("r+b") as data:
        data.seek(offset)
        byte = data.read(1)[0]
        data.seek(offset)
        data.write(bytes([byte ^ 0x08]))
    prompt = models.text_prompt(50, 40)
    wanted = models.reference_logits(pair[0], prompt)
    assert error_of(OnnxSession(tmp_path, exact=True), prompt, [40], wanted) > 3 * BAR


def spans(path: Path) -> dict[str, tuple[int, int]]:
    """Offset and length of each tensor in the data file, by its name."""
    found = {}
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if place:
            found[tensor.name] = int(place["offset"]), int(place["length"])
    return found


@pytest.mark.parametrize("scheme", [INT4, INT8, None])
def test_tied_embedding_is_stored_once(scheme: Scheme | None, tmp_path: Path) -> None:
    folder = lower(models.random_model(models.random_config()), tmp_path, scheme)
    head, table = spans(folder / "decoder.onnx"), spans(folder / "embedding.onnx")
    name = "model.language_model.embed_tokens.weight"
    assert head[f"{name}.blocks" if scheme else name] == table[f"{name}.rows" if scheme else name]
    everything = {span for path in folder.glob("*.onnx") for span in spans(path).values()}
    waste = (folder / "model.data").stat().st_size - sum(length for _, length in everything)
    assert 0 <= waste < onnx_graph.PAGE * len(everything)


def test_weights_are_written_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "CHUNK", 100)
    rows = np.random.default_rng(0).random((50, 7), np.float32)
    with onnx_graph.DataFile(tmp_path / "data") as data:
        data.store("first", lambda: [rows[:1]])
        span = data.store("second", lambda: [rows[:20], rows[20:]])
        assert data.store("second", lambda: []) == span
    written = (tmp_path / "data").read_bytes()
    assert written[span.offset :] == rows.tobytes() and span.offset % onnx_graph.PAGE == 0


@published
def test_sliding_caches_have_a_fixed_size(pair: tuple[Reference, Path]) -> None:
    session = OnnxSession(pair[1])
    session.prefill(models.text_prompt(100, 100).inputs)
    window = pair[0].config.text_config.sliding_window
    assert session.cache_bytes["past_key_values.0.key"] == 4 * 2 * 32 * (window + 16)
    assert session.cache_bytes["past_key_values.5.key"] == 4 * 1 * 64 * CONTEXT


@published
def test_caches_need_not_share_memory(pair: tuple[Reference, Path]) -> None:
    """Fed from outputs to inputs, full caches start empty and grow; sliding ones keep their size."""
    prompt = models.media_prompt(1, 0, tail=40)
    wanted = logits_of(OnnxSession(pair[1]), prompt, [prompt.decode_from])
    decoder, session = InferenceSession(pair[1] / "decoder.onnx"), OnnxSession(pair[1])
    ports = [port for port in decoder.get_inputs() if port.name.startswith("past")]
    sizes = {"slots": 0, "window_slots": 32}
    caches = {port.name: np.zeros([sizes.get(axis, axis) for axis in port.shape], np.float32) for port in ports}
    ids, at = prompt.inputs.input_ids, 0
    for count in [prompt.decode_from] + [1] * 40:
        step, end = ids[None, at : at + count], at + count
        embeddings = session._embed(step, None if at else session._image_features(prompt.inputs), None)
        feeds = {"input_ids": step, "inputs_embeds": embeddings, "position_ids": np.arange(at, end)[None],
                 "attention_mask": np.ones((1, end), np.int64)}  # fmt: skip
        logits, *new = decoder.run(["logits", *(name.replace("past_key_values", "present") for name in caches)],
                                   feeds | caches)  # fmt: skip
        caches, at = dict(zip(caches, new, strict=True)), end
        assert np.allclose(logits[0, 0], wanted[end - 1], atol=1e-5)
    assert caches["past_key_values.0.key"].shape[2] == 32 and caches["past_key_values.5.key"].shape[2] == end


@published
@pytest.mark.parametrize("frames", [[1], [0, 2], [0, 1, 2]])
def test_frames_of_a_video_among_images(pair: tuple[Reference, Path], frames: list[int]) -> None:
    """As transformers takes them; the control has them in another order."""
    prompt = models.with_frames(models.media_prompt(3, 1, tail=20), frames)
    wanted = models.reference_logits(pair[0], prompt)
    session = OnnxSession(pair[1], exact=True)
    for chunks in ([prompt.decode_from], models.chunks_around_images(prompt)):
        assert error_of(session, prompt, chunks, wanted) < BAR
    pixels = prompt.inputs.pixel_values_videos
    assert pixels is not None
    other = replace(prompt, inputs=replace(prompt.inputs, pixel_values_videos=pixels[:, ::-1].copy()))
    assert error_of(session, other, [prompt.decode_from], wanted) > 100 * BAR


@published
def test_frames_of_a_video_in_genai(pair: tuple[Reference, Path]) -> None:
    prompt = models.with_frames(models.media_prompt(3, 0, tail=5), [1])
    plain, genai = OnnxSession(pair[1]), GenaiSession(pair[1])
    assert np.allclose(genai.prefill(prompt.inputs), plain.prefill(prompt.inputs), atol=1e-4)


@published
def test_video_frames_are_images(pair: tuple[Reference, Path]) -> None:
    """To the graphs' masks and to the embedder alike."""
    inputs = models.media_prompt(2, 0, tail=3).inputs
    ids = np.where(
        inputs.input_ids == models.TOKENS["image_token_id"], models.TOKENS["video_token_id"], inputs.input_ids
    )
    session = OnnxSession(pair[1])
    wanted = session.prefill(inputs)
    session.reset()
    assert np.array_equal(session.prefill(replace(inputs, input_ids=ids)), wanted)


def test_int8_cache(tmp_path: Path) -> None:
    """Costs some accuracy, but not more in one order of steps than in another."""
    reference = models.random_model(models.random_config())
    model, weights = quantize(reference, INT4)
    prompt = models.media_prompt(2, 1, tail=40)
    write_onnx(model, weights, TINY, tmp_path, CONTEXT, calibrate_cache(model, weights, [prompt.inputs]))
    wanted, session = models.reference_logits(reference, prompt), OnnxSession(tmp_path, exact=True)
    assert error_of(session, prompt, [prompt.decode_from], wanted) < 3e-2
    whole = logits_of(session, prompt, [prompt.decode_from])
    parts = logits_of(session, prompt, models.chunks_around_images(prompt))
    assert all(np.allclose(logits, parts[at], atol=1e-4) for at, logits in whole.items())
    assert session.cache_bytes["past_key_values.0.key"] == 2 * 32 * (16 + 16)
    genai = logits_of(GenaiSession(tmp_path), prompt, [prompt.decode_from])
    shipped = logits_of(OnnxSession(tmp_path), prompt, [prompt.decode_from])
    assert all(np.allclose(logits, shipped[at], atol=1e-5) for at, logits in genai.items())


@published
@pytest.mark.parametrize("images, clips", [(0, 0), (2, 0), (0, 1), (2, 1)])
def test_genai_given_the_tensors(pair: tuple[Reference, Path], images: int, clips: int) -> None:
    """The same files: far past the window, the engines agree to the last bit or nearly so."""
    prompt = models.media_prompt(images, clips, tail=40)
    genai = logits_of(GenaiSession(pair[1]), prompt, [prompt.decode_from])
    plain = logits_of(OnnxSession(pair[1]), prompt, [prompt.decode_from])
    assert all(np.allclose(logits, plain[at], atol=1e-5) for at, logits in genai.items())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Reference, Path]:
    """The checkpoint with a tokenizer, in floats, so that no rounding of activations can turn a greedy choice."""
    kind = models.Gemma4UnifiedForConditionalGeneration
    reference = kind.from_pretrained(TINY, dtype=torch.float32, attn_implementation="eager")
    reference.eval().requires_grad_(False)
    return reference, lower(reference, tmp_path_factory.mktemp("tiny"), None, context=512)


@pytest.mark.parametrize("prompt", ["<bos>One two", "<bos>See <|image|> and <|image|> now", "<bos>Hear <|audio|> now"])
def test_genai_with_its_own_processor(tiny: tuple[Reference, Path], prompt: str, tmp_path: Path) -> None:
    """Opens the folder as it is, and goes on as transformers does from the tensors it made."""
    reference, folder = tiny
    images, clips = draw(tmp_path, prompt.count("<|image|>")), record(tmp_path, prompt.count("<|audio|>"))
    session = GenaiSession(folder)
    found = session.generate(prompt, images, clips, max_tokens=8)
    made = session.preprocess(prompt, images, clips)
    assert found == greedy(reference, made, found)
    assert np.allclose(session.prefill(made), OnnxSession(folder).prefill(made), atol=1e-5)


def draw(folder: Path, count: int) -> list[Path]:
    rng, paths = np.random.default_rng(0), [folder / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(rng.integers(0, 256, (200, 300 - 150 * i, 3), np.uint8)).save(path)
    return paths


def record(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{i}.wav" for i in range(count)]
    for path in paths:
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(np.random.default_rng(1).integers(-9000, 9000, 16000).astype("<i2").tobytes())
    return paths


@torch.no_grad()
def greedy(reference: Reference, inputs: ModelInputs, tokens: list[int]) -> list[int]:
    """What transformers would choose in the place of each of these tokens."""
    generation, config = json.loads((TINY / "generation_config.json").read_text()), reference.config
    arrays = {name: torch.from_numpy(array) for name, array in inputs.arrays().items()}
    start = len(arrays.pop("input_ids"))
    ids = torch.from_numpy(np.concatenate([inputs.input_ids, tokens]))[None]
    embeds = torch.zeros(1, ids.shape[1], config.text_config.hidden_size)
    masks = reference.create_masks_for_generate(
        config, embeds, torch.ones_like(ids), None, torch.arange(ids.shape[1])[None],
        mm_token_type_ids=(ids == config.image_token_id).long())  # fmt: skip
    logits = reference(input_ids=ids, attention_mask=masks, use_cache=False, **arrays).logits[0]
    logits[:, generation["suppress_tokens"]] = -np.inf
    return logits[start - 1 : -1].argmax(-1).tolist()


@published
def test_user_errors(pair: tuple[Reference, Path], tmp_path: Path) -> None:
    for session in OnnxSession, GenaiSession:
        with pytest.raises(UserError, match="129 positions do not fit the context of 128"):
            session(pair[1]).prefill(models.text_prompt(129, 129).inputs)
        with pytest.raises(UserError, match="genai_config"):
            session(tmp_path)
    genai = GenaiSession(pair[1])
    genai.decode(5)
    with pytest.raises(UserError, match="first turn"):
        genai.prefill(models.media_prompt(1, 0, tail=0).inputs)


def test_shared_caches_are_refused(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention"] * 3
    reference = models.random_model(models.random_config(num_kv_shared_layers=3, layer_types=kinds))
    with pytest.raises(UserError, match="num_kv_shared_layers"):
        lower(reference, tmp_path)
