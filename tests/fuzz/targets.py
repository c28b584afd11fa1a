"""What is fuzzed, and valid files to begin with."""

import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from runtime.errors import UserError, one_line
from runtime.manifest import FILE, named_paths, read_manifest
from runtime.prompt import PIXELS, SECONDS, read_audio, read_image

RATE = 16_000
SEED = Path(__file__).with_name("manifest.json")  # small, with something in every field


def check_manifest(data: bytes) -> None:
    """A manifest is read, and all it names lies in its folder; or it is refused."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / FILE).write_bytes(data)
        try:
            manifest = read_manifest(folder)
        except UserError as error:
            expect_told(error)
        else:
            assert all((folder / path).resolve().is_relative_to(folder.resolve()) for path in named_paths(manifest))


def check_image(data: bytes) -> None:
    with TemporaryDirectory() as name:
        path = Path(name) / "image"
        path.write_bytes(data)
        try:
            image = read_image(path)
        except UserError as error:
            expect_told(error)
        else:
            assert image.mode == "RGB" and image.width * image.height <= PIXELS


def check_audio(data: bytes) -> None:
    with TemporaryDirectory() as name:
        path = Path(name) / "sound"
        path.write_bytes(data)
        try:
            samples = read_audio(path, RATE)
        except UserError as error:
            expect_told(error)
        else:
            assert samples.ndim == 1 and 0 < len(samples) <= SECONDS * RATE and np.isfinite(samples).all()


def expect_told(error: UserError) -> None:
    """In a line that names the cause."""
    told = one_line(error)
    assert len(told) > 20 and told.isprintable(), told


# Valid files


def manifest_facts() -> dict[str, Any]:
    return json.loads(SEED.read_bytes())


def image_files() -> dict[str, bytes]:
    """One of each format."""
    return {format_: _image(format_) for format_ in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")}


def _image(format_: str) -> bytes:
    written = io.BytesIO()
    Image.radial_gradient("L").resize((24, 16)).convert("RGB").save(written, format_)
    return written.getvalue()


def audio_files() -> dict[str, bytes]:
    """Some of each format, in integers and floats."""
    return {f"{format_} {subtype}": _audio(format_, subtype) for format_, subtype in
            [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("AIFF", "PCM_16"),
             ("MP3", "MPEG_LAYER_III")]}  # fmt: skip


def _audio(format_: str, subtype: str) -> bytes:
    written = io.BytesIO()
    soundfile.write(written, np.sin(np.arange(800) / 9), RATE, format=format_, subtype=subtype)
    return written.getvalue()
