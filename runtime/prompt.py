"""Chat messages with media to model inputs, by the checkpoint's own template and processor; and inputs cut to steps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from warnings import catch_warnings

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UserError, first_line
from runtime.sessions.base import ModelInputs
from runtime.torchvision_shim import allow_torchvision
from runtime.untrusted import require_file

CONFIGURATION = ("config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json",
                 "preprocessor_config.json", "chat_template.jinja")  # fmt: skip
LARGEST_TOKENIZER = 128 << 20  # bytes; that of the 12B has 32 MB
# No more than 50 megapixels come out of most phones, and no more than 2.6 go into the model; one takes 8 bytes.
PIXELS = 64_000_000
IMAGES = "PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"  # Pillow has others, of which some start programs
# The model was made for clips of 30 seconds; so many are 15000 positions, more than the default context holds.
SECONDS = 600
BLOCK = 1 << 16  # samples of each channel that are decoded at once
USE_IMAGE, USE_SOUND = "use PNG or JPEG", "use WAV or FLAC"
COPY = "copy it from the checkpoint again"

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
        UserError: no template, tokenizer or processor there, or one that is damaged.
    """

    def __init__(self, folder: Path) -> None:
        allow_torchvision()
        from transformers import AutoProcessor  # seconds to import, and the shim must come first

        for path in (folder / name for name in CONFIGURATION):
            if path.exists():
                require_file(path, COPY, LARGEST_TOKENIZER)
        if not (folder / "tokenizer.model").exists():
            require_file(folder / "tokenizer.json", COPY)  # without it transformers makes an empty one
        try:
            self.processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        except Exception as error:  # the tokenizer's are of no type of their own
            raise UserError(
                f"{folder}: its tokenizer and processor do not open ({first_line(error)}); {COPY}"
            ) from None
        # More tokens than a model was made for are counted, and refused, where they do not fit the context.
        self.processor.tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True

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

        Raises:
            UserError: the template refuses the messages or options.
        """
        try:
            return self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
        except Exception as error:  # it is a program, and may come to anything
            raise UserError(f"the chat template refuses the messages or tools ({first_line(error)}): "
                            "change them, or copy chat_template.jinja again") from None  # fmt: skip

    def process(self, text: str, images: Sequence[Any] = (), clips: Sequence[NDArray[np.float32]] = ()) -> ModelInputs:
        """Rendered text and decoded media to inputs, without another BOS: the template writes its own.

        Raises:
            UserError: the processor refuses the text or media, such as a placeholder that somebody wrote.
        """
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError("the prompt is not UTF-8: convert it with iconv")
        try:
            fields = self.processor(
                text=text, images=list(images) or None, audio=list(clips) or None, add_special_tokens=False,
                return_tensors="np",
            )  # fmt: skip
        except Exception as error:  # of transformers, of the tokenizer or of NumPy
            raise UserError(f"the processor refuses the prompt ({first_line(error)}): leave out marks such as "
                            "<|image|>, and images of extreme proportions") from None  # fmt: skip
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
        UserError: no image there, or one of more than PIXELS, which its header says before any is decoded.
    """
    from PIL import Image

    require_file(path, USE_IMAGE)
    try:
        with catch_warnings(action="ignore"), Image.open(path, formats=IMAGES) as image:
            width, height = image.size
            if width * height <= PIXELS:
                return image.convert("RGB")
    except Image.DecompressionBombError:  # by Pillow's own limit, which is higher
        raise UserError(f"{path}: more than {PIXELS // 10**6} million pixels: make the image smaller") from None
    except Exception as error:  # whatever a damaged file leads a decoder to
        raise UserError(f"{path}: not a readable image ({first_line(error)}); {USE_IMAGE}") from None
    raise UserError(f"{path}: {width} x {height} pixels, at most {PIXELS // 10**6} million are taken: "
                    "make the image smaller")  # fmt: skip


def read_audio(path: Path, rate: int) -> NDArray[np.float32]:
    """[samples] in -1..1, channels averaged.

    Raises:
        UserError: no sound there, of another sampling rate, of more than SECONDS, or with samples that are no numbers.
    """
    import soundfile

    require_file(path, USE_SOUND)
    try:
        with soundfile.SoundFile(path) as sound:
            found = sound.samplerate
            samples = _read_samples(sound, SECONDS * rate) if found == rate else np.zeros(0, np.float32)
    except (OSError, ValueError, TypeError, soundfile.SoundFileError) as error:
        raise UserError(f"{path}: not a readable sound file ({first_line(error)}); {USE_SOUND}") from None
    if found != rate:
        raise UserError(f"{path}: {found} Hz, the model hears {rate} Hz: convert with `ffmpeg -i IN -ar {rate} OUT`")
    if len(samples) > SECONDS * rate:
        raise UserError(f"{path}: more than {SECONDS} seconds of sound: cut it with `ffmpeg -i IN -t 30 OUT`")
    if not len(samples) or not np.isfinite(samples).all():
        fault = "samples that are infinite or no numbers" if len(samples) else "no samples"
        raise UserError(f"{path}: {fault}; {USE_SOUND}")
    return samples


def _read_samples(sound: Any, longest: int) -> NDArray[np.float32]:
    """[samples], channels averaged; what lies beyond `longest` is not read, whatever the header promises."""
    read, count = [np.zeros(0, np.float32)], 0
    while count <= longest and len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
        read.append(block.mean(1))
        count += len(block)
    return np.concatenate(read)


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
