"""The architectures that checkpoints may be of, and transformers' classes for them."""

from collections.abc import Iterable
from typing import Any

from runtime.errors import UserError, printable
from runtime.torchvision_shim import allow_torchvision

# By `model_type`: the class of the whole model, and the prefix of its decoder's weights.
CLASSES = {"gemma4_unified": "Gemma4UnifiedForConditionalGeneration", "gemma3_text": "Gemma3ForCausalLM"}
DECODERS = {"gemma4_unified": "model.language_model", "gemma3_text": "model"}
TEXT_ONLY = {"gemma3_text"}  # their checkpoints have a tokenizer alone
EMBEDDING = ".embed_tokens.weight"  # ends its name


def require_known(model_type: object, path: object) -> None:
    """
    Args:
        path: of the file that says it, for people.

    Raises:
        UserError: the model is none of these.
    """
    if model_type not in CLASSES:
        known = " or ".join(map(repr, CLASSES))
        raise UserError(f"{path}: model_type is {printable(repr(model_type))}, only {known} can be exported: "
                        "choose a Gemma 4 12B or a Gemma 3 text model")  # fmt: skip


def new_model(config: Any) -> Any:
    """transformers' model of a config, with random weights or, under `torch.device("meta")`, none.

    Raises:
        UserError: the config is of another architecture.
    """
    return model_class(config)(config)


def model_class(config: Any) -> Any:
    """Raises:
    UserError: the config is of another architecture.
    """
    require_known(config.model_type, "config.json")
    allow_torchvision()
    import transformers  # seconds to import

    return getattr(transformers, CLASSES[config.model_type])


def embedding_weight(names: Iterable[str]) -> str:
    """Which of a model's weights is the token embedding."""
    return next(name for name in names if name.endswith(EMBEDDING))


def decoder_prefix(config: Any) -> str:
    """Of the names of the decoder's weights, without its last dot."""
    return DECODERS[config.model_type]
