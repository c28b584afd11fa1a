"""The formats that a bundle can hold. A new backend is one more row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.checkpoint import CheckpointWeights
from export.config import Model
from export.lowering.onnx_ports import describe_onnx
from export.lowering.onnx_program import write_onnx
from export.recipes import RECIPES, TARGETS, Recipe
from runtime.coreml_tools import coremltools
from runtime.errors import UserError
from runtime.manifest import Artifact

KvScales = dict[int, tuple[float, float]]


@dataclass(frozen=True)
class Lowering:
    """What every backend is given."""

    model: Model
    weights: CheckpointWeights
    checkpoint: Path  # quantized; with tokenizer, template and processor
    context: int  # positions to make room for
    kv_scales: KvScales | None  # where the cache is int8
    identity: str  # of the quantized weights; where an artifact is of several files, each repeats it


Lower = Callable[[Lowering, Path], Artifact]  # writes an existing folder; files of what it returns lie in there


def _lower_onnx(job: Lowering, folder: Path) -> Artifact:
    write_onnx(job.model, job.weights, job.checkpoint, folder, job.context, job.kv_scales)
    return Artifact(programs=describe_onnx(folder), kv_scales=job.kv_scales)


def _lower_executorch(job: Lowering, folder: Path) -> Artifact:
    from export.lowering.executorch_ports import describe_executorch  # seconds to import
    from export.lowering.executorch_program import Sizes, write_executorch

    if job.kv_scales:
        raise UserError("format executorch keeps keys and values in fp32: choose a recipe without an int8 cache")
    sizes = Sizes.of(job.model, job.checkpoint, job.context)
    write_executorch(job.model, job.weights, job.checkpoint, folder, sizes)
    return Artifact(programs=describe_executorch(job.model))


def _lower_coreml(job: Lowering, folder: Path) -> Artifact:
    coremltools()  # says in one line if it cannot be had; seconds to import
    from export.lowering.coreml_bundle import write_coreml
    from export.lowering.coreml_ports import Sizes

    assert not job.kv_scales, "require_supported() has refused it"
    sizes = Sizes.of(job.model, job.checkpoint, job.context)
    return write_coreml(job.model, job.weights, folder, sizes, job.identity)


FORMATS: dict[str, Lower] = {"onnx": _lower_onnx, "executorch": _lower_executorch, "coreml": _lower_coreml}


def lower(format_name: str, job: Lowering, bundle: Path) -> Artifact:
    """Writes the artifact into its folder of the bundle."""
    folder = bundle / format_name
    folder.mkdir()
    return _placed(FORMATS[format_name](job, folder), format_name)


def _placed(artifact: Artifact, folder: str) -> Artifact:
    """Files relative to the bundle instead of the format's folder."""

    def place(file: str) -> str:
        return f"{folder}/{file}"

    programs = {role: program.model_copy(update={"file": place(program.file)})
                for role, program in artifact.programs.items()}  # fmt: skip
    host = artifact.host
    if host:
        table = host.embedding
        files = {"codes": place(table.codes), "scales": table.scales and place(table.scales)}
        host = host.model_copy(update={"chunks": list(map(place, host.chunks)), "heads": list(map(place, host.heads)),
                                       "embedding": table.model_copy(update=files)})  # fmt: skip
    return artifact.model_copy(update={"programs": programs, "host": host})


def choose_formats(target: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """Those of a target, or the wanted ones.

    Raises:
        UserError: unknown target or format, or a format that the target cannot hold.
    """
    if target not in TARGETS:
        raise UserError(f"no target {target!r}; there are {', '.join(TARGETS)}")
    for name in wanted:
        if name not in FORMATS:
            raise UserError(f"no format {name!r}; there are {', '.join(FORMATS)}")
        if name not in TARGETS[target].all:
            raise UserError(f"target {target} does not ship {name}; it ships {', '.join(TARGETS[target].all)}")
    return tuple(wanted) or TARGETS[target].formats


def require_supported(recipe: Recipe, formats: Sequence[str]) -> None:
    """Before any work.

    Raises:
        UserError: a format cannot hold what the recipe makes.
    """
    if "coreml" in formats and recipe.kv_bits == 8:
        others = ", ".join(other.name for other in RECIPES.values() if other.kv_bits != 8)
        raise UserError(f"recipe {recipe.name} has an int8 cache, format coreml an fp16 one, as Core ML's states are: "
                        f"choose one of {others}")  # fmt: skip
