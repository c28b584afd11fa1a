"""Chat messages with media to model inputs, by the checkpoint's own template and processor; and inputs cut to steps."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any
from warnings import catch_warnings

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UserError, first_line
from runtime.sessions.base import ModelInputs
from runtime.text_processor import open_processor
from runtime.torchvision_shim import allow_torchvision
from runtime.untrusted import require_file
from runtime.video import Video, read_video

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
KINDS = ("image", "video", "audio")  # of media, in the order that `user` puts them in


@dataclass(frozen=True)
class Rendered:
    """A prompt, ready for a model."""

    text: str  # by the chat template; one placeholder for each image, video or clip
    inputs: ModelInputs


@dataclass(frozen=True)
class MediaTokens:
    """Ids of the placeholders in a token sequence; None where a model has no such input."""

    image: int | None
    audio: int | None
    video: int | None = None

    def __contains__(self, token: int) -> bool:
        return token in (self.image, self.audio, self.video)


def user(text: str, images: Sequence[str] = (), clips: Sequence[str] = (), videos: Sequence[str] = ()) -> list[Message]:
    """One user turn: images, then videos, then clips, then the text."""
    media = zip(KINDS, (images, videos, clips), strict=True)
    content = [{"type": kind, "path": path} for kind, paths in media for path in paths]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def media_paths(messages: Sequence[Message], kind: str) -> list[str]:
    """Paths of all parts of a kind, in order."""
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

    def __init__(self, folder: Path, image_tokens: int | None = None, frames: int | None = None) -> None:
        """
        Args:
            image_tokens: largest number of soft tokens of an image, instead of the checkpoint's.
            frames: sampled from a video, instead of the checkpoint's number.
        """
        allow_torchvision()
        for path in (folder / name for name in CONFIGURATION):
            if path.exists():
                require_file(path, COPY, LARGEST_TOKENIZER)
        if not (folder / "tokenizer.model").exists():
            require_file(folder / "tokenizer.json", COPY)  # without it transformers makes an empty one
        try:
            self.processor = open_processor(folder)
        except Exception as error:  # the tokenizer's are of no type of their own
            raise UserError(
                f"{folder}: its tokenizer and processor do not open ({first_line(error)}); {COPY}"
            ) from None
        # More tokens than a model was made for are counted, and refused, where they do not fit the context.
        self.processor.tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
        self._frames = frames
        if image_tokens is not None:
            self._budget_images(image_tokens)

    def _budget_images(self, tokens: int) -> None:
        processor = self.processor.image_processor
        try:
            type(processor)(max_soft_tokens=tokens)  # it checks
        except ValueError as error:
            raise UserError(f"no image takes up to {tokens} soft tokens: {error}") from None
        processor.max_soft_tokens = tokens

    def __call__(self, messages: Sequence[Message], media: Path = Path()) -> Rendered:
        """The prompt up to where the model's turn begins; media paths are relative to the folder `media`."""
        text = self.render(messages)
        return Rendered(text, self.read(text, {kind: media_paths(messages, kind) for kind in KINDS}, media))

    def read(self, text: str, paths: Mapping[str, Sequence[str]], folder: Path = Path()) -> ModelInputs:
        """Rendered text and its media files, by kind and in the order of their placeholders, to inputs.

        Raises:
            UserError: a file is unreadable, or a clip too long.
        """
        images, videos, clips = ([folder / path for path in paths[kind]] for kind in KINDS)
        return self.process(
            text,
            [read_image(path) for path in images],
            [read_audio(path, self.sampling_rate, self.longest_clip) for path in clips],
            [self.read_video(path) for path in videos],
        )

    def render(self, messages: Sequence[Message], **options: Any) -> str:
        """The prompt's text, with a placeholder for each image, video or clip.

        Args:
            options: of the template: `tools`, `enable_thinking`, `add_generation_prompt`.

        Raises:
            UserError: the template refuses the messages or options.
        """
        try:
            settings = {"add_generation_prompt": True} | options
            return self.processor.apply_chat_template(messages, tokenize=False, **settings)
        except Exception as error:  # it is a program, and may come to anything
            raise UserError(f"the chat template refuses the messages or tools ({first_line(error)}): "
                            "change them, or copy chat_template.jinja again") from None  # fmt: skip

    def process(
        self, text: str, images: Sequence[Any] = (), clips: Sequence[NDArray[np.float32]] = (),
        videos: Sequence[Video] = (),
    ) -> ModelInputs:  # fmt: skip
        """Rendered text and decoded media to inputs, without another BOS: the template writes its own.

        Args:
            videos: from `read_video`.

        Raises:
            UserError: the processor refuses the text or media, such as a placeholder that somebody wrote.
        """
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError("the prompt is not UTF-8: convert it with iconv")
        told = {"video_metadata": [video.metadata for video in videos], "do_sample_frames": False, "do_resize": False}
        try:
            fields = self.processor(
                text=text, images=list(images) or None, audio=list(clips) or None,
                videos=[video.frames for video in videos] or None, videos_kwargs=told if videos else {},
                add_special_tokens=False, return_tensors="np",
            )  # fmt: skip
        except UserError:
            raise
        except Exception as error:  # of transformers, of the tokenizer or of NumPy
            raise UserError(f"the processor refuses the prompt ({first_line(error)}): leave out marks such as "
                            "<|image|>, and images of extreme proportions") from None  # fmt: skip
        return ModelInputs(
            input_ids=fields["input_ids"][0].astype(np.int64),
            pixel_values=fields.get("pixel_values"),
            image_position_ids=fields.get("image_position_ids"),
            input_features=fields.get("input_features"),
            input_features_mask=fields.get("input_features_mask"),
            pixel_values_videos=fields.get("pixel_values_videos"),
            video_position_ids=fields.get("video_position_ids"),
            num_frames_per_video=fields.get("num_frames_per_video"),
        )

    def read_video(self, path: Path) -> Video:
        """Frames that the checkpoint's video processor samples, or all of a video that has fewer, in its size.

        Raises:
            UserError: no video there.
        """
        return read_video(path, self._sample, self._resize)

    def _sample(self, metadata: Any) -> NDArray[np.int64]:
        processor = self.processor.video_processor
        wanted = self._frames or processor.num_frames
        return processor.sample_frames(metadata, num_frames=wanted and min(wanted, metadata.total_num_frames))

    def _resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """[height, width, 3] to the size that the processor would give it among all frames, which need more memory."""
        import torch
        from transformers.image_utils import pil_torch_interpolation_mapping

        processor = self.processor.video_processor
        patches = processor.max_soft_tokens * processor.pooling_kernel_size**2
        resized = processor.aspect_ratio_preserving_resize(
            torch.from_numpy(image).permute(2, 0, 1)[None], processor.patch_size, patches,
            processor.pooling_kernel_size, pil_torch_interpolation_mapping[processor.resample],
        )  # fmt: skip
        return resized[0].permute(1, 2, 0).numpy()

    def encode(self, text: str) -> NDArray[np.int64]:
        """Plain text to tokens, without BOS."""
        ids = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return np.array(ids, np.int64)

    def decode(self, tokens: Sequence[int], special: bool = False) -> str:
        """Tokens to text, special ones left out unless they are wanted."""
        return self.processor.tokenizer.decode(tokens, skip_special_tokens=not special)

    @property
    def media(self) -> MediaTokens:
        return MediaTokens(self.processor.image_token_id, self.processor.audio_token_id, self.processor.video_token_id)

    @property
    def sampling_rate(self) -> int:
        """Hz"""
        return self.processor.feature_extractor.sampling_rate

    @property
    def longest_clip(self) -> float:
        """Seconds"""
        return self.processor.audio_seq_length * self.processor.audio_ms_per_token / 1000


def read_image(path: Path) -> Any:
    """A PIL image in RGB, turned upright where its file says how, without transparency.

    Raises:
        UserError: no image there, or one of more than PIXELS, which its header says before any is decoded.
    """
    from PIL import Image, ImageOps

    require_file(path, USE_IMAGE)
    try:
        with catch_warnings(action="ignore"), Image.open(path, formats=IMAGES) as image:
            width, height = image.size
            if width * height <= PIXELS:
                return ImageOps.exif_transpose(image).convert("RGB")
    except Image.DecompressionBombError:  # by Pillow's own limit, which is higher
        raise UserError(f"{path}: more than {PIXELS // 10**6} million pixels: make the image smaller") from None
    except Exception as error:  # whatever a damaged file leads a decoder to
        raise UserError(f"{path}: not a readable image ({first_line(error)}); {USE_IMAGE}") from None
    raise UserError(f"{path}: {width} x {height} pixels, at most {PIXELS // 10**6} million are taken: "
                    "make the image smaller")  # fmt: skip


def read_audio(path: Path, rate: int, longest: float = SECONDS) -> NDArray[np.float32]:
    """[samples] in -1..1, channels averaged, resampled as transformers' `load_audio` does it.

    Args:
        rate: Hz of what is returned.
        longest: seconds.

    Raises:
        UserError: no sound there, longer than that, or with samples that are no numbers.
    """
    import soundfile

    require_file(path, USE_SOUND)
    try:
        with soundfile.SoundFile(path) as sound:
            found = sound.samplerate
            samples = _read_samples(sound, math.ceil(longest * found))
    except (OSError, ValueError, TypeError, soundfile.SoundFileError) as error:
        raise UserError(f"{path}: not a readable sound file ({first_line(error)}); {USE_SOUND}") from None
    if len(samples) > longest * found:
        raise UserError(f"{path}: more than {longest:g} seconds of sound, the most that is heard: cut it into pieces")
    if not len(samples) or not np.isfinite(samples).all():
        fault = "samples that are infinite or no numbers" if len(samples) else "no samples"
        raise UserError(f"{path}: {fault}; {USE_SOUND}")
    return resample(samples, found, rate)


def resample(samples: NDArray[np.float32], found: int, rate: int) -> NDArray[np.float32]:
    """[n] at one rate in Hz -> [ceil(n * rate / found)] at another, as librosa and transformers."""
    if found == rate:
        return samples
    import soxr

    length = -(-len(samples) * rate // found)
    resampled = soxr.resample(samples, found, rate, quality="soxr_hq")[:length]
    return np.pad(resampled, (0, length - len(resampled)))


def _read_samples(sound: Any, longest: int) -> NDArray[np.float32]:
    """[samples], channels averaged; what lies beyond `longest` is not read, whatever the header promises."""
    read, count = [np.zeros(0, np.float32)], 0
    while count <= longest and len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
        read.append(block.mean(1))
        count += len(block)
    return np.concatenate(read)


@dataclass(frozen=True)
class _Block:
    """Positions that stay together: a token, or soft tokens of an image, a frame or a clip; or all up to a bound."""

    length: int
    images: int = 0
    clips: int = 0
    frames: int = 0


def split(inputs: ModelInputs, sizes: Iterator[int] | int, media: MediaTokens) -> list[ModelInputs]:
    """Consecutive steps of at most so many positions; media follow their placeholders, and none is cut.

    Args:
        sizes: positions of each step, or of all. A medium larger than its step's size makes a larger step.
    """
    at = _Block(0)
    bounds, room = [at], 0
    for block in _blocks(inputs, media):
        if at != bounds[-1] and block.length > room:
            bounds.append(at)
        if at == bounds[-1]:
            room = sizes if isinstance(sizes, int) else next(sizes)
        at = _Block(*(before + more for before, more in zip(astuple(at), astuple(block), strict=True)))
        room -= block.length
    return [_between(inputs, start, stop) for start, stop in zip(bounds, [*bounds[1:], at], strict=True)]


def _blocks(inputs: ModelInputs, media: MediaTokens) -> Iterator[_Block]:
    """Of all positions in order."""
    rows = (inputs.image_position_ids, inputs.input_features_mask, inputs.video_position_ids)
    images, clips, frames = (iter(soft_tokens(each)) for each in rows)
    at = 0
    while at < len(inputs.input_ids):
        token = inputs.input_ids[at]
        block = _Block(1)
        if token == media.image:
            block = _Block(next(images), images=1)
        elif token == media.audio:
            block = _Block(next(clips), clips=1)
        elif token == media.video:
            block = _Block(next(frames), frames=1)
        yield block
        at += block.length


def soft_tokens(rows: NDArray | None) -> list[int]:
    """How many positions each medium takes: [n, rows, 2] cells, -1 where padded, or [n, rows] True where not."""
    if rows is None:
        return []
    kept = rows if rows.dtype == bool else (rows >= 0).all(-1)
    return [int(count) for count in kept.sum(-1)]


def _between(inputs: ModelInputs, start: _Block, stop: _Block) -> ModelInputs:
    """Bounds count what is before them."""
    text, images, clips, frames = (slice(a, b) for a, b in zip(astuple(start), astuple(stop), strict=True))

    def rows(array: Any, kept: slice) -> Any:
        return array[kept] if array is not None and kept.stop > kept.start else None

    return ModelInputs(
        input_ids=inputs.input_ids[text],
        pixel_values=rows(inputs.pixel_values, images),
        image_position_ids=rows(inputs.image_position_ids, images),
        input_features=rows(inputs.input_features, clips),
        input_features_mask=rows(inputs.input_features_mask, clips),
        pixel_values_videos=rows(inputs.pixel_values_videos, frames),
        video_position_ids=rows(inputs.video_position_ids, frames),
        num_frames_per_video=_frames_within(inputs.num_frames_per_video, frames),
    )


def _frames_within(counts: NDArray[np.int64] | None, kept: slice) -> NDArray[np.int64] | None:
    """Of each video that has some of them."""
    if counts is None or kept.stop == kept.start:
        return None
    inside = np.diff(np.clip(np.cumsum([0, *counts]), kept.start, kept.stop))
    return inside[inside > 0]


def append(inputs: ModelInputs, tokens: Sequence[int] | NDArray[np.int64]) -> ModelInputs:
    """The same sequence, some text tokens longer."""
    longer = np.concatenate([inputs.input_ids, np.asarray(tokens, np.int64)])
    return ModelInputs(**inputs.arrays() | {"input_ids": longer})
