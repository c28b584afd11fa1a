"""Core ML packages of a bundle: by Core ML itself on macOS, by an evaluator of the saved programs elsewhere."""

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UserError
from runtime.manifest import Artifact, Host, Port, Program, Tokens, read_manifest
from runtime.mil import Package
from runtime.sessions import coreml_native
from runtime.sessions.base import Logits, ModelInputs
from runtime.sessions.coreml_host import Call, Embedding, inputs_of, plan_calls, survives
from runtime.sessions.coreml_native import NativePackage
from runtime.sessions.soft_tokens import encode, frames_as_images, place_soft_tokens, without_placeholders
from runtime.sessions.steps import number_blocks

FORMAT = "coreml"
Runner = Package | NativePackage


class CoremlSession:
    """Session. Its name says what runs the packages."""

    name = "coreml" if coreml_native.HERE else "coreml-evaluator"

    def __init__(self, bundle: Path, artifact: Artifact, tokens: Tokens, exact: bool = False) -> None:
        """
        Args:
            bundle: folder to which the artifact's files are relative.
            exact: run the same files with fp32 activations, on the evaluator; caches stay fp16.

        Raises:
            UserError: a file is missing, unreadable or of another bundle, or coremltools is missing.
        """
        self.bundle = bundle
        self.artifact = artifact
        self.tokens = tokens
        self.exact = exact
        self.host = _host(artifact)
        self._embedding = Embedding(self.host.embedding, bundle)
        self._chunks = [self._open(file) for file in self.host.chunks]
        self._heads = [self._open(file) for file in self.host.heads]
        self.reset()

    @classmethod
    def open(cls, folder: Path, exact: bool = False) -> "CoremlSession":
        """From the folder of the format, which lies in its bundle.

        Raises:
            UserError: the folder above is no bundle with Core ML packages, or see the constructor.
        """
        manifest = read_manifest(folder.parent)
        if FORMAT not in manifest.artifacts:
            raise UserError(f"{folder.parent} holds no Core ML packages: export it with --target ios")
        return cls(folder.parent, manifest.artifacts[FORMAT], manifest.tokens, exact)

    def reset(self) -> None:
        self.position = 0
        self._states = [chunk.new_state() for chunk in self._chunks]

    def rewind(self, position: int) -> bool:
        """See Rewindable."""
        if not all(survives(layers, position, self.position) for layers in self.host.attention.values()):
            return False
        self.position = position
        return True

    def prefill(self, inputs: ModelInputs) -> Logits:
        """Raises:
        UserError: no room for so many positions, or an image longer than a step; what was there before stays.
        """
        end = self.position + len(inputs.input_ids)
        if end > self.host.context:
            raise UserError(f"{end} positions do not fit the context of {self.host.context}: shorten the prompt, "
                            "or export the bundle again with a larger context")  # fmt: skip
        inputs = frames_as_images(inputs, self.tokens.image, self.tokens.video)
        blocks = number_blocks(inputs.input_ids == self.tokens.image)
        calls = list(plan_calls(self.position, blocks, self.host))
        embeds = self._embed(inputs)
        for call in calls:
            first = call.start - self.position
            hidden = self._run_layers(call, embeds[first : first + call.count])
        self.position = end
        return self._project(hidden)

    def decode(self, token: int) -> Logits:
        return self.prefill(ModelInputs(np.array([token], np.int64)))

    def encode(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """See Encoder."""
        return encode(inputs, self._embed_image, self._embed_clip)

    def _run_layers(self, call: Call, embeds: NDArray[np.float32]) -> NDArray:
        """[count, hidden] -> [1, 1, hidden] of the last position"""
        given = inputs_of(call, self.host)
        given["hidden_states"] = _padded(embeds, call.length)[None]
        for index, (chunk, state) in enumerate(zip(self._chunks, self._states, strict=True)):
            ports = self.artifact.programs[f"chunk_{index:02}.{call.function}"].inputs
            inputs = {port.name: self._cast(given[port.name], port) for port in ports}
            given["hidden_states"] = chunk.run(call.function, inputs, state)["hidden_states_out"]
        return given["hidden_states"][:, call.count - 1 : call.count]

    def _project(self, hidden: NDArray) -> Logits:
        parts = [head.run("main", {"hidden_states": hidden})["logits"].reshape(-1) for head in self._heads]
        return np.concatenate(parts).astype(np.float32)

    def _cast(self, array: NDArray, port: Port) -> NDArray:
        """To what the port declares; its exact twin declares fp32 for fp16."""
        return array.astype("float32" if self.exact and port.dtype == "float16" else port.dtype)

    # Embeddings

    def _embed(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """[T, hidden]: tokens, and soft tokens where their placeholders stand."""
        image, audio = self.tokens.image, self.tokens.audio
        ids = without_placeholders(inputs.input_ids, (image, audio), self.tokens.pad)
        embeds = self._embedding.rows(ids) * np.float32(self.host.embedding_scale)
        place_soft_tokens(embeds, inputs, image, audio, self._embed_image, self._embed_clip)
        return embeds

    def _embed_image(self, patches: NDArray[np.float32], cells: NDArray[np.int64]) -> NDArray[np.float32]:
        kept = cells[:, 0] >= 0
        return self._soft_tokens(self._vision, patches[kept], cells[kept])

    def _embed_clip(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._soft_tokens(self._speech, frames)

    def _soft_tokens(self, embedder: tuple[Runner, Program], *rows: NDArray) -> NDArray[np.float32]:
        """[n, ...] of each input -> [n, hidden], row by row, so many in a call as it takes."""
        package, program = embedder
        length = int(program.inputs[0].shape[1])
        found = []
        for start in range(0, len(rows[0]), length):
            pieces = [array[start : start + length] for array in rows]
            inputs = {port.name: _padded(piece, length)[None].astype(port.dtype)
                      for port, piece in zip(program.inputs, pieces, strict=True)}  # fmt: skip
            found.append(package.run("main", inputs)["soft_tokens"][0, : len(pieces[0])])
        return np.concatenate(found)

    @cached_property
    def _vision(self) -> tuple[Runner, Program]:
        return self._embedder("vision")

    @cached_property
    def _speech(self) -> tuple[Runner, Program]:
        return self._embedder("speech")

    def _embedder(self, role: str) -> tuple[Runner, Program]:
        if role not in self.artifact.programs:
            raise UserError(f"{self.bundle} has no {role} package: leave such media out of the prompt")
        program = self.artifact.programs[role]
        return self._open(program.file), program

    def _open(self, file: str) -> Runner:
        path = self.bundle / file
        package = Package(path, exact=self.exact) if self.exact or not coreml_native.HERE else NativePackage(path)
        if package.metadata.get("identity") != self.host.identity:
            raise UserError(f"{path} is of another bundle: export this one again")
        return package


def _host(artifact: Artifact) -> Host:
    if artifact.host is None:
        raise UserError("the manifest lacks the host's part of its Core ML packages: export the bundle again")
    return artifact.host


def _padded(rows: NDArray, length: int) -> NDArray:
    """[n, ...] -> [length, ...], zeros at the end"""
    return np.concatenate([rows, np.zeros((length - len(rows), *rows.shape[1:]), rows.dtype)])
