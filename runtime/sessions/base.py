"""What every engine can do: take a prompt, hand out logits, go on token by token."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]  # [vocabulary]
Positions = NDArray[np.int64] | Sequence[int]


@dataclass(frozen=True)
class ModelInputs:
    """Consecutive positions of one sequence, as the checkpoint's processor makes them, without its batch axis.

    Media come in the order of their placeholders in `input_ids`; an image is never split over two prefills, nor is a
    frame of a video, which is an image to the model.
    """

    input_ids: NDArray[np.int64]  # [T]
    pixel_values: NDArray[np.float32] | None = None  # [images, patches, patch_values]
    image_position_ids: NDArray[np.int64] | None = None  # [images, patches, 2]: x and y; -1 pads
    input_features: NDArray[np.float32] | None = None  # [clips, frames, samples]
    input_features_mask: NDArray[np.bool_] | None = None  # [clips, frames]; False pads
    pixel_values_videos: NDArray[np.float32] | None = None  # [frames of all videos, patches, patch_values]
    video_position_ids: NDArray[np.int64] | None = None  # [frames of all videos, patches, 2], as image_position_ids
    num_frames_per_video: NDArray[np.int64] | None = None  # [videos]

    def arrays(self) -> dict[str, NDArray]:
        """Those that are there, by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: array for name, array in found.items() if array is not None}


class Session(Protocol):
    """One sequence in one engine."""

    name: str

    @property
    def position(self) -> int:
        """Tokens in the cache so far."""

    def reset(self) -> None:
        """Forgets the sequence."""

    def prefill(self, inputs: ModelInputs) -> Logits:
        """Appends positions; returns the logits after the last one. May be called again: a second turn, a chunk."""

    def decode(self, token: int) -> Logits:
        """Appends one token; returns the logits after it."""


@runtime_checkable
class Rewindable(Protocol):
    """A session that can be taken back."""

    def rewind(self, position: int) -> bool:
        """Forgets what stands there and behind, if what earlier positions need is still there; says whether it did."""


@runtime_checkable
class Encoder(Protocol):
    """A session that can run what embeds images and clips alone, without touching its sequence."""

    def encode(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """Soft tokens [n, width] of the images, or of the clips where there are no images."""
