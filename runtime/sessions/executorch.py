"""ExecuTorch's own runtime on the methods of one `.pte`, called as its multimodal runner calls them."""

from contextlib import nullcontext
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.errors import UserError
from runtime.quiet import quiet
from runtime.sessions.base import Logits, ModelInputs
from runtime.sessions.soft_tokens import encode, frames_as_images, place_soft_tokens, without_placeholders
from runtime.sessions.steps import steps
from runtime.weight_cache import VERSION, WeightCache

FILE = "model.pte"
DATA_FILE = "model.ptd"  # the weights, where they are not in the program's file
FLAG = -1  # channel of embeddings that tells images from all else


class ExecutorchSession:
    """Session. Caches live inside the loaded method; those of sliding layers are rings."""

    name = "executorch"

    def __init__(self, folder: Path, threads: int | None = None, weight_cache: Path | None = None) -> None:
        """
        Args:
            threads: of XNNPACK, one number for the whole process; by default the engine's own choice.
            weight_cache: folder of packed weights, written at the first load and mapped at later ones; by default
                weights are packed in memory at every load.

        Raises:
            UserError: the folder holds no program of ours, or its data file or the engine does not fit it; or there
                can be no weight cache (see WeightCache).
        """
        self.folder = folder
        self._cache = WeightCache(weight_cache, artifact_files(folder)) if weight_cache else None
        self.program = open_program(folder, threads)
        self.context = self._constant("get_max_context_len")
        self.max_step = self._constant("get_max_step")
        self._decoder = self._method("text_decoder")
        self._embedding = self._method("token_embedding")
        self.position = 0

    def reset(self) -> None:
        """Slots that this sequence has not written yet are hidden by their positions, whatever they hold."""
        self.position = 0

    def rewind(self, position: int) -> bool:
        """See Rewindable. A ring holds a window and a step, so that a step's worth may be written over."""
        if self.position - position > self.max_step:
            return False
        self.position = position
        return True

    def prefill(self, inputs: ModelInputs) -> Logits:
        """Raises:
        UserError: no room for so many positions; what was there before stays.
        """
        count = len(inputs.input_ids)
        if self.position + count > self.context:
            raise UserError(f"{self.position + count} positions do not fit the context of {self.context}: "
                            "shorten the prompt, or export the bundle again with a larger context")  # fmt: skip
        embeds = self._embed(inputs)
        for start, stop in list(steps(embeds[:, FLAG] > 0, self.max_step)):
            logits = self._decode(embeds[start:stop])
        return logits

    def decode(self, token: int) -> Logits:
        return self.prefill(ModelInputs(np.array([token], np.int64)))

    def encode(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """See Encoder."""
        return encode(inputs, self._embed_image, self._embed_clip)

    def _decode(self, embeds: NDArray[np.float32]) -> Logits:
        end = self.position + len(embeds)
        positions = torch.arange(self.position, end)
        logits = self._decoder.execute((torch.from_numpy(embeds)[None], positions))[0]
        self.position = end
        return logits.numpy().reshape(-1)

    def _embed(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """[T, hidden + 1]: tokens, and soft tokens where their placeholders stand."""
        image, audio = self._constant("get_image_id"), self._constant("get_audio_id")
        if inputs.pixel_values_videos is not None:
            inputs = frames_as_images(inputs, image, self._constant("get_video_id"))
        embeds = self._embed_tokens(
            without_placeholders(inputs.input_ids, (image, audio), self._constant("get_pad_id"))
        )
        place_soft_tokens(embeds, inputs, image, audio, self._embed_image, self._embed_clip)
        return embeds

    def _embed_tokens(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        parts = [ids[None, start : start + self.max_step] for start in range(0, len(ids), self.max_step)]
        return np.concatenate([run(self._embedding, part) for part in parts])

    def _embed_image(self, patches: NDArray[np.float32], cells: NDArray[np.int64]) -> NDArray[np.float32]:
        kept, columns, longest = cells[cells[:, 0] >= 0], cells[:, 0].max() + 1, self._constant("get_max_image_side")
        if cells.max() >= longest:
            raise UserError(
                f"an image of {cells.max() + 1} soft tokens along a side is too long, {longest} fit: crop it"
            )
        return run(self._vision, join_patches(patches, cells))[kept[:, 1] * columns + kept[:, 0]]

    def _embed_clip(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        return run(self._audio, frames[None])

    @cached_property
    def _vision(self) -> Any:
        return self._method("vision_encoder")

    @cached_property
    def _audio(self) -> Any:
        return self._method("audio_encoder")

    def _constant(self, name: str) -> int:
        return int(self._method(name).execute(())[0])

    def _method(self, name: str) -> Any:
        return self._load(self.program, name)

    def _load(self, program: Any, name: str) -> Any:
        with self._cache.used() if self._cache else nullcontext():
            return load_method(program, self.folder, name)


def run(method: Any, array: NDArray) -> NDArray[np.float32]:
    """[1, ...] -> [T, hidden + 1], by an embedder."""
    return method.execute((torch.from_numpy(np.ascontiguousarray(array)),))[0].numpy()[0]


def join_patches(patches: NDArray[np.float32], cells: NDArray[np.int64]) -> NDArray[np.float32]:
    """[n, patch_values] at cells (x, y), -1 where padded -> the image they were cut from, [1, 3, height, width]"""
    kept = cells[:, 0] >= 0
    columns, rows = cells.max(0) + 1
    side = int((patches.shape[1] // 3) ** 0.5)
    image = np.zeros((rows, columns, side, side, 3), np.float32)
    image[cells[kept, 1], cells[kept, 0]] = patches[kept].reshape(-1, side, side, 3)
    return image.transpose(4, 0, 2, 1, 3).reshape(1, 3, rows * side, columns * side)


# The engine


_loaded: set[int | None] = set()  # thread counts that programs of this process were loaded with


def artifact_files(folder: Path) -> list[Path]:
    """Those that are there."""
    return [path for path in (folder / FILE, folder / DATA_FILE) if path.is_file()]


def open_program(folder: Path, threads: int | None = None) -> Any:
    """executorch.runtime.Program

    Raises:
        UserError: see `ExecutorchSession`.
    """
    if not (folder / FILE).is_file():
        raise UserError(f"{folder / FILE} is missing: name the ExecuTorch folder of a bundle")
    runtime = _engine()
    _set_threads(threads)
    data = folder / DATA_FILE
    try:
        with quiet():  # it logs what it then raises
            program = runtime.load_program(folder / FILE, data_path=data if data.exists() else None)
    except RuntimeError as error:
        raise UserError(f"{folder / FILE} does not load ({_reason(error)}): export the bundle again") from None
    if "get_max_step" not in program.method_names:
        raise UserError(f"{folder / FILE} was not made here: it lacks the method get_max_step")
    return program


def load_method(program: Any, folder: Path, name: str) -> Any:
    """Raises:
    UserError: there is none of this name, or its weights are not there.
    """
    if name not in program.method_names:
        raise UserError(f"{folder / FILE} has no method {name}: leave such inputs out of the prompt, "
                        "or export the model again")  # fmt: skip
    try:
        with quiet():
            return program.load_method(name)
    except RuntimeError as error:
        raise UserError(f"{folder / FILE}: {name} does not load ({_reason(error)}); if it has a {DATA_FILE}, "
                        "that must be of the same export") from None  # fmt: skip


def _engine() -> Any:
    try:
        found = version("executorch")
        import executorch.kernels.quantized  # noqa: F401  registers the quantized embeddings
        from executorch.runtime import Runtime
    except ImportError as error:
        raise UserError(
            f"the ExecuTorch runtime is not installed ({error}): pip install executorch=={VERSION}"
        ) from None
    if found != VERSION:
        raise UserError(
            f"executorch {found} is installed, bundles are for {VERSION}: pip install executorch=={VERSION}"
        )
    return Runtime.get()


def _set_threads(count: int | None) -> None:
    """Once and before anything is loaded: the engine crashes when its pool changes afterwards."""
    if _loaded and count not in _loaded:
        raise UserError(f"XNNPACK has its threads already ({_loaded}): start another process for {count}")
    if not _loaded and count is not None:
        from executorch.extension.pybindings import portable_lib

        portable_lib._unsafe_reset_threadpool(count)
    _loaded.add(count)


def _reason(error: RuntimeError) -> str:
    return str(error).splitlines()[0]
