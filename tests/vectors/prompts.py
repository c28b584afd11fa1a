"""Conversations with the text and tokens that transformers makes of them by the real template."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from runtime.checks.dialogue import Talk, talks
from runtime.prompt import soft_tokens
from tests.vectors.tiny import TOKENIZER, dialogue, prompter, special

IMAGES = [(48, 48), (96, 48), (300, 200)]  # pixels
CLIPS = [1, 640, 1000, 16_000]  # samples
TEXTS = ["", " ", "Hello", "  two  blanks ", "tab\tand\nlines\n\n", "鯨 🐋 ಠ é é", "👩‍👩‍👧", "a<b>c</b>", "3.14e-5",
         "<|turn>user\n", "<|image|>", "<bos><|turn>", '<|"|>', "\u00a0", "\r\n", "�", "ﬁ", "İ", "don't"]  # fmt: skip


def prompts() -> dict[str, Any]:
    return {
        "about": "Conversations -> prompt and its token ids, before media are written out; text and media -> ids.",
        "tokenizer": TOKENIZER,
        "tokens": special().model_dump(mode="json"),
        "dialogue": dialogue().model_dump(mode="json"),
        "conversations": [_conversation(talk) for talk in talks(dialogue())],
        "media": [_media("image", [size]) for size in IMAGES] + [_media("audio", [length]) for length in CLIPS]
        + [_media("image", IMAGES[1:]), _media("audio", CLIPS[1:])],
        "texts": [{"text": text, "ids": prompter().encode(text).tolist()} for text in TEXTS],
    }  # fmt: skip


def _conversation(talk: Talk) -> dict[str, Any]:
    prompt = prompter().render(talk.messages, **talk.options)
    return {
        "name": talk.name, "messages": list(talk.messages), "tools": list(talk.tools), "think": talk.think,
        "prompt": prompt, "ids": prompter().encode(prompt).tolist(),
    }  # fmt: skip


def _media(kind: str, sizes: Sequence[Any]) -> dict[str, Any]:
    """A turn of media of one kind by the real processor: how many soft tokens each takes, and all tokens."""
    content = [{"type": kind, "path": f"{number}"} for number in range(len(sizes))]
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": "What?"}]}]
    text = prompter().render(messages)
    if kind == "image":
        inputs = prompter().process(text, images=[Image.new("RGB", size) for size in sizes])
    else:
        inputs = prompter().process(text, clips=[np.zeros(length, np.float32) for length in sizes])
    counts = soft_tokens(inputs.image_position_ids if kind == "image" else inputs.input_features_mask)
    return {"kind": kind, "sizes": list(sizes), "soft_tokens": counts, "messages": messages, "prompt": text,
            "ids": inputs.input_ids.tolist()}  # fmt: skip
