"""Core AI's own runtime on the functions of one `.aimodel`, compiled when they are opened (on Linux: for the CPU)."""

import asyncio
from contextlib import AsyncExitStack
from functools import cached_property
from hashlib import file_digest
from pathlib import Path
from typing import Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UserError
from runtime.installed import require_release
from runtime.quiet import quiet
from runtime.sessions.base import Logits, ModelInputs
from runtime.sessions.soft_tokens import encode, frames_as_images, place_soft_tokens, without_placeholders
from runtime.sessions.steps import NONE, number_blocks, steps

PACKAGE, RELEASE = "coreai-core", "1.0.0b3"  # a beta: the asset's version may change with each
FILE = "model.aimodel"
PROGRAM, HASH = f"{FILE}/main.mlirb", f"{FILE}/main.hash"


class CoreaiSession:
    """Session. Caches are the decoder's states; those of sliding layers are rings."""

    name = "coreai"

    def __init__(self, folder: Path) -> None:
        """Raises:
        UserError: the folder holds no asset of ours, or the engine is missing or of another version.
        """
        self.folder = folder
        self._runner, opened = asyncio.Runner(), AsyncExitStack()
        finalize(self, _close, self._runner, opened)
        self._model, self._known = self._runner.run(_open(folder, opened))
        self.context, self.max_step = self._known["context"], self._known["max_step"]
        self._decoder = self._function("decoder")
        self._embedding = self._function("embedding")
        self._states = _empty_states(self._decoder)
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
        UserError: no room for so many positions, or an image longer than a step; what was there before stays.
        """
        count = len(inputs.input_ids)
        if self.position + count > self.context:
            raise UserError(f"{self.position + count} positions do not fit the context of {self.context}: "
                            "shorten the prompt, or export the bundle again with a larger context")  # fmt: skip
        inputs = frames_as_images(inputs, self._known["image"], self._known["video"])
        blocks = number_blocks(inputs.input_ids == self._known["image"])
        parts, embeds = list(steps(blocks != NONE, self.max_step)), self._embed(inputs)
        for start, stop in parts:
            logits = self._decode(embeds[start:stop], blocks[start:stop])
        return logits

    def decode(self, token: int) -> Logits:
        return self.prefill(ModelInputs(np.array([token], np.int64)))

    def encode(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """See Encoder."""
        return encode(inputs, self._embed_image, self._embed_clip)

    def _decode(self, embeds: NDArray[np.float32], blocks: NDArray[np.int64]) -> Logits:
        end = self.position + len(embeds)
        positions = np.arange(self.position, end)
        logits = self._run(self._decoder, self._states, inputs_embeds=embeds[None], positions=positions, blocks=blocks)
        self.position = end
        return logits.reshape(-1)

    def _embed(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """[T, hidden]: tokens, and soft tokens where their placeholders stand."""
        image, audio = self._known["image"], self._known["audio"]
        embeds = self._embed_tokens(without_placeholders(inputs.input_ids, (image, audio), self._known["pad"]))
        place_soft_tokens(embeds, inputs, image, audio, self._embed_image, self._embed_clip)
        return embeds

    def _embed_tokens(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        parts = [ids[start : start + self.max_step] for start in range(0, len(ids), self.max_step)]
        return np.concatenate([self._run(self._embedding, input_ids=part[None])[0] for part in parts])

    def _embed_image(self, patches: NDArray[np.float32], cells: NDArray[np.int64]) -> NDArray[np.float32]:
        kept = cells[:, 0] >= 0
        return self._run(self._vision, pixel_values=patches[None, kept], pixel_position_ids=cells[None, kept])[0]

    def _embed_clip(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._run(self._speech, input_features=frames[None])[0]

    @cached_property
    def _vision(self) -> Any:
        return self._function("vision")

    @cached_property
    def _speech(self) -> Any:
        return self._function("speech")

    def _function(self, name: str) -> Any:
        if name not in self._model.function_names:
            raise UserError(f"{self.folder / FILE} has no function {name}: leave such inputs out of the prompt, "
                            "or export the model again")  # fmt: skip
        with quiet():
            return self._model.load_function(name)

    def _run(self, function: Any, states: dict[str, Any] | None = None, **inputs: NDArray) -> NDArray[np.float32]:
        """A function's only output. The engine has no int64."""
        given = {name: _to_engine(array) for name, array in inputs.items()}

        async def call() -> Any:
            return await function(given, state=states)

        (output,) = self._runner.run(call()).values()
        return output.numpy().copy()


def _to_engine(array: NDArray) -> Any:
    from coreai.runtime import NDArray as Array

    return Array(np.ascontiguousarray(array, np.int32 if array.dtype.kind == "i" else np.float32))


def _empty_states(function: Any) -> dict[str, Any]:
    """Zeros: what the engine would allocate holds anything, and a hidden NaN would still spread."""
    from coreai.runtime import NDArray as Array

    shapes = {name: function.desc.state_descriptor(name) for name in function.desc.state_names}
    return {name: Array(np.zeros(state.shape, str(state.dtype))) for name, state in shapes.items()}


async def _open(folder: Path, opened: AsyncExitStack) -> tuple[Any, dict[str, int]]:
    """The model, and what the lowering noted in the asset."""
    asset = _load(folder)
    known = asset.metadata.creator_defined_metadata
    if "max_step" not in known:
        raise UserError(f"{folder / FILE} was not made here: its metadata lack max_step")
    try:
        with quiet():
            model = await opened.enter_async_context(asset.executable())
    except Exception as error:  # the compiler's own
        raise UserError(f"{folder / FILE} does not compile ({_reason(error)}): export the bundle again") from None
    return model, {name: int(value) for name, value in known.items()}


def _close(runner: asyncio.Runner, opened: AsyncExitStack) -> None:
    """Deletes what was compiled, which is as large as the weights."""
    runner.run(opened.aclose())
    runner.close()


def _load(folder: Path) -> Any:
    if not (folder / FILE).is_dir():
        raise UserError(f"{folder / FILE} is missing: name the Core AI folder of a bundle")
    _require_whole(folder)
    asset_type = _engine()
    try:
        with quiet():
            return asset_type.load(folder / FILE)
    except RuntimeError as error:
        raise UserError(f"{folder / FILE} does not load ({_reason(error)}): export the bundle again") from None


def _require_whole(folder: Path) -> None:
    """By the sha256 that the asset carries: a damaged program would crash the process, not raise."""
    try:
        with (folder / PROGRAM).open("rb") as file:
            whole = file_digest(file, "sha256").digest() == (folder / HASH).read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing: export the bundle again") from None
    if not whole:
        raise UserError(f"{folder / PROGRAM} is damaged: export the bundle again")


def _engine() -> Any:
    """coreai.authoring.AIModelAsset, which also compiles"""
    require_release(PACKAGE, RELEASE)
    try:
        from coreai.authoring import AIModelAsset
    except ImportError as error:
        raise UserError(f"{PACKAGE} does not load ({error}): pip install {PACKAGE}=={RELEASE}") from None
    return AIModelAsset


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
