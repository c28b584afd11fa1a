"""Frames of videos, against transformers' own reader; and what a file may do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from transformers.video_utils import read_video_pyav

from runtime import video
from runtime.errors import UserError
from runtime.video import read_video
from tests.videos import write_video

FRAMES = 40
IDENTITY = bytes.fromhex("00010000 00000000 00000000 00000000 00010000 00000000 00000000 00000000 40000000")
QUARTER = bytes.fromhex("00000000 00010000 00000000 FFFF0000 00000000 00000000 00000000 00000000 40000000")


def read(path: Path, indices: Sequence[int]) -> NDArray[np.uint8]:
    return read_video(path, lambda metadata: indices).frames


def read_all_along(path: Path, indices: Sequence[int]) -> NDArray[np.uint8]:
    """By transformers, which decodes from the start."""
    frames, _ = read_video_pyav(str(path), lambda metadata: np.array(indices))
    return frames


@pytest.mark.parametrize("indices", [range(FRAMES), [0, 1, 9, 23, 24, 39], [17]], ids=["all", "some", "one"])
@pytest.mark.parametrize(
    "name, options",
    [
        ("plain.mp4", {}),
        ("reordered.mp4", {"max_b_frames": 2}),
        ("open.mp4", {"codec": "libx264", "options": {"x264-params": "open-gop=1:bframes=3:keyint=8:log-level=none"}}),
        ("uncounted.webm", {"codec": "libvpx"}),
        ("old.avi", {}),
    ],
)
def test_frames_are_those_that_decoding_from_the_start_gives(
    tmp_path: Path, name: str, options: dict[str, Any], indices: Sequence[int]
) -> None:
    path = write_video(tmp_path / name, FRAMES, **options)
    assert np.array_equal(read(path, indices), read_all_along(path, indices))


def test_a_file_without_a_count_has_its_frames_counted(tmp_path: Path) -> None:
    path = write_video(tmp_path / "uncounted.webm", 21, codec="libvpx", rate=7)
    metadata = read_video(path, lambda metadata: [metadata.total_num_frames - 1]).metadata
    assert (metadata.total_num_frames, metadata.fps, metadata.frames_indices.tolist()) == (21, 7.0, [20])


def test_frames_between_are_not_decoded(tmp_path: Path) -> None:
    """Damage to them goes unseen; the control is damage to one that is asked for."""
    path, damaged = write_video(tmp_path / "whole.mp4", FRAMES), tmp_path / "damaged.mp4"
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for pos, size in places[18:24]:  # ends of a group of 8
        content[pos : pos + size] = bytes(size)
    damaged.write_bytes(content)
    assert np.array_equal(read(damaged, [3, 17, 30]), read(path, [3, 17, 30]))
    with pytest.raises(UserError, match=r"damaged\.mp4"):
        read(damaged, [3, 20, 30])


def test_a_video_held_upright_is_turned(tmp_path: Path) -> None:
    """A phone writes its sensor's rows, and in the track's header how to turn them (ISO 14496-12): here clockwise."""
    path, turned = write_video(tmp_path / "flat.mp4", 3), tmp_path / "upright.mp4"
    head, track = path.read_bytes().split(b"tkhd")
    assert track.count(IDENTITY) == 1
    turned.write_bytes(head + b"tkhd" + track.replace(IDENTITY, QUARTER))
    assert np.array_equal(read(turned, [0, 2]), np.rot90(read(path, [0, 2]), -1, axes=(1, 2)))


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    soundfile.write(tmp_path / "sound.wav", np.zeros(100, np.float32), 16_000)
    for told in ("text.mp4: not a readable video", "sound.wav: not a readable video", "absent.mp4 is missing"):
        with pytest.raises(UserError, match=told):
            read(tmp_path / told.split(":")[0].split()[0], [0])


def test_frames_that_are_too_large_are_refused_before_any_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "film.mp4", 3, (64, 48))
    monkeypatch.setattr(video, "PIXELS", 64 * 48)
    assert len(read(path, [0, 2])) == 2
    monkeypatch.setattr(video, "PIXELS", 64 * 48 - 1)
    monkeypatch.setattr(video, "_decode", lambda *arguments: pytest.fail("decoded"))
    with pytest.raises(UserError, match=r"film\.mp4: frames of 64 x 48 pixels"):
        read(path, [0, 2])


def test_frames_that_change_their_proportions_are_told(tmp_path: Path) -> None:
    """As a stream does that somebody switched: two that a decoder takes for one."""
    parts = [write_video(tmp_path / name, 4, size, codec="mpeg2video")
             for name, size in (("wide.mpg", (64, 48)), ("high.mpg", (48, 64)))]  # fmt: skip
    (tmp_path / "both.mpg").write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(UserError, match="the proportions of its frames change"):
        read(tmp_path / "both.mpg", range(8))


def test_a_video_without_frames_is_told(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "none.avi"), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with pytest.raises(UserError, match=r"none\.avi: "):
        read_video(tmp_path / "none.avi", lambda metadata: range(metadata.total_num_frames))
