"""onnxruntime-genai on the same folder of ONNX graphs: what applications embed, with preprocessing of its own."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime_genai as og
from numpy.typing import NDArray

from runtime.errors import UserError
from runtime.sessions.base import Logits, ModelInputs
from runtime.sessions.onnx import AGAIN, read_config
from runtime.sessions.soft_tokens import frames_as_images
from runtime.untrusted import read_object

og.disable_telemetry_events()

PROCESSED = {  # fields of ModelInputs, as the engine's processor calls them
    "input_ids": "input_ids",
    "pixel_values": "pixel_values",
    "image_position_ids": "pixel_position_ids",
    "input_features": "audio_embeds",
    "input_features_mask": "audio_attention_mask",
}


class GenaiSession:
    """Session. Media are taken in the first prefill only: afterwards the engine drops their embedders."""

    name = "onnxruntime-genai"

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        """
        Args:
            threads: by default the engine's own choice.

        Raises:
            UserError: the folder holds no model.
        """
        settings = read_config(folder)
        self.context: int = settings["search"]["max_length"]
        self._image, self._video = map(settings["model"].get, ("image_token_id", "video_token_id"))
        self._model = og.Model(_engine_config(folder, threads))
        self._tokenizer = None if "embedding" in settings["model"] else og.Tokenizer(self._model)  # of a text model
        self._suppressed = _suppressed_tokens(folder)
        self.reset()

    def reset(self) -> None:
        self._generator = self._new_generator()
        self.position = 0

    def prefill(self, inputs: ModelInputs) -> Logits:
        self._expect_room(len(inputs.input_ids))
        inputs = frames_as_images(inputs, self._image, self._video)
        has_media = len(inputs.arrays()) > 1
        if has_media and self.position:
            raise UserError("onnxruntime-genai takes media in the first turn only: reset the session")
        if has_media:
            self._generator.set_inputs(_named_tensors(inputs))
        else:
            self._generator.append_tokens(inputs.input_ids.astype(np.int32))
        return self._logits()

    def decode(self, token: int) -> Logits:
        self._expect_room(1)
        self._generator.append_tokens(np.array([token], np.int32))
        return self._logits()

    def preprocess(self, prompt: str, images: Sequence[Path] = (), audio: Sequence[Path] = ()) -> ModelInputs:
        """What the engine's own processor makes of a rendered prompt, for comparison with the checkpoint's."""
        if self._tokenizer:
            return ModelInputs(self._tokenizer.encode(prompt).astype(np.int64))
        made = self._process(prompt, images, audio)
        arrays = {name: _array(made[theirs]) for name, theirs in PROCESSED.items() if theirs in made.keys()}  # noqa: SIM118
        arrays["input_ids"] = arrays["input_ids"].reshape(-1).astype(np.int64)
        return ModelInputs(**arrays)

    def generate(self, prompt: str, images: Sequence[Path] = (), audio: Sequence[Path] = (),
                 max_tokens: int = 64) -> list[int]:  # fmt: skip
        """Greedy continuation of a rendered prompt through the engine's own processor, tokenizer and search.

        The engine knows no suppressed tokens: they are struck out of its logits.
        """
        generator = self._new_generator()
        if self._tokenizer:
            generator.append_tokens(self._tokenizer.encode(prompt))
        else:
            generator.set_inputs(self._process(prompt, images, audio))
        tokens: list[int] = []
        while len(tokens) < max_tokens and not generator.is_done():
            self._suppress(generator)
            generator.generate_next_token()
            tokens.append(int(generator.get_next_tokens()[0]))
        return tokens

    def _new_generator(self) -> og.Generator:
        parameters = og.GeneratorParams(self._model)
        parameters.set_search_options(do_sample=False)
        return og.Generator(self._model, parameters)

    def _process(self, prompt: str, images: Sequence[Path], audio: Sequence[Path]) -> og.NamedTensors:
        media = {}
        if images:
            media["images"] = og.Images.open(*map(str, images))
        if audio:
            media["audios"] = og.Audios.open(*map(str, audio))
        return self._model.create_multimodal_processor()(prompt, **media)

    def _suppress(self, generator: og.Generator) -> None:
        if self._suppressed:
            logits = generator.get_logits().copy()
            logits[..., self._suppressed] = -np.inf
            generator.set_logits(logits)

    def _expect_room(self, count: int) -> None:
        if self.position + count > self.context:
            raise UserError(f"{self.position + count} positions do not fit the context of {self.context}: shorten the "
                            "prompt, or raise search.max_length in the folder's genai_config.json")  # fmt: skip

    def _logits(self) -> Logits:
        self.position = self._generator.token_count()
        return self._generator.get_logits().reshape(-1).copy()


def _engine_config(folder: Path, threads: int | None) -> og.Config:
    """The folder's own; the decoder's options count for all its graphs."""
    config = og.Config(str(folder))
    if threads:
        options = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
    return config


def _named_tensors(inputs: ModelInputs) -> og.NamedTensors:
    """Tensors by the names of the graphs' inputs, with the counts that the engine wants beside them."""
    arrays = inputs.arrays()
    arrays["input_ids"] = inputs.input_ids[None].astype(np.int32)
    if inputs.image_position_ids is not None:
        arrays["pixel_position_ids"] = arrays.pop("image_position_ids")
        arrays["num_image_tokens"] = _count(inputs.image_position_ids[..., 0] >= 0)
    if inputs.input_features_mask is not None:
        arrays["audio_sizes"] = _count(inputs.input_features_mask)
    tensors = og.NamedTensors()
    for name, array in arrays.items():
        tensors[name] = np.ascontiguousarray(array)
    return tensors


def _array(tensor: og.Tensor) -> NDArray:
    """A copy. The engine's int64 is C's `long long`, which it does not take back."""
    array = tensor.as_numpy()
    return array.astype(array.dtype.str)


def _count(valid: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Soft tokens of each image or clip."""
    return valid.sum(-1).astype(np.int64)


def _suppressed_tokens(folder: Path) -> list[int]:
    path = folder / "generation_config.json"
    return read_object(path, AGAIN).get("suppress_tokens") or [] if path.exists() else []
