"""Pictures, and the patches that the checkpoint's processor makes of them."""

from base64 import b64encode
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime.prompt import user
from tests.vectors.tiny import prompter

SIZES = {"as it is": (480, 336), "smaller": (40, 30), "larger": (700, 420), "tall": (90, 400), "wide": (900, 60)}


def images() -> dict[str, Any]:
    return {
        "about": "RGB bytes by rows, in base64 -> bytes of patches before they are rescaled to 0..1, and cells [x, y]."
        " A byte may differ by one: torchvision rounds the weights of its filter.",
        "cases": [_case(name, *size) for name, size in SIZES.items()],
    }


def _case(name: str, width: int, height: int) -> dict[str, Any]:
    pixels = _picture(width, height)
    text = prompter().render(user("What?", images=["picture.png"]))
    inputs = prompter().process(text, images=[Image.fromarray(pixels)])
    assert inputs.pixel_values is not None and inputs.image_position_ids is not None
    cells = inputs.image_position_ids[0]
    kept = (cells >= 0).all(-1)
    patches = np.round(inputs.pixel_values[0][kept] * 255).astype(np.uint8)
    return {"name": name, "width": width, "height": height, "pixels": _base64(pixels), "budget": _budget(),
            "patches": _base64(patches), "cells": cells[kept].tolist()}  # fmt: skip


def _picture(width: int, height: int) -> NDArray[np.uint8]:
    """[height, width, 3]: slopes, edges and some noise."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(width).integers(0, 30, (height, width))
    return np.stack([x * 255 // width, (x // 7 + y // 5) % 2 * 200 + 20, y * 200 // height + noise], -1).astype(
        np.uint8
    )


def _budget() -> int:
    return int(prompter().processor.image_processor.max_soft_tokens)


def _base64(array: NDArray[np.uint8]) -> str:
    return b64encode(array.tobytes()).decode()
