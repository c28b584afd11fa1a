"""Quantized checkpoint -> bundle: artifacts, processor files, goldens and manifest, verified and renamed into place."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import TypeAdapter

from export.calibrate import calibrate_cache
from export.checkpoint import CheckpointWeights, QuantizationRecord
from export.config import Model, read_model
from export.dialogue import describe
from export.facts import PROCESSOR_FILES, limits, sampling, tokens
from export.folders import locked, put_in_place
from export.formats import FORMATS, Lowering, lower, lower_twin
from export.media import golden_prompts
from export.stages import Stages
from runtime import goldens
from runtime.checks.files import sha256
from runtime.errors import GateError
from runtime.gates import GATES, Gates
from runtime.goldens import GoldenPrompt
from runtime.manifest import (
    FILE,
    FORMAT_VERSION,
    SCHEMA_FILE,
    Artifact,
    File,
    Golden,
    Manifest,
    ReferenceKind,
    Verification,
    write_manifest,
)
from runtime.progress import Status
from runtime.prompt import Prompter
from runtime.references import choose_kind, open_reference
from runtime.sessions.base import ModelInputs
from runtime.sessions.reference import memory_shortage
from runtime.verify import Checked, verify

TOOLS = ("torch", "transformers", "compressed-tensors", "safetensors", "onnx", "onnxruntime", "onnxruntime-genai",
         "executorch", "torchao", "coremltools")  # fmt: skip
GOLDENS, ARTIFACT, CHECKED = TypeAdapter(list[Golden]), TypeAdapter(Artifact), TypeAdapter(Checked)
SCALES = TypeAdapter(dict[int, tuple[float, float]] | None)


@dataclass(frozen=True)
class Order:
    """What is to be bundled, from what, for whom."""

    target: str
    formats: Sequence[str]
    record: QuantizationRecord
    quantized: Path
    source: Path
    context: int  # positions
    data_file: bool = False  # ExecuTorch's weights in a file beside the program
    reference: ReferenceKind = "whole"

    @property
    def kind(self) -> ReferenceKind:
        """Of the reference that there can be."""
        return choose_kind(self.quantized, self.reference)

    def plan(self, gates: Gates) -> dict[str, Any]:
        """All that a bundle and its verification depend on, as JSON takes it."""
        paths = {"quantized": str(self.quantized), "source": str(self.source)}
        copied = (self.quantized / name for name in PROCESSOR_FILES)
        bounds = {name: gate.bound for name, gate in gates.items()}
        return asdict(self) | paths | {
            "record": self.record.identity, "kind": self.kind, "formats": list(self.formats),
            "copied": {path.name: sha256(path) for path in copied if path.exists()},
            "gates": bounds, "tools": _versions(self.formats),
        }  # fmt: skip


def make_bundle(order: Order, folder: Path, status: Status, gates: Gates = GATES) -> Manifest:
    """Writes the bundle `folder` and verifies it before it takes the place of an earlier one.

    Goldens, artifacts and checks that an interrupted run of the same order finished are not made again.

    Raises:
        GateError: a gate does not hold; what was made stays beside, for a look.
        UserError: the folder cannot be written or is being written by another run.
    """
    with locked(folder) as unfinished:
        stages = Stages(unfinished, order.plan(gates))
        manifest = _write(order, unfinished, stages, status)
        checked = sha256(unfinished / FILE)  # which has the checksums of all other files
        found = verify(
            unfinished, order.quantized, order.source, gates=gates, status=lambda text: status(f"verifying: {text}"),
            reference=order.reference, hashed=True,
            once=lambda name, check: stages.once(f"check {name} of {checked}", CHECKED, check),
        )  # fmt: skip
        manifest = manifest.model_copy(update={"verification": found})
        write_manifest(unfinished, manifest)
        stages.forget()
        if not found.passed:
            raise GateError(f"the bundle fails {_failures(found)}: look at it with `python -m runtime verify "
                            f"{unfinished} --quantized {order.quantized}`; {folder} is as it was")  # fmt: skip
        put_in_place(unfinished, folder)
    return manifest


def _failures(verification: Verification) -> str:
    failed = (measure for measure in verification.measures if not measure.passed)
    return ", ".join(f"{measure.name} ({measure.check}, {measure.value:.3g})" for measure in failed)


def _write(order: Order, folder: Path, stages: Stages, status: Status) -> Manifest:
    """Everything but the verification."""
    weights = CheckpointWeights(order.quantized)
    model = read_model(weights.config)
    for name in PROCESSOR_FILES:
        if (order.quantized / name).exists():
            shutil.copyfile(order.quantized / name, folder / name)
    status("recording goldens")
    recorded = stages.once(goldens.FOLDER, GOLDENS, lambda: _record_goldens(order, model, folder, status))
    status("calibrating the cache")
    kv_scales = stages.once("scales", SCALES, lambda: _kv_scales(order, model, weights, recorded, folder))
    context = min(order.context, model.text.context)
    lowering = Lowering(model, weights, order.quantized, context, kv_scales, order.record.identity, order.data_file)
    artifacts = {
        name: stages.once(name, ARTIFACT, partial(_lower, order, name, lowering, folder, status))
        for name in order.formats
    }
    status("taking checksums")
    manifest = _manifest(order, folder, recorded, lowering, artifacts)
    write_manifest(folder, manifest)
    return manifest


def _record_goldens(order: Order, model: Model, folder: Path, status: Status) -> list[Golden]:
    kind, prompter = order.kind, Prompter(folder)
    if kind == "none":
        return []  # verification says so
    reference = open_reference(order.quantized, kind, status=lambda text: status(f"recording goldens: {text}"))
    with TemporaryDirectory() as made:
        prompts: list[GoldenPrompt] = golden_prompts(model, prompter, Path(made))
        return goldens.record(prompts, folder, prompter, reference, tokens(folder), goldens.STEPS[kind], kind)


def _kv_scales(
    order: Order, model: Model, weights: CheckpointWeights, recorded: Sequence[Golden], folder: Path
) -> dict[int, tuple[float, float]] | None:
    """Calibrated on the prompts of goldens, where the recipe wants an int8 cache."""
    if order.record.recipe.kv_bits != 8:
        return None
    prompts = [goldens.read(golden, folder).inputs for golden in recorded] or _unrecorded(model, Prompter(folder))
    return dict(calibrate_cache(model, weights, prompts))


def _unrecorded(model: Model, prompter: Prompter) -> list[ModelInputs]:
    """The same prompts where no reference could answer them."""
    with TemporaryDirectory() as made:
        return [prompter(prompt.messages).inputs for prompt in golden_prompts(model, prompter, Path(made))]


def _lower(order: Order, name: str, lowering: Lowering, folder: Path, status: Status) -> Artifact:
    """To one format, with the float twin where there can be a reference for it."""
    status(f"lowering to {name}")
    artifact = lower(name, lowering, folder)
    if order.kind != "none" and not memory_shortage(order.quantized):
        status(f"lowering to {name}: float twin")
        lower_twin(name, lowering, folder / next(iter(artifact.programs.values())).file)
    return artifact


def _manifest(
    order: Order, folder: Path, recorded: list[Golden], lowering: Lowering, artifacts: dict[str, Artifact]
) -> Manifest:
    ids = tokens(folder)
    dialogue, undescribed = describe(Prompter(folder), ids)
    return Manifest(
        format_version=FORMAT_VERSION,
        target=order.target,
        source=order.record.source,
        recipe=order.record.recipe,
        artifacts=artifacts,
        files=_files(folder),
        tokens=ids,
        sampling=sampling(folder),
        limits=limits(lowering, artifacts.values(), folder),
        dialogue=dialogue,
        undescribed=undescribed,
        tensors=order.record.tensors,
        goldens=recorded,
        tools=_versions(order.formats),
    )


def _versions(formats: Sequence[str]) -> dict[str, str]:
    """Of the packages that have a part in a bundle of these formats."""
    optional = (package for name in formats for package in FORMATS[name].optional)
    return {name: version(name) for name in (*TOOLS, *optional)}


def _files(folder: Path) -> list[File]:
    """Every file there is but the manifest and its schema, which an interrupted run may have left."""
    own = {folder / FILE, folder / SCHEMA_FILE}
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path not in own)
    return [File(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=sha256(path))
            for path in paths]  # fmt: skip
