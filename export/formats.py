"""The formats that a bundle can hold. A new backend is one more row."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from warnings import catch_warnings, simplefilter

import psutil

from export.checkpoint import CheckpointWeights
from export.config import Model
from export.folders import gigabytes, locked, put_in_place
from export.lowering.onnx_genai import SPARE_SLOTS
from export.lowering.onnx_ports import describe_onnx
from export.lowering.onnx_program import write_onnx
from export.memory import cache_memory
from export.recipes import RECIPES, TARGETS, Recipe
from export.weights import FloatTwin, KvScales
from runtime.checks.files import sha256
from runtime.coreml_tools import coremltools
from runtime.errors import UserError
from runtime.installed import require_release
from runtime.job import TWIN_OF, twin_folder
from runtime.manifest import Artifact, LoadOptions
from runtime.sessions.coreai import PACKAGE, RELEASE
from runtime.sessions.executorch import artifact_files
from runtime.sessions.reference import count_weights
from runtime.weight_cache import cache_name, load_options


@dataclass(frozen=True)
class Lowering:
    """What every backend is given."""

    model: Model
    weights: CheckpointWeights
    checkpoint: Path  # quantized; with tokenizer, template and processor
    context: int  # positions to make room for
    kv_scales: KvScales | None  # where the cache is int8
    identity: str  # of the quantized weights; where an artifact is of several files, each repeats it
    data_file: bool = False  # ExecuTorch's weights in a file beside the program
    exact: bool = False  # dequantized weights and no int8 activations


Lower = Callable[[Lowering, Path], Artifact]  # writes an existing folder; files of what it returns lie in there


def _lower_onnx(job: Lowering, folder: Path) -> Artifact:
    write_onnx(job.model, job.weights, job.checkpoint, folder, job.context, job.kv_scales)
    cache = cache_memory(job.model.text, _value_bytes(job), job.context, SPARE_SLOTS)
    return Artifact(programs=describe_onnx(folder), cache=cache)


def _lower_executorch(job: Lowering, folder: Path) -> Artifact:
    from export.lowering.executorch_ports import describe_executorch  # seconds to import
    from export.lowering.executorch_program import write_executorch
    from export.lowering.torch_modules import Sizes

    sizes = Sizes.of(job.model, job.checkpoint, job.context, job.kv_scales)
    weights = FloatTwin(job.weights) if job.exact else job.weights
    write_executorch(job.model, weights, job.checkpoint, folder, sizes, job.data_file)
    cache = cache_memory(job.model.text, _value_bytes(job), job.context, sizes.step - 1)
    return Artifact(programs=describe_executorch(job.model), cache=cache)


def _value_bytes(job: Lowering) -> int:
    """Of a number in the caches: fp32 or int8."""
    return 1 if job.kv_scales else 4


def _lower_coreml(job: Lowering, folder: Path) -> Artifact:
    coremltools()  # says in one line if it cannot be had; seconds to import
    from export.lowering.coreml_bundle import write_coreml
    from export.lowering.coreml_ports import Sizes

    assert not job.kv_scales, "require_supported() has refused it"
    sizes = Sizes.of(job.model, job.checkpoint, job.context)
    return write_coreml(job.model, job.weights, folder, sizes, job.identity)


def _lower_coreai(job: Lowering, folder: Path) -> Artifact:
    with catch_warnings():
        simplefilter("ignore")  # coreai-torch takes torch 2.13.0+cpu for a later one than 2.13.0
        from export.lowering.coreai_program import write_coreai  # seconds to import
    from export.lowering.torch_modules import Sizes

    sizes = Sizes.of(job.model, job.checkpoint, job.context, job.kv_scales)
    cache = cache_memory(job.model.text, _value_bytes(job), job.context, sizes.step - 1)
    return Artifact(programs=write_coreai(job.model, job.weights, folder, sizes), cache=cache)


def _executorch_options(folder: Path) -> LoadOptions:
    return load_options(cache_name(artifact_files(folder)))


@dataclass(frozen=True)
class Format:
    """A way to write a model down."""

    lower: Lower
    twin_apart: bool = False  # the float twin is an artifact of its own, not another way to run the shipped one
    load_options: Callable[[Path], LoadOptions | None] = lambda folder: None  # for apps, from the folder written
    optional: Mapping[str, str] = field(default_factory=dict)  # releases of packages that no other format needs
    memory: float = 0  # bytes for each weight, where lowering holds them all; benchmarks/coreai_lowering.py measures it


FORMATS = {
    "onnx": Format(_lower_onnx),
    "executorch": Format(_lower_executorch, True, _executorch_options),
    "coreml": Format(_lower_coreml),
    "coreai": Format(_lower_coreai, optional={PACKAGE: RELEASE, "coreai-torch": "0.4.3"}, memory=4.9),
}


def lower(format_name: str, job: Lowering, bundle: Path) -> Artifact:
    """Writes the artifact into its folder of the bundle."""
    folder = bundle / format_name
    folder.mkdir()
    format_ = FORMATS[format_name]
    artifact = _placed(format_.lower(job, folder), format_name)
    kv_scales = dict(job.kv_scales) if job.kv_scales else None
    return artifact.model_copy(update={"kv_scales": kv_scales, "load_options": format_.load_options(folder)})


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


def lower_twin(format_name: str, job: Lowering, shipped: Path) -> None:
    """Writes the float twin into the quantized checkpoint's folder of them, where the format has one apart.

    Args:
        shipped: the program whose twin it is.
    """
    if not FORMATS[format_name].twin_apart:
        return
    with locked(twin_folder(job.checkpoint, format_name, job.context)) as partial:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        FORMATS[format_name].lower(replace(job, exact=True, data_file=False), partial)
        (partial / TWIN_OF).write_text(sha256(shipped))
        put_in_place(partial, twin_folder(job.checkpoint, format_name, job.context))


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
        UserError: a format cannot hold what the recipe makes, or its packages are not installed.
    """
    for package, release in (pair for name in formats for pair in FORMATS[name].optional.items()):
        require_release(package, release)
    if "coreml" in formats and recipe.kv_bits == 8:
        others = ", ".join(other.name for other in RECIPES.values() if other.kv_bits != 8)
        raise UserError(f"recipe {recipe.name} has an int8 cache, format coreml an fp16 one, as Core ML's states are: "
                        f"choose one of {others}")  # fmt: skip


def require_memory(formats: Sequence[str], checkpoint: Path) -> None:
    """Before any work.

    Args:
        checkpoint: of the model, quantized or not.

    Raises:
        UserError: lowering to a format would take more memory than is free.
    """
    for name in (name for name in formats if FORMATS[name].memory):
        needed, free = int(FORMATS[name].memory * count_weights(checkpoint)), psutil.virtual_memory().available
        if needed > free:
            raise UserError(f"lowering to {name} takes {gigabytes(needed)} of memory, {gigabytes(free)} are free: "
                            f"leave {name} out, or export on a larger machine")  # fmt: skip
