"""A transformers config -> the geometry of a model, read once and then handed around frozen.

There is a module for each architecture, called like its `model_type`.
"""

from typing import Any

from export.config import gemma3_text, gemma4_unified
from export.config.geometry import FULL, SLIDING, Audio, Image, Layer, Model, SpecialTokens, Text
from runtime.architectures import require_known

__all__ = ["FULL", "SLIDING", "Audio", "Image", "Layer", "Model", "SpecialTokens", "Text", "read_model"]

READERS = {"gemma4_unified": gemma4_unified.read_model, "gemma3_text": gemma3_text.read_model}  # by model_type


def read_model(config: Any) -> Model:
    """
    Args:
        config: transformers', of one of the architectures here.

    Raises:
        UserError: it is of another one, or asks for something no backend here implements.
    """
    require_known(config.model_type, "config.json")
    return READERS[config.model_type](config)
