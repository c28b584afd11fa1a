"""What a manifest states of a checkpoint: special tokens, sampling, limits."""

from collections.abc import Iterable
from pathlib import Path

from export.formats import Lowering
from export.generation import read_ends, read_settings
from export.memory import weight_bytes
from runtime.manifest import Artifact, Limits, Sampling, Tokens

PROCESSOR_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
    "special_tokens_map.json", "chat_template.jinja", "processor_config.json", "preprocessor_config.json",
    "video_preprocessor_config.json",
)  # fmt: skip


def tokens(folder: Path) -> Tokens:
    """From the configuration files in `folder`."""
    config, generation = read_settings(folder / "config.json"), read_settings(folder / "generation_config.json")
    ends, vision, audio = read_ends(folder), "vision_config" in config, "audio_config" in config

    def of(key: str, there: bool) -> int | None:
        return config.get(key) if there else None

    return Tokens(
        bos=ends.bos,
        eos=ends.eos,
        pad=ends.pad,
        suppress=generation.get("suppress_tokens") or [],
        image=of("image_token_id", vision),
        audio=of("audio_token_id", audio),
        video=of("video_token_id", vision),
        begin_image=of("boi_token_id", vision),
        end_image=of("eoi_token_id", vision),
        begin_audio=of("boa_token_id", audio),
        end_audio=of("eoa_token_index", audio),
    )


def sampling(folder: Path) -> Sampling:
    """The generation defaults in `folder`; without any, greedy."""
    found = read_settings(folder / "generation_config.json")
    return Sampling(do_sample=found.get("do_sample", False), temperature=found.get("temperature", 1.0),
                    top_k=found.get("top_k", 64), top_p=found.get("top_p", 0.95))  # fmt: skip


def limits(lowering: Lowering, artifacts: Iterable[Artifact], folder: Path) -> Limits:
    """How much goes in, and how much memory that takes in the format that takes most."""
    processor = read_settings(folder / "processor_config.json")
    windows = [layer.window for layer in lowering.model.text.layers if layer.window]
    images, audio = processor.get("image_processor", {}), processor.get("audio_seq_length", 750)
    cache = max(artifact.cache.at(lowering.context) for artifact in artifacts)
    return Limits(
        context=lowering.context,
        sliding_window=windows[0] if windows else lowering.context,
        image_soft_tokens=images.get("max_soft_tokens", 280) if lowering.model.image else None,
        audio_soft_tokens=audio if lowering.model.audio else None,
        minimum_memory=weight_bytes(lowering.weights) + cache,
    )
