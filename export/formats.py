"""The formats that a bundle can hold. A new backend is one more row."""

import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from warnings import catch_warnings, simplefilter

from export.checkpoint import CheckpointWeights, read_record
from export.config import Model
from export.folders import locked, put_in_place
from export.lowering.onnx_ports import describe_onnx
from export.lowering.onnx_program import write_onnx
from export.recipes import TARGETS
from export.weights import FloatTwin, KvScales
from runtime.errors import UserError
from runtime.job import twin_folder
from runtime.manifest import Artifact, Program


@dataclass(frozen=True)
class Lowering:
    """What every backend is given."""

    model: Model
    weights: CheckpointWeights
    checkpoint: Path  # quantized; with tokenizer, template and processor
    context: int  # positions to make room for
    kv_scales: KvScales | None  # where the cache is int8
    data_file: bool = False  # ExecuTorch's weights in a file beside the program
    exact: bool = False  # dequantized weights and no int8 activations


Lower = Callable[[Lowering, Path], dict[str, Program]]  # writes an existing folder; returns its programs by role


def _lower_onnx(job: Lowering, folder: Path) -> dict[str, Program]:
    write_onnx(job.model, job.weights, job.checkpoint, folder, job.context, job.kv_scales)
    return describe_onnx(folder)


def _lower_executorch(job: Lowering, folder: Path) -> dict[str, Program]:
    from export.lowering.executorch_ports import describe_executorch  # seconds to import
    from export.lowering.executorch_program import Sizes, write_executorch

    sizes = Sizes.of(job.model, job.checkpoint, job.context, job.kv_scales)
    weights = FloatTwin(job.weights) if job.exact else job.weights
    write_executorch(job.model, weights, job.checkpoint, folder, sizes, job.data_file)
    return describe_executorch(job.model)


def _lower_coreai(job: Lowering, folder: Path) -> dict[str, Program]:
    with catch_warnings():
        simplefilter("ignore")  # coreai-torch takes torch 2.13.0+cpu for a later one than 2.13.0
        from export.lowering.coreai_program import Sizes, describe_coreai, require_memory, write_coreai

    sizes = Sizes.of(job.model, job.checkpoint, job.context, job.kv_scales)
    record = read_record(job.checkpoint)
    require_memory(sum(prod(tensor.shape) for tensor in record.tensors) if record else 0)
    write_coreai(job.model, job.weights, folder, sizes)
    return describe_coreai(job.model, sizes)


@dataclass(frozen=True)
class Format:
    """A way to write a model down."""

    lower: Lower
    twin_apart: bool = False  # the float twin is an artifact of its own, not another way to run the shipped one
    optional: tuple[str, ...] = ()  # packages it needs beyond those that always come along


FORMATS = {
    "onnx": Format(_lower_onnx),
    "executorch": Format(_lower_executorch, twin_apart=True),
    "coreai": Format(_lower_coreai, optional=("coreai-core==1.0.0b3", "coreai-torch==0.4.3")),
}
PLANNED = ("coreml",)


def lower(format_name: str, job: Lowering, bundle: Path) -> Artifact:
    """Writes the artifact into its folder of the bundle."""
    folder = bundle / format_name
    folder.mkdir()
    programs = FORMATS[format_name].lower(job, folder)
    placed = {role: program.model_copy(update={"file": f"{format_name}/{program.file}"})
              for role, program in programs.items()}  # fmt: skip
    return Artifact(programs=placed, kv_scales=dict(job.kv_scales) if job.kv_scales else None)


def lower_twin(format_name: str, job: Lowering) -> None:
    """Writes the float twin into the quantized checkpoint's folder of them, where the format has one apart."""
    if not FORMATS[format_name].twin_apart:
        return
    with locked(twin_folder(job.checkpoint, format_name, job.context)) as partial:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        FORMATS[format_name].lower(replace(job, exact=True, data_file=False), partial)
        put_in_place(partial, twin_folder(job.checkpoint, format_name, job.context))


def choose_formats(target: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """Those of a target, narrowed to the wanted ones.

    Raises:
        UserError: unknown target or format, a format that the target does not ship, one that is not built yet, or one
            whose packages are not installed.
    """
    if target not in TARGETS:
        raise UserError(f"no target {target!r}; there are {', '.join(TARGETS)}")
    for name in wanted:
        if name not in (*FORMATS, *PLANNED):
            raise UserError(f"no format {name!r}; there are {', '.join((*FORMATS, *PLANNED))}")
    chosen = tuple(wanted) or TARGETS[target].formats
    for name in chosen:
        if name in PLANNED:
            raise UserError(f"format {name} is not built yet; these are: {', '.join(FORMATS)} "
                            f"(targets that ship them: {_targets_of(FORMATS)})")  # fmt: skip
        if name not in _shipped(target):
            raise UserError(f"target {target} does not ship {name}; it ships {', '.join(_shipped(target))}")
        _require(name)
    return chosen


def _require(format_name: str) -> None:
    """Before any work."""
    for need in FORMATS[format_name].optional:
        package, _, wanted = need.partition("==")
        if package_version(package) != wanted:
            raise UserError(f"format {format_name} needs {need}, found {package_version(package) or 'none'}: "
                            f"pip install {' '.join(FORMATS[format_name].optional)}")  # fmt: skip


def package_version(package: str) -> str | None:
    """None: not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _shipped(target: str) -> tuple[str, ...]:
    return TARGETS[target].formats + TARGETS[target].on_request


def _targets_of(formats: Collection[str]) -> str:
    return ", ".join(target for target in TARGETS if set(_shipped(target)) & set(formats))
