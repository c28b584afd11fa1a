"""Measures a checkpoint on data it never saw, by the processor and generate(): image and digit accuracy, perplexity."""

import math
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from transformers import AutoProcessor, Gemma4UnifiedForConditionalGeneration, GenerationConfig, ProcessorMixin

from export.tiny import data
from export.tiny.samples import DIGIT_QUESTIONS, IMAGE_QUESTIONS
from export.tiny.speech import DIGITS, Clips

WINDOW, BATCH = 512, 40


@dataclass
class Measured:
    """Held-out results, with how much they rest on."""

    image_accuracy: float
    images: int
    digit_accuracy: float
    clips: int
    voices: int
    worst_variant: str
    worst_variant_accuracy: float
    perplexity: float
    bits_per_character: float
    text_tokens: int

    def as_dict(self) -> dict[str, float | int | str]:
        """For JSON."""
        return asdict(self)


class Judge:
    """A checkpoint's weights in float32, its processor, and greedy answers."""

    def __init__(self, folder: Path):
        self.model = Gemma4UnifiedForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor: ProcessorMixin = AutoProcessor.from_pretrained(folder)
        sampled = GenerationConfig.from_pretrained(folder)
        self.model.generation_config = GenerationConfig(  # generate() would fill gaps from the sampling one
            max_new_tokens=8, pad_token_id=0, eos_token_id=sampled.eos_token_id, suppress_tokens=sampled.suppress_tokens
        )

    def prompt(self, kind: str, question: str) -> str:
        """The chat text with one medium before the question."""
        chat = [{"role": "user", "content": [{"type": kind}, {"type": "text", "text": question}]}]
        return self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)

    def answers(self, count: int, kind: str, question: str, **media: list) -> list[str]:
        """Greedy answers to the same question about each medium; all prompts must be equally long."""
        text = [self.prompt(kind, question)] * count
        inputs = self.processor(text=text, add_special_tokens=False, return_tensors="pt", **media)
        made = self.model.generate(**inputs)
        replies = made[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(replies, skip_special_tokens=True)]

    def image_accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """The share of uint8[n, 28, 28] images named correctly."""
        right = 0
        for start in track(range(0, len(images), BATCH), "images"):
            pictures = [[Image.fromarray(image).convert("RGB")] for image in images[start : start + BATCH]]
            said = self.answers(len(pictures), "image", IMAGE_QUESTIONS[0], images=pictures)
            right += sum(text == data.CLASSES[label] for text, label in zip(said, labels[start:], strict=False))
        return right / len(images)

    def digits_right(self, clips: Clips) -> np.ndarray:
        """bool[n]: whether each clip's digit was named; clips of equal length go together."""
        lengths, right = defaultdict(list), np.zeros(len(clips.digits), bool)
        for index in range(len(clips.digits)):
            lengths[math.ceil(len(clips.clip(index)) / 640)].append(index)
        for same in track(lengths.values(), "digits"):
            for start in range(0, len(same), BATCH):
                chosen = same[start : start + BATCH]
                said = self.answers(
                    len(chosen), "audio", DIGIT_QUESTIONS[0], audio=[clips.clip(index) for index in chosen]
                )
                right[chosen] = [text == DIGITS[clips.digits[i]] for text, i in zip(said, chosen, strict=True)]
        return right

    @torch.no_grad()
    def surprise(self, text: str) -> tuple[float, int]:
        """(nats in all, tokens) of a text, in windows of 512 tokens that each begin with <bos>."""
        ids = self.processor.tokenizer(text, add_special_tokens=False).input_ids
        total = 0.0
        for start in range(0, len(ids), WINDOW - 1):
            window = torch.tensor([[2, *ids[start : start + WINDOW - 1]]])
            logits = self.model(input_ids=window).logits[0, :-1]
            total += torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum").item()
        return total, len(ids)


def by_variant(right: np.ndarray, voices: list[str]) -> tuple[str, float]:
    """The held-out voice variant that was understood worst."""
    groups = defaultdict(list)
    for hit, voice in zip(right, voices, strict=True):
        groups[voice.split("+")[1]].append(hit)
    return min(((name, float(np.mean(hits))) for name, hits in groups.items()), key=lambda pair: pair[1])


def measure(folder: Path, images: np.ndarray, labels: np.ndarray, clips: Clips, documents: dict[str, str]) -> Measured:
    """All held-out results of the checkpoint in `folder`."""
    judge = Judge(folder)
    image_accuracy = judge.image_accuracy(images, labels)
    right = judge.digits_right(clips)
    texts = [documents[name] for name in data.HELD_OUT_DOCUMENTS]
    nats, tokens = (sum(column) for column in zip(*(judge.surprise(text) for text in texts), strict=True))
    bits = nats / math.log(2) / sum(map(len, texts))
    return Measured(
        image_accuracy, len(images), float(right.mean()), len(right), len(set(clips.voices)),
        *by_variant(right, clips.voices), math.exp(nats / tokens), bits, int(tokens),
    )  # fmt: skip
