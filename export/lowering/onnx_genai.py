"""The files beside the graphs that make a folder one of onnxruntime-genai's models."""

import json
import shutil
from pathlib import Path
from typing import Any

from export.config import Model
from export.generation import Ends, read_ends, read_settings

CONFIG_FILE = "genai_config.json"
IMAGE_PROCESSOR_FILE = "image_processor.json"
AUDIO_PROCESSOR_FILE = "audio_processor.json"
COPIED = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"

SPARE_SLOTS = 16  # of a sliding cache beyond its window; old rows are moved out once for so many tokens
SESSION = {"log_id": "onnxruntime-genai", "provider_options": []}


def write_genai_files(model: Model, checkpoint: Path, folder: Path, context: int) -> None:
    """Configuration, processors and tokenizer."""
    generation = read_settings(checkpoint / "generation_config.json")
    processor = read_settings(checkpoint / "processor_config.json")
    found = {"model": _model(model, read_ends(checkpoint)), "search": _search(generation, context)}
    _write(folder / CONFIG_FILE, found)
    if model.image:
        _write(folder / IMAGE_PROCESSOR_FILE, _image_processor(processor.get("image_processor", {})))
    if model.audio:
        _write(folder / AUDIO_PROCESSOR_FILE, _audio_processor(processor.get("feature_extractor", {}), model))
    for name in COPIED:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, folder / name)


def _model(model: Model, ends: Ends) -> dict[str, Any]:
    tokens = model.tokens
    ids = {"image_token_id": tokens.image, "audio_token_id": tokens.audio, "video_token_id": tokens.video}
    found = {
        "type": "gemma4_unified" if model.takes_media else "gemma3_text",  # the engine's word for a plain decoder
        "bos_token_id": ends.bos,
        "eos_token_id": ends.eos,
        "pad_token_id": tokens.pad,
        "vocab_size": model.text.vocabulary,
        "context_length": model.text.context,
        "decoder": _decoder(model),
    }
    if not model.takes_media:
        return found
    found |= {name: token for name, token in ids.items() if token is not None}
    found |= {"embedding": _embedding(model)}
    found |= {"vision": _vision()} if model.image else {}
    return found | {"speech": _speech() if model.audio else {"config_filename": ""}}  # its default names a file


def _decoder(model: Model) -> dict[str, Any]:
    layers = model.text.layers
    sliding = [layer for layer in layers if layer.window]
    inputs = ["input_ids", *["inputs_embeds"] * model.takes_media, "attention_mask", "position_ids"]
    found: dict[str, Any] = {
        "session_options": SESSION,
        "filename": "decoder.onnx",
        "hidden_size": model.text.hidden,
        "num_hidden_layers": len(layers),
        "num_attention_heads": layers[0].query_heads,
        "num_key_value_heads": layers[0].kv_heads,
        "head_size": layers[0].head_dim,  # other layers' heads: GenAI reads them off the graph
        "inputs": {name: name for name in inputs} | _caches("past", "past_key_values"),
        "outputs": {"logits": "logits"} | _caches("present", "present"),
    }
    if sliding:
        found["sliding_window"] = {
            "window_size": sliding[0].window,
            "layers": [layer.index for layer in sliding],
            "cache_slack": SPARE_SLOTS,
            "slide_key_value_cache": False,  # the graph does
            "slide_inputs": False,
        }
    return found


def _caches(kind: str, prefix: str) -> dict[str, str]:
    return {f"{kind}_{part}_names": f"{prefix}.%d.{part}" for part in ("key", "value")}


def _embedding(model: Model) -> dict[str, Any]:
    media = ["image_features"] * bool(model.image) + ["audio_features"] * bool(model.audio)
    return {
        "session_options": SESSION,
        "filename": "embedding.onnx",
        "inputs": {name: name for name in ["input_ids", *media]},
        "outputs": {"inputs_embeds": "inputs_embeds"},
    }


def _vision() -> dict[str, Any]:
    return {
        "session_options": SESSION,
        "filename": "vision.onnx",
        "config_filename": IMAGE_PROCESSOR_FILE,
        "inputs": {name: name for name in ("pixel_values", "pixel_position_ids")},
        "outputs": {"image_features": "image_features"},
    }


def _speech() -> dict[str, Any]:
    return {
        "session_options": SESSION,
        "filename": "speech.onnx",
        "config_filename": AUDIO_PROCESSOR_FILE,
        "inputs": {"audio_embeds": "input_features", "attention_mask": "input_features_mask"},
        "outputs": {"audio_features": "audio_features"},
    }


def _search(generation: dict[str, Any], context: int) -> dict[str, Any]:
    """The checkpoint's sampling defaults. Caches are written in place."""
    names = "do_sample", "temperature", "top_k", "top_p"
    sampling = {name: generation[name] for name in names if name in generation}
    return {"max_length": context, "past_present_share_buffer": True, "num_beams": 1} | sampling


def _image_processor(settings: dict[str, Any]) -> dict[str, Any]:
    """Soft tokens are single patches here, of patch_size * pooling_kernel_size pixels to a side."""
    side = settings.get("patch_size", 16) * settings.get("pooling_kernel_size", 3)
    budget = settings.get("max_soft_tokens", 280)
    transform = {"patch_size": side, "max_soft_tokens": budget, "pooling_kernel_size": 1}
    steps = [_step("decode_image", "DecodeImage", {"color_space": "RGB"}),
             _step("patches", "Gemma4ImageTransform", transform)]  # fmt: skip
    return {"processor": {"name": "gemma4_image_processor", "transforms": steps}}


def _audio_processor(settings: dict[str, Any], model: Model) -> dict[str, Any]:
    samples = model.audio.samples if model.audio else 0
    frames = {"type": "raw_frames", "audio_samples_per_token": samples,
              "sampling_rate": settings.get("sampling_rate", 16000)}  # fmt: skip
    steps = [_step("audio_decoder", "AudioDecoder", {}), _step("frames", "Gemma4Audio", frames)]
    return {"feature_extraction": {"sequence": steps}}


def _step(name: str, kind: str, attributes: dict[str, Any]) -> dict[str, Any]:
    return {"operation": {"name": name, "type": kind} | ({"attrs": attributes} if attributes else {})}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
