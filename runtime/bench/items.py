"""What every engine is given, the same for all: prompts of so many tokens, an image, a clip."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from runtime import goldens
from runtime.bench.result import Work
from runtime.manifest import Manifest, Tokens
from runtime.prompt import Prompter, user
from runtime.sessions.base import ModelInputs

FIRST, KINDS = 200, 1024  # token that prompts begin with, and how many different ones they have
SECONDS, SIDE = 5, 480  # of a made clip; pixels of a made image, which the processor resizes
MEDIA: tuple[Literal["image", "audio"], ...] = "image", "audio"


@dataclass(frozen=True)
class Item:
    """One piece of work."""

    kind: Literal["text", "image", "audio"]
    inputs: ModelInputs
    tokens: tuple[int, ...] = ()  # decoded behind it

    @property
    def length(self) -> int:
        """Positions."""
        return len(self.inputs.input_ids)


def make_items(bundle: Path, manifest: Manifest, work: Work) -> list[Item]:
    """Prompts by length, then an image and a clip where the model takes them and the context has room."""
    ids = plain_tokens(manifest)
    decoded = tuple(int(token) for token in np.resize(ids, work.tokens))
    texts = [Item("text", ModelInputs(np.resize(ids, length)), decoded if length in work.contexts else ())
             for length in work.lengths]  # fmt: skip
    media = [Item(kind, inputs) for kind, inputs in _media(bundle, manifest)]
    return texts + [item for item in media if item.length < manifest.limits.context]


def plain_tokens(manifest: Manifest) -> NDArray[np.int64]:
    """Ids that stand for nothing but text: speed does not depend on what is said."""
    rows = next(tensor.shape[0] for tensor in manifest.tensors if tensor.name.endswith("embed_tokens.weight"))
    first = min(FIRST, rows // 2)
    return np.setdiff1d(np.arange(first, min(first + KINDS, rows)), special_tokens(manifest.tokens))


def special_tokens(tokens: Tokens) -> list[int]:
    values = tokens.model_dump().values()
    return [id_ for value in values for id_ in (value if isinstance(value, list) else [value]) if id_ is not None]


def soft_tokens(item: Item, tokens: Tokens) -> int:
    """Positions that an image or a clip takes itself."""
    placeholder = tokens.image if item.kind == "image" else tokens.audio
    return int((item.inputs.input_ids == placeholder).sum())


def _media(bundle: Path, manifest: Manifest) -> Iterator[tuple[Literal["image", "audio"], ModelInputs]]:
    """Of the first golden of each kind, or noise that the checkpoint's processor took."""
    limits = {"image": manifest.limits.image_soft_tokens, "audio": manifest.limits.audio_soft_tokens}
    for kind in MEDIA:
        golden = next((entry for entry in manifest.goldens if entry.modality == kind), None)
        if golden:
            yield kind, goldens.read(golden, bundle).inputs
        elif limits[kind]:
            yield kind, _made(bundle, kind)


def _made(bundle: Path, kind: Literal["image", "audio"]) -> ModelInputs:
    prompter, noise = Prompter(bundle), np.random.default_rng(0)
    text = prompter.render(user("What is there?", **{"images" if kind == "image" else "clips": ["made"]}))
    media: dict[str, Any]
    if kind == "image":
        from PIL import Image

        media = {"images": [Image.fromarray(noise.integers(0, 256, (SIDE, SIDE, 3), np.uint8))]}
    else:
        media = {"clips": [noise.uniform(-0.1, 0.1, SECONDS * prompter.sampling_rate).astype(np.float32)]}
    return prompter.process(text, **media)
