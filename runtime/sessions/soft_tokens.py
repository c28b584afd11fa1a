"""Soft tokens of images and clips, put where their placeholders stand."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from runtime.sessions.base import ModelInputs

Rows = NDArray[np.float32]


def without_placeholders(ids: NDArray[np.int64], placeholders: tuple[int | None, ...], pad: int) -> NDArray[np.int64]:
    """int [T] with `pad` for placeholders, as transformers looks them up."""
    return np.where(np.isin(ids, [id_ for id_ in placeholders if id_ is not None]), pad, ids)


def place_soft_tokens(
    embeds: Rows, inputs: ModelInputs, image: int | None, audio: int | None,
    embed_image: Callable[[Rows, NDArray[np.int64]], Rows], embed_clip: Callable[[Rows], Rows],
) -> None:  # fmt: skip
    """Writes into embeddings [T, width].

    Args:
        image, audio: ids of placeholders.
        embed_image: patches [n, values] and cells [n, 2], padding among them, to soft tokens [m, width].
        embed_clip: frames [n, samples] without padding to soft tokens [n, width].
    """
    ids = inputs.input_ids
    if inputs.pixel_values is not None and inputs.image_position_ids is not None:
        images = zip(inputs.pixel_values, inputs.image_position_ids, strict=True)
        embeds[ids == image] = np.concatenate([embed_image(*pair) for pair in images])
    if inputs.input_features is not None and inputs.input_features_mask is not None:
        clips = zip(inputs.input_features, inputs.input_features_mask, strict=True)
        embeds[ids == audio] = np.concatenate([embed_clip(frames[mask]) for frames, mask in clips])
