"""Plain onnxruntime on a folder of ONNX graphs."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime import InferenceSession, OrtValue, SessionOptions

from runtime.errors import UserError
from runtime.sessions.base import Logits, ModelInputs
from runtime.sessions.onnx_exact import exact_graph
from runtime.sessions.soft_tokens import frames_as_images
from runtime.untrusted import read_object, require_inside

AGAIN = "name the ONNX folder of a bundle, or export it again"
CONFIG = "genai_config.json"
LONGEST_STEP = 512  # positions of a prefill that run at once, unless an image is longer
TYPES = {"tensor(float)": np.float32, "tensor(int8)": np.int8}


class OnnxSession:
    """Session. Caches are written in place; those of sliding layers have a fixed size."""

    name = "onnxruntime"

    def __init__(self, folder: Path, threads: int | None = None, exact: bool = False) -> None:
        """Opens the folder; with `exact`, activations of quantized linears stay fp32, on the very same weights.

        Raises:
            UserError: the folder holds no model.
        """
        self.folder = folder
        self._config = read_config(folder)
        self._options = _options(threads)
        self._decoder = self._open_exact(_options(threads)) if exact else self._open("decoder")
        # A look-up: idle threads of its own would only spin. A text model's decoder does it itself.
        self._embedding = self._open("embedding", _options(1)) if "embedding" in self._config["model"] else None
        self.context: int = self._config["search"]["max_length"]
        self._image, self._video = map(self._config["model"].get, ("image_token_id", "video_token_id"))
        self.reset()

    def reset(self) -> None:
        self.position = 0
        self._caches = {name: OrtValue.ortvalue_from_numpy(cache) for name, cache in self._empty_caches()}

    def rewind(self, position: int) -> bool:
        """See Rewindable. The engine moves rows of a sliding layer's cache once it is full; until then each has a place
        of its own."""
        if self._window_slots and self.position > self._window_slots:
            return False
        self.position = position
        return True

    @property
    def cache_bytes(self) -> dict[str, int]:
        """Of each cache, by the name of its input; memory that no position has reached is not yet taken."""
        return {name: cache.numpy().nbytes for name, cache in self._caches.items()}

    def prefill(self, inputs: ModelInputs) -> Logits:
        inputs = frames_as_images(inputs, self._image, self._video)
        return self._advance(inputs.input_ids, self._image_features(inputs), self._audio_features(inputs))

    def decode(self, token: int) -> Logits:
        return self._advance(np.array([token], np.int64), None, None)

    def encode(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """See Encoder.

        Raises:
            ValueError: there are neither.
        """
        for features in (self._image_features(inputs), self._audio_features(inputs)):
            if features is not None:
                return features
        raise ValueError("no image and no clip to encode")

    def _advance(self, ids: NDArray[np.int64], image: NDArray | None, audio: NDArray | None) -> Logits:
        end = self.position + len(ids)
        if end > self.context:
            raise UserError(f"{end} positions do not fit the context of {self.context}: shorten the prompt, "
                            f"or raise search.max_length in {self.folder}/genai_config.json")  # fmt: skip
        embeddings = self._embed(ids[None], image, audio)
        for start, stop in _steps(ids == self._image):
            logits = self._decode(ids[None, start:stop], embeddings[:, start:stop])
            self.position += stop - start
        return logits

    def _embed(self, ids: NDArray[np.int64], image: NDArray | None, audio: NDArray | None) -> NDArray[np.float32]:
        """[1, T] -> [1, T, hidden], or of nothing where the decoder takes ids alone"""
        if self._embedding is None:
            return np.zeros((*ids.shape, 0), np.float32)
        given = {"input_ids": ids, "image_features": image, "audio_features": audio}
        feeds = {port.name: _or_empty(given[port.name], port) for port in self._embedding.get_inputs()}
        return self._embedding.run(["inputs_embeds"], feeds)[0]

    def _decode(self, ids: NDArray[np.int64], embeddings: NDArray[np.float32]) -> Logits:
        """Each cache is bound as an input and as the output that follows it, so that it is extended in place."""
        binding = self._decoder.io_binding()
        end = self.position + ids.shape[1]
        step = {"input_ids": ids, "inputs_embeds": embeddings, "attention_mask": np.ones((1, end), np.int64),
                "position_ids": np.arange(self.position, end)[None]}  # fmt: skip
        for port in self._decoder.get_inputs():
            if port.name not in self._caches:
                binding.bind_cpu_input(port.name, step[port.name])
        for name, cache in self._caches.items():
            binding.bind_ortvalue_input(name, cache)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), cache)
        binding.bind_output("logits")
        self._decoder.run_with_iobinding(binding)
        return binding.get_outputs()[-1].numpy()[0, -1]

    def _image_features(self, inputs: ModelInputs) -> NDArray | None:
        if inputs.pixel_values is None:
            return None
        feeds = {"pixel_values": inputs.pixel_values, "pixel_position_ids": inputs.image_position_ids}
        return self._vision.run(["image_features"], feeds)[0]

    def _audio_features(self, inputs: ModelInputs) -> NDArray | None:
        if inputs.input_features is None:
            return None
        feeds = {"input_features": inputs.input_features, "input_features_mask": inputs.input_features_mask}
        return self._speech.run(["audio_features"], feeds)[0]

    @cached_property
    def _vision(self) -> InferenceSession:
        return self._open("vision")

    @cached_property
    def _speech(self) -> InferenceSession:
        return self._open("speech")

    def _open(self, part: str, options: SessionOptions | None = None) -> InferenceSession:
        if part not in self._config["model"]:
            raise UserError(f"{self.folder} has no {part} model: leave such media out of the prompt")
        path = self.folder / self._config["model"][part]["filename"]
        return InferenceSession(path, options or self._options, providers=["CPUExecutionProvider"], enable_fallback=0)

    def _open_exact(self, options: SessionOptions) -> InferenceSession:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(self.folder))
        graph = exact_graph(self.folder / self._config["model"]["decoder"]["filename"]).SerializeToString()
        return InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    @property
    def _window_slots(self) -> int:
        """Of a sliding layer's cache; 0 where there is none."""
        found = self._config["model"]["decoder"].get("sliding_window", {"window_size": 0, "cache_slack": 0})
        return found["window_size"] + found["cache_slack"]

    def _empty_caches(self) -> list[tuple[str, NDArray]]:
        slots = {"slots": self.context, "window_slots": min(self.context, self._window_slots)}
        ports = [port for port in self._decoder.get_inputs() if port.name.startswith("past_key_values")]
        shapes = [[slots.get(axis, axis) for axis in port.shape] for port in ports]
        return [(port.name, np.zeros(shape, TYPES[port.type])) for port, shape in zip(ports, shapes, strict=True)]


def _steps(vision: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Cuts a prompt into steps of bounded memory, none of them inside an image."""
    start = 0
    for at in range(1, len(vision)):
        if at - start >= LONGEST_STEP and not (vision[at] and vision[at - 1]):
            yield start, at
            start = at
    yield start, len(vision)


def read_config(folder: Path) -> dict[str, Any]:
    """What onnxruntime-genai reads of a folder.

    Raises:
        UserError: it is missing or damaged, or names a graph elsewhere.
    """
    path = folder / CONFIG
    found = read_object(path, AGAIN)
    try:
        names = [part["filename"] for part in found["model"].values() if isinstance(part, dict) and "filename" in part]
        context = found["search"]["max_length"]
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path} describes no model: {AGAIN}") from None
    for name in names:
        require_inside(folder, str(name), AGAIN)
    if not isinstance(context, int) or context <= 0:
        raise UserError(f"{path}: max_length is {context!r}, no number of positions: {AGAIN}")
    return found


def _options(threads: int | None) -> SessionOptions:
    options = SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    return options


def _or_empty(features: NDArray | None, port: onnxruntime.NodeArg) -> NDArray:
    """Soft tokens [n, hidden], or none of them."""
    return np.zeros((0, port.shape[-1]), np.float32) if features is None else features
