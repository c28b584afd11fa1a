"""What a model reads while its quantization is calibrated: text, images and clips of a folder."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.config import Model
from export.facts import tokens
from runtime.errors import UserError
from runtime.prompt import Prompter, user
from runtime.sessions.base import ModelInputs
from runtime.untrusted import read_bytes

DEFAULT = Path(__file__).parent / "default"
MEDIA = Path(__file__).parents[1] / "media"  # of the default set
LENGTH = 512  # tokens of a piece of text
PIECES = 32
MEDIA_FILES = 16  # of each kind
SEED = 0
TEXTS, IMAGES, CLIPS = (".txt", ".md"), (".png", ".jpg", ".jpeg", ".webp"), (".wav", ".flac")
ABOUT_IMAGE, ABOUT_CLIP = "What is shown?", "What is said?"
NAME_ANOTHER = "name another folder with --calibration"


@dataclass(frozen=True)
class Corpus:
    """Files of a folder that calibration reads."""

    texts: Sequence[Path]
    images: Sequence[Path]
    clips: Sequence[Path]

    @property
    def fingerprint(self) -> str:
        """sha256 of all that decides which sequences come out."""
        digest = hashlib.sha256(f"{LENGTH} {PIECES} {MEDIA_FILES} {SEED}".encode())
        for path in (*self.texts, *self.images, *self.clips):
            digest.update(hashlib.sha256(read_bytes(path, NAME_ANOTHER)).digest())
        return digest.hexdigest()

    def sequences(self, model: Model, checkpoint: Path) -> list[ModelInputs]:
        """Text in pieces of LENGTH that begin with BOS, chosen by SEED, and a question about each image and clip.

        Raises:
            UserError: too little text, unreadable media, or a checkpoint without tokenizer.
        """
        prompter = Prompter(checkpoint)
        return [
            *(ModelInputs(piece) for piece in self._pieces(prompter, tokens(checkpoint).bos)),
            *(prompter(user(ABOUT_IMAGE, images=[str(path)])).inputs for path in self.images if model.image),
            *(prompter(user(ABOUT_CLIP, clips=[str(path)])).inputs for path in self.clips if model.audio),
        ]

    def _pieces(self, prompter: Prompter, bos: int) -> Iterator[NDArray[np.int64]]:
        """None spans two files."""
        texts = [prompter.encode(read_text(path)) for path in self.texts]
        starts = [(text, at) for text in texts for at in range(0, len(text) - LENGTH + 2, LENGTH - 1)]
        if not starts:
            raise UserError(f"{self.texts[0].parent} holds less than {LENGTH} tokens of text: {NAME_ANOTHER}")
        chosen = np.random.default_rng(SEED).permutation(len(starts))[:PIECES]
        for text, at in (starts[index] for index in sorted(chosen)):
            yield np.array([bos, *text[at : at + LENGTH - 1]])


def open_corpus(folder: Path | None) -> Corpus:
    """
    Args:
        folder: None: the default set.

    Raises:
        UserError: no text there.
    """
    if folder is None:
        return Corpus(_files(DEFAULT, TEXTS), _files(MEDIA, IMAGES), _files(MEDIA, CLIPS))
    if not (texts := _files(folder, TEXTS)):
        raise UserError(f"{folder} has no .txt or .md file: {NAME_ANOTHER}")
    return Corpus(texts, _files(folder, IMAGES)[:MEDIA_FILES], _files(folder, CLIPS)[:MEDIA_FILES])


def _files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())


def read_text(path: Path) -> str:
    """Raises:
    UserError: it is not UTF-8.
    """
    try:
        return read_bytes(path, NAME_ANOTHER).decode()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8: convert it with iconv") from None
