"""The stages of the export, each for a process of its own: what users run, with steps measured inside."""

import json
import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from benchmarks.full_size.meter import Disk, Meter
from benchmarks.full_size.running import run
from benchmarks.full_size.work import TARGETS, Facts, Work
from benchmarks.measuring import size, sync
from benchmarks.random_checkpoint import write_checkpoint
from export.bundle import Order, make_bundle
from export.checkpoint import QuantizationRecord, read_record
from export.quantize import quantize
from export.recipes import find_recipe
from export.sources import open_source
from runtime.coreml_tools import coremltools

CONTEXT = 8192  # positions, the default of an export
LATE = {  # modules that an export imports when it needs them
    "executorch": ["export.lowering.executorch_ports", "export.lowering.executorch_program"],
    "coreml": ["export.lowering.coreml_bundle"],
}
STEPS = {"lowering": "lower", "taking": "checksums", "verifying:": "verify"}  # by the first word of a status


def perform(stage: str, work: Work) -> list[Facts]:
    """Runs a stage in this process; returns what was measured of its steps.

    Args:
        stage: `source`, `quantize`, a format, or `run` with an engine, a number of threads and, where the engine's
            packed weights go to a file, what is done with it: `writes` or `reads`.
    """
    name, *options = stage.split()
    if name == "run":
        engine, threads, *cached = options
        cache = work.folder / "weight_cache" if cached else None
        return [run(stage, work.bundle(engine) / engine, _record(work), int(threads), cache)]
    stages: dict[str, Callable[[Work], list[Facts]]] = {"source": _write_source, "quantize": _quantize}
    return stages[name](work) if name in stages else _bundle(work, name)


def _write_source(work: Work) -> list[Facts]:
    with Meter() as meter:
        step = meter.begin("source")
        write_checkpoint(work.source, work.layers, json.loads(work.changes))
        step.written = size(work.source)
    return [step.facts(Disk.measure(work.source))]


def _quantize(work: Work) -> list[Facts]:
    disk, source = Disk.measure(work.source), open_source(work.source)
    with Meter() as meter:
        step = meter.begin("quantize")
        quantize(source, find_recipe("int4"), "random", work.quantized)
        sync(work.quantized)
    step.read, step.written = size(work.source), size(work.quantized)
    return [step.facts(disk)]


def _bundle(work: Work, format_: str) -> list[Facts]:
    """What follows quantizing in an export, for one format. The fp32 reference is left out, as it does not fit."""
    if format_ == "coreml":
        coremltools()
    for module in LATE.get(format_, []):
        import_module(module)
    order = Order(TARGETS[format_], [format_], _record(work), work.quantized, work.source, CONTEXT, reference="none")
    disk = Disk.measure(work.quantized)
    with Meter() as meter:
        make_bundle(order, work.bundle(format_), _Steps(meter, work.bundle(format_), format_))
    artifact = size(work.bundle(format_))
    lower, checksums, verify = meter.steps
    lower.read, lower.written = weight_bytes(_record(work)), artifact
    checksums.read = verify.read = artifact
    return [step.facts(disk) for step in meter.steps]


class _Steps:
    """Told what goes on in an export, begins steps."""

    def __init__(self, meter: Meter, bundle: Path, format_: str) -> None:
        self.meter = meter
        self.partial = bundle.with_name(f".{bundle.name}.partial")
        self.format = format_

    def __call__(self, text: str) -> None:
        name = STEPS.get(text.split()[0])
        if name == "checksums":
            sync(self.partial)  # what was lowered is on the disk when its step ends
        if name:
            self.meter.begin(f"{self.format}: {name}")


def _record(work: Work) -> QuantizationRecord:
    record = read_record(work.quantized)
    assert record, "the stage before wrote it"
    return record


def weight_bytes(record: QuantizationRecord) -> int:
    """Of the quantized checkpoint, each weight once: codes and 16-bit scales, or bf16."""
    return round(sum(math.prod(tensor.shape) for tensor in record.tensors) * record.recipe.bits_per_weight / 8)
