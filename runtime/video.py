"""Frames of a video: those that are asked for are decoded one at a time, so memory does not grow with the video."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UserError, first_line
from runtime.untrusted import require_file

USE_VIDEO = "use MP4 or WebM"
PIXELS = 36_000_000  # of a frame, more than 8K has; decoding takes about 5 bytes for each, several frames at once
Image = NDArray[np.uint8]  # [height, width, 3]
Choose = Callable[[Any], Any]  # of transformers' VideoMetadata to int [frames]


@dataclass(frozen=True)
class Video:
    """Some frames of it."""

    frames: NDArray[np.uint8]  # [frames, height, width, 3]
    metadata: Any  # transformers' VideoMetadata; `frames_indices` are those of the frames


@dataclass(frozen=True)
class _Index:
    """What a file says of its packets, in the stream's unit of time."""

    times: list[int]  # of all frames, in the order they are shown
    keys: list[tuple[int, int]]  # of frames that need no other: when shown, when decoded

    def key_before(self, time: int) -> int:
        """When the last such frame up to that time is decoded."""
        return self.keys[max(bisect_right(self.keys, time, key=itemgetter(0)) - 1, 0)][1]


def read_video(path: Path, choose: Choose, resize: Callable[[Image], Image] = lambda image: image) -> Video:
    """Frames as transformers' `read_video_pyav` reads them, turned upright as torchcodec's, its usual decoder, are.

    Args:
        path: of a file that FFmpeg reads.
        choose: indices of frames, ascending.
        resize: what to keep of each; all must come out of one size.

    Raises:
        UserError: no video there, or it breaks off.
    """
    import av

    require_file(path, USE_VIDEO)
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            _require_size(stream)
            index = _read_index(container, stream)
            metadata = _describe(stream, len(index.times))
            metadata.frames_indices = np.asarray(choose(metadata))
            wanted = [index.times[i] for i in metadata.frames_indices]
            frames = [resize(_upright(frame)) for frame in _decode(container, stream, index, wanted)]
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # whatever a damaged file leads a decoder to
        raise UserError(f"{path}: not a readable video ({first_line(error)}); {USE_VIDEO}") from None
    if not wanted or len(frames) < len(wanted):
        raise UserError(f"{path}: the video breaks off: its frame {len(frames)} of {len(wanted)} does not decode")
    if len({frame.shape for frame in frames}) > 1:
        raise UserError(f"{path}: the proportions of its frames change: cut it into pieces")
    return Video(np.stack(frames), metadata)


def _require_size(stream: Any) -> None:
    """As its header has it, before any is decoded."""
    if stream.width * stream.height > PIXELS:
        raise UserError(f"frames of {stream.width} x {stream.height} pixels, at most {PIXELS // 10**6} million are "
                        "taken: make the video smaller")  # fmt: skip


def _read_index(container: Any, stream: Any) -> _Index:
    """By reading the packets of the stream, without decoding any: not every format says how many frames it has."""
    packets = [packet for packet in container.demux(stream) if packet.pts is not None and not packet.is_discard]
    keys = [(packet.pts, packet.pts if packet.dts is None else packet.dts) for packet in packets if packet.is_keyframe]
    return _Index(sorted(packet.pts for packet in packets), sorted(keys))


def _describe(stream: Any, frames: int) -> Any:
    from transformers.video_utils import VideoMetadata  # seconds to import

    rate = float(stream.average_rate) if stream.average_rate else None
    return VideoMetadata(total_num_frames=frames, fps=rate, width=stream.width, height=stream.height,
                         duration=frames / rate if rate else None, video_backend="pyav")  # fmt: skip


def _decode(container: Any, stream: Any, index: _Index, times: Sequence[int]) -> Iterator[Any]:
    """Frames shown at these ascending times, each reached from the last frame before it that needs no other."""
    at, decoded = None, iter(list[Any]())
    for time in times:
        key = index.key_before(time)
        if key != at:
            container.seek(key, stream=stream)
            at, decoded = key, container.decode(stream)
        frame = next((frame for frame in decoded if frame.pts is not None and frame.pts >= time), None)
        if frame is None:
            return
        yield frame


def _upright(frame: Any) -> Image:
    """As a person holds the phone: the file says by how many degrees it was turned, counter-clockwise."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))
