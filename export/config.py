"""Geometry of a model, read once from its transformers config and then handed around frozen."""

from dataclasses import dataclass
from typing import Any

from transformers.models.gemma4_unified.modeling_gemma4_unified import Gemma4UnifiedTextRotaryEmbedding

from runtime.errors import UserError

SLIDING = "sliding_attention"
FULL = "full_attention"


@dataclass(frozen=True)
class Layer:
    """One decoder layer: all that a description or a backend may want to know about it."""

    index: int
    name: str  # prefix of its weights in the checkpoint
    kind: str  # SLIDING or FULL
    eps: float

    query_heads: int
    kv_heads: int
    head_dim: int
    scale: float  # of the attention scores
    inverse_frequencies: tuple[float, ...]  # rotary, head_dim / 2 of them
    window: int | None  # positions a query sees, itself included; None: all before it
    image_blocks: bool  # tokens of one image see each other
    cache: int  # index of the layer whose keys and values it attends to: its own, or an earlier one's

    keys_are_values: bool = False  # the value is the key projection's output
    normalizes_values: bool = False
    scales_output: bool = False

    @property
    def owns_cache(self) -> bool:
        return self.cache == self.index

    @property
    def group(self) -> int:
        """Query heads per key-value head."""
        return self.query_heads // self.kv_heads


@dataclass(frozen=True)
class Text:
    """The decoder and its token embedding."""

    name: str  # prefix of its weights in the checkpoint
    vocabulary: int
    hidden: int
    layers: tuple[Layer, ...]
    softcap: float | None
    head: str  # module of the output projection; the embedding's own name when tied
    eps: float
    context: int  # positions the model was made for

    @property
    def embedding(self) -> str:
        """Module of the token embedding."""
        return f"{self.name}.embed_tokens"


@dataclass(frozen=True)
class Image:
    """The image embedder."""

    name: str
    patch_values: int
    eps: float


@dataclass(frozen=True)
class Audio:
    """The audio embedder."""

    name: str
    samples: int  # per soft token
    eps: float


@dataclass(frozen=True)
class SpecialTokens:
    """Ids with a meaning of their own in a sequence; None where a model has no such modality."""

    image: int | None
    audio: int | None
    video: int | None
    pad: int


@dataclass(frozen=True)
class Model:
    """All that is exported."""

    text: Text
    image: Image | None
    audio: Audio | None
    tokens: SpecialTokens


def read_model(config: Any) -> Model:
    """From a Gemma4UnifiedConfig.

    Raises:
        UserError: the config asks for something no backend here implements.
    """
    if config.model_type != "gemma4_unified":
        raise UserError(f"model_type is {config.model_type!r}, not 'gemma4_unified': choose a Gemma 4 12B checkpoint")
    image, audio = config.vision_config, config.audio_config
    return Model(
        text=read_text(config.text_config, "model.language_model"),
        image=image and Image("model.embed_vision", 3 * image.model_patch_size**2, image.rms_norm_eps),
        audio=audio and Audio("model.embed_audio", audio.audio_embed_dim, audio.rms_norm_eps),
        tokens=SpecialTokens(
            image=config.image_token_id if image else None,
            audio=config.audio_token_id if audio else None,
            video=config.video_token_id if image else None,
            pad=config.text_config.pad_token_id or 0,
        ),
    )


def read_text(config: Any, name: str) -> Text:
    """From a Gemma4UnifiedTextConfig; `name` prefixes the decoder's weights in the checkpoint."""
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
        head=f"{name}.embed_tokens" if config.tie_word_embeddings else "lm_head",
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
