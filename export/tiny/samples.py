"""Training rows: chats about images and spoken digits, and text, in exactly the tokens of template and processor."""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from transformers import GemmaTokenizer

from export.tiny.data import CLASSES
from export.tiny.model import FRAME
from export.tiny.speech import DIGITS, Clips, disturbed, frames
from export.tiny.tokenizer import token_id

IMAGE_QUESTIONS = ["What is shown?", "What is shown in the image?", "What is this?", "Name the item."]
PAIR_QUESTIONS = ["What are the two images?", "Name both items."]
NTH_QUESTIONS = ["What is the first image?", "What is the second image?"]
DIGIT_QUESTIONS = ["What digit is spoken?", "Which digit do you hear?", "What is said?"]
DIGITS_QUESTION = "What digits are spoken?"
CONTINUE = "Continue:"
SOFT, IGNORED, WINDOW = 64, -100, 128
IMAGE, AUDIO, TURN_END = token_id("<|image|>"), token_id("<|audio|>"), token_id("<turn|>")


@dataclass
class Row:
    """Token ids, labels (-100 where nothing is asked), and the media of one training sequence."""

    ids: list[int]
    labels: list[int]
    images: list[int] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)


@dataclass
class Batch:
    """ids, labels int64[b, l]; images: indices of the training images in reading order; frames float32[n, 640]."""

    ids: Tensor
    labels: Tensor
    images: list[int]
    frames: Tensor


class Sampler:
    """Draws rows from the training data with a seeded generator."""

    def __init__(self, tokenizer: GemmaTokenizer, labels: np.ndarray, clips: Clips, text: np.ndarray, seed: int):
        self.tokenizer, self.labels, self.clips, self.text = tokenizer, labels, clips, text
        self.random = np.random.default_rng(seed)
        self.order: list[int] = []
        self.newline = tokenizer("\n", add_special_tokens=False).input_ids
        self.prompt = lru_cache(maxsize=None)(self._prompt)
        self.answer = lru_cache(maxsize=None)(self._answer)

    def _prompt(self, parts: tuple[str, ...]) -> tuple[int, ...]:
        """Ids of a user turn and the opening of the model's; parts are "image", "audio" or text."""
        content = [{"type": part} if part in ("image", "audio") else {"type": "text", "text": part} for part in parts]
        chat = [{"role": "user", "content": content}]
        text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _answer(self, text: str) -> tuple[int, ...]:
        """Ids of an answer and the end of the turn."""
        return (*self.tokenizer(text, add_special_tokens=False).input_ids, TURN_END)

    def expand(self, prompt: tuple[int, ...], lengths: list[int]) -> list[int]:
        """The prompt with every media marker replaced by its begin, soft and end tokens."""
        ids, counts = [], iter(lengths)
        for token in prompt:
            ids += [token - 1, *[token] * next(counts), token + 1] if token in (IMAGE, AUDIO) else [token]
        return ids

    def chat(self, parts: tuple[str, ...], answer: str, lengths: list[int], **media: list) -> Row:
        """A row that asks with `parts` and is judged on the answer alone."""
        ids = self.expand(self.prompt(parts), lengths)
        reply = self.answer(answer)
        return Row(ids + list(reply), [IGNORED] * len(ids) + list(reply), **media)

    def pick(self, choices: list[str]) -> str:
        """One of the choices."""
        return choices[self.random.integers(len(choices))]

    def next_image(self) -> int:
        """Index of the next training image; every image once before any twice."""
        if not self.order:
            self.order = self.random.permutation(len(self.labels)).tolist()
        return self.order.pop()

    def image(self) -> Row:
        """One image and a question before or after it."""
        index, question = self.next_image(), self.pick(IMAGE_QUESTIONS)
        parts = ("image", question) if self.random.random() < 0.8 else (question, "image")
        return self.chat(parts, CLASSES[self.labels[index]], [SOFT], images=[index])

    def pair(self) -> Row:
        """Two images, and one or both asked for."""
        both = [self.next_image(), self.next_image()]
        names = [CLASSES[self.labels[index]] for index in both]
        which = self.random.integers(4)
        question = self.pick(PAIR_QUESTIONS) if which > 1 else NTH_QUESTIONS[which]
        answer = " and ".join(names) if which > 1 else names[which]
        return self.chat(("image", "image", question), answer, [SOFT] * 2, images=both)

    def digits(self) -> Row:
        """One spoken digit, sometimes two or three in a row."""
        count = 1 if self.random.random() < 0.7 else int(self.random.integers(2, 4))
        chosen = self.random.integers(len(self.clips.digits), size=count)
        clip = np.concatenate([self.clips.clip(index) for index in chosen])[: 50 * 640]
        sound = frames(disturbed(clip, self.random))
        question = self.pick(DIGIT_QUESTIONS) if count == 1 else DIGITS_QUESTION
        answer = " ".join(DIGITS[self.clips.digits[index]] for index in chosen)
        return self.chat(("audio", question), answer, [len(sound)], frames=[sound])

    def audio(self, length: int) -> Row:
        """As many turns about spoken digits as fit."""
        row = self.digits()
        while len(row.ids) + len((more := self.digits()).ids) < length:
            row.ids += [*self.newline, *more.ids[1:]]
            row.labels += [IGNORED] * len(self.newline) + more.labels[1:]
            row.frames += more.frames
        return row

    def words(self, length: int) -> Row:
        """Running text; every eighth row asks to continue a passage."""
        start = self.random.integers(len(self.text) - length)
        piece = self.text[start : start + length].tolist()
        if self.random.random() < 1 / 8:
            cut = int(self.random.integers(24, 64))
            marker = self.prompt((CONTINUE + "#",))
            place = marker.index(self.tokenizer.convert_tokens_to_ids("#"))
            chat = [*marker[:place], *piece[:cut], *marker[place + 1 :], *piece[cut:]]
            piece = [*chat[: length - 1], TURN_END]
            return Row(piece, piece)
        piece = [2, *piece[: length - 1]]
        return Row(piece, piece)


def collate(rows: list[Row], length: int) -> Batch:
    """Rows padded on the right with <pad>; nothing attends to what follows, so no padding mask is needed."""
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORED)
    for place, row in enumerate(rows):
        if len(row.ids) > length:
            raise ValueError(f"a row of {len(row.ids)} tokens does not fit in {length}")
        ids[place, : len(row.ids)] = torch.tensor(row.ids)
        labels[place, : len(row.ids)] = torch.tensor(row.labels)
    sound = [torch.from_numpy(piece) for row in rows for piece in row.frames]
    images = [index for row in rows for index in row.images]
    return Batch(ids, labels, images, torch.cat([torch.zeros(0, FRAME), *sound]))


def sliding_mask(ids: Tensor) -> Tensor:
    """bool[b, 1, l, l], what generate() uses in sliding layers: inside the window, and causal or in the same image."""
    length = ids.shape[1]
    place = torch.arange(length)
    image = ids == IMAGE
    starts = image & ~torch.nn.functional.pad(image, (1, 0))[:, :-1]
    block = torch.where(image, starts.cumsum(1), -1)
    same = (block[:, :, None] == block[:, None, :]) & image[:, :, None]
    near = place[:, None] - place[None, :] < WINDOW
    return ((same | (place[None, :] <= place[:, None])) & near)[:, None]
