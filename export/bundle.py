"""Quantized checkpoint -> bundle: artifacts, processor files, goldens and manifest, verified and renamed into place."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from export.calibrate import calibrate_cache
from export.checkpoint import CheckpointWeights, QuantizationRecord
from export.config import Model, read_model
from export.facts import PROCESSOR_FILES, limits, sampling, tokens
from export.folders import locked, put_in_place
from export.formats import FORMATS, Lowering, lower, lower_twin
from export.media import golden_prompts
from export.weights import KvScales
from runtime import goldens
from runtime.checks.files import sha256
from runtime.errors import GateError
from runtime.gates import GATES, Gates
from runtime.goldens import GoldenPrompt
from runtime.manifest import FORMAT_VERSION, Artifact, File, Golden, Manifest, Verification, write_manifest
from runtime.prompt import Prompter
from runtime.sessions.reference import ReferenceSession, memory_shortage
from runtime.verify import ALONE, verify

TOOLS = ("torch", "transformers", "compressed-tensors", "safetensors", "onnx", "onnxruntime", "onnxruntime-genai",
         "executorch", "torchao", "coremltools")  # fmt: skip
Status = Callable[[str], None]  # told what is going on


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
    reference: bool = True  # where it fits the memory; without it nothing is compared but files and bytes

    @property
    def has_reference(self) -> bool:
        """Whether goldens are recorded and engines compared with it."""
        return self.reference and not memory_shortage(self.quantized)


def make_bundle(order: Order, folder: Path, status: Status, gates: Gates = GATES) -> Manifest:
    """Writes the bundle `folder` and verifies it before it takes the place of an earlier one.

    Raises:
        GateError: a gate does not hold; what was made stays beside, for a look.
        UserError: the folder cannot be written or is being written by another run.
    """
    with locked(folder) as partial:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        manifest = _write(order, partial, status)
        found = verify(partial, order.quantized, order.source, gates=gates, only=() if order.reference else ALONE,
                       status=lambda text: status(f"verifying: {text}"), hashed=True)  # fmt: skip
        manifest = manifest.model_copy(update={"verification": found})
        write_manifest(partial, manifest)
        if not found.passed:
            raise GateError(f"the bundle fails {_failures(found)}: look at it with `python -m runtime verify {partial} "
                            f"--quantized {order.quantized}`; {folder} is as it was")  # fmt: skip
        put_in_place(partial, folder)
    return manifest


def _failures(verification: Verification) -> str:
    failed = (measure for measure in verification.measures if not measure.passed)
    return ", ".join(f"{measure.name} ({measure.check}, {measure.value:.3g})" for measure in failed)


def _write(order: Order, folder: Path, status: Status) -> Manifest:
    """Everything but the verification."""
    weights = CheckpointWeights(order.quantized)
    model = read_model(weights.config)
    for name in PROCESSOR_FILES:
        if (order.quantized / name).exists():
            shutil.copyfile(order.quantized / name, folder / name)
    status("recording goldens")
    recorded = _record_goldens(order, model, folder)
    status("calibrating the cache")
    kv_scales = _kv_scales(order, model, weights, recorded, folder)
    context = min(order.context, model.text.context)
    lowering = Lowering(model, weights, order.quantized, context, kv_scales, order.record.identity, order.data_file)
    artifacts = _lower_all(order, lowering, folder, status)
    status("taking checksums")
    manifest = _manifest(order, folder, recorded, lowering, artifacts)
    write_manifest(folder, manifest)
    return manifest


def _record_goldens(order: Order, model: Model, folder: Path) -> list[Golden]:
    if not order.has_reference:
        return []  # verification says so
    prompter = Prompter(folder)
    with TemporaryDirectory() as made:
        prompts: list[GoldenPrompt] = golden_prompts(model, prompter, Path(made))
        return goldens.record(prompts, folder, prompter, ReferenceSession.open(order.quantized), tokens(folder))


def _kv_scales(
    order: Order, model: Model, weights: CheckpointWeights, recorded: Sequence[Golden], folder: Path
) -> KvScales | None:
    """Calibrated on the goldens, where the recipe wants an int8 cache."""
    if order.record.recipe.kv_bits != 8:
        return None
    return calibrate_cache(model, weights, [goldens.read(golden, folder).inputs for golden in recorded])


def _lower_all(order: Order, lowering: Lowering, folder: Path, status: Status) -> dict[str, Artifact]:
    artifacts = {}
    for name in order.formats:
        status(f"lowering to {name}")
        artifacts[name] = lower(name, lowering, folder)
        if order.has_reference:
            status(f"lowering to {name}: float twin")
            lower_twin(name, lowering)
    return artifacts


def _manifest(
    order: Order, folder: Path, recorded: list[Golden], lowering: Lowering, artifacts: dict[str, Artifact]
) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        target=order.target,
        source=order.record.source,
        recipe=order.record.recipe,
        artifacts=artifacts,
        files=_files(folder),
        tokens=tokens(folder),
        sampling=sampling(folder),
        limits=limits(lowering, artifacts.values(), folder),
        tensors=order.record.tensors,
        goldens=recorded,
        tools={name: version(name) for name in _tools(order.formats)},
    )


def _tools(formats: Sequence[str]) -> list[str]:
    """Packages that had a part in a bundle of these formats."""
    return [*TOOLS, *(package for name in formats for package in FORMATS[name].optional)]


def _files(folder: Path) -> list[File]:
    """Every file there is, before the manifest."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [File(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=sha256(path))
            for path in paths]  # fmt: skip
