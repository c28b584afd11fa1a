"""Prompts cut into the steps that an engine of static or bounded shapes takes."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UserError

NONE = -1  # block of positions outside images


def steps(inside: NDArray[np.bool_], longest: int) -> Iterator[tuple[int, int]]:
    """Cuts a prompt into steps of at most so many positions, none of them inside an image.

    Args:
        inside: bool [T], positions of images.

    Raises:
        UserError: an image is longer than a step.
    """
    start = 0
    while start < len(inside):
        stop = min(start + longest, len(inside))
        while start < stop < len(inside) and inside[stop] and inside[stop - 1]:
            stop -= 1
        if stop == start:
            raise UserError(f"an image takes more than the {longest} positions of a step: ask for "
                            "fewer with --image-tokens, or export the bundle again with larger images")  # fmt: skip
        yield start, stop
        start = stop


def number_blocks(vision: NDArray[np.bool_]) -> NDArray[np.int64]:
    """bool [T], positions of images -> int [T]: images counted from 0, each a run of positions, and NONE elsewhere."""
    starts = vision & ~np.concatenate(([False], vision[:-1]))
    return np.where(vision, np.cumsum(starts) - 1, NONE)
