"""Prompts and tensors, value for value, as transformers' processor makes them when it is called as documented.

What is under test is all that comes before it: reading of files, mixing, resampling, sampling of frames, order.
"""

import itertools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from runtime.errors import UserError
from runtime.prompt import KINDS, Message, Prompter, media_paths, user
from runtime.sessions.base import ModelInputs
from runtime.torchvision_shim import allow_torchvision
from tests.videos import write_video

BUDGETS = (70, 140, 280, 560, 1120)
SIZES = [(1, 1), (48, 48), (47, 49), (333, 217), (2000, 30), (30, 2000), (1, 4000), (3000, 2000)]
RATES = (8_000, 16_000, 22_050, 44_100, 48_000)
BESIDE = {"attention_mask", "mm_token_type_ids"}  # that a session derives
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]  # fmt: skip


@pytest.fixture(scope="module")
def processor(tiny_checkpoint: Path) -> Any:
    allow_torchvision()
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def prompter(tiny_checkpoint: Path) -> Prompter:
    return Prompter(tiny_checkpoint)


def parts_of(message: Message) -> list[dict[str, str]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def documented(
    processor: Any, messages: Sequence[Message], image_tokens: int | None = None, frames: int | None = None,
    **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """By `apply_chat_template`, which loads sound itself. The decoders that it wants for images and videos are not in
    every installation, so these are loaded by its other ones, videos as a whole: it samples them."""
    from transformers.image_utils import load_image
    from transformers.video_utils import load_video

    metadata = []

    def loaded(part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] == "image":
            return {"type": "image", "image": load_image(part["path"])}
        if part["type"] == "video":
            video, described = load_video(part["path"], backend="pyav")
            metadata.append(described)
            return {"type": "video", "video": video}
        return part

    conversation = [{**message, "content": [loaded(part) for part in parts_of(message)]} for message in messages]
    given: dict[str, Any] = {"images_kwargs": {"max_soft_tokens": image_tokens}} if image_tokens else {}
    if metadata:
        given["videos_kwargs"] = {"video_metadata": metadata} | ({"num_frames": frames} if frames else {})
    fields = processor.apply_chat_template(
        conversation, tokenize=True, return_dict=True, return_tensors="np", add_generation_prompt=True,
        processor_kwargs=given, **options,
    )  # fmt: skip
    return {name: array for name, array in fields.items() if name not in BESIDE}


def ours(prompter: Prompter, messages: Sequence[Message], **options: Any) -> ModelInputs:
    text = prompter.render(messages, **options)
    return prompter.read(text, {kind: media_paths(messages, kind) for kind in KINDS})


def require_same(found: ModelInputs, wanted: dict[str, Any]) -> None:
    """The same tensors, bit for bit, and no others."""
    arrays = found.arrays() | {"input_ids": found.input_ids[None]}
    assert arrays.keys() == wanted.keys()
    for name, array in arrays.items():
        assert array.dtype == wanted[name].dtype and array.shape == wanted[name].shape, name
        assert np.array_equal(array, wanted[name]), name


def noise(size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Of 8 bits a channel, any mode that such bytes fit."""
    width, height = size
    rng = np.random.default_rng(seed)
    picture = Image.fromarray(rng.integers(0, 256, (height, width, 4), np.uint8), "RGBA")
    return picture if mode == "RGBA" else picture.convert("RGB").convert(mode)


def save(picture: Image.Image, path: Path, **options: Any) -> str:
    picture.save(path, **options)
    return str(path)


def sound(path: Path, rate: int, channels: int, seconds: float, seed: int = 0, **options: Any) -> str:
    rng = np.random.default_rng(seed)
    soundfile.write(path, rng.uniform(-0.9, 0.9, (round(rate * seconds), channels)), rate, **options)
    return str(path)


# Images


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes(processor: Any, prompter: Prompter, tmp_path: Path, size: tuple[int, int]) -> None:
    messages = user("What is shown?", [save(noise(size), tmp_path / "image.png")])
    require_same(ours(prompter, messages), documented(processor, messages))


@pytest.mark.parametrize("budget", BUDGETS)
def test_budgets(processor: Any, tiny_checkpoint: Path, tmp_path: Path, budget: int) -> None:
    sizes = [(333, 217), (30, 2000), (1600, 1200)]
    paths = [save(noise(size), tmp_path / f"{number}.png") for number, size in enumerate(sizes)]
    messages = user("Which is larger?", paths)
    found = ours(Prompter(tiny_checkpoint, image_tokens=budget), messages)
    require_same(found, documented(processor, messages, image_tokens=budget))
    assert found.image_position_ids is not None
    assert budget * 0.8 < (found.image_position_ids[2, :, 0] >= 0).sum() <= budget


def test_a_budget_that_there_is_not_is_told(tiny_checkpoint: Path) -> None:
    with pytest.raises(UserError, match=r"100 soft tokens: .*\(70, 140, 280, 560, 1120\)"):
        Prompter(tiny_checkpoint, image_tokens=100)


@pytest.mark.parametrize(
    "name, mode",
    [("a.png", "RGBA"), ("a.webp", "RGBA"), ("a.png", "LA"), ("a.png", "L"), ("a.png", "P"), ("a.png", "1"),
     ("a.png", "I;16"), ("a.gif", "P"), ("a.bmp", "RGB"), ("a.jpg", "RGB"), ("a.jpg", "L"), ("a.jpg", "CMYK")],
)  # fmt: skip
def test_modes(processor: Any, prompter: Prompter, tmp_path: Path, name: str, mode: str) -> None:
    picture = (
        noise((70, 50), mode) if mode != "I;16" else Image.fromarray(np.arange(3500, dtype=np.uint16).reshape(50, 70))
    )
    messages = user("What is shown?", [save(picture, tmp_path / name)])
    require_same(ours(prompter, messages), documented(processor, messages))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright(processor: Any, prompter: Prompter, tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    messages = user("What is shown?", [save(noise((200, 90)), tmp_path / "photo.jpg", exif=exif)])
    found = ours(prompter, messages)
    require_same(found, documented(processor, messages))
    assert found.image_position_ids is not None
    across, down = found.image_position_ids[0].max(0)
    assert (across > down) == (orientation < 5)


# Sound


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name, channels", [("a.wav", 1), ("a.wav", 2), ("a.flac", 1), ("a.flac", 2), ("a.ogg", 2)])
def test_rates_and_channels(
    processor: Any, prompter: Prompter, tmp_path: Path, rate: int, name: str, channels: int
) -> None:
    messages = user("What is said?", clips=[sound(tmp_path / name, rate, channels, 0.4321)])
    require_same(ours(prompter, messages), documented(processor, messages))


@pytest.mark.parametrize("rate", [11_025, 16_000, 44_100])
@pytest.mark.parametrize("seconds", [0.001, 0.05, 0.08, 29.99, 30])
def test_lengths(processor: Any, prompter: Prompter, tmp_path: Path, rate: int, seconds: float) -> None:
    messages = user("What is said?", clips=[sound(tmp_path / "a.wav", rate, 1, seconds)])
    require_same(ours(prompter, messages), documented(processor, messages))


@pytest.mark.parametrize("subtype, channels", [("PCM_24", 2), ("FLOAT", 3), ("ULAW", 1), ("PCM_U8", 6)])
def test_encodings(processor: Any, prompter: Prompter, tmp_path: Path, subtype: str, channels: int) -> None:
    messages = user("What is said?", clips=[sound(tmp_path / "a.wav", 32_000, channels, 0.3, subtype=subtype)])
    require_same(ours(prompter, messages), documented(processor, messages))


def test_a_clip_that_is_too_long_is_told(prompter: Prompter, tmp_path: Path) -> None:
    path = sound(tmp_path / "long.wav", 8_000, 1, 30.1)
    with pytest.raises(UserError, match=r"long\.wav: more than 30 seconds of sound"):
        ours(prompter, user("What is said?", clips=[path]))


# Videos


@pytest.mark.parametrize(
    "count, size, rate",
    [(32, (64, 48), 30), (47, (160, 90), Fraction(30000, 1001)), (90, (48, 200), 1), (40, (640, 360), 25)],
)
def test_videos(
    processor: Any, prompter: Prompter, tmp_path: Path, count: int, size: tuple[int, int], rate: Fraction | int
) -> None:
    """90 frames at one per second take time stamps beyond a minute."""
    messages = user("What happens?", videos=[str(write_video(tmp_path / "a.mp4", count, size, rate))])
    found = ours(prompter, messages)
    require_same(found, documented(processor, messages))
    assert found.num_frames_per_video is not None and found.num_frames_per_video.tolist() == [32]
    assert ("01:0" in prompter.decode(found.input_ids.tolist())) == (rate == 1)


@pytest.mark.parametrize("count, asked, frames", [(5, None, 5), (50, 3, 3), (2, 3, 2), (1, None, 1)])
def test_few_frames(
    processor: Any, tiny_checkpoint: Path, tmp_path: Path, count: int, asked: int | None, frames: int
) -> None:
    """A video of fewer frames than are asked for is shown as a whole; transformers wants to be told their number."""
    messages = user("What happens?", videos=[str(write_video(tmp_path / "a.mp4", count))])
    found = ours(Prompter(tiny_checkpoint, frames=asked), messages)
    require_same(found, documented(processor, messages, frames=frames))


# Turns


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Two files of each kind, of different sizes."""
    folder = tmp_path_factory.mktemp("media")
    images = [save(noise((60, 40 + 90 * seed), seed=seed), folder / f"{seed}.png") for seed in (0, 1)]
    videos = [str(write_video(folder / f"{seed}.mp4", 40, (64, 48 + 16 * seed), seed=seed)) for seed in (0, 1)]
    clips = [sound(folder / f"{seed}.wav", 22_050, 2, 0.1 + 0.2 * seed, seed) for seed in (0, 1)]
    return dict(zip(KINDS, (images, videos, clips), strict=True))


def turn(kinds: Sequence[str], media: dict[str, list[str]], text: str = "What?") -> Message:
    """Of media in this order, with text before, between and behind them."""
    left = {kind: iter(paths) for kind, paths in media.items()}
    parts: list[dict[str, str]] = [{"type": "text", "text": "Look: "}]
    for kind in kinds:
        parts += [{"type": kind, "path": next(left[kind])}, {"type": "text", "text": " and "}]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


@pytest.mark.parametrize("kinds", [*itertools.permutations(KINDS), ("image", "audio", "image", "audio"),
                                   ("video", "image", "video"), ("audio", "audio", "image", "image")])  # fmt: skip
def test_orders_in_a_turn(
    processor: Any, prompter: Prompter, media: dict[str, list[str]], kinds: tuple[str, ...]
) -> None:
    messages = [turn(kinds, media)]
    require_same(ours(prompter, messages), documented(processor, messages))


@pytest.mark.parametrize("think", [False, True])
@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("system", ["", "Be short."])
def test_turns(
    processor: Any, prompter: Prompter, media: dict[str, list[str]], think: bool, tools: Any, system: str
) -> None:
    """Three of the user's, with media in the first and the last; thinking, tools and a system message or not."""

    def said(role: str, text: str) -> Message:
        return {"role": role, "content": [{"type": "text", "text": text}]}

    messages = [
        *([said("system", system)] if system else []), turn(["image", "audio"], media), said("assistant", "A boot."),
        said("user", "Sure?"), said("assistant", "Yes."),
        turn(["audio", "image"], {kind: paths[::-1] for kind, paths in media.items()}, "And now?"),
    ]  # fmt: skip
    options = {"tools": tools, "enable_thinking": think}
    found = ours(prompter, messages, **options)
    require_same(found, documented(processor, messages, **options))
    text = prompter.decode(found.input_ids.tolist(), special=True)
    assert ("<|think|>" in text, "declaration:weather" in text, "Be short." in text) == (
        think,
        bool(tools),
        bool(system),
    )


def test_control_another_order_or_rate_is_seen(
    processor: Any, prompter: Prompter, media: dict[str, list[str]], tmp_path: Path
) -> None:
    swapped = {kind: paths[::-1] for kind, paths in media.items()}
    slow, fast = (sound(tmp_path / f"{rate}.wav", rate, 1, 4000 / rate) for rate in (16_000, 16_001))
    for one, other in [
        *(([turn([kind], media)], [turn([kind], swapped)]) for kind in KINDS),
        (user("What?", clips=[slow]), user("What?", clips=[fast])),
    ]:
        with pytest.raises(AssertionError):
            require_same(ours(prompter, one), documented(processor, other))
