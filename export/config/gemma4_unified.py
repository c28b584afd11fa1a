"""Gemma 4 12B: text, images and sound."""

from typing import Any

from transformers.models.gemma4_unified.modeling_gemma4_unified import Gemma4UnifiedTextRotaryEmbedding

from export.config.geometry import FULL, SLIDING, Audio, Image, Layer, Model, SpecialTokens, Text
from runtime.errors import UserError


def read_model(config: Any) -> Model:
    """From a Gemma4UnifiedConfig.

    Raises:
        UserError: the config asks for something no backend here implements.
    """
    image, audio = config.vision_config, config.audio_config
    return Model(
        text=read_text(config.text_config, "model.language_model", config.tie_word_embeddings),
        image=image and Image("model.embed_vision", 3 * image.model_patch_size**2, image.rms_norm_eps),
        audio=audio and Audio("model.embed_audio", audio.audio_embed_dim, audio.rms_norm_eps),
        tokens=SpecialTokens(
            image=config.image_token_id if image else None,
            audio=config.audio_token_id if audio else None,
            video=config.video_token_id if image else None,
            pad=config.text_config.pad_token_id or 0,
        ),
    )


def read_text(config: Any, name: str, tied: bool) -> Text:
    """From a Gemma4UnifiedTextConfig.

    Args:
        name: prefixes the decoder's weights in the checkpoint.
        tied: whether the embedding is the head: transformers heeds what the whole model's config says, not this one's.
    """
    _refuse_unknown(config)
    caches = _cache_owners(config)
    rotary = Gemma4UnifiedTextRotaryEmbedding(config)

    def read_layer(index: int) -> Layer:
        kind, heads = config.layer_types[index], config.per_layer_config[index]
        return Layer(
            index=index,
            name=f"{name}.layers.{index}",
            kind=kind,
            eps=config.rms_norm_eps,
            query_heads=config.num_attention_heads,
            kv_heads=heads.num_key_value_heads,
            head_dim=heads.head_dim,
            scale=1.0,
            inverse_frequencies=tuple(getattr(rotary, f"{kind}_inv_freq").tolist()),
            window=config.sliding_window if kind == SLIDING else None,
            image_blocks=kind == SLIDING and config.use_bidirectional_attention == "vision",
            cache=caches[index],
            keys_are_values=config.attention_k_eq_v and kind == FULL,
            normalizes_values=True,
            scales_output=True,
        )

    return Text(
        name=name,
        vocabulary=config.vocab_size,
        hidden=config.hidden_size,
        layers=tuple(map(read_layer, range(config.num_hidden_layers))),
        softcap=config.final_logit_softcapping,
        head=f"{name}.embed_tokens" if tied else "lm_head",
        eps=config.rms_norm_eps,
        context=config.max_position_embeddings,
    )


def _refuse_unknown(config: Any) -> None:
    """The parts of the architecture that no published Gemma 4 12B uses and no backend here implements."""
    unknown = {
        "attention_bias": config.attention_bias,
        "use_bidirectional_attention": config.use_bidirectional_attention == "all",
        "hidden_activation": config.hidden_activation != "gelu_pytorch_tanh",
        "rope_parameters": any(rope["rope_type"] not in ("default", "proportional")
                               for rope in config.rope_parameters.values()),
    }  # fmt: skip
    for name in (name for name, found in unknown.items() if found):
        raise UserError(f"config.json: {name}={getattr(config, name)!r} is not supported; export a stock Gemma 4 12B")


def _cache_owners(config: Any) -> list[int]:
    """Index of the layer whose cache each one reads: the last may share that of an earlier one of their kind."""
    owners: list[int] = []
    last: dict[str, int] = {}
    for index, (kind, sharing) in enumerate(zip(config.layer_types, config.kv_sharing_modes, strict=True)):
        if sharing != "reuse":
            last[kind] = index
        owners.append(last[kind])
    return owners
