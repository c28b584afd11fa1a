"""Writes the small held-out set that ships with the checkpoint, and the example media."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from export.tiny import data
from export.tiny.samples import DIGIT_QUESTIONS, IMAGE_QUESTIONS
from export.tiny.speech import DIGITS, Clips, write

COLUMNS, IMAGES, CLIPS, CHARACTERS = 10, 100, 60, 1900
LICENCES = {
    "images": "Fashion-MNIST test split, MIT, Copyright 2017 Zalando SE",
    "audio": "synthetic, spoken by espeak-ng in voices that training never used",
    "text": "Brown Corpus, documents kept out of training; redistribution permitted by its copyright holder",
}


def sprites(images: np.ndarray) -> Image.Image:
    """One grey picture of 28-pixel tiles, row by row."""
    rows = images.reshape(-1, COLUMNS, 28, 28).transpose(0, 2, 1, 3)
    return Image.fromarray(rows.reshape(-1, COLUMNS * 28))


def balanced(labels: np.ndarray, count: int) -> np.ndarray:
    """Indices of `count` samples, equally many of each of ten labels, in an order that mixes them."""
    return np.stack([np.flatnonzero(labels == label)[: count // 10] for label in range(10)], axis=1).ravel()


def write_images(folder: Path, images: np.ndarray, labels: np.ndarray) -> dict[str, object]:
    """images.png and its description."""
    chosen = balanced(labels, IMAGES)
    sprites(images[chosen]).save(folder / "images.png", optimize=True)
    answers = [data.CLASSES[label] for label in labels[chosen]]
    return {"file": "images.png", "tile": 28, "columns": COLUMNS, "question": IMAGE_QUESTIONS[0],
            "choices": data.CLASSES, "answers": answers}  # fmt: skip


def write_clips(folder: Path, clips: Clips) -> dict[str, object]:
    """digits/*.flac and their description; every digit and every held-out variant occurs."""
    (folder / "digits").mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(0).permutation(len(clips.digits))
    chosen = order[balanced(clips.digits[order], CLIPS)]
    listed = []
    for place, index in enumerate(chosen):
        name = f"digits/{place:02d}.flac"
        write(folder / name, clips.clip(index))
        listed.append({"file": name, "answer": DIGITS[clips.digits[index]], "voice": clips.voices[index]})
    return {"question": DIGIT_QUESTIONS[0], "choices": DIGITS, "clips": listed}


def write_text(folder: Path, documents: dict[str, str]) -> dict[str, object]:
    """text.txt: the opening of every held-out document, an empty line between them."""
    parts = [documents[name][:CHARACTERS].rsplit(" ", 1)[0] for name in data.HELD_OUT_DOCUMENTS]
    (folder / "text.txt").write_text("\n\n".join(parts) + "\n")
    return {"file": "text.txt", "documents": data.HELD_OUT_DOCUMENTS}


def write_heldout(
    folder: Path, images: np.ndarray, labels: np.ndarray, clips: Clips, documents: dict[str, str]
) -> None:
    """The whole set: heldout.json names files, questions, choices and answers."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {
        "scoring": "greedy generation after the chat template; right when the text up to <turn|> equals the answer",
        "licences": LICENCES,
        "images": write_images(folder, images, labels),
        "audio": write_clips(folder, clips),
        "text": write_text(folder, documents),
    }
    (folder / "heldout.json").write_text(json.dumps(described, indent=1) + "\n")


def write_media(folder: Path, images: np.ndarray, labels: np.ndarray, clips: Clips) -> None:
    """Examples: a small square, a wide one in colour, and two spoken digits."""
    folder.mkdir(parents=True, exist_ok=True)
    bag, boot, dress = (images[np.flatnonzero(labels == label)[20]] for label in (8, 9, 3))
    Image.fromarray(boot).save(folder / "boot.png")
    mixed = Image.fromarray(np.stack([bag, boot, dress], axis=-1))  # unlike channels: a swap of them shows
    mixed.resize((300, 200), Image.Resampling.BICUBIC).save(folder / "colours.png", optimize=True)
    for digit in (3, 7):
        index = int(np.flatnonzero(clips.digits == digit)[digit])
        write(folder / f"{DIGITS[digit]}.wav", clips.clip(index))
