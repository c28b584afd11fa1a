"""The formats that a bundle can hold. A new backend is one more row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.checkpoint import CheckpointWeights
from export.config import Model
from export.lowering.onnx_ports import describe_onnx
from export.lowering.onnx_program import write_onnx
from export.recipes import TARGETS
from runtime.errors import UserError
from runtime.manifest import Artifact, Program
from runtime.sessions.executorch import artifact_files
from runtime.weight_cache import cache_name, load_options

KvScales = dict[int, tuple[float, float]]


@dataclass(frozen=True)
class Lowering:
    """What every backend is given."""

    model: Model
    weights: CheckpointWeights
    checkpoint: Path  # quantized; with tokenizer, template and processor
    context: int  # positions to make room for
    kv_scales: KvScales | None  # where the cache is int8


Lower = Callable[[Lowering, Path], dict[str, Program]]  # writes an existing folder; returns its programs by role


def _lower_onnx(job: Lowering, folder: Path) -> dict[str, Program]:
    write_onnx(job.model, job.weights, job.checkpoint, folder, job.context, job.kv_scales)
    return describe_onnx(folder)


def _lower_executorch(job: Lowering, folder: Path) -> dict[str, Program]:
    from export.lowering.executorch_ports import describe_executorch  # seconds to import
    from export.lowering.executorch_program import Sizes, write_executorch

    if job.kv_scales:
        raise UserError("format executorch keeps keys and values in fp32: choose a recipe without an int8 cache")
    sizes = Sizes.of(job.model, job.checkpoint, job.context)
    write_executorch(job.model, job.weights, job.checkpoint, folder, sizes)
    return describe_executorch(job.model)


FORMATS: dict[str, Lower] = {"onnx": _lower_onnx, "executorch": _lower_executorch}
PLANNED = ("coreml",)


def lower(format_name: str, job: Lowering, bundle: Path) -> Artifact:
    """Writes the artifact into its folder of the bundle."""
    folder = bundle / format_name
    folder.mkdir()
    programs = FORMATS[format_name](job, folder)
    placed = {role: program.model_copy(update={"file": f"{format_name}/{program.file}"})
              for role, program in programs.items()}  # fmt: skip
    return Artifact(programs=placed, kv_scales=job.kv_scales, load_options=_load_options(folder))


def _load_options(folder: Path) -> dict[str, dict[str, bool | str]] | None:
    """Of an ExecuTorch program."""
    files = artifact_files(folder)
    return load_options(cache_name(files)) if files else None


def choose_formats(target: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """Those of a target, narrowed to the wanted ones.

    Raises:
        UserError: unknown target or format, a format that the target does not ship, or one that is not built yet.
    """
    if target not in TARGETS:
        raise UserError(f"no target {target!r}; there are {', '.join(TARGETS)}")
    for name in wanted:
        if name not in (*FORMATS, *PLANNED):
            raise UserError(f"no format {name!r}; there are {', '.join((*FORMATS, *PLANNED))}")
    chosen = tuple(wanted) or TARGETS[target]
    for name in chosen:
        if name in PLANNED:
            raise UserError(f"format {name} is not built yet; these are: {', '.join(FORMATS)} "
                            f"(targets that ship them: {_targets_of(FORMATS)})")  # fmt: skip
        if name not in TARGETS[target]:
            raise UserError(f"target {target} does not ship {name}; it ships {', '.join(TARGETS[target])}")
    return chosen


def _targets_of(formats: dict[str, Lower]) -> str:
    return ", ".join(target for target, shipped in TARGETS.items() if set(shipped) & set(formats))
