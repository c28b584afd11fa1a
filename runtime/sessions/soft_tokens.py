"""Soft tokens of images, frames and clips, put where their placeholders stand."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from runtime.sessions.base import ModelInputs

Rows = NDArray[np.float32]
EmbedImage = Callable[[Rows, NDArray[np.int64]], Rows]  # patches [n, values], cells [n, 2] with padding -> [m, width]
EmbedClip = Callable[[Rows], Rows]  # frames [n, samples] without padding -> [n, width]
NO_ID = -1  # equals no token


def frames_as_images(inputs: ModelInputs, image: int | None, video: int | None) -> ModelInputs:
    """The same positions with each frame of a video as an image among the others.

    That is what the model takes it for: it has one embedder for both, and frames see themselves in sliding layers.

    Args:
        image, video: ids of placeholders.
    """
    if inputs.pixel_values_videos is None or inputs.video_position_ids is None:
        return inputs
    image, video = (NO_ID if id_ is None else id_ for id_ in (image, video))
    pixels, cells = inputs.pixel_values_videos, inputs.video_position_ids
    if inputs.pixel_values is not None and inputs.image_position_ids is not None:
        begins = np.concatenate([_begins(inputs.input_ids, image), _begins(inputs.input_ids, video)])
        order = np.argsort(begins)
        pixels = _joined(inputs.pixel_values, pixels, 0)[order]
        cells = _joined(inputs.image_position_ids, cells, -1)[order]
    ids = np.where(inputs.input_ids == video, image, inputs.input_ids)
    return replace(inputs, input_ids=ids, pixel_values=pixels, image_position_ids=cells, pixel_values_videos=None,
                   video_position_ids=None, num_frames_per_video=None)  # fmt: skip


def _begins(ids: NDArray[np.int64], placeholder: int) -> NDArray[np.int64]:
    """Where each run of a placeholder does."""
    here = ids == placeholder
    return np.flatnonzero(here & ~np.concatenate(([False], here[:-1])))


def _joined(images: NDArray, frames: NDArray, padding: int) -> NDArray:
    """[images, patches, ...] and [frames, patches, ...] one after another, the shorter ones padded."""
    longest = max(images.shape[1], frames.shape[1])
    return np.concatenate([np.pad(array, [(0, 0), (0, longest - array.shape[1]), (0, 0)], constant_values=padding)
                           for array in (images, frames)])  # fmt: skip


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
