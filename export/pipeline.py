"""The whole way, from what a user asks for to a verified bundle."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field
from rich.console import Console
from rich.markup import escape

from export.bundle import Order, make_bundle
from export.calibration.budget import DEFAULT_BUDGET, Budget, read_budget
from export.checkpoint import QuantizationRecord
from export.folders import bytes_in, require_bundle, require_space, unfinished
from export.formats import choose_formats, require_memory, require_supported
from export.gguf import unpack
from export.models import find_model, model_name
from export.notes import grid_warnings, template_warnings
from export.packed import open_checkpoint
from export.quantize import quantize, quantized_bytes
from export.recipes import RECIPES, TARGETS, Recipe, find_recipe
from export.sources import Source
from runtime.gates import GATES, override
from runtime.manifest import FILE, Manifest, Record
from runtime.progress import status
from runtime.references import find_kind

INT4_BITS = 4.5  # per weight of recipe int4, scales included
KEPT = {"exact": "kept exactly", "bf16": "kept to bf16", "scale": "kept but for the scale's last digits",
        "unfit": "held by no format, rounded", "none": "on no grid, rounded"}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """As the command line takes it."""

    target: str
    model: str  # an embedded model's name, a folder, a GGUF file, an id on the hub, or id@revision
    recipe: str  # empty: the target's
    formats: Sequence[str]  # empty: all that the target ships
    context: int  # positions
    data_file: bool  # ExecuTorch's weights in a file beside the program
    build: Path  # quantized checkpoints go to build/quantized/<model>-<recipe>, unpacked GGUF files to build/sources
    dist: Path  # bundles go to dist/<target>/<model>-<recipe> ...
    gates: Sequence[str]  # name=value
    reference: str = "whole"  # or none, or streamed
    out: Path | None = None  # ... unless this says where
    calibration: Path | None = None  # folder of what recipes calibrate on; None: the default set
    budget: str = ""  # as `read_budget` takes it; empty: the default


class Summary(Record):
    """What a run ends with."""

    bundle: str
    bytes: int
    bits_per_weight: float
    rounding_error: float  # rms of the difference over rms of the quantized weights
    plain_rounding_error: float  # the same with plain absmax scales
    grid: dict[str, int]  # groups of weights that were on a grid already, by whether they are kept: see grid.Fit
    warnings: list[str] = Field(default_factory=list)  # what is not as one might expect
    minimum_memory: int  # bytes
    gates_held: int
    compared: bool  # whether what the engines say was held against what the model says
    skipped: dict[str, str]
    seconds: float


def export(request: Request) -> Summary:
    """Quantizes, lowers, bundles, verifies.

    Raises:
        UserError: something in the request does not exist, or see the modules that do the work.
    """
    begun = time.monotonic()
    formats, recipe = choose_formats(request.target, request.formats), chosen_recipe(request)
    require_supported(recipe, formats)
    budget = read_budget(request.budget) if request.budget else None
    kind = find_kind(request.reference)
    gates, name = override(GATES, request.gates), model_name(request.model)
    source = open_checkpoint(unpack(find_model(request.model), request.build / "sources"))
    require_memory(formats, source.folder)
    quantized = request.build / "quantized" / f"{name}-{recipe.name}"
    bundle = request.out or request.dist / request.target / quantized.name
    require_bundle(bundle, FILE)
    require_space(bundle, _bytes_needed(quantized, _size(source, recipe, budget), len(formats)), "the export")
    record = quantize(source, recipe, name, quantized, request.calibration, budget)
    order = Order(request.target, formats, record, quantized, source.folder, request.context,
                  request.data_file, kind)  # fmt: skip
    with status() as told:
        manifest = make_bundle(order, bundle, told, gates)
    return _summarize(manifest, record, bundle, time.monotonic() - begun)


def chosen_recipe(request: Request) -> Recipe:
    """The one asked for, or the target's.

    Raises:
        UserError: there is none of this name.
    """
    return find_recipe(request.recipe or TARGETS[request.target].recipe)


def _size(source: Source, recipe: Recipe, budget: Budget | None) -> int:
    """Bytes of the quantized checkpoint. Where a budget decides, every weight might be int8, but not all of them."""
    if not recipe.wants_budget:
        return quantized_bytes(source, recipe)
    given = budget or DEFAULT_BUDGET
    if given.bytes:
        return int(given.bytes)
    return int(quantized_bytes(source, RECIPES["int4"]) * (given.bits or 8) / INT4_BITS)


def _bytes_needed(quantized: Path, size: int, artifacts: int) -> int:
    """Before any work: an artifact is no larger than its checkpoint, give or take the width of scales."""
    left = 0 if quantized.exists() else max(0, size - bytes_in(unfinished(quantized)))
    return left + artifacts * size * 5 // 4


def _summarize(manifest: Manifest, record: QuantizationRecord, bundle: Path, seconds: float) -> Summary:
    verification = manifest.verification
    assert verification is not None
    return Summary(
        bundle=str(bundle),
        bytes=sum(file.size for file in manifest.files),
        bits_per_weight=record.recipe.bits_per_weight,
        rounding_error=record.error,
        plain_rounding_error=record.plain_error,
        grid=record.grid,
        warnings=[*record.notes, *grid_warnings(record.grid), *template_warnings(manifest.undescribed)],
        minimum_memory=manifest.limits.minimum_memory,
        gates_held=sum(measure.bound is not None for measure in verification.measures),
        compared=verification.compared,
        skipped=verification.skipped,
        seconds=round(seconds, 1),
    )


def show(summary: Summary) -> None:
    """For people."""
    console = Console(soft_wrap=True)
    verdict = "[bold green]verified[/]" if summary.compared else "[bold yellow]made, not compared with the model[/]"
    console.print(f"{verdict} {escape(summary.bundle)}: {summary.gates_held} gates held")
    size, memory = summary.bytes / 1e6, summary.minimum_memory / 1e6
    console.print(f"  {size:.1f} MB, {summary.bits_per_weight:.2f} bits per weight, needs {memory:.0f} MB of memory")
    error, plain = summary.rounding_error, summary.plain_rounding_error
    console.print(f"  rounding error {error:.2%} of the weights' rms; plain absmax scales: {plain:.2%}")
    if total := sum(summary.grid.values()):
        shares = ", ".join(f"{KEPT[fit]} {count / total:.2%}" for fit, count in summary.grid.items() if count)
        console.print(f"  of the groups on the source's grid: {shares}")
    for warning in summary.warnings:
        console.print(f"  [yellow]warning[/] {escape(warning)}")
    for name, reason in summary.skipped.items():
        console.print(f"  [yellow]skipped[/] {name}: {escape(reason)}")
    console.print(f"  {summary.seconds:.0f} s; to check it again: python -m runtime verify {escape(summary.bundle)}")
