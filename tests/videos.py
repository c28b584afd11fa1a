"""Small videos, encoded by PyAV."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray


def pictures(count: int, size: tuple[int, int], seed: int) -> Iterator[NDArray[np.uint8]]:
    """[height, width, 3] each: a bar that moves over noise, brighter from frame to frame."""
    rng, (width, height) = np.random.default_rng(seed), size
    for index in range(count):
        picture = rng.integers(0, 60, (height, width, 3)) + index * 180 // count
        picture[:, index * (width - 8) // count :][:, :8] = (250, 20, 20)
        yield picture.astype(np.uint8)


def write_video(
    path: Path, count: int, size: tuple[int, int] = (64, 48), rate: Fraction | int = 10, codec: str = "mpeg4",
    seed: int = 0, **options: Any,
) -> Path:  # fmt: skip
    """`count` frames of `size`, width and height, at `rate` per second; options are the encoder's."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = *size, "yuv420p", 8
        for name, value in options.items():
            setattr(stream, name, value)
        for picture in pictures(count, size, seed):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    return path
