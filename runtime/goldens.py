"""Goldens: prompts with what the quantized reference makes of them, so that any machine or phone can repeat a check.

`goldens/<name>.json` is plain: name, modality, messages (media as file names beside it), the rendered text, the greedy
tokens and how far apart the two largest logits were at each. `goldens/<name>.safetensors` holds the inputs by their
names in `ModelInputs`, and `top_ids` int64 and `top_logits` float32 [steps, k], largest first: step 0 follows the
prompt, step i the token i - 1. Greedy tokens leave out the suppressed ids, as generate() does; top logits do not.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from runtime import manifest, metrics
from runtime.errors import UserError, first_line
from runtime.greedy import Greedy, choose, suppress
from runtime.prompt import KINDS, Message, Prompter, Rendered, media_paths, user, with_paths
from runtime.references import Reference
from runtime.sessions.base import Logits, ModelInputs, Session
from runtime.untrusted import read_object, require_file, require_inside

AGAIN = "export the bundle again"
FOLDER = "goldens"
TOP = 16  # logits kept of each step
Modality = Literal["text", "image", "audio", "long"]
STEPS: dict[manifest.ReferenceKind, int] = {  # tokens generated, unless the turn ends before
    "whole": 32,
    "streamed": 8,  # each is a pass over all weights
}


@dataclass(frozen=True)
class GoldenPrompt:
    """What to record."""

    name: str
    modality: Modality
    messages: Sequence[Message]  # media paths as they lie on this machine


@dataclass(frozen=True)
class Golden:
    """What was recorded."""

    name: str
    modality: Modality
    messages: Sequence[Message]  # media paths relative to the folder of goldens
    text: str
    inputs: ModelInputs
    tokens: list[int]  # greedy, [steps]
    gaps: list[float]  # [steps], the largest logit less the second largest, suppressed ones left out
    top_ids: NDArray[np.int64]  # [steps, k]
    top_logits: NDArray[np.float32]  # [steps, k]


@dataclass(frozen=True)
class Comparison:
    """An engine on a golden, fed the golden's tokens."""

    greedy: metrics.GreedyMatch
    kl: NDArray[np.float64]  # [steps], nats, over the recorded top logits
    rms: float  # of the recorded top logits, relative
    largest: float  # difference of a recorded logit


def default_prompts(
    window: int, images: Sequence[Path] = (), clips: Sequence[Path] = (),
    about_image: str = "What is shown?", about_clip: str = "What is said?",
) -> list[GoldenPrompt]:  # fmt: skip
    """Text, each image, each clip, and a prompt longer than a sliding window of so many positions.

    Images should be one that the processor need not resize, and one that it must.
    """
    log = " ".join(_log_book(window))
    return [
        GoldenPrompt("text", "text", user("Continue: It was late in the evening when the old man came to the sea")),
        *(GoldenPrompt(f"image-{path.stem}", "image", user(about_image, images=[str(path)])) for path in images),
        *(GoldenPrompt(f"audio-{path.stem}", "audio", user(about_clip, clips=[str(path)])) for path in clips),
        GoldenPrompt("long", "long", user(f"Continue: {log}")),
    ]


def _log_book(words: int) -> Iterator[str]:
    """Sentences of at least so many words, each at least a token; no two are alike."""
    winds = "north", "east", "south", "west"
    for day in range(1, words // 12 + 2):
        yield f"Day {day}: wind from the {winds[day % 4]}, {day * 7 % 23} birds seen, {day * 31 % 97} miles sailed."


# Recording


def record(
    prompts: Sequence[GoldenPrompt], folder: Path, prompter: Prompter, reference: Reference, tokens: manifest.Tokens,
    steps: int, kind: manifest.ReferenceKind = "whole",
) -> list[manifest.Golden]:  # fmt: skip
    """Runs the prompts and writes `folder`/goldens with copies of their media.

    Args:
        folder: of the bundle.
        reference: of the quantized checkpoint.
        tokens: of the bundle's manifest; its `suppress` and `eos` apply.
        steps: largest number of tokens of each.
        kind: of the reference.
    """
    (folder / FOLDER).mkdir(exist_ok=True)
    messages = [_copy_media(prompt.messages, folder / FOLDER) for prompt in prompts]
    rendered = [prompter(some, folder / FOLDER) for some in messages]
    texts = reference.generate([one.inputs for one in rendered], tokens, steps)
    goldens = [_golden(*parts, tokens) for parts in zip(prompts, messages, rendered, texts, strict=True)]
    return [write(golden, folder, kind) for golden in goldens]


def _golden(
    prompt: GoldenPrompt, messages: list[Message], rendered: Rendered, text: Greedy, tokens: manifest.Tokens
) -> Golden:
    ids, values = metrics.top_k(text.logits, TOP)
    gaps = metrics.top_gaps(suppress(text.logits, tokens.suppress)).tolist()
    return Golden(
        prompt.name, prompt.modality, messages, rendered.text, rendered.inputs, text.chosen, gaps, ids, values
    )


def _copy_media(messages: Sequence[Message], folder: Path) -> list[Message]:
    """The messages with file names in place of paths, and the files beside each other."""
    for path in (Path(path) for kind in KINDS for path in media_paths(messages, kind)):
        shutil.copyfile(path, folder / path.name)
    return with_paths(messages, lambda path: Path(path).name)


# Files


def write(golden: Golden, folder: Path, reference: manifest.ReferenceKind = "whole") -> manifest.Golden:
    """Both files; returns their entry in the manifest.

    Raises:
        UserError: the disk is full.
    """
    facts = {"name": golden.name, "modality": golden.modality, "messages": golden.messages, "text": golden.text,
             "tokens": golden.tokens, "gaps": [round(gap, 4) for gap in golden.gaps]}  # fmt: skip
    entry = manifest.Golden(
        name=golden.name, modality=golden.modality,
        file=f"{FOLDER}/{golden.name}.json", tensors=f"{FOLDER}/{golden.name}.safetensors",
        reference=reference,
    )  # fmt: skip
    lines = (f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in facts.items())
    (folder / entry.file).write_text("{\n" + ",\n".join(lines) + "\n}\n")
    tensors = golden.inputs.arrays() | {"top_ids": golden.top_ids, "top_logits": golden.top_logits}
    _save(tensors, folder / entry.tensors)
    return entry


def _save(tensors: dict[str, NDArray], path: Path) -> None:
    try:
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise UserError(f"{path} cannot be written ({first_line(error)}): make room on its disk, and {AGAIN}") from None


def read(entry: manifest.Golden, folder: Path) -> Golden:
    """From the bundle in `folder`.

    Raises:
        UserError: a file is missing or damaged, or its media lie elsewhere.
    """
    facts = read_object(folder / entry.file, AGAIN)
    require_file(folder / entry.tensors, AGAIN)
    try:
        for name in (name for kind in ("image", "audio") for name in media_paths(facts["messages"], kind)):
            require_inside(folder / FOLDER, name, AGAIN)
        tensors = load_file(folder / entry.tensors)
        top_ids, top_logits = tensors.pop("top_ids"), tensors.pop("top_logits")
        return Golden(**facts, inputs=ModelInputs(**tensors), top_ids=top_ids, top_logits=top_logits)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(f"{folder / entry.file}: not a readable golden ({first_line(error)}); {AGAIN}") from None


# Comparing


def compare(golden: Golden, session: Session, suppressed: Sequence[int], near_tie: float) -> Comparison:
    """Runs an engine on the golden's inputs and tokens.

    Args:
        near_tie: logits; a token may differ where the reference's top two were closer.
    """
    session.reset()
    logits = [session.prefill(golden.inputs), *(session.decode(token) for token in golden.tokens[:-1])]
    return judge(golden, logits, suppressed, near_tie)


def judge(golden: Golden, logits: Sequence[Logits], suppressed: Sequence[int], near_tie: float) -> Comparison:
    """Logits before each of the golden's tokens."""
    found = np.stack([step[ids] for step, ids in zip(logits, golden.top_ids, strict=True)])
    chosen = [choose(step, suppressed) for step in logits]
    return Comparison(
        greedy=metrics.compare_forced(golden.tokens, chosen, golden.gaps, near_tie),
        kl=metrics.kl_divergence(golden.top_logits, found),
        rms=metrics.relative_rms(golden.top_logits, found),
        largest=metrics.largest_difference(golden.top_logits, found),
    )
