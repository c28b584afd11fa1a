"""Gemma 3 text models. Against Gemma 4: norms add 1 to their weights, scores are scaled, values are not normalized."""

from typing import Any

from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding

from export.config.geometry import SLIDING, Layer, Model, SpecialTokens, Text
from runtime.errors import UserError

NAME = "model"  # prefix of the decoder's weights in the checkpoint
NORM_OFFSET = 1.0  # Gemma3RMSNorm multiplies by 1 + weight


def read_model(config: Any) -> Model:
    """From a Gemma3TextConfig.

    Raises:
        UserError: the config asks for something no backend here implements.
    """
    _refuse_unknown(config)
    tokens = SpecialTokens(image=None, audio=None, video=None, pad=config.pad_token_id or 0)
    return Model(_read_text(config), image=None, audio=None, tokens=tokens)


def _read_text(config: Any) -> Text:
    rotary = Gemma3RotaryEmbedding(config)
    embedding = f"{NAME}.embed_tokens"
    return Text(
        name=NAME,
        vocabulary=config.vocab_size,
        hidden=config.hidden_size,
        layers=tuple(_read_layer(config, index, rotary) for index in range(config.num_hidden_layers)),
        softcap=config.final_logit_softcapping,
        head=embedding if config.tie_word_embeddings else "lm_head",
        eps=config.rms_norm_eps,
        context=config.max_position_embeddings,
        norm_offset=NORM_OFFSET,
    )


def _read_layer(config: Any, index: int, rotary: Gemma3RotaryEmbedding) -> Layer:
    kind = config.layer_types[index]
    return Layer(
        index=index,
        name=f"{NAME}.layers.{index}",
        kind=kind,
        eps=config.rms_norm_eps,
        query_heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        scale=config.query_pre_attn_scalar**-0.5,
        inverse_frequencies=tuple(getattr(rotary, f"{kind}_inv_freq").tolist()),
        window=config.sliding_window if kind == SLIDING else None,
        image_blocks=False,
        cache=index,
        norm_offset=NORM_OFFSET,
    )


def _refuse_unknown(config: Any) -> None:
    """The parts of the architecture that no published Gemma 3 uses and no backend here implements."""
    unknown = {
        "attention_bias": config.attention_bias,
        "attn_logit_softcapping": config.attn_logit_softcapping is not None,
        "use_bidirectional_attention": config.use_bidirectional_attention,
        "hidden_activation": config.hidden_activation != "gelu_pytorch_tanh",
        "rope_parameters": any(rope["rope_type"] not in ("default", "linear")
                               for rope in config.rope_parameters.values()),
    }  # fmt: skip
    for name in (name for name, found in unknown.items() if found):
        raise UserError(f"config.json: {name}={getattr(config, name)!r} is not supported; export a stock Gemma 3")
