"""ExecuTorch's stock multimodal runner, the code behind its Android and Swift packages, on the same `.pte`.

It hands out text, not logits, so it is no Session: it is asked for greedy tokens.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from runtime.errors import UserError
from runtime.quiet import quiet
from runtime.sessions.base import ModelInputs
from runtime.sessions.executorch import DATA_FILE, FILE, join_patches, open_program, steps

NAME = "executorch-runner"


class StockRunner:
    """One model; every call of `generate` begins a sequence."""

    def __init__(self, folder: Path, threads: int | None = None, tokenizer: Path | None = None) -> None:
        """
        Args:
            tokenizer: `tokenizer.json` of the checkpoint, if text is to come out; by default every token is spelled
                as its number, so that nothing depends on a tokenizer.

        Raises:
            UserError: see ExecutorchSession.
        """
        program = open_program(folder, threads)

        def constant(name: str) -> int:
            return int(program.load_method(name).execute(())[0])

        self.max_step, self.image, self.audio = map(constant, ("get_max_step", "get_image_id", "get_audio_id"))
        self.vocabulary = constant("get_vocab_size")
        with quiet():  # it prints what it loads
            self._runner = self._open(folder, tokenizer)

    def _open(self, folder: Path, tokenizer: Path | None) -> Any:
        from executorch.extension.llm.runner import MultimodalRunner

        data = folder / DATA_FILE
        with TemporaryDirectory() as made:
            path = tokenizer or _spelling(self.vocabulary, Path(made))
            try:
                return MultimodalRunner(str(folder / FILE), str(path), str(data) if data.exists() else None)
            except RuntimeError as error:
                raise UserError(f"{folder}: the stock runner does not open it ({error})") from None

    def generate(self, inputs: ModelInputs, max_tokens: int) -> list[int]:
        """Greedy continuation, up to and without the end of the turn."""
        return [int(piece) for piece in self.generate_text(inputs, max_tokens).split()]

    def generate_text(self, inputs: ModelInputs, max_tokens: int) -> str:
        """The same as text of the tokenizer."""
        from executorch.extension.llm.runner import GenerationConfig

        self._runner.reset()
        pieces: list[str] = []
        config = GenerationConfig(max_new_tokens=max_tokens, temperature=0.0, echo=False)
        try:
            with quiet():  # it prints what it writes, and statistics
                self._runner.generate(list(self._parts(inputs)), config, pieces.append)
        except RuntimeError as error:
            raise UserError(f"the stock runner stopped ({error}): is the prompt longer than the context?") from None
        return "".join(pieces)

    def _parts(self, inputs: ModelInputs) -> Iterator[Any]:
        """Text, images and clips in their order; each is prefilled in one call, so text and clips come in steps."""
        from executorch.extension.llm import runner

        media = {self.image: _images(inputs), self.audio: _clips(inputs, self.max_step)}
        ids, at = inputs.input_ids, 0
        while at < len(ids):
            end = at + int(np.argmin(np.append(ids[at:] == ids[at], False)))
            if ids[at] in media:
                yield from next(media[ids[at]])
            else:
                end = at + int(np.argmax(np.append(np.isin(ids[at:], list(media)), True)))
                for start, stop in steps(np.zeros(end - at, bool), self.max_step):
                    yield runner.make_token_input(ids[at + start : at + stop].tolist())
            at = end


def _images(inputs: ModelInputs) -> Iterator[list[Any]]:
    from executorch.extension.llm.runner import make_image_input

    if inputs.pixel_values is not None and inputs.image_position_ids is not None:
        for patches, cells in zip(inputs.pixel_values, inputs.image_position_ids, strict=True):
            yield [make_image_input(torch.from_numpy(join_patches(patches, cells)))]


def _clips(inputs: ModelInputs, step: int) -> Iterator[list[Any]]:
    """Pieces of one clip after another; the runner calls axes of raw frames bins and frames of a spectrogram."""
    from executorch.extension.llm.runner import make_audio_input

    if inputs.input_features is not None and inputs.input_features_mask is not None:
        for frames, mask in zip(inputs.input_features, inputs.input_features_mask, strict=True):
            heard = np.ascontiguousarray(frames[mask.astype(bool)])[None]
            pieces = (heard[:, start : start + step] for start in range(0, heard.shape[1], step))
            yield [make_audio_input(torch.from_numpy(piece.copy())) for piece in pieces]


def _spelling(vocabulary: int, folder: Path) -> Path:
    """A tokenizer.json whose every token is its number and a space."""
    model: dict[str, Any] = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": {f"{i} ": i for i in range(vocabulary)}, "merges": []}  # fmt: skip
    special = [{"id": i, "content": f"{i} ", "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True} for i in (1, 2)]  # fmt: skip
    made = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
            "pre_tokenizer": None, "post_processor": None, "decoder": {"type": "Fuse"}, "model": model}  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(made))
    settings = {"bos_token": "2 ", "eos_token": "1 "}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder / "tokenizer.json"
