"""Held-out data that a model is judged on: running text, and questions about images and clips with known answers.

`heldout.json` in a folder describes it: `text.file` holds documents with empty lines between them; `images.file` is one
picture of square tiles, row by row, with an answer for each; `audio.clips` lists sound files with their answers.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import UserError, first_line
from runtime.prompt import read_audio, read_image
from runtime.untrusted import read_bytes, read_json, require_inside

AGAIN = "name another folder with --evaluation"
FILE = "heldout.json"


@dataclass(frozen=True)
class Question:
    """Something to be answered in so many words."""

    text: str
    answer: str
    medium: Any  # a PIL image, or samples float32 [n]


@dataclass(frozen=True)
class Evaluation:
    """Everything decoded; it is small."""

    texts: list[str]
    images: list[Question]
    clips: list[Question]


def read_evaluation(folder: Path, rate: int) -> Evaluation:
    """
    Args:
        rate: Hz of the clips.

    Raises:
        UserError: no held-out data there.
    """
    facts = read_json(folder / FILE, AGAIN)
    try:
        path = require_inside(folder, facts["text"]["file"], AGAIN)
        texts = read_bytes(path, AGAIN).decode().strip().split("\n\n")
        return Evaluation(texts, _images(folder, facts["images"]), _clips(folder, facts["audio"], rate))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        reason = f"not readable held-out data ({first_line(error)}); {AGAIN}"
        raise UserError(f"{folder / FILE}: {reason}") from None


def _images(folder: Path, facts: dict[str, Any]) -> list[Question]:
    sheet, side, columns = read_image(require_inside(folder, facts["file"], AGAIN)), facts["tile"], facts["columns"]
    corners = [(i % columns * side, i // columns * side) for i in range(len(facts["answers"]))]
    tiles = (sheet.crop((x, y, x + side, y + side)) for x, y in corners)
    return [Question(facts["question"], answer, tile) for answer, tile in zip(facts["answers"], tiles, strict=True)]


def _clips(folder: Path, facts: dict[str, Any], rate: int) -> list[Question]:
    heard = ((clip["answer"], read_audio(require_inside(folder, clip["file"], AGAIN), rate)) for clip in facts["clips"])
    return [Question(facts["question"], answer, samples) for answer, samples in heard]
