"""Images, sound and videos that are no good, and anything at all for manifests and media: refused in one line."""

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from runtime import prompt
from runtime.errors import UserError
from runtime.prompt import read_audio, read_image
from tests.fuzz.targets import (
    RATE,
    audio_files,
    check_audio,
    check_image,
    check_manifest,
    image_files,
    manifest_facts,
)
from tests.refusals import OUTSIDE, place, refused

Facts = dict[str, Any]


# Media


def png(width: int, height: int) -> bytes:
    """Whose header says so, and whose pixels are not there."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
             for kind, data in chunks]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg() -> bytes:
    written = io.BytesIO()
    Image.effect_noise((200, 200), 90).convert("RGB").save(written, "JPEG")
    return written.getvalue()


IMAGES = {
    "a bomb": (png(60_000, 60_000), "more than 64 million pixels"),
    "too large": (png(8001, 8000), "8001 x 8000 pixels, at most 64 million"),
    "just not, but cut short": (png(8000, 8000), "not a readable image"),
    "a truncated JPEG": (jpeg()[:2000], "not a readable image"),
    "empty": (b"", "not a readable image"),
    "text": (b"What is shown?", "not a readable image"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a readable image"),
}


def sound(samples: Any, subtype: str = "FLOAT", format_: str = "WAV") -> bytes:
    written = io.BytesIO()
    soundfile.write(written, np.asarray(samples), RATE, format=format_, subtype=subtype)
    return written.getvalue()


def sounds() -> dict[str, tuple[bytes, str]]:
    long = sound(np.zeros(31 * RATE, np.int16), "PCM_16", "FLAC")
    return {
        "NaN": (sound([0.1, np.nan]), "no numbers"),
        "infinite": (sound([0.1, np.inf]), "no numbers"),
        "no samples": (sound(np.zeros(0)), "no samples"),
        "long": (long, "more than 30 seconds of sound"),
        "empty": (b"", "not a readable sound file"),
        "text": (b"What is said?", "not a readable sound file"),
    }


@pytest.mark.parametrize("name", IMAGES)
def test_images_that_chat_refuses(thin_bundle: Path, tmp_path: Path, name: str) -> None:
    content, line = IMAGES[name]
    (tmp_path / "image").write_bytes(content)
    assert line in refused("chat", str(thin_bundle), "--image", str(tmp_path / "image"), "--prompt", "What is shown?")


def test_clips_that_chat_refuses(thin_bundle: Path, tmp_path: Path) -> None:
    for content, line in sounds().values():
        (tmp_path / "clip").write_bytes(content)
        assert line in refused("chat", str(thin_bundle), "--audio", str(tmp_path / "clip"), "--prompt", "What is said?")


@pytest.mark.parametrize("option", ["--image", "--audio", "--video", "--tools"])
def test_options_of_chat_that_are_no_files(thin_bundle: Path, option: str) -> None:
    for path, line in [
        (thin_bundle / "no", "is missing"),
        (thin_bundle, "is a folder"),
        (Path("/dev/zero"), "no regular file"),
    ]:
        assert line in refused("chat", str(thin_bundle), option, str(path), "--prompt", "Hello")


def test_a_video_of_garbage(thin_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"What is shown?" * 99)
    line = refused("chat", str(thin_bundle), "--video", str(tmp_path / "film.mp4"), "--prompt", "What is shown?")
    assert "not a readable video" in line and "use MP4 or WebM" in line


def test_a_sound_file_that_promises_more_than_it_has(tmp_path: Path) -> None:
    """4 GB by its header, 800 samples by its size: these are read."""
    data = bytearray(sound(np.full(800, 0.5, np.float32), "PCM_16"))
    at = data.index(b"data") + 4
    data[4:8] = data[at : at + 4] = struct.pack("<I", 2**32 - 1)
    (tmp_path / "clip.wav").write_bytes(data)
    assert read_audio(tmp_path / "clip.wav", RATE).shape == (800,)


def test_the_limit_of_pixels_is_the_last_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt, "PIXELS", 100)
    Image.new("RGB", (10, 10)).save(tmp_path / "small.png")
    Image.new("RGB", (10, 11)).save(tmp_path / "large.png")
    assert read_image(tmp_path / "small.png").size == (10, 10)
    with pytest.raises(UserError, match="10 x 11 pixels"):
        read_image(tmp_path / "large.png")


def test_raw_sound_has_no_rate(tmp_path: Path) -> None:
    (tmp_path / "clip.raw").write_bytes(bytes(99))
    with pytest.raises(UserError, match="not a readable sound file"):
        read_audio(tmp_path / "clip.raw", RATE)


# Anything

scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.sampled_from(OUTSIDE))
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
few = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def inner_places(value: Any, *keys: str | int) -> Iterator[tuple[str | int, ...]]:
    if keys:
        yield keys
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from inner_places(inner, *keys, key)


@few
@given(st.lists(st.tuples(st.sampled_from(list(inner_places(manifest_facts()))), values), max_size=3))
def test_any_change_of_a_manifest(changes: list[tuple[tuple[str | int, ...], Any]]) -> None:
    facts = manifest_facts()
    for keys, value in changes:
        try:
            place(facts, *keys)(value)
        except (KeyError, TypeError, IndexError):  # the place went with an earlier change
            continue
    check_manifest(json.dumps(facts).encode(errors="surrogatepass"))


edits = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=4)), max_size=4)


def edited(data: bytes, places: list[tuple[float, bytes]]) -> bytes:
    """Overwritten here and there."""
    changed = bytearray(data)
    for where, new in places:
        at = int(where * len(changed))
        changed[at : at + len(new)] = new
    return bytes(changed)


@few
@given(st.one_of(st.binary(), st.builds(edited, st.sampled_from(list(image_files().values())), edits)))
def test_any_bytes_as_an_image(data: bytes) -> None:
    check_image(data)


@few
@given(st.one_of(st.binary(), st.builds(edited, st.sampled_from(list(audio_files().values())), edits)))
def test_any_bytes_as_sound(data: bytes) -> None:
    check_audio(data)


@pytest.mark.parametrize("check", [check_image, check_audio, check_manifest])
def test_the_control_what_escapes_is_seen(check: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise ValueError("escapes")

    for name in ("read_image", "read_audio", "read_manifest"):
        monkeypatch.setattr(f"tests.fuzz.targets.{name}", fail)
    with pytest.raises(ValueError, match="escapes"):
        check(b"")
