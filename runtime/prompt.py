"""Chat messages with media to model inputs, by the checkpoint's own template and processor; and inputs cut to steps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UserError
from runtime.sessions.base import ModelInputs
from runtime.torchvision_shim import allow_torchvision

# A message as chat templates know it: {"role": "user", "content": [{"type": "text", "text": "..."},
# {"type": "image", "path": "boot.png"}, {"type": "audio", "path": "seven.wav"}]}. Paths name media files.
Message = Mapping[str, Any]


@dataclass(frozen=True)
class Rendered:
    """A prompt, ready for a model."""

    text: str  # by the chat template; one placeholder for each image or clip
    inputs: ModelInputs


@dataclass(frozen=True)
class MediaTokens:
    """Ids of the placeholders in a token sequence; None where a model has no such input."""

    image: int | None
    audio: int | None


def user(text: str, images: Sequence[str] = (), clips: Sequence[str] = ()) -> list[Message]:
    """One user turn: images, then clips, then the text."""
    media = [("image", path) for path in images] + [("audio", path) for path in clips]
    content = [{"type": kind, "path": path} for kind, path in media]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def media_paths(messages: Sequence[Message], kind: str) -> list[str]:
    """Paths of all parts of a kind, `image` or `audio`, in order."""
    return [part["path"] for message in messages for part in _parts(message) if part["type"] == kind]


def with_paths(messages: Sequence[Message], change: Callable[[str], str]) -> list[Message]:
    """The messages with other media paths."""

    def changed(part: Mapping[str, Any]) -> dict[str, Any]:
        return {**part, "path": change(part["path"])} if "path" in part else {**part}

    return [{**message, "content": [changed(part) for part in _parts(message)]} for message in messages]


def _parts(message: Message) -> list[Mapping[str, Any]]:
    """Of its content, which may be plain text."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


class Prompter:
    """Renders messages as the checkpoint (or bundle) in `folder` wants them.

    Raises:
        UserError: no template, tokenizer or processor there.
    """

    def __init__(self, folder: Path) -> None:
        allow_torchvision()
        from transformers import AutoProcessor  # seconds to import, and the shim must come first

        try:
            self.processor = AutoProcessor.from_pretrained(folder)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{folder}: its tokenizer and processor do not open ({reason}); copy them again") from None

    def __call__(self, messages: Sequence[Message], media: Path = Path()) -> Rendered:
        """The prompt up to where the model's turn begins; media paths are relative to the folder `media`."""
        text = self.render(messages)
        images = [read_image(media / path) for path in media_paths(messages, "image")]
        clips = [read_audio(media / path, self.sampling_rate) for path in media_paths(messages, "audio")]
        return Rendered(text, self.process(text, images, clips))

    def render(self, messages: Sequence[Message], **options: Any) -> str:
        """The prompt's text, with a placeholder for each image or clip.

        Args:
            options: of the template: `tools`, `enable_thinking`.
        """
        return self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)

    def process(self, text: str, images: Sequence[Any] = (), clips: Sequence[NDArray[np.float32]] = ()) -> ModelInputs:
        """Rendered text and decoded media to inputs, without another BOS: the template writes its own."""
        fields = self.processor(
            text=text, images=list(images) or None, audio=list(clips) or None, add_special_tokens=False,
            return_tensors="np",
        )  # fmt: skip
        return ModelInputs(
            input_ids=fields["input_ids"][0].astype(np.int64),
            pixel_values=fields.get("pixel_values"),
            image_position_ids=fields.get("image_position_ids"),
            input_features=fields.get("input_features"),
            input_features_mask=fields.get("input_features_mask"),
        )

    def encode(self, text: str) -> NDArray[np.int64]:
        """Plain text to tokens, without BOS."""
        ids = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return np.array(ids, np.int64)

    def decode(self, tokens: Sequence[int], special: bool = False) -> str:
        """Tokens to text, special ones left out unless they are wanted."""
        return self.processor.tokenizer.decode(tokens, skip_special_tokens=not special)

    @property
    def media(self) -> MediaTokens:
        return MediaTokens(self.processor.image_token_id, self.processor.audio_token_id)

    @property
    def sampling_rate(self) -> int:
        """Hz"""
        return self.processor.feature_extractor.sampling_rate


def read_image(path: Path) -> Any:
    """A PIL image in RGB.

    Raises:
        UserError: no image there.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(path).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{path}: not a readable image ({error}); use PNG or JPEG") from None


def read_audio(path: Path, rate: int) -> NDArray[np.float32]:
    """[samples] in -1..1, channels averaged.

    Raises:
        UserError: no sound there, or of another sampling rate.
    """
    import soundfile

    try:
        samples, found = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise UserError(f"{path}: not a readable sound file ({error}); use WAV or FLAC") from None
    if found != rate:
        raise UserError(f"{path}: {found} Hz, the model hears {rate} Hz: convert with `ffmpeg -i IN -ar {rate} OUT`")
    return samples.mean(1)


@dataclass(frozen=True)
class _Block:
    """Positions that stay together: a token, or the soft tokens of an image or clip."""

    length: int
    images: int = 0
    clips: int = 0


def split(inputs: ModelInputs, sizes: Iterator[int] | int, media: MediaTokens) -> list[ModelInputs]:
    """Consecutive steps of at most so many positions; media follow their placeholders, and none is cut.

    Args:
        sizes: positions of each step, or of all. An image or clip larger than its step's size makes a larger step.
    """
    bounds, room = [(0, 0, 0)], 0
    at = (0, 0, 0)
    for block in _blocks(inputs, media):
        if at != bounds[-1] and block.length > room:
            bounds.append(at)
        if at == bounds[-1]:
            room = sizes if isinstance(sizes, int) else next(sizes)
        at = (at[0] + block.length, at[1] + block.images, at[2] + block.clips)
        room -= block.length
    return [_between(inputs, start, stop) for start, stop in zip(bounds, [*bounds[1:], at], strict=True)]


def _blocks(inputs: ModelInputs, media: MediaTokens) -> Iterator[_Block]:
    """Of all positions in order."""
    images, clips = iter(soft_tokens(inputs.image_position_ids)), iter(soft_tokens(inputs.input_features_mask))
    at = 0
    while at < len(inputs.input_ids):
        token = inputs.input_ids[at]
        block = _Block(1)
        if token == media.image:
            block = _Block(next(images), images=1)
        elif token == media.audio:
            block = _Block(next(clips), clips=1)
        yield block
        at += block.length


def soft_tokens(rows: NDArray | None) -> list[int]:
    """How many positions each image or clip takes: [n, rows, 2] cells, -1 where padded, or [n, rows] True where not."""
    if rows is None:
        return []
    kept = rows if rows.dtype == bool else (rows >= 0).all(-1)
    return [int(count) for count in kept.sum(-1)]


def _between(inputs: ModelInputs, start: tuple[int, int, int], stop: tuple[int, int, int]) -> ModelInputs:
    """Bounds count positions, images and clips."""
    text, images, clips = (slice(a, b) for a, b in zip(start, stop, strict=True))

    def rows(array: Any, kept: slice) -> Any:
        return array[kept] if array is not None and kept.stop > kept.start else None

    return ModelInputs(
        input_ids=inputs.input_ids[text],
        pixel_values=rows(inputs.pixel_values, images),
        image_position_ids=rows(inputs.image_position_ids, images),
        input_features=rows(inputs.input_features, clips),
        input_features_mask=rows(inputs.input_features_mask, clips),
    )


def append(inputs: ModelInputs, tokens: Sequence[int] | NDArray[np.int64]) -> ModelInputs:
    """The same sequence, some text tokens longer."""
    longer = np.concatenate([inputs.input_ids, np.asarray(tokens, np.int64)])
    return ModelInputs(**inputs.arrays() | {"input_ids": longer})
