"""What a verification works on. Costly things are opened once, when a check first asks for them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from runtime import goldens
from runtime.architectures import EMBEDDING
from runtime.engines import ENGINES, Engine
from runtime.evaluation import Evaluation, read_evaluation
from runtime.gates import Gate, Gates, measured
from runtime.goldens import Golden
from runtime.manifest import Manifest, Measure, ReferenceKind
from runtime.progress import Status
from runtime.prompt import MediaTokens, Prompter
from runtime.readback_executorch import ExecutorchWeights
from runtime.references import Reference, choose_kind, open_reference
from runtime.sessions.base import Session

TWIN_OF = "twin_of"  # in a float twin's folder: the sha256 of the program that ships
HEAD = "lm_head"  # the reference's module whose weight is the embedding


@dataclass
class Job:
    """A bundle, and what else is at hand."""

    bundle: Path
    manifest: Manifest
    gates: Gates
    quantized: Path | None = None  # checkpoint
    source: Path | None = None  # checkpoint
    evaluation: Path | None = None  # held-out data
    status: Status = lambda text: None  # told what goes on
    wanted_kind: ReferenceKind = "whole"  # of reference
    unfit: str | None = None  # why the checkpoint in the usual place of the quantized one will not do
    hashed: bool = False  # whether the manifest's checksums are of this moment
    skipped: dict[str, str] = field(default_factory=dict)  # what checks had to leave out, and why

    def measure(
        self, check: str, name: str, value: float, gate: Gate | None = None, engine: str | None = None,
        modality: str | None = None, note: str = "",
    ) -> Measure:  # fmt: skip
        """A figure beside its gate."""
        return measured(self.gates, check, name, value, gate, engine, modality, note)

    def engines(self) -> Iterator[tuple[Engine, Path]]:
        """Those of all artifacts, with the artifact's folder."""
        for format_ in self.manifest.artifacts:
            for engine in ENGINES.get(format_, ()):
                yield engine, self.bundle / format_

    def blocks(self, engine: Engine, folder: Path) -> dict[str, int | None]:
        """Inputs that share a scale when the engine rounds them to int8, by the reference's linear modules."""
        found = engine.rounds(folder, self.manifest.tensors) if engine.rounds else {}
        return {HEAD if f"{module}.weight".endswith(EMBEDDING) else module: size for module, size in found.items()}

    def open_twin(self, engine: Engine, folder: Path) -> Session | None:
        """The artifact without int8 activations; None where there is none, which is noted unless it never is."""
        if engine.twin_apart:
            twin = twin_folder(_there(self.quantized), folder.name, self.manifest.limits.context)
            if why_not := self._why_no_twin(folder.name, twin):
                self.skipped[f"{engine.name}'s float twin"] = why_not
                return None
            folder = twin
        return engine.exact(folder) if engine.exact else None

    def _why_no_twin(self, shipped: str, folder: Path) -> str | None:
        """Why there is none of the shipped format's program in `folder`, or None."""
        if not folder.is_dir():
            return f"there is no {folder}, where an export writes it if its fp32 weights fit memory and disk"
        program = next(iter(self.manifest.artifacts[shipped].programs.values())).file
        digest = next((file.sha256 for file in self.manifest.files if file.path == program), None)
        stamp = folder / TWIN_OF
        if not stamp.is_file() or stamp.read_text() != digest:
            return f"{folder} is of another export: export the bundle again"
        return None

    @property
    def media(self) -> MediaTokens:
        return MediaTokens(self.manifest.tokens.image, self.manifest.tokens.audio, self.manifest.tokens.video)

    @property
    def kv_scales(self) -> dict[int, tuple[float, float]] | None:
        """Of int8 keys and values."""
        return next((artifact.kv_scales for artifact in self.manifest.artifacts.values() if artifact.kv_scales), None)

    @cached_property
    def executorch(self) -> ExecutorchWeights:
        """Of the bundle's program; checks share the digests that it takes."""
        return ExecutorchWeights(self.bundle / "executorch")

    @cached_property
    def prompter(self) -> Prompter:
        return Prompter(self.bundle)

    @cached_property
    def goldens(self) -> list[Golden]:
        return [goldens.read(entry, self.bundle) for entry in self.manifest.goldens]

    @cached_property
    def kind(self) -> ReferenceKind:
        """Of all references."""
        return choose_kind(_there(self.quantized), self.wanted_kind)

    @cached_property
    def reference(self) -> Reference:
        """The quantized reference."""
        return self._open(self.quantized)

    @cached_property
    def half_reference(self) -> Reference:
        """The quantized reference in fp16."""
        return self._open(self.quantized, torch.float16)

    def in_torch(self, engine: Engine, folder: Path) -> Reference:
        """The quantized reference, rounded as an engine does: what no kernel could avoid."""
        if engine.half:
            return self.half_reference
        return self.reference.variant(self.blocks(engine, folder), self.kv_scales)

    def in_double(self, engine: Engine, folder: Path) -> Reference:
        """The same in fp64, streamed: whole it would take twice the memory that was found free."""
        exact = open_reference(_there(self.quantized), "streamed", torch.float64, self.status)
        return exact.variant(self.blocks(engine, folder), self.kv_scales)

    @property
    def has_reference(self) -> bool:
        """Whether there is one to ask."""
        return self.quantized is not None and self.kind != "none"

    @cached_property
    def source_reference(self) -> Reference:
        return self._open(self.source)

    def _open(self, checkpoint: Path | None, dtype: torch.dtype = torch.float32) -> Reference:
        return open_reference(_there(checkpoint), self.kind, dtype, self.status)

    @cached_property
    def held_out(self) -> Evaluation | None:
        return read_evaluation(self.evaluation, self.prompter.sampling_rate) if self.evaluation else None


def twin_folder(quantized: Path, format_name: str, context: int) -> Path:
    """Where the float twin of an artifact is, if it is one of its own: beside the weights it was lowered from."""
    return quantized / "twins" / f"{format_name}-{context}"


def _there(path: Any) -> Path:
    assert path is not None, "verify() skips checks whose inputs are not at hand"
    return path
