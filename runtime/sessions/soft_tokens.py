"""Soft tokens of images and clips, put where their placeholders stand."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from runtime.sessions.base import ModelInputs

Rows = NDArray[np.float32]
EmbedImage = Callable[[Rows, NDArray[np.int64]], Rows]  # patches [n, values], cells [n, 2] with padding -> [m, width]
EmbedClip = Callable[[Rows], Rows]  # frames [n, samples] without padding -> [n, width]


def without_placeholders(ids: NDArray[np.int64], placeholders: tuple[int | None, ...], pad: int) -> NDArray[np.int64]:
    """int [T] with `pad` for placeholders, as transformers looks them up."""
    return np.where(np.isin(ids, [id_ for id_ in placeholders if id_ is not None]), pad, ids)


def place_soft_tokens(
    embeds: Rows, inputs: ModelInputs, image: int | None, audio: int | None,
    embed_image: EmbedImage, embed_clip: EmbedClip,
) -> None:  # fmt: skip
    """Writes into embeddings [T, width].

    Args:
        image, audio: ids of placeholders.
    """
    if (rows := _images(inputs, embed_image)) is not None:
        embeds[inputs.input_ids == image] = rows
    if (rows := _clips(inputs, embed_clip)) is not None:
        embeds[inputs.input_ids == audio] = rows


def encode(inputs: ModelInputs, embed_image: EmbedImage, embed_clip: EmbedClip) -> Rows:
    """Soft tokens [n, width] of the images, or of the clips where there are no images.

    Raises:
        ValueError: there are neither.
    """
    rows = _images(inputs, embed_image)
    rows = _clips(inputs, embed_clip) if rows is None else rows
    if rows is None:
        raise ValueError("no image and no clip to encode")
    return rows


def _images(inputs: ModelInputs, embed: EmbedImage) -> Rows | None:
    if inputs.pixel_values is None or inputs.image_position_ids is None:
        return None
    return np.concatenate([embed(*pair) for pair in zip(inputs.pixel_values, inputs.image_position_ids, strict=True)])


def _clips(inputs: ModelInputs, embed: EmbedClip) -> Rows | None:
    if inputs.input_features is None or inputs.input_features_mask is None:
        return None
    clips = zip(inputs.input_features, inputs.input_features_mask, strict=True)
    return np.concatenate([embed(frames[mask]) for frames, mask in clips])
